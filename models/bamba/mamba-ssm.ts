import type { BambaConfig } from "./config.ts";
import { Fields } from "./fields.ts";
import { describe, isJsonObject } from "./json.ts";
import type { JsonObject } from "./json.ts";
import { bambaTensors, checkTensors } from "./weights.ts";
import type { StoredTensor } from "./weights.ts";

/**
 * Checkpoints in the original format: those of the mamba_ssm package that Bamba was trained with. Their configuration has other names, gate and
 * up projection are one matrix, and so are query, key and value. Source: spec bamba (b), and the models of mamba_ssm that the format belongs to.
 */

/** Whether a config.json is that of a mamba_ssm model. */
export function isMambaSsmConfig(json: JsonObject): boolean {
  return !Object.hasOwn(json, "model_type") && Object.hasOwn(json, "d_model") && Object.hasOwn(json, "n_layer");
}

/** Special tokens, which the original configuration does not have; those of the tokenizer. */
export interface SpecialTokenIds {
  readonly bos?: number;
  readonly eos?: number;
  readonly pad?: number;
}

/** Options of mamba_ssm's Mamba2 that say how a model is trained or run and not what it computes. */
const trainingOptions = ["A_init_range", "conv_init", "dt_min", "dt_max", "dt_init_floor", "use_mem_eff_path", "process_group", "sequence_parallel"]; // prettier-ignore
const mixerOptions = ["layer", "d_state", "d_conv", "expand", "headdim", "ngroups", "d_ssm", "D_has_hdim", "rmsnorm", "norm_before_gate", "dt_limit", "bias", "conv_bias", "chunk_size"]; // prettier-ignore
const attentionOptions = ["causal", "d_conv", "head_dim", "num_heads", "num_heads_kv", "out_proj_bias", "qkv_proj_bias", "rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved", "softmax_scale", "mlp_dim"]; // prettier-ignore

/** The inner width of mamba_ssm's gated MLP is a multiple of this. */
const mlpMultiple = 128;

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/**
 * The config.json of the Bamba model that a mamba_ssm configuration describes: what Transformers' converter writes, and beside it the options that
 * the converter does not look at. What a Bamba model cannot do is refused.
 * @param where the file, for messages
 * @throws ConfigError naming file and field.
 */
export function bambaFromMambaSsm(json: JsonObject, tokens: SpecialTokenIds, where: string): JsonObject {
  const fields = new Fields({ ...json, ssm_cfg: json["ssm_cfg"] ?? {}, attn_cfg: json["attn_cfg"] ?? {} }, where);
  const hiddenSize = fields.size("d_model", 2560);
  requireValue(fields, "rms_norm", true, true, "Bamba normalises by the root mean square");
  const attention = fields.numbers("attn_layer_idx", { integer: true, min: 0, max: fields.size("n_layer", 64) - 1 }) ?? [];
  const inner = fields.size("d_intermediate", 0, 0);
  if (inner === 0) throw fields.error("d_intermediate", "0 means layers without an MLP, which a Bamba model does not have");
  return {
    architectures: ["BambaForCausalLM"],
    model_type: "bamba",
    vocab_size: roundUp(fields.size("vocab_size", 50_277), fields.size("pad_vocab_size_multiple", 8)),
    tie_word_embeddings: fields.boolean("tie_embeddings", true),
    hidden_size: hiddenSize,
    intermediate_size: roundUp(inner, mlpMultiple),
    num_hidden_layers: fields.size("n_layer", 64),
    rms_norm_eps: 1e-5,
    ...mixerJson(fields, hiddenSize),
    attn_layer_indices: attention,
    ...(attention.length === 0 ? {} : attentionJson(fields, hiddenSize)),
    ...(tokens.bos === undefined ? {} : { bos_token_id: tokens.bos }),
    ...(tokens.eos === undefined ? {} : { eos_token_id: tokens.eos }),
    ...(tokens.pad === undefined ? {} : { pad_token_id: tokens.pad }),
  };
}

