import { definedOnly } from "../../runtime/defined.ts";
import { UserError } from "../../runtime/errors.ts";
import { AutoTokenizer } from "../../runtime/text/auto-tokenizer.ts";
import type { Tokenizer } from "../../runtime/text/tokenizer.ts";
import { BambaForCausalLM } from "./model.ts";
import type { LoadOptions } from "./model.ts";
import { textGenerationPipeline } from "./text-generation.ts";
import type { TextGenerationOptions, TextGenerationPipeline } from "./text-generation-options.ts";

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
    ...definedOnly({ dtype, revision, cacheDir, token, localFilesOnly, onDownload }),
    ...modelOptions,
  };
  const name = typeof model === "string" ? model : model.source.folder;
  const tokenizer = given !== undefined && typeof given !== "string" ? given : await AutoTokenizer.fromPretrained(given ?? name, load);
  const opened = typeof model === "string" ? await BambaForCausalLM.fromPretrained(model, load) : model;
  try {
    return textGenerationPipeline(opened, tokenizer, defaults as Options);
  } catch (error) {
    if (typeof model === "string") await opened.close();
    throw error;
  }
}
