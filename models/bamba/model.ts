import type { AnyTensor, Expr, Float, Graph, InputRing, Range, Sequences, Shape, State, Tensor } from "../../dsl/index.ts";
import {
  CulmError,
  activate,
  add,
  argmax,
  at,
  attention,
  cast,
  causalConv1d,
  convState,
  crossEntropy,
  exp,
  gatedRmsNorm,
  gather,
  gt,
  input,
  inputRing,
  kvCache,
  last,
  linear,
  literal,
  logSumExp,
  matmulT,
  mean,
  model,
  mul,
  neg,
  param,
  reshape,
  rmsNorm,
  rope,
  round,
  scope,
  slice,
  split,
  ssdReplay,
  ssdScan,
  ssdSettle,
  ssmState,
  symbol,
} from "../../dsl/index.ts";
import type { BambaConfig } from "./config.ts";
import { attend, roundedLogSumExp, ssdStep, stepSizes } from "./explicit.ts";
import { ropeDependsOnLength, ropeTables } from "./rope.ts";

/** Which of a Bamba model's programs to trace. */
export interface BambaOptions {
  /** `prefill`: any number of tokens a row, padding allowed. `decode`: one token a row. */
  readonly phase: "prefill" | "decode";
  readonly batch: number | Range;
  /** Most tokens that one prefill call takes. Default: `capacity`. */
  readonly maxSeq?: number;
  /** Positions that the key/value caches, and with them sequence_ids, have room for. */
  readonly capacity: number;
  /** How the weights are stored. Default f32. */
  readonly weights?: Float;
  /** How keys and values are stored. Default f32. */
  readonly kvCache?: Float;
  /** How the states of Mamba layers are stored, the scan's and the last inputs of the convolution, which are computed in f32 all the same: rounded once a call. Default f32. */
  readonly state?: Float;
  /**
   * What the results of a Mamba layer that it goes on with are rounded to: of its input projection, of the convolution with its activation, of the scan with its gate.
   * Default f32, which rounds nothing; `strict` has a rounding of its own.
   */
  readonly activations?: Float;
  /**
   * Decode: length of a ring of the last inputs of each scan (from 2), with which a step only reads the recurrent state, and stores it when the ring is full; x and B lie in it as
   * `state` says. 0, the default, is no ring. Asks for the symbol `held`: how many inputs the rings hold, from 0 to `replay` - 1.
   */
  readonly replay?: number;
  /** Rounding of the rotary frequencies. Default f32; bf16 is what a PyTorch model has that was cast to bfloat16 as a whole. */
  readonly rotary?: "f32" | "bf16";
  /**
   * `last` (the default): of each row's last position, with the likeliest token as `argmax`. `kept`: of the last `kept` positions, [batch, kept, vocab],
   * with `kept` a symbol from 1 to seq (1 in decode). `all`: of every position. `none`: no head; `last_hidden_state` is the output of the final norm.
   */
  readonly logits?: "last" | "kept" | "all" | "none";
  /**
   * For `last`: a symbol `with_logits`, 0 or 1, says whether a call wants the logits; where it does not, only `argmax` is sure to be there. Default false:
   * logits always are.
   */
  readonly optionalLogits?: boolean;
  /**
   * Be Transformers' PyTorch path (eager attention, no custom kernels) in all that it does: round where it holds a result in the type of the weights, which
   * is slow, since most of the model is then written out in primitives (weights in f32 round nothing); forget `timeStepLimit` in decode, so that a step and
   * a prefill of the same token disagree (spec Q4); and treat padding as it does in Mamba layers, where it decays the state and enters the convolution by
   * way of a projection's bias, and packed sequences are not told apart (Q7, Q11). Default false.
   */
  readonly strict?: boolean;
  /** Also give `attentions.{k}` [batch, query_heads, seq, capacity], the weights of the k-th attention layer. */
  readonly attentions?: boolean;
  /** Also give `hidden.0` (the embeddings), `hidden.1`, ... and as the last one the output of the final norm. */
  readonly hiddenStates?: boolean;
  /** Take `inputs_embeds` [batch, seq, hidden] instead of `input_ids`. */
  readonly embeds?: boolean;
  /**
   * Also take `labels` [batch, seq] (already shifted, -100 does not count) and give `loss`, their mean cross-entropy, and with a z-loss coefficient
   * `z_loss`, which is to be added. Needs the logits of all positions.
   */
  readonly loss?: boolean;
}

