/** `culm`: open a model by its folder, or its name on the Hugging Face hub, as in Transformers. */
import { UserError } from "../../runtime/errors.ts";
import { AutoTokenizer } from "../../runtime/text/auto-tokenizer.ts";
import type { Tokenizer } from "../../runtime/text/tokenizer.ts";
import { BambaForCausalLM, BambaModel } from "./model.ts";
import type { LoadOptions } from "./model.ts";
import { textGenerationPipeline } from "./pipeline.ts";
import type { TextGenerationOptions, TextGenerationPipeline } from "./pipeline-options.ts";

export { AutoTokenizer } from "../../runtime/text/auto-tokenizer.ts";
export type { ChatEncodingOptions, DecodeOptions, Tokenizer } from "../../runtime/text/tokenizer.ts";
export type { Chat, ChatMessage, ChatOptions } from "../../runtime/text/chat-template.ts";
export type { Encoding, EncodingOptions } from "../../runtime/text/encoding.ts";
export { TextIteratorStreamer, TextStreamer } from "../../runtime/text/streamer.ts";
export type { Streamer, TextStreamerOptions } from "../../runtime/text/streamer.ts";
export { resolveModel } from "../../runtime/hub/resolve.ts";
export type { DownloadProgress, HubOptions } from "../../runtime/hub/options.ts";
export { isUserError, UserError } from "../../runtime/errors.ts";
export type {
  GeneratedChat,
  GeneratedText,
  GeneratedTokens,
  PipelineInput,
  TextGenerationOptions,
  TextGenerationPipeline,
} from "./pipeline-options.ts";
export type { Session, Snapshot } from "../../runtime/session.ts";
export type { FinishReason } from "../../runtime/text/generate.ts";
export type { Step } from "../../runtime/text/loop.ts";
export { BambaConfig } from "./config.ts";
export type { BambaFields } from "./config.ts";
export type { Saved, SaveOptions } from "./save.ts";
export type { LogitsProcessor, RowContext, StoppingCriterion } from "../../runtime/text/processor.ts";
export type { ForwardResult, ForwardSession } from "./forward.ts";
export { BambaCache } from "./cache.ts";
export type { LayerStates, Values } from "./cache.ts";
export type { CausalLMInputs, CausalLMOutput, ModelInputs, ModelOutput } from "./forward-pass.ts";
export { BambaForCausalLM, BambaModel, openCausalLM } from "./model.ts";
export type { GenerateInput, GenerateOptions, GenerateResult } from "./generation.ts";
export type { LoadOptions } from "./model.ts";

export const AutoModelForCausalLM = {
  /**
   * Opens the model in a folder (config.json, safetensors, generation_config.json) or in a repository of the hub, which is downloaded first unless the cache has it;
   * compiles it or takes what was compiled before, and loads its weights.
   * @throws UserError naming the file and the field or tensor at fault; as `resolveModel` for what the hub and its cache have.
   */
  fromPretrained: (nameOrFolder: string, options: LoadOptions = {}): Promise<BambaForCausalLM> =>
    BambaForCausalLM.fromPretrained(nameOrFolder, options),
};

export const AutoModel = {
  /** The same without the head, as Transformers' AutoModel. */
  fromPretrained: (nameOrFolder: string, options: LoadOptions = {}): Promise<BambaModel> =>
    BambaModel.fromPretrained(nameOrFolder, options),
};

/** Of a pipeline: defaults of its calls, and where its model comes from and how it is opened. */
export interface PipelineOptions
  extends TextGenerationOptions, Pick<LoadOptions, "dtype" | "revision" | "cacheDir" | "token" | "localFilesOnly" | "onDownload"> {
  /** That of the model unless given. */
  readonly tokenizer?: Tokenizer | string;
  /** What `AutoModelForCausalLM.fromPretrained` is told, `model_kwargs` of Transformers; its maxLength is what the model is compiled for. */
  readonly modelOptions?: LoadOptions;
}

/**
 * Opens a model and its tokenizer for continuing texts and chats (spec bamba e.7).
 * @param model a name as for fromPretrained, or an open model, which `close` then closes too
 * @throws UserError for another task, and as fromPretrained.
 */
export async function pipeline<const Options extends PipelineOptions = object>(
  task: "text-generation",
  model: string | BambaForCausalLM,
  options?: Options,
): Promise<TextGenerationPipeline<Options>> {
  if ((task as string) !== "text-generation")
    throw new UserError(`Unknown task ${JSON.stringify(task)}, available tasks are ["text-generation"]`);
  const {
    tokenizer: given,
    modelOptions,
    dtype,
    revision,
    cacheDir,
    token,
    localFilesOnly,
    onDownload,
    ...defaults
  }: PipelineOptions = options ?? {};
  const load: LoadOptions = {
    batch: defaults.batchSize ?? 1,
    ...defined({ dtype, revision, cacheDir, token, localFilesOnly, onDownload }),
    ...modelOptions,
  };
  const name = typeof model === "string" ? model : model.source.folder;
  const tokenizer = given !== undefined && typeof given !== "string" ? given : await AutoTokenizer.fromPretrained(given ?? name, load);
  const opened = typeof model === "string" ? await AutoModelForCausalLM.fromPretrained(model, load) : model;
  try {
    return textGenerationPipeline(opened, tokenizer, defaults as Options);
  } catch (error) {
    if (typeof model === "string") await opened.close();
    throw error;
  }
}

type Defined<T> = { readonly [K in keyof T]?: Exclude<T[K], undefined> };

/** The fields that have a value. */
const defined = <T extends object>(fields: T): Defined<T> =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Defined<T>;
