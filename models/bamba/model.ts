import type { Expr, Float, Graph, Range, Sequences, Tensor } from "../../dsl/index.ts";
import {
  CulmError,
  activate,
  add,
  argmax,
  at,
  attention,
  causalConv1d,
  convState,
  crossEntropy,
  exp,
  gatedRmsNorm,
  gather,
  input,
  kvCache,
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
  scope,
  split,
  ssdScan,
  ssmState,
  symbol,
} from "../../dsl/index.ts";
import type { BambaConfig } from "./config.ts";
import { ropeTables } from "./rope.ts";

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
  /**
   * Apply `timeStepLimit` in decode too. Default true. False is Transformers' behaviour: there a single step forgets the limit (spec Q4) and so
   * disagrees with a prefill of the same token; no published configuration has a limit.
   */
  readonly limitSteps?: boolean;
  /** Rounding of the rotary frequencies. Default f32; bf16 is what a PyTorch model has that was cast to bfloat16 as a whole. */
  readonly rotary?: "f32" | "bf16";
  /** `last` (the default): of each row's last position, with the likeliest token as `argmax`. `all`: of every position. */
  readonly logits?: "last" | "all";
  /** Also give `hidden.0` (the embeddings), `hidden.1`, ... and as the last one the output of the final norm. */
  readonly hiddenStates?: boolean;
  /** Take `inputs_embeds` [batch, seq, hidden] instead of `input_ids`. */
  readonly embeds?: boolean;
  /** Also take `labels` [batch, seq] (already shifted, -100 does not count) and give `loss`. Needs the logits of all positions. */
  readonly loss?: boolean;
}

type Hidden = Tensor<["batch", "seq", "hidden"]>;

/** What the mixers share: where the tokens stand, and to which sequence they belong. */
interface Positions {
  readonly ids: Tensor<["batch", "seq"], "i32">;
  /** At each absolute position, those of earlier calls included. */
  readonly sequenceIds: Tensor<["batch", "capacity"], "i32">;
  /** For the parts with a recurrent state; null in decode, where each row's token continues its sequence. */
  readonly sequences: (Sequences<"batch"> & { readonly ends: Tensor<["batch"], "i32"> }) | null;
  /** Tokens that the caches hold already, padding included. */
  readonly past: Expr;
  /** Bounds of the scan's step sizes in this program. */
  readonly stepLimit: readonly [number, number];
  readonly tables: { readonly cos: Tensor<["capacity", "pairs"]>; readonly sin: Tensor<["capacity", "pairs"]> } | null;
}

/**
 * The graph of one program of the model. Inputs: `input_ids` (or `inputs_embeds`), `position_ids` [batch, seq] i32, `sequence_ids` [batch, capacity] i32
 * (by absolute position: a token has the number n >= 1 of its sequence within the row, padding has -n of the last token before it or -1), in prefill
 * `sequence_ends` [batch] i32 (how many positions of this call the convolution states are after: up to the row's last token), and the symbol `past`; states:
 * `layers.{i}.keys`, `.values` or `.conv`, `.ssm`, all of them advanced by the call. An input that nothing reads (positions in a model without
 * attention) is not in the graph. Throws CulmError when `options` contradict each other.
 */
export function bambaGraph(c: BambaConfig, options: BambaOptions): Graph {
  const {
    phase,
    batch,
    capacity,
    weights = "f32",
    rotary = "f32",
    logits: which = "last",
    hiddenStates = false,
    embeds = false,
    loss = false,
    limitSteps = true,
    maxSeq = capacity,
  } = options;
  if (loss && which !== "all")
    throw new CulmError({ what: "bamba: the loss needs the logits of all positions", fix: 'trace with logits: "all"' });
  if (maxSeq > capacity)
    throw new CulmError({ what: `bamba: ${maxSeq} tokens a call do not fit ${capacity} positions`, fix: "lower maxSeq or raise capacity" });
  const stepLimit = phase === "prefill" || limitSteps ? c.timeStepLimit : ([0, Infinity] as const);
  const dims = { ...sizesOf(c), batch, seq: phase === "decode" ? 1 : ([1, maxSeq] as const), capacity };
  const symbols = { past: [0, capacity - 1] as const };
  const checkpointName = (path: string): string => (path.startsWith("lm_head.") ? path : `model.${path}`);

  return model(`bamba.${phase}`, { dims, symbols, weights, checkpointName }, () => {
    const table = param("embed_tokens.weight", ["vocab", "hidden"]);
    const head = c.tieWordEmbeddings ? table : param("lm_head.weight", ["vocab", "hidden"]);
    const positions = { ...positionsOf(c, phase, capacity, rotary), stepLimit };
    const hidden: Record<string, Hidden> = {};

    let x: Hidden = embeds
      ? input("inputs_embeds", ["batch", "seq", "hidden"])
      : gather(table, input("input_ids", ["batch", "seq"], "i32"));
    for (const [i, kind] of c.layerKinds.entries()) {
      hidden[`hidden.${i}`] = x;
      x = scope(`layers.${i}`, () => layer(x, c, kind === "mamba" ? mambaMixer : attentionMixer, positions));
    }
    const normed = rmsNorm(x, "final_layernorm", c.normEps);
    hidden[`hidden.${c.layerKinds.length}`] = normed;
    const states = hiddenStates ? hidden : {};

    if (which === "last") {
      // the norm of one position instead of all: each position's is its own
      const logits = matmulT(rmsNorm(at(x, "seq", -1), "final_layernorm", c.normEps), head);
      return { logits, argmax: argmax(logits, "vocab"), ...states };
    }
    const logits = matmulT(normed, head);
    return loss ? { logits, loss: lossOf(logits, c), ...states } : { logits, ...states };
  });
}

