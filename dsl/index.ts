/**
 * The language in which models are written: typed tensors with named axes, traced into a graph.
 *
 * A tensor's type says its axes and element type: `Tensor<["batch", "seq", "hidden"]>` (f32 unless said otherwise). An axis is a name, which
 * `model(..., { dims })` binds to a size, or a literal number; "heads*head_dim" is the merge of two axes, "x+y" one put after the other. Two axes of
 * equal size and different names do not mix. A mistake in axes or element types is a type error that says what is wrong
 * (`ShapeError<"matmul: [batch, seq, ffn] x [hidden, ffn]: inner dimension 'ffn' does not meet 'hidden'">`), and what types cannot see (sizes) is a
 * `CulmError` with the line of the model when it is traced.
 *
 * Activations are f32. Weights are stored as the model's `weights` option says and read as f32; matmul and gather read the stored values directly.
 */
export { CulmError } from "../compiler/diagnostics.ts";
export type { DType } from "../compiler/ir/dtype.ts";
export type { Expr } from "../compiler/ir/expr.ts";
export type { Activation, Graph } from "../compiler/ir/graph.ts";

export type { AnyTensor, Dim, Float, Numeric, Shape, ShapeError, Tensor } from "./types.ts";
export type { ModelOptions, Range } from "./trace.ts";
export { model, scope, symbol } from "./trace.ts";
export type { State } from "./sources.ts";
export { full, input, iota, literal, param, scalar, setState, state, writeState } from "./sources.ts";
export {
  abs,
  activate,
  add,
  and,
  cast,
  cos,
  div,
  eq,
  erf,
  exp,
  floor,
  ge,
  gelu,
  geluTanh,
  gt,
  le,
  log,
  log1p,
  lt,
  max,
  min,
  mul,
  ne,
  neg,
  not,
  or,
  pow,
  relu,
  round,
  rsqrt,
  select,
  sigmoid,
  silu,
  sin,
  softplus,
  sqrt,
  sub,
  tanh,
} from "./elementwise.ts";
export { at, concat, gather, last, pad, rename, reshape, slice, split, transpose } from "./layout.ts";
export { amax, amin, argmax, crossEntropy, cumsum, logSumExp, mean, softmax, sum } from "./reduce.ts";
export type { ConvOptions } from "./layers.ts";
export { causalConv1d, gatedRmsNorm, linear, matmul, matmulT, rmsNorm } from "./layers.ts";
export { processLogits, sampleToken } from "./sampling.ts";
export type { AttentionOptions, InputRing, KvCache, Sequences, SsdInputs, SsdReplayInputs } from "./mixers.ts";
export { attention, convState, inputRing, kvCache, rope, ssdReplay, ssdScan, ssdSettle, ssmState } from "./mixers.ts";