function mixerJson(top: Fields, hiddenSize: number): JsonObject {
  const fields = options(top, "ssm_cfg", [...mixerOptions, ...trainingOptions]);
  requireValue(fields, "layer", "Mamba1", "Mamba2", "Bamba's mixers are Mamba-2");
  // One group: mamba_ssm normalises each group of the gated norm by itself, a Bamba model all of them together (spec bamba c.6).
  requireValue(fields, "ngroups", 1, 1, "the gated norm of several groups differs from Bamba's");
  requireValue(fields, "D_has_hdim", false, false, "Bamba has one D for each head");
  requireValue(fields, "rmsnorm", true, true, "Bamba has a gated norm");
  requireValue(fields, "norm_before_gate", false, false, "Bamba's norm comes after the gate");
  const expand = fields.size("expand", 2);
  if (fields.has("d_ssm")) requireValue(fields, "d_ssm", 0, expand * hiddenSize, "Bamba's scan runs over the whole width");
  const headDim = fields.size("headdim", 64);
  if ((expand * hiddenSize) % headDim !== 0)
    throw fields.error("headdim", `${headDim} must divide expand * d_model, ${expand} * ${hiddenSize}`);
  return {
    mamba_expand: expand,
    mamba_n_heads: (expand * hiddenSize) / headDim,
    mamba_d_head: headDim,
    mamba_n_groups: 1,
    mamba_d_state: fields.size("d_state", 128),
    mamba_d_conv: fields.size("d_conv", 4),
    mamba_chunk_size: fields.size("chunk_size", 256),
    mamba_conv_bias: fields.boolean("conv_bias", true),
    mamba_proj_bias: fields.boolean("bias", false),
    ...(fields.has("dt_limit") ? { time_step_limit: fields.raw("dt_limit") } : {}),
  };
}

function attentionJson(top: Fields, hiddenSize: number): JsonObject {
  const fields = options(top, "attn_cfg", attentionOptions);
  requireValue(fields, "causal", false, true, "Bamba's attention is causal");
  requireValue(fields, "d_conv", 0, 0, "Bamba has no convolution before attention");
  requireValue(fields, "mlp_dim", 0, 0, "Bamba's attention has no MLP of its own");
  requireValue(fields, "rotary_emb_interleaved", false, false, "Bamba rotates the halves of a head");
  const bias = fields.boolean("qkv_proj_bias", true);
  requireValue(fields, "out_proj_bias", true, bias, "Bamba has a bias in all of its projections or in none");
  if (!fields.has("num_heads")) throw fields.error("num_heads", "is missing");
  const heads = fields.size("num_heads", 0);
  const headDim = fields.has("head_dim") ? fields.size("head_dim", 0) : Math.floor(hiddenSize / heads);
  if (fields.has("softmax_scale")) requireValue(fields, "softmax_scale", 0, headDim ** -0.5, "Bamba scales by the size of a head");
  const rotary = fields.size("rotary_emb_dim", 0, 0);
  if (rotary === 0 || rotary > headDim)
    throw fields.error("rotary_emb_dim", `expected a number from 1 to the size of a head (${headDim}), got ${rotary}`);
  return {
    num_attention_heads: heads,
    num_key_value_heads: fields.has("num_heads_kv") ? fields.size("num_heads_kv", 0) : heads,
    ...(headDim * heads === hiddenSize ? {} : { head_dim: headDim }),
    attention_bias: bias,
    attn_rotary_emb: rotary,
    rope_parameters: {
      rope_type: "default",
      rope_theta: fields.number("rotary_emb_base", 10_000, { above: 0, max: Number.MAX_VALUE }),
      partial_rotary_factor: shareOf(rotary, headDim),
    },
  };
}

/** A share of which Transformers' floor(headDim * share) is `rotary`: the quotient itself may fall short by one rounding. */
function shareOf(rotary: number, headDim: number): number {
  const share = rotary / headDim;
  return Math.trunc(headDim * share) === rotary ? share : (rotary + 0.5) / headDim;
}

