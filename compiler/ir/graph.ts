import type { Site } from "../diagnostics.ts";
import type { DType } from "./dtype.ts";
import type { Expr, Var } from "./expr.ts";
import type { BinaryFn, UnaryFn } from "./operators.ts";

export type { Site };

/** A dimension: a number, or a run-time symbol (`batch`, `seq`) with its range. */
export type Dim = number | Var;

export interface TensorType {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/** How weights lie in memory. `rows`: row-major as in the checkpoint. `panels`: a [N, K] matrix as ceil(N / width) panels, each [K][width], rows beyond N zero. */
export type Layout = { readonly kind: "rows" } | { readonly kind: "panels"; readonly width: number };

export type Activation = "silu" | "gelu" | "geluTanh" | "relu" | "softplus" | "sigmoid" | "tanh";

/*
 * Sequence ids, i32 by absolute position, say which tokens of a row belong together. A token has the number n >= 1 of its sequence within the row; padding
 * has -n of the last token before it, or -1 when there was none. So |id| is the sequence that a position continues and its sign says whether it is
 * padding; |id| never decreases along a row. An operation whose call begins at position `past` takes |ids[max(past - 1, 0)]| as the sequence of its
 * incoming state.
 */

/** What each operation carries beside its inputs. Input order is given in the comment; `?` marks an input that is there only when the attribute says so. */
export interface Attrs {
  // ---- sources: no inputs
  /** A tensor given at every call. */
  input: { readonly name: string };
  /** A weight of the checkpoint. `packed` is set by the packWeights pass (concatenation of rows of several checkpoint tensors, layout). */
  param: { readonly name: string; readonly packed: Packed | null };
  /** Session state (KV cache, convolution state, SSM state), zero at first; `updates` of the graph says what replaces it, in place. */
  state: { readonly name: string };
  /** A tensor known when the model is built (rotary tables). */
  literal: { readonly name: string; readonly data: Float32Array | Int32Array };
  /** The same number everywhere. */
  fill: { readonly value: number };
  /** 0, 1, 2, ... along `axis`, i32. */
  iota: { readonly axis: number };
  /** A scalar (shape []) i32 expression over the graph's symbols. */
  scalar: { readonly expr: Expr };
  // ---- primitives
  /** x */
  unary: { readonly fn: UnaryFn };
  /** a, b of one shape and dtype (the DSL inserts broadcasts) */
  binary: { readonly fn: BinaryFn };
  /** cond (bool), a, b of one shape */
  select: Record<never, never>;
  /** x */
  cast: { readonly to: DType };
  /** x; result axis of x's axis i is axes[i]; the other axes repeat it. Axes of x of size 1 may grow. */
  broadcast: { readonly shape: readonly Dim[]; readonly axes: readonly number[] };
  /** x; only dimensions that are numbers are split or merged, symbols pass through */
  reshape: { readonly shape: readonly Dim[] };
  /** x; result axis i is axis perm[i] of x */
  transpose: { readonly perm: readonly number[] };
  /** x; elements start .. start+size-1 along axis; start is an expression over symbols */
  slice: { readonly axis: number; readonly start: Expr; readonly size: Dim };
  /** x */
  pad: { readonly axis: number; readonly low: number; readonly high: number; readonly value: number };
  /** one or more tensors, equal but for `axis` (a numeric axis) */
  concat: { readonly axis: number };
  /** x; the axis is removed. argmax (first maximum) gives i32. */
  reduce: { readonly fn: "sum" | "max" | "min" | "argmax"; readonly axis: number };
  /** x; inclusive running sum along axis */
  scan: { readonly fn: "sum"; readonly axis: number };
  /** data, indices (i32): picks rows of data's axis 0; result shape = indices.shape ++ data.shape[1..] */
  gather: Record<never, never>;
  /** target, value: target with value written along `axis` from `start` (expression over symbols); when target is a state this happens in place */
  update: { readonly axis: number; readonly start: Expr };
  /** a [..., M, K], b [K, N] or [..., K, N] (transB: [N, K] or [..., N, K]); accumulates in f32, result dtype f32 */
  matmul: { readonly transB: boolean };
  /** tuple: element `index` of an operation with several results */
  get: { readonly index: number };
  // ---- composites: each has a decomposition into primitives
  /** x */
  activation: { readonly fn: Activation };
  /** x */
  softmax: { readonly axis: number };
  /** x [..., D], weight [D]: weight * x / sqrt(mean(x^2) + eps) over the last axis */
  rmsNorm: { readonly eps: number };
  /** x [..., D], gate [..., D], weight [D]: rmsNorm of x * silu(gate), mean over the whole last axis */
  gatedRmsNorm: { readonly eps: number };
  /** x [batch, seq, heads, D], positions [batch, seq] i32, cos and sin [maxPositions, R/2]: rotates the first R of D dimensions, halves paired (NeoX) */
  rope: { readonly rotary: number };
  /**
   * x [batch, seq, C], weight [C, K], bias? [C], ids? [batch, T], ends? [batch] i32, state [batch, K, C] (the last K inputs, oldest first)
   * -> (y [batch, seq, C], new state).
   * With sequence ids (`past` not null): an input of another sequence than the output's, or of padding, reads as 0. The new state is that after the
   * first ends[row] positions of this call (0: the old one), with inputs of another sequence than the last of them as 0.
   */
  causalConv1d: { readonly width: number; readonly bias: boolean; readonly activation: Activation | null; readonly past: Expr | null };
  /**
   * x [batch, seq, H, P], dt [batch, seq, H] (raw), A [H] (negative), B, C [batch, seq, G, N], D [H], dtBias [H], ids? [batch, T] i32,
   * state [batch, H, P, N] -> (y [batch, seq, H, P], new state). dt' = clamp(softplus(dt + dtBias), dtMin, dtMax), without the
   * softplus where `softplus` is false. spec/ssd.md section 1. All f32.
   * With sequence ids (`past` not null): where a sequence begins the state is zero before it, and padding neither adds to the state nor lets it decay.
   */
  ssdScan: {
    readonly chunk: number;
    readonly softplus: boolean;
    readonly dtMin: number;
    readonly dtMax: number;
    readonly past: Expr | null;
  };
  /**
   * x [batch, 1, H, P], dt [batch, 1, H] (raw), A [H], B, C [batch, 1, G, N], D [H], dtBias [H], state [batch, H, P, N], and a ring of inputs:
   * xs [batch, L, H, P], Bs [batch, L, G, N], dts [batch, L, H] (f32, dt') -> (y [batch, 1, H, P], new state, xs, Bs, dts).
   * A step of `ssdScan` from the state after the first `held` inputs of the ring, 0 <= held < L: y is that step's, and this input becomes number `held` of the
   * ring. The state stays as it is until the ring is full (held = L - 1); then it becomes the state after all L inputs, this one not rounded.
   */
  ssdReplay: { readonly softplus: boolean; readonly dtMin: number; readonly dtMax: number; readonly held: Expr };
  /**
   * q [batch, seq, H, D], k, v [batch, Hkv, T, D] (T = cache capacity or seq), ids? [batch, T] i32 -> [batch, seq, H, D].
   * Query t (absolute position past + t) sees keys j with j <= past + t (when causal), j < past + seq and, with sequence ids, ids[j] = |ids[past + t]|.
   * A row that sees no key gives 0.
   */
  attention: { readonly scale: number; readonly causal: boolean; readonly ids: boolean; readonly past: Expr };
  /** logits [batch, seq, V] f32, labels [batch, seq] i32 -> []: mean of -log softmax at labels over the positions whose label is not ignoreIndex (already shifted); NaN when there is none */
  crossEntropy: { readonly ignoreIndex: number };
  /**
   * logits [batch, V] f32, seen [batch, V] bool (the token occurs in the row so far), settings [batch, 5] f32 -> scores [batch, V] f32, what is removed
   * at -Infinity. Settings, in the order in which they are applied (spec bamba e.2): repetition penalty (seen x: x < 0 ? x * p : x / p), temperature
   * (x / t), top-k (keeps x of which fewer than k are larger; 0 keeps all), top-p (keeps x when the total probability of the larger ones is below p,
   * and the largest always; 1 keeps all), min-p (keeps what has p times the probability of the largest). So equals stay or go together. Of a
   * row with NaN, or whose largest score is infinite, nothing is promised but that `sampleToken` notices.
   */
  processLogits: Record<never, never>;
  /**
   * scores [batch, V] f32, draw [batch] f32 -> i32 [batch]. A draw below 0 takes the largest score, the first one among equals; one in [0, 1) the first
   * index at which the running sum of the softmax exceeds it, never one at -Infinity. -1 when scores are NaN, or the largest is infinite.
   */
  sampleToken: Record<never, never>;
}
export type Op = keyof Attrs;

export interface Packed {
  /** Checkpoint tensors whose rows are stacked, in order, with their shapes. */
  readonly parts: readonly { readonly tensor: string; readonly shape: readonly number[] }[];
  readonly layout: Layout;
}

/** One operation. `types` has one entry, or several for an operation with several results, which are then taken apart by `get`. */
export type Node = {
  [K in Op]: {
    readonly op: K;
    readonly inputs: readonly Node[];
    readonly attrs: Attrs[K];
    readonly types: readonly TensorType[];
    readonly at: Site | null;
    /** Dotted path of modules and the operation's own name, e.g. `layers.9.mamba.in_proj`. Not unique. */
    readonly name: string;
  };
}[Op];
export type NodeOf<K extends Op> = Extract<Node, { op: K }>;

export interface Graph {
  readonly name: string;
  readonly symbols: readonly Var[];
  /** An output with a symbol, 0 or 1, may be left as it is where that is 0: its caller does without. */
  readonly outputs: readonly { readonly name: string; readonly value: Node; readonly when?: Var }[];
  /** New value of each state, written in place of the old one. */
  readonly updates: readonly { readonly state: string; readonly value: Node }[];
}

export const typeOf = (n: Node): TensorType => n.types[0]!;

/** All nodes reachable from the outputs and updates, operands before users, in a stable order. */
export function topological(graph: Graph): Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  const visit = (n: Node): void => {
    if (seen.has(n)) return;
    seen.add(n);
    for (const i of n.inputs) visit(i);
    order.push(n);
  };
  for (const u of graph.updates) visit(u.value);
  for (const o of graph.outputs) visit(o.value);
  return order;
}
