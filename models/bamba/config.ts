import { ConfigError } from "./config-error.ts";
import { Fields } from "./fields.ts";
import { describe, isJsonObject } from "./json.ts";
import { parseRope } from "./rope-config.ts";
import type { RopeConfig } from "./rope-config.ts";

export { ConfigError } from "./config-error.ts";
export { parseConfigJson } from "./json.ts";
export type { RopeConfig } from "./rope-config.ts";

export type LayerKind = "attention" | "mamba";

/**
 * A checked configuration of a Bamba model: the fields of config.json with their defaults, and what follows from them.
 * Sizes are counts of elements. Source: spec bamba (a); the letters in brackets are the spec's.
 */
export interface BambaConfig {
  readonly vocabSize: number; // [V]
  readonly hiddenSize: number; // [d]
  readonly intermediateSize: number; // [I], inner width of the MLP
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number; // [nh]
  readonly numKeyValueHeads: number; // [nkv]
  readonly tieWordEmbeddings: boolean;
  /** Activation of the MLP and of the convolution; the gate of the gated norm is silu in any case. */
  readonly hiddenAct: "silu";
  readonly initializerRange: number;
  readonly normEps: number;
  readonly useCache: boolean;
  /** Positions whose logits generation computes; null is all of them (spec Q5). */
  readonly numLogitsToKeep: number | null;
  readonly padTokenId: number | null;
  readonly bosTokenId: number | null;
  /** eos_token_id, which may be one id, several or none. */
  readonly eosTokenIds: readonly number[];
  readonly maxPositionEmbeddings: number;
  readonly attentionDropout: number;
  readonly zLossCoefficient: number;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  readonly mambaHeads: number; // [H]
  readonly mambaHeadDim: number; // [P]
  readonly mambaGroups: number; // [G]
  readonly mambaStateSize: number; // [N]
  readonly mambaConvWidth: number; // [K]
  readonly mambaExpand: number;
  readonly chunkSize: number; // [Q]
  readonly mambaConvBias: boolean;
  readonly mambaProjBias: boolean;
  /** Bounds of softplus(dt + bias); [0, Infinity] bounds nothing. */
  readonly timeStepLimit: readonly [number, number];
  readonly rope: RopeConfig;
  /** The dtype that the file names; null when it names none. What counts is the dtype of the tensors. */
  readonly dtype: "f32" | "bf16" | "f16" | null;

  readonly layerKinds: readonly LayerKind[];
  /** Indices of the attention layers, ascending. */
  readonly attentionLayers: readonly number[];
  readonly innerSize: number; // [E] = mambaExpand * hiddenSize
  readonly convChannels: number; // [Cv] = E + 2 G N
  readonly projectionSize: number; // [Pj] = E + Cv + H, rows of in_proj: gate, xBC, dt
  readonly headDim: number; // [hd]
  readonly rotaryDim: number; // [R], the first dimensions of a head that are rotated
  readonly headsPerKeyValue: number; // nh / nkv
  readonly attentionScale: number; // hd^(-1/2)
  /** What is odd about the file but does not stop us, one sentence each. */
  readonly warnings: readonly string[];
}

const mostLayers = 65_536;
const activations: ReadonlySet<string> = new Set(["silu", "swish"]);
const dtypes: Readonly<Record<string, "f32" | "bf16" | "f16">> = { float32: "f32", bfloat16: "bf16", float16: "f16" };

/**
 * Checks a parsed config.json (see parseConfigJson) and fills in defaults and derived sizes.
 * @param where the file, for messages
 * @throws ConfigError naming file and field: what Transformers refuses (spec a.4), and what it would only trip over later.
 */