type Hidden = Tensor<["batch", "seq", "hidden"]>;
type Weights = Tensor<["batch", "query_heads", "seq", "capacity"]>;

/** What the mixers share: where the tokens stand, and to which sequence they belong. */
interface Positions {
  readonly ids: Tensor<["batch", "seq"], "i32">;
  /** At each absolute position, those of earlier calls included. */
  readonly sequenceIds: Tensor<["batch", "capacity"], "i32">;
  /** For the parts with a recurrent state; null in decode, where each row's token continues its sequence, and where `keep` takes its place. */
  readonly sequences: (Sequences<"batch"> & { readonly ends: Tensor<["batch"], "i32"> }) | null;
  /** Strict prefill, which treats padding as Transformers does: 1 for a token and 0 for padding; null elsewhere. */
  readonly keep: Tensor<["batch", "seq", 1]> | null;
  /** Tokens that the caches hold already, padding included. */
  readonly past: Expr;
  /** Bounds of the scan's step sizes in this program. */
  readonly stepLimit: readonly [number, number];
  /** One token a row, on top of what the states hold. */
  readonly decode: boolean;
  /** What results are rounded to; f32 rounds nothing. */
  readonly rounding: Float;
  /** Whether the attention weights are outputs. */
  readonly attentions: boolean;
  /** How keys and values, and the recurrent states, are stored. */
  readonly kvCache: Float;
  readonly state: Float;
  /** What Mamba layers round their results to. */
  readonly activations: Float;
  /** Length of the rings of inputs; 0 for none. */
  readonly replay: number;
  readonly tables: { readonly cos: Tensor<["capacity", "pairs"]>; readonly sin: Tensor<["capacity", "pairs"]> } | null;
}

/**
 * The graph of one program of the model. Inputs: `input_ids` (or `inputs_embeds`), `position_ids` [batch, seq] i32, `sequence_ids` [batch, capacity] i32
 * (by absolute position: a token has the number n >= 1 of its sequence within the row, padding has -n of the last token before it or -1), in prefill
 * `sequence_ends` [batch] i32 (how many positions of this call the convolution states are after: up to the row's last token), and the symbol `past`; for
 * rope types that depend on the length also `rope_cos` and `rope_sin` [capacity, rotaryDim / 2], of which the rows of the call's positions are read (rope.ts).
 * States: `layers.{i}.keys`, `.values` or `.conv`, `.ssm`, all of them advanced by the call. An input that nothing reads (positions in a model without
 * attention) is not in the graph. Throws CulmError when `options` contradict each other.
 */
