import { writeRandomCheckpoint } from "../../runtime/node/random-checkpoint.ts";
import { parseBambaConfig } from "../bamba/config.ts";
import { bambaTensors } from "../bamba/weights.ts";
import type { WeightDType } from "./source.ts";
import { readConfigJson } from "./source.ts";

/** Writes a model of random weights for a configuration. @throws UserError when the configuration is wrong or the folder cannot be written. */
export function writeRandomModel(
  file: string,
  { folder, seed, dtype: asked }: { readonly folder: string; readonly seed: number; readonly dtype?: WeightDType },
): { readonly parameters: number; readonly bytes: number; readonly dtype: WeightDType } {
  const config = readConfigJson(file);
  const checked = parseBambaConfig(config, file);
  const dtype = asked ?? checked.dtype ?? "bf16";
  return { ...writeRandomCheckpoint({ config, tensors: bambaTensors(checked), seed, dtype, folder }), dtype };
}