export function parseBambaConfig(json: unknown, where: string): BambaConfig {
  if (!isJsonObject(json)) throw new ConfigError(`${where}: expected a JSON object, got ${describe(json)}`);
  const fields = new Fields(json, where);
  refuseForeign(fields);
  const warnings: string[] = [];

  const hiddenSize = fields.size("hidden_size", 4096);
  const numHiddenLayers = fields.number("num_hidden_layers", 32, { integer: true, min: 1, max: mostLayers });
  const numAttentionHeads = fields.size("num_attention_heads", 32);
  const numKeyValueHeads = fields.sizeOrNull("num_key_value_heads", 8, numAttentionHeads);
  const attentionLayers = parseAttentionLayers(fields, numHiddenLayers);
  const headDim = fields.has("head_dim") ? fields.size("head_dim", 0) : Math.floor(hiddenSize / numAttentionHeads);
  if (attentionLayers.length > 0) checkAttention(fields, { hiddenSize, numAttentionHeads, numKeyValueHeads, headDim });
  const mamba = parseMamba(fields, hiddenSize);
  const maxPositionEmbeddings = fields.size("max_position_embeddings", 262_144);
  const { rope, rotaryDim } = parseRope(fields, { headDim, maxPositionEmbeddings, used: attentionLayers.length > 0, warnings });
  const vocabSize = fields.size("vocab_size", 128_000);

  return {
    vocabSize,
    hiddenSize,
    intermediateSize: fields.size("intermediate_size", 14_336),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    tieWordEmbeddings: fields.boolean("tie_word_embeddings", false),
    hiddenAct: parseActivation(fields),
    initializerRange: fields.number("initializer_range", 0.02, { min: 0, max: Number.MAX_VALUE }),
    normEps: fields.number("rms_norm_eps", 1e-5, { above: 0, max: Number.MAX_VALUE }),
    useCache: fields.boolean("use_cache", true),
    numLogitsToKeep: fields.sizeOrNull("num_logits_to_keep", 1, null, 0),
    padTokenId: parsePad(fields, vocabSize),
    bosTokenId: fields.sizeOrNull("bos_token_id", 1, null, 0),
    eosTokenIds: parseEos(fields),
    maxPositionEmbeddings,
    attentionDropout: fields.has("attention_dropout") ? fields.number("attention_dropout", 0, { min: 0, max: 1 }) : 0,
    zLossCoefficient: fields.has("z_loss_coefficient") ? fields.number("z_loss_coefficient", 0, { min: 0, max: Number.MAX_VALUE }) : 0,
    attentionBias: fields.boolean("attention_bias", false),
    mlpBias: fields.boolean("mlp_bias", false),
    ...mamba,
    rope,
    dtype: parseDtype(fields),
    layerKinds: layerKindsOf(numHiddenLayers, new Set(attentionLayers)),
    attentionLayers,
    headDim,
    rotaryDim,
    headsPerKeyValue: Math.floor(numAttentionHeads / numKeyValueHeads),
    attentionScale: headDim ** -0.5,
    warnings,
  };
}

/** Stops at files that are not a Bamba configuration, or one that we would read wrongly. */
function refuseForeign(fields: Fields): void {
  const type = fields.raw("model_type");
  if (type !== "bamba")
    throw fields.error("model_type", `expected "bamba", got ${describe(type)}`, "only Bamba models are supported so far");
  for (const name of ["layer_types", "layers_block_type"]) {
    if (fields.has(name)) throw fields.error(name, "is derived from attn_layer_indices and cannot be given; remove it");
  }
  if (fields.has("quantization_config")) {
    throw fields.error(
      "quantization_config",
      "quantised checkpoints are not supported",
      "use the bf16, f16 or f32 checkpoint of this model",
    );
  }
}

function parseAttentionLayers(fields: Fields, layers: number): readonly number[] {
  // Transformers ignores an index outside the model without a word; the model would then not be the one that was trained.
  const indices = fields.numbers("attn_layer_indices", { integer: true, min: 0, max: layers - 1 }) ?? [];
  return [...new Set(indices)].sort((a, b) => a - b);
}

function layerKindsOf(layers: number, attention: ReadonlySet<number>): readonly LayerKind[] {
  return Array.from({ length: layers }, (_, layer) => (attention.has(layer) ? "attention" : "mamba"));
}

/** The kind of each layer by Transformers' names (spec bamba a.2). */
export function layersBlockType({ layerKinds }: BambaConfig): readonly ("full_attention" | "linear_attention")[] {
  return layerKinds.map((kind) => (kind === "attention" ? "full_attention" : "linear_attention"));
}

function checkAttention(
  fields: Fields,
  sizes: Readonly<Record<"hiddenSize" | "numAttentionHeads" | "numKeyValueHeads" | "headDim", number>>,
): void {
  const { hiddenSize, numAttentionHeads: heads, numKeyValueHeads, headDim } = sizes;
  if (!fields.has("head_dim") && hiddenSize % heads !== 0) {
    throw fields.error("num_attention_heads", `${heads} must divide hidden_size ${hiddenSize}, or head_dim must be given`);
  }
  if (heads % numKeyValueHeads !== 0) {
    throw fields.error("num_key_value_heads", `${numKeyValueHeads} must divide num_attention_heads ${heads}`);
  }
  if (heads * headDim >= 2 ** 31) {
    throw fields.error("head_dim", `the query projection would have ${heads} * ${headDim} rows, more than 2^31 - 1`);
  }
}