export function bambaGraph(c: BambaConfig, options: BambaOptions): Graph {
  const {
    phase,
    batch,
    capacity,
    weights = "f32",
    kvCache = "f32",
    state = "f32",
    activations = "f32",
    replay = 0,
    rotary = "f32",
    logits: which = "last",
    optionalLogits = false,
    hiddenStates = false,
    embeds = false,
    loss = false,
    strict = false,
    attentions = false,
    maxSeq = capacity,
  } = options;
  if (loss && which !== "all")
    throw new CulmError({ what: "bamba: the loss needs the logits of all positions", fix: 'trace with logits: "all"' });
  if (maxSeq > capacity)
    throw new CulmError({ what: `bamba: ${maxSeq} tokens a call do not fit ${capacity} positions`, fix: "lower maxSeq or raise capacity" });
  if (strict && state !== "f32")
    throw new CulmError({
      what: "bamba: strict keeps the recurrent states in f32, as Transformers does",
      got: state,
      fix: 'trace with state: "f32"',
    });
  if (strict && activations !== "f32")
    throw new CulmError({
      what: "bamba: strict rounds to the type of the weights, where Transformers does",
      got: `activations: "${activations}"`,
      fix: "trace with one of the two",
    });
  const decode = phase === "decode";
  if (replay !== 0 && (strict || !decode))
    throw new CulmError({ what: "bamba: a ring of inputs is for decode programs that are not strict", fix: "trace with replay: 0" });
  const stepLimit = phase === "prefill" || !strict ? c.timeStepLimit : ([0, Infinity] as const);
  const length = decode ? 1 : ([1, maxSeq] as const);
  const dims = {
    ...sizesOf(c),
    batch,
    seq: length,
    capacity,
    ...(which === "kept" ? { kept: length } : {}),
    ...(replay ? { ring: replay } : {}),
  };
  const withLogits = optionalLogits && which === "last";
  const symbols = {
    past: [0, capacity - 1] as const,
    ...(withLogits ? { with_logits: [0, 1] as const } : {}),
    ...(replay ? { held: [0, replay - 1] as const } : {}),
  };
  const optional = withLogits ? { logits: "with_logits" } : {};

  const rounding = strict ? weights : "f32";
  const norm = <A extends Shape>(x: Tensor<[...A, "hidden"]>): Tensor<[...A, "hidden"]> =>
    rmsNorm(x, "final_layernorm", c.normEps, rounding);

  return model(`bamba.${phase}`, { dims, symbols, optional, weights, checkpointName }, () => {
    const table = param("embed_tokens.weight", ["vocab", "hidden"]);
    const positions: Positions = {
      ...positionsOf(c, phase, capacity, rotary, strict),
      stepLimit,
      decode,
      rounding,
      attentions,
      kvCache,
      state,
      activations,
      replay,
    };
    const extra: Record<string, AnyTensor> = {};

    let x: Hidden = embeds
      ? round(input("inputs_embeds", ["batch", "seq", "hidden"]), rounding)
      : gather(table, input("input_ids", ["batch", "seq"], "i32"));
    for (const [i, kind] of c.layerKinds.entries()) {
      if (hiddenStates) extra[`hidden.${i}`] = x;
      const out = scope(`layers.${i}`, () => layer(x, c, kind === "mamba" ? mambaMixer : attentionMixer, positions));
      if (out.weights) extra[`attentions.${c.attentionLayers.indexOf(i)}`] = out.weights;
      x = out.x;
    }
    const normed = norm(x);
    if (hiddenStates) extra[`hidden.${c.layerKinds.length}`] = normed;
    if (which === "none") return { last_hidden_state: normed, ...extra };

    const head = c.tieWordEmbeddings ? table : param("lm_head.weight", ["vocab", "hidden"]);
    // the norm of the positions that are asked for instead of all: each position's is its own
    switch (which) {
      case "last": {
        const logits = round(matmulT(norm(at(x, "seq", -1)), head), rounding);
        return { logits, argmax: argmax(logits, "vocab"), ...extra };
      }
      case "kept":
        return { logits: round(matmulT(norm(last(x, "seq", "kept")), head), rounding), ...extra };
      case "all": {
        const logits = round(matmulT(normed, head), rounding);
        return { logits, ...(loss ? lossOf(logits, c, rounding) : {}), ...extra };
      }
    }
  });
}

const checkpointName = (path: string): string => (path.startsWith("lm_head.") ? path : `model.${path}`);

/**
 * The program that makes the recurrent states current after decode steps with `replay`: for whatever else reads them. It has no inputs and no outputs;
 * its symbol `held`, from 1 to `replay` - 1, counts the inputs in the rings, which are empty from then on.
 */
export function settleGraph(
  c: BambaConfig,
  { batch, replay, weights = "f32", state = "f32" }: Pick<BambaOptions, "batch" | "weights" | "state"> & { readonly replay: number },
): Graph {
  const dims = { ...sizesOf(c), batch, ring: replay };
  return model("bamba.settle", { dims, symbols: { held: [1, replay - 1] }, weights, checkpointName }, () => {
    for (const [i, kind] of c.layerKinds.entries())
      if (kind === "mamba") scope(`layers.${i}`, () => ssdSettle(ringOf(state), stateOf(state), decayRates()));
    return {};
  });
}

const decayRates = (): Tensor<["heads"]> => neg(exp(param("mamba.A_log", ["heads"])));
const stateOf = (stored: Float): State<["batch", "heads", "head_dim", "state"], Float> =>
  ssmState(["batch", "heads", "head_dim", "state"], "ssm", stored);
const ringOf = (stored: Float): InputRing<"batch", "ring", "heads", "head_dim", "groups", "state", Float> =>
  inputRing({ x: ["batch", "ring", "heads", "head_dim"], B: ["batch", "ring", "groups", "state"] }, symbol("held"), stored);

