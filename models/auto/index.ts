/** `culm`: open a model by its folder, or its name on the Hugging Face hub, as in Transformers. */
export { AutoModel, AutoModelForCausalLM } from "./auto-model.ts";
export { BambaForCausalLM, BambaModel, openCausalLM } from "./model.ts";
export type { LoadOptions } from "./model.ts";
export { BambaConfig } from "./config.ts";
export type { BambaFields } from "./config.ts";
export { BambaCache } from "./cache.ts";
export type { LayerStates, Values } from "./cache.ts";
export type { CausalLMInputs, CausalLMOutput, ModelInputs, ModelOutput } from "./forward-pass.ts";
export type { ForwardResult, ForwardSession } from "./forward.ts";
export type { Session, Snapshot } from "../../runtime/session.ts";
export type { Saved, SaveOptions } from "./save.ts";

export type { GenerateInput, GenerateOptions, GenerateResult } from "../../runtime/text/request.ts";
export type { FinishReason } from "../../runtime/text/generate.ts";
export type { PrefixAllowedTokensFn, SequenceBias } from "../../runtime/text/generation-options.ts";
export type { LogitsProcessor, RowContext, StoppingCriterion } from "../../runtime/text/processor.ts";
export type { Step } from "../../runtime/text/loop.ts";
export { TextIteratorStreamer, TextStreamer } from "../../runtime/text/streamer.ts";
export type { Streamer, TextStreamerOptions } from "../../runtime/text/streamer.ts";

export { AutoTokenizer } from "../../runtime/text/auto-tokenizer.ts";
export type { ChatEncodingOptions, DecodeOptions, Tokenizer } from "../../runtime/text/tokenizer.ts";
export type { Encoding, EncodingOptions } from "../../runtime/text/encoding.ts";
export type { Chat, ChatMessage, ChatOptions } from "../../runtime/text/chat-template.ts";

export { pipeline } from "./pipeline.ts";
export type { PipelineOptions } from "./pipeline.ts";
export type {
  GeneratedChat,
  GeneratedText,
  GeneratedTokens,
  PipelineInput,
  TextGenerationOptions,
  TextGenerationPipeline,
} from "./text-generation-options.ts";

export { resolveModel } from "../../runtime/hub/resolve.ts";
export type { DownloadProgress, HubOptions } from "../../runtime/hub/options.ts";
export { isUserError, UserError } from "../../runtime/errors.ts";
