/** The Bamba model: its configuration, its graphs and the tensors of its checkpoints. */
export type { BambaConfig, LayerKind, RopeConfig } from "./config.ts";
export { ConfigError, layersBlockType, parseBambaConfig, parseConfigJson } from "./config.ts";
export { bambaConfigJson, configText } from "./config-json.ts";
export type { SpecialTokenIds, TensorRows } from "./mamba-ssm.ts";
export { bambaFromMambaSsm, isMambaSsmConfig, matchMambaSsmTensors } from "./mamba-ssm.ts";
export type { BambaOptions } from "./model.ts";
export { bambaGraph } from "./model.ts";
export type { BambaTensor, StoredTensor, TensorInit } from "./weights.ts";
export { bambaTensors, matchBambaTensors, parameterCount } from "./weights.ts";