/** The sizes behind the axis names, with the letters of the specification. */
function sizesOf(c: BambaConfig): Record<string, number> {
  const mamba = {
    heads: c.mambaHeads, // H
    head_dim: c.mambaHeadDim, // P
    groups: c.mambaGroups, // G
    state: c.mambaStateSize, // N
    members: c.mambaHeads / c.mambaGroups, // heads of a group
    xBC: c.convChannels, // Cv
  };
  const attending = {
    query_heads: c.numAttentionHeads,
    kv_heads: c.numKeyValueHeads,
    sharing: c.headsPerKeyValue, // query heads of a key/value head
    size: c.headDim,
    pairs: c.rotaryDim / 2,
  };
  return {
    vocab: c.vocabSize,
    hidden: c.hiddenSize,
    ffn: c.intermediateSize,
    ...mamba,
    ...(c.attentionLayers.length > 0 ? attending : {}),
  };
}

function positionsOf(
  c: BambaConfig,
  phase: "prefill" | "decode",
  capacity: number,
  rotary: "f32" | "bf16",
  strict: boolean,
): Pick<Positions, "ids" | "sequenceIds" | "sequences" | "keep" | "past" | "tables"> {
  const past = symbol("past");
  const sequenceIds = input("sequence_ids", ["batch", "capacity"], "i32");
  const own = strict && phase === "prefill" ? slice(sequenceIds, "capacity", { start: past, size: "seq" }) : null;
  const keep = own && reshape(cast(gt(own, 0), "f32"), ["batch", "seq", 1]);
  const sequences = phase === "decode" || keep ? null : { ids: sequenceIds, past, ends: input("sequence_ends", ["batch"], "i32") };
  const ids = input("position_ids", ["batch", "seq"], "i32");
  const where = { ids, sequenceIds, sequences, keep, past };
  if (c.attentionLayers.length === 0) return { ...where, tables: null };
  if (ropeDependsOnLength(c.rope)) {
    const tables = { cos: input("rope_cos", ["capacity", "pairs"]), sin: input("rope_sin", ["capacity", "pairs"]) };
    return { ...where, tables };
  }
  const { cos, sin } = ropeTables(c, capacity, { frequencies: rotary });
  const tables = { cos: literal("rope.cos", ["capacity", "pairs"], cos), sin: literal("rope.sin", ["capacity", "pairs"], sin) };
  return { ...where, tables };
}

type Mixer = (x: Hidden, c: BambaConfig, positions: Positions) => { readonly mixed: Hidden; readonly weights?: Weights };

function layer(x: Hidden, c: BambaConfig, mixer: Mixer, positions: Positions): { readonly x: Hidden; readonly weights?: Weights } {
  const { rounding } = positions;
  const { mixed, ...more } = mixer(rmsNorm(x, "input_layernorm", c.normEps, rounding), c, positions);
  const between = round(add(x, mixed), rounding);
  const out = round(add(between, feedForward(rmsNorm(between, "pre_ff_layernorm", c.normEps, rounding), c, rounding)), rounding);
  return { x: out, ...more };
}

function feedForward(x: Hidden, c: BambaConfig, rounding: Float): Hidden {
  const wide = (name: string): Tensor<["batch", "seq", "ffn"]> => round(linear(x, name, { out: "ffn", bias: c.mlpBias }), rounding);
  const gate = round(activate(wide("feed_forward.gate_proj"), c.hiddenAct), rounding);
  const product = round(mul(gate, wide("feed_forward.up_proj")), rounding);
  return round(linear(product, "feed_forward.down_proj", { out: "hidden", bias: c.mlpBias }), rounding);
}

