/** `culm`: open a model by its folder, or its name on the Hugging Face hub, as in Transformers. */
import { openCausalLM } from "./model.ts";
import type { CausalLM, LoadOptions } from "./model.ts";

export { AutoTokenizer } from "../../runtime/text/auto-tokenizer.ts";
export type { Tokenizer } from "../../runtime/text/tokenizer.ts";
export { TextStreamer } from "../../runtime/text/streamer.ts";
export { resolveModel } from "../../runtime/hub/resolve.ts";
export type { DownloadProgress, HubOptions } from "../../runtime/hub/options.ts";
export { isUserError, UserError } from "../../runtime/errors.ts";
export type { Session, Snapshot } from "../../runtime/session.ts";
export type { FinishReason, Step } from "../../runtime/text/generate.ts";
export { BambaConfig } from "./config.ts";
export type { BambaFields } from "./config.ts";
export type { Saved, SaveOptions } from "./save.ts";
export type { ForwardResult, ForwardSession } from "./forward.ts";
export { openCausalLM } from "./model.ts";
export type { CausalLM, ForwardArguments, GenerateInput, GenerateOptions, GenerateResult, LoadOptions } from "./model.ts";

export const AutoModelForCausalLM = {
  /**
   * Opens the model in a folder (config.json, safetensors, generation_config.json) or in a repository of the hub, which is downloaded first unless the cache has it;
   * compiles it or takes what was compiled before, and loads its weights.
   * @throws UserError naming the file and the field or tensor at fault; as `resolveModel` for what the hub and its cache have.
   */
  async fromPretrained(nameOrFolder: string, options: LoadOptions = {}): Promise<CausalLM> {
    const model = await openCausalLM(nameOrFolder, options);
    try {
      await model.session();
      return model;
    } catch (error) {
      await model.close();
      throw error;
    }
  },
};
