import { BambaForCausalLM, BambaModel } from "./model.ts";
import type { LoadOptions } from "./model.ts";

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
