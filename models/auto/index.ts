/** `culm`: open a model by its folder, as in Transformers. */
import { openCausalLM } from "./model.ts";
import type { CausalLM, LoadOptions } from "./model.ts";

export { AutoTokenizer } from "../../runtime/text/auto-tokenizer.ts";
export type { Tokenizer } from "../../runtime/text/tokenizer.ts";
export { TextStreamer } from "../../runtime/text/streamer.ts";
export { isUserError, UserError } from "../../runtime/errors.ts";
export type { Session, Snapshot } from "../../runtime/session.ts";
export type { FinishReason, Step } from "../../runtime/text/generate.ts";
export type { LogitsProcessor, RowContext, StoppingCriterion } from "../../runtime/text/processor.ts";
export type { ForwardResult, ForwardSession } from "./forward.ts";
export { openCausalLM } from "./model.ts";
export type { CausalLM, ForwardArguments, GenerateInput, GenerateOptions, GenerateResult, LoadOptions } from "./model.ts";

export const AutoModelForCausalLM = {
  /**
   * Opens the model in a folder (config.json, safetensors, generation_config.json), compiles it or takes what was compiled before, and loads its weights.
   * @throws UserError naming the file and the field or tensor at fault.
   */
  async fromPretrained(folder: string, options: LoadOptions = {}): Promise<CausalLM> {
    const model = await openCausalLM(folder, options);
    try {
      await model.session();
      return model;
    } catch (error) {
      await model.close();
      throw error;
    }
  },
};
