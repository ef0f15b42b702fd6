import type { BambaConfig } from "./config.ts";
import { isJsonObject } from "./json.ts";
import type { JsonObject } from "./json.ts";
import type { RopeConfig } from "./rope-config.ts";

const torchNames = { f32: "float32", bf16: "bfloat16", f16: "float16" } as const;

/** Fields of older files whose content stands elsewhere in a file of Transformers 5 (spec bamba a.3). */
const superseded = ["torch_dtype", "rope_theta", "rope_scaling", "original_max_position_embeddings"];

/**
 * A configuration as Transformers 5 writes it to config.json: Python's names, every field, legacy ones renamed. parseBambaConfig gives the same
 * configuration back.
 * @param source the object that the configuration was parsed from; what it has beside the fields of a Bamba model is kept, as in Transformers
 */
export function bambaConfigJson(config: BambaConfig, source: JsonObject = {}): JsonObject {
  const { rope, eosTokenIds, timeStepLimit, hiddenSize, numAttentionHeads, headDim } = config;
  const kept = Object.entries(source).filter(([name]) => !superseded.includes(name));
  return {
    ...Object.fromEntries(kept),
    architectures: ["BambaForCausalLM"],
    model_type: "bamba",
    vocab_size: config.vocabSize,
    tie_word_embeddings: config.tieWordEmbeddings,
    hidden_size: hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    ...(headDim === Math.floor(hiddenSize / numAttentionHeads) ? {} : { head_dim: headDim }),
    hidden_act: config.hiddenAct,
    initializer_range: config.initializerRange,
    rms_norm_eps: config.normEps,
    use_cache: config.useCache,
    num_logits_to_keep: config.numLogitsToKeep,
    pad_token_id: config.padTokenId,
    bos_token_id: config.bosTokenId,
    eos_token_id: eosTokenIds.length === 0 ? null : eosTokenIds.length === 1 ? eosTokenIds[0] : eosTokenIds,
    max_position_embeddings: config.maxPositionEmbeddings,
    attention_dropout: config.attentionDropout,
    z_loss_coefficient: config.zLossCoefficient,
    attention_bias: config.attentionBias,
    mlp_bias: config.mlpBias,
    attn_layer_indices: config.attentionLayers.length === 0 ? null : config.attentionLayers,
    mamba_n_heads: config.mambaHeads,
    mamba_d_head: config.mambaHeadDim,
    mamba_n_groups: config.mambaGroups,
    mamba_d_state: config.mambaStateSize,
    mamba_d_conv: config.mambaConvWidth,
    mamba_expand: config.mambaExpand,
    mamba_chunk_size: config.chunkSize,
    mamba_conv_bias: config.mambaConvBias,
    mamba_proj_bias: config.mambaProjBias,
    time_step_limit: timeStepLimit.map((bound) => (Number.isFinite(bound) ? bound : { __float__: bound > 0 ? "Infinity" : "-Infinity" })),
    rope_parameters: ropeJson(rope, config.maxPositionEmbeddings),
    // At the top level too, where Transformers 5 writes its constant 0.5 and older readers look.
    partial_rotary_factor: rope.partialRotaryFactor,
    ...(config.dtype === null ? {} : { dtype: torchNames[config.dtype] }),
  };
}

function ropeJson(rope: RopeConfig, positions: number): JsonObject {
  const base = { rope_type: rope.type, rope_theta: rope.theta, partial_rotary_factor: rope.partialRotaryFactor };
  switch (rope.type) {
    case "default":
      return base;
    case "linear":
    case "dynamic":
      return { ...base, factor: rope.factor };
    case "llama3":
      return {
        ...base,
        factor: rope.factor,
        original_max_position_embeddings: rope.originalMaxPositions,
        low_freq_factor: rope.lowFrequencyFactor,
        high_freq_factor: rope.highFrequencyFactor,
      };
    case "yarn": {
      const usual = rope.factor <= 1 ? 1 : 0.1 * Math.log(rope.factor) + 1;
      return {
        ...base,
        factor: rope.factor,
        ...(rope.originalMaxPositions === positions ? {} : { original_max_position_embeddings: rope.originalMaxPositions }),
        ...(rope.attentionFactor === usual ? {} : { attention_factor: rope.attentionFactor }),
        ...(rope.betaFast === 32 ? {} : { beta_fast: rope.betaFast }),
        ...(rope.betaSlow === 1 ? {} : { beta_slow: rope.betaSlow }),
        ...(rope.truncate ? {} : { truncate: false }),
      };
    }
    case "longrope":
      return {
        ...base,
        factor: rope.factor,
        original_max_position_embeddings: rope.originalMaxPositions,
        attention_factor: rope.attentionFactor,
        short_factor: rope.shortFactor,
        long_factor: rope.longFactor,
      };
  }
}

/** Fields that Transformers declares as floats: its type check takes 0.0 and refuses 0. */
const floatFields = new Set(["initializer_range", "rms_norm_eps", "attention_dropout", "z_loss_coefficient", "partial_rotary_factor", "time_step_limit"]); // prettier-ignore

/** The text of a config.json, byte for byte as Python writes it: keys sorted, an indent of 2, 1e-05 and 0.0 for what is a float. */
export function configText(json: JsonObject): string {
  return `${pythonJson(json, "", (path) => {
    const [top, inner] = path;
    return floatFields.has(top!) || (top === "rope_parameters" && inner !== "original_max_position_embeddings");
  })}\n`;
}

function pythonJson(value: unknown, indent: string, isFloat: (path: readonly string[]) => boolean, path: readonly string[] = []): string {
  const deeper = `${indent}  `;
  const block = (open: string, items: readonly string[], close: string): string =>
    items.length === 0 ? open + close : `${open}\n${items.map((item) => deeper + item).join(",\n")}\n${indent}${close}`;
  if (Array.isArray(value)) {
    return block(
      "[",
      value.map((item) => pythonJson(item, deeper, isFloat, path)),
      "]",
    );
  }
  if (isJsonObject(value)) {
    const items = Object.keys(value)
      .sort()
      .map((name) => `${ascii(name)}: ${pythonJson(value[name], deeper, isFloat, [...path, name])}`);
    return block("{", items, "}");
  }
  if (typeof value === "number") return isFloat(path) ? pythonFloat(value) : JSON.stringify(value);
  return typeof value === "string" ? ascii(value) : JSON.stringify(value ?? null);
}

/** A JSON string in ASCII, as Python writes it. */
function ascii(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The shortest text of a double, in Python's spelling: an exponent below 1e-4 and from 1e16, and a point in any case. */
function pythonFloat(value: number): string {
  const [digits, exponent] = value.toExponential().split("e") as [string, string];
  const power = Number(exponent);
  if (power >= -4 && power < 16) return Number.isInteger(value) ? `${value}.0` : String(value);
  return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}