function parseMamba(
  fields: Fields,
  hiddenSize: number,
): Pick<
  BambaConfig,
  | "mambaHeads"
  | "mambaHeadDim"
  | "mambaGroups"
  | "mambaStateSize"
  | "mambaConvWidth"
  | "mambaExpand"
  | "chunkSize"
  | "mambaConvBias"
  | "mambaProjBias"
  | "timeStepLimit"
  | "innerSize"
  | "convChannels"
  | "projectionSize"
> {
  const mambaExpand = fields.size("mamba_expand", 2);
  const mambaHeads = fields.size("mamba_n_heads", 128);
  const mambaGroups = fields.size("mamba_n_groups", 1);
  const mambaStateSize = fields.size("mamba_d_state", 256);
  const innerSize = mambaExpand * hiddenSize;
  // First, so that what follows computes with exact integers.
  if (innerSize >= 2 ** 31) throw fields.error("mamba_expand", `${mambaExpand} * hidden_size ${hiddenSize} is more than 2^31 - 1`);
  if (innerSize % mambaHeads !== 0) {
    throw fields.error(
      "mamba_n_heads",
      `mamba_n_heads must divide mamba_expand * hidden_size, got ${mambaHeads} and ${mambaExpand} * ${hiddenSize}`,
    );
  }
  const mambaHeadDim = fields.raw("mamba_d_head") === "auto" ? innerSize / mambaHeads : fields.size("mamba_d_head", innerSize / mambaHeads);
  if (mambaHeadDim * mambaHeads !== innerSize) {
    throw fields.error(
      "mamba_d_head",
      "The dimensions for the Mamba head state do not match the model intermediate_size: " +
        `mamba_d_head ${mambaHeadDim} * mamba_n_heads ${mambaHeads} is not mamba_expand ${mambaExpand} * hidden_size ${hiddenSize}`,
    );
  }
  if (mambaHeads % mambaGroups !== 0) throw fields.error("mamba_n_groups", `${mambaGroups} must divide mamba_n_heads ${mambaHeads}`);
  const convChannels = innerSize + 2 * mambaGroups * mambaStateSize;
  const projectionSize = innerSize + convChannels + mambaHeads;
  if (projectionSize >= 2 ** 31)
    throw fields.error("mamba_d_state", `the input projection would have ${projectionSize} rows, more than 2^31 - 1`);
  return {
    mambaHeads,
    mambaHeadDim,
    mambaGroups,
    mambaStateSize,
    mambaConvWidth: fields.size("mamba_d_conv", 4),
    mambaExpand,
    chunkSize: fields.size("mamba_chunk_size", 256),
    mambaConvBias: fields.boolean("mamba_conv_bias", true),
    mambaProjBias: fields.boolean("mamba_proj_bias", false),
    timeStepLimit: parseTimeStepLimit(fields),
    innerSize,
    convChannels,
    projectionSize,
  };
}

function parseTimeStepLimit(fields: Fields): readonly [number, number] {
  const limit = fields.numbers("time_step_limit", {}, 2);
  if (limit === undefined) return [0, Infinity];
  const [low, high] = limit as [number, number];
  if (low > high) throw fields.error("time_step_limit", `the lower bound ${low} is above the upper bound ${high}`);
  return [low, high];
}

function parseActivation(fields: Fields): "silu" {
  const name = fields.string("hidden_act", "silu");
  if (!activations.has(name))
    throw fields.error("hidden_act", `${describe(name)} is not supported; supported are ${[...activations].join(", ")}`);
  return "silu";
}

function parsePad(fields: Fields, vocabSize: number): number | null {
  const id = fields.sizeOrNull("pad_token_id", 0, null, 0);
  if (id !== null && id >= vocabSize) throw fields.error("pad_token_id", `${id} is outside the vocabulary (vocab_size ${vocabSize})`);
  return id;
}

function parseEos(fields: Fields): readonly number[] {
  if (Array.isArray(fields.raw("eos_token_id"))) return fields.numbers("eos_token_id", { integer: true, min: 0, max: 2 ** 31 - 1 })!;
  const id = fields.sizeOrNull("eos_token_id", 2, null, 0);
  return id === null ? [] : [id];
}

function parseDtype(fields: Fields): BambaConfig["dtype"] {
  const field = fields.has("dtype") ? "dtype" : "torch_dtype";
  if (!fields.has(field)) return null;
  const name = fields.string(field, "").replace(/^torch\./, "");
  if (name === "auto") return null;
  const dtype = Object.hasOwn(dtypes, name) ? dtypes[name] : undefined;
  if (dtype === undefined) throw fields.error(field, `expected ${Object.keys(dtypes).join(", ")} or auto, got ${describe(name)}`);
  return dtype;
}