function mambaMixer(
  x: Hidden,
  c: BambaConfig,
  { sequences, keep, stepLimit, decode, rounding, state, activations, replay }: Positions,
): { readonly mixed: Hidden } {
  const strict = rounding !== "f32";
  const following = sequences ? { sequences } : {};
  const projected = linear(keep ? mul(x, keep) : x, "mamba.in_proj", { out: "heads*head_dim+xBC+heads", bias: c.mambaProjBias });
  const kept = strict ? rounding : activations;
  const { z, xBC, dt } = split(round(projected, kept), "heads*head_dim+xBC+heads", { z: "heads*head_dim", xBC: "xBC", dt: "heads" });

  const taps = causalConv1d(xBC, "mamba.conv1d", {
    width: c.mambaConvWidth,
    bias: c.mambaConvBias,
    ...(strict ? {} : { activation: c.hiddenAct }),
    state: convState(["batch", c.mambaConvWidth, "xBC"], "conv", state),
    ...following,
  });
  const conv = round(strict ? activate(round(taps, rounding), c.hiddenAct) : taps, kept);
  // bias and activation have made padding non-zero again
  const channels = split(keep ? mul(conv, keep) : conv, "xBC", {
    x: ["heads", "head_dim"],
    B: ["groups", "state"],
    C: ["groups", "state"],
  });

  const dtBias = param("mamba.dt_bias", ["heads"]);
  const common = {
    ...channels,
    dt: strict ? stepSizes(dt, dtBias, stepLimit, rounding) : dt,
    A: decayRates(),
    D: param("mamba.D", ["heads"]),
  };
  const y = ((): Tensor<["batch", "seq", "heads", "head_dim"]> => {
    if (strict && decode) return ssdStep({ ...common, state: ssmState(["batch", "heads", "head_dim", "state"]) }, rounding);
    if (replay > 0) return ssdReplay({ ...common, state: stateOf(state), ring: ringOf(state), dtBias, dtLimit: stepLimit });
    const steps = strict ? {} : { dtBias, dtLimit: stepLimit };
    return ssdScan({ ...common, ...steps, state: stateOf(state), chunk: c.chunkSize, ...following });
  })();
  // Transformers' scan of many tokens gives f32, which stays f32 until the norm is done; a single step's result was rounded, and its norm rounds too.
  const inNorm = decode ? rounding : "f32";
  const flat = reshape(y, ["batch", "seq", "heads*head_dim"]);
  const gated =
    activations === "f32"
      ? gatedRmsNorm(flat, z, "mamba.norm", c.normEps, inNorm)
      : rmsNorm(round(mul(flat, activate(z, "silu")), activations), "mamba.norm", c.normEps);
  const mixed = linear(round(gated, rounding), "mamba.out_proj", { out: "hidden", bias: c.mambaProjBias });
  return { mixed: round(mixed, rounding) };
}

function attentionMixer(
  x: Hidden,
  c: BambaConfig,
  { ids, sequenceIds, past, tables, rounding, attentions, kvCache: stored }: Positions,
): { readonly mixed: Hidden; readonly weights?: Weights } {
  if (!tables) throw new Error("bamba: an attention layer without rotary tables");
  const bias = c.attentionBias;
  const query = round(linear(x, "self_attn.q_proj", { out: "query_heads*size", bias }), rounding);
  const key = round(linear(x, "self_attn.k_proj", { out: "kv_heads*size", bias }), rounding);
  const value = round(linear(x, "self_attn.v_proj", { out: "kv_heads*size", bias }), rounding);
  const q = rope(reshape(query, ["batch", "seq", "query_heads", "size"]), ids, tables, rounding);
  const k = rope(reshape(key, ["batch", "seq", "kv_heads", "size"]), ids, tables, rounding);
  const v = reshape(value, ["batch", "seq", "kv_heads", "size"]);
  const cache = kvCache(["batch", "kv_heads", "capacity", "size"], past, stored);
  const scale = c.attentionScale;
  const { mixed, weights } =
    attentions || rounding !== "f32"
      ? attend(q, k, v, { scale, sequenceIds, cache, rounding })
      : { mixed: attention(q, k, v, { scale, ids: sequenceIds, cache }), weights: null };
  const out = linear(reshape(mixed, ["batch", "seq", "query_heads*size"]), "self_attn.o_proj", { out: "hidden", bias });
  return { mixed: round(out, rounding), ...(attentions && weights ? { weights } : {}) };
}

/** Cross-entropy of the next tokens, and the z-loss on the size of the logits where the configuration asks for it. Source: spec bamba c.9. */
function lossOf(
  logits: Tensor<["batch", "seq", "vocab"]>,
  c: BambaConfig,
  rounding: Float,
): { readonly loss: Tensor<[]>; readonly z_loss?: Tensor<[]> } {
  const loss = crossEntropy(logits, input("labels", ["batch", "seq"], "i32"));
  if (c.zLossCoefficient === 0) return { loss };
  const size = rounding === "f32" ? logSumExp(logits, "vocab") : roundedLogSumExp(logits, rounding);
  return { loss, z_loss: mul(mean(mean(mul(size, size), "seq"), "batch"), c.zLossCoefficient) };
}