/** The sizes behind the axis names, with the letters of the specification. */
function sizesOf(c: BambaConfig): Record<string, number> {
  const mamba = {
    heads: c.mambaHeads, // H
    head_dim: c.mambaHeadDim, // P
    groups: c.mambaGroups, // G
    state: c.mambaStateSize, // N
    xBC: c.convChannels, // Cv
  };
  const attending = { query_heads: c.numAttentionHeads, kv_heads: c.numKeyValueHeads, size: c.headDim, pairs: c.rotaryDim / 2 };
  return {
    vocab: c.vocabSize,
    hidden: c.hiddenSize,
    ffn: c.intermediateSize,
    ...mamba,
    ...(c.attentionLayers.length > 0 ? attending : {}),
  };
}

function positionsOf(c: BambaConfig, phase: "prefill" | "decode", capacity: number, rotary: "f32" | "bf16"): Omit<Positions, "stepLimit"> {
  const past = symbol("past");
  const sequenceIds = input("sequence_ids", ["batch", "capacity"], "i32");
  const sequences = phase === "decode" ? null : { ids: sequenceIds, past, ends: input("sequence_ends", ["batch"], "i32") };
  const ids = input("position_ids", ["batch", "seq"], "i32");
  if (c.attentionLayers.length === 0) return { ids, sequenceIds, sequences, past, tables: null };
  const { cos, sin } = ropeTables(c, capacity, { frequencies: rotary });
  const tables = { cos: literal("rope.cos", ["capacity", "pairs"], cos), sin: literal("rope.sin", ["capacity", "pairs"], sin) };
  return { ids, sequenceIds, sequences, past, tables };
}

type Mixer = (x: Hidden, c: BambaConfig, positions: Positions) => Hidden;

function layer(x: Hidden, c: BambaConfig, mixer: Mixer, positions: Positions): Hidden {
  const mixed = add(x, mixer(rmsNorm(x, "input_layernorm", c.normEps), c, positions));
  return add(mixed, feedForward(rmsNorm(mixed, "pre_ff_layernorm", c.normEps), c));
}

function feedForward(x: Hidden, c: BambaConfig): Hidden {
  const gate = activate(linear(x, "feed_forward.gate_proj", { out: "ffn", bias: c.mlpBias }), c.hiddenAct);
  const up = linear(x, "feed_forward.up_proj", { out: "ffn", bias: c.mlpBias });
  return linear(mul(gate, up), "feed_forward.down_proj", { out: "hidden", bias: c.mlpBias });
}

function mambaMixer(x: Hidden, c: BambaConfig, { sequences, stepLimit }: Positions): Hidden {
  const following = sequences ? { sequences } : {};
  const projected = linear(x, "mamba.in_proj", { out: "heads*head_dim+xBC+heads", bias: c.mambaProjBias });
  const { z, xBC, dt } = split(projected, "heads*head_dim+xBC+heads", { z: "heads*head_dim", xBC: "xBC", dt: "heads" });

  const conv = causalConv1d(xBC, "mamba.conv1d", {
    width: c.mambaConvWidth,
    bias: c.mambaConvBias,
    activation: c.hiddenAct,
    state: convState(["batch", c.mambaConvWidth, "xBC"]),
    ...following,
  });
  const channels = split(conv, "xBC", {
    x: ["heads", "head_dim"],
    B: ["groups", "state"],
    C: ["groups", "state"],
  });

  const y = ssdScan({
    ...channels,
    dt,
    dtBias: param("mamba.dt_bias", ["heads"]),
    dtLimit: stepLimit,
    A: neg(exp(param("mamba.A_log", ["heads"]))),
    D: param("mamba.D", ["heads"]),
    chunk: c.chunkSize,
    state: ssmState(["batch", "heads", "head_dim", "state"]),
    ...following,
  });
  const gated = gatedRmsNorm(reshape(y, ["batch", "seq", "heads*head_dim"]), z, "mamba.norm", c.normEps);
  return linear(gated, "mamba.out_proj", { out: "hidden", bias: c.mambaProjBias });
}

function attentionMixer(x: Hidden, c: BambaConfig, { ids, sequenceIds, past, tables }: Positions): Hidden {
  if (!tables) throw new Error("bamba: an attention layer without rotary tables");
  const bias = c.attentionBias;
  const q = reshape(linear(x, "self_attn.q_proj", { out: "query_heads*size", bias }), ["batch", "seq", "query_heads", "size"]);
  const k = reshape(linear(x, "self_attn.k_proj", { out: "kv_heads*size", bias }), ["batch", "seq", "kv_heads", "size"]);
  const v = reshape(linear(x, "self_attn.v_proj", { out: "kv_heads*size", bias }), ["batch", "seq", "kv_heads", "size"]);
  const mixed = attention(rope(q, ids, tables), rope(k, ids, tables), v, {
    scale: c.attentionScale,
    ids: sequenceIds,
    cache: kvCache(["batch", "kv_heads", "capacity", "size"], past),
  });
  return linear(reshape(mixed, ["batch", "seq", "query_heads*size"]), "self_attn.o_proj", { out: "hidden", bias });
}

/** Cross-entropy of the next tokens, plus the z-loss on the size of the logits where the configuration asks for it. */
function lossOf(logits: Tensor<["batch", "seq", "vocab"]>, c: BambaConfig): Tensor<[]> {
  const loss = crossEntropy(logits, input("labels", ["batch", "seq"], "i32"));
  if (c.zLossCoefficient === 0) return loss;
  const size = logSumExp(logits, "vocab");
  return add(loss, mul(mean(mean(mul(size, size), "seq"), "batch"), c.zLossCoefficient));
}