/** The options of a part, where one that is not known could mean another model. */
function options(top: Fields, name: string, known: readonly string[]): Fields {
  const fields = top.object(name)!;
  const raw = top.raw(name);
  const unknown = isJsonObject(raw) ? Object.keys(raw).find((option) => !known.includes(option)) : undefined;
  if (unknown !== undefined) throw top.error(name, `the option ${describe(unknown)} is not known here`, `known are ${known.join(", ")}`);
  return fields;
}

/** @param fallback what mamba_ssm takes for a missing field */
function requireValue<T extends string | number | boolean>(fields: Fields, name: string, fallback: T, needed: T, why: string): void {
  const value = fields.raw(name) ?? fallback;
  if (value !== needed) throw fields.error(name, `expected ${describe(needed)}, got ${describe(value)}: ${why}`);
}

/** Where the rows of a tensor lie: in a stored tensor, from a row on. */
export interface TensorRows {
  readonly stored: string;
  readonly firstRow: number;
}

/**
 * Finds every tensor of the model in a mamba_ssm checkpoint.
 * @param where the checkpoint, for messages
 * @returns for each name of bambaTensors the rows that it is made of.
 * @throws ConfigError as matchBambaTensors.
 */
export function matchMambaSsmTensors(
  config: BambaConfig,
  stored: ReadonlyMap<string, StoredTensor>,
  where: string,
): ReadonlyMap<string, TensorRows> {
  // Of two names for one tensor a file keeps either.
  const embedding = config.tieWordEmbeddings && !stored.has("backbone.embedding.weight") ? "lm_head.weight" : "backbone.embedding.weight";
  const rows = new Map<string, TensorRows>();
  const shapes = new Map<string, readonly number[]>();
  for (const { name, shape } of bambaTensors(config)) {
    const place = name === "model.embed_tokens.weight" ? { stored: embedding, firstRow: 0 } : placeOf(name, config);
    rows.set(name, place);
    const end = place.firstRow + shape[0]!;
    shapes.set(place.stored, [Math.max(shapes.get(place.stored)?.[0] ?? 0, end), ...shape.slice(1)]);
  }
  checkTensors(shapes, stored, config.tieWordEmbeddings, where);
  return rows;
}

function placeOf(name: string, config: BambaConfig): TensorRows {
  const whole = (stored: string): TensorRows => ({ stored, firstRow: 0 });
  if (name === "lm_head.weight") return whole(name);
  if (name === "model.final_layernorm.weight") return whole("backbone.norm_f.weight");
  const [, layer, part, rest] = /^model\.layers\.(\d+)\.(\w+)\.(.+)$/.exec(name)!;
  const at = `backbone.layers.${layer!}`;
  const [projection, ...kind] = rest!.split(".");
  const queries = config.numAttentionHeads * config.headDim;
  const keys = config.numKeyValueHeads * config.headDim;
  const mixer = (stored: string, firstRow: number): TensorRows => ({ stored: `${at}.mixer.${stored}.${kind.join(".")}`, firstRow });
  switch (`${part!}.${projection!}`) {
    case "input_layernorm.weight":
      return whole(`${at}.norm.weight`);
    case "pre_ff_layernorm.weight":
      return whole(`${at}.norm2.weight`);
    case "feed_forward.up_proj":
      return whole(`${at}.mlp.fc1.${kind.join(".")}`);
    case "feed_forward.gate_proj":
      return { stored: `${at}.mlp.fc1.${kind.join(".")}`, firstRow: config.intermediateSize };
    case "feed_forward.down_proj":
      return whole(`${at}.mlp.fc2.${kind.join(".")}`);
    case "self_attn.q_proj":
      return mixer("in_proj", 0);
    case "self_attn.k_proj":
      return mixer("in_proj", queries);
    case "self_attn.v_proj":
      return mixer("in_proj", queries + keys);
    case "self_attn.o_proj":
      return mixer("out_proj", 0);
    default:
      return whole(`${at}.mixer.${rest!}`);
  }
}
