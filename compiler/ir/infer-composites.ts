import type { Expr } from "./expr.ts";
import { printDim, printShape } from "./graph-text.ts";
import type { Attrs, Dim, TensorType } from "./graph.ts";
import type { Infer, Types } from "./infer.ts";
import { expectAxis, expectDType, expectFloat, expectNumber, expectRank, expectShape, sameShape } from "./infer.ts";

/**
 * Typing rules of the composites. Like `matmul` they take float operands in any storage type and give f32, so that a weight or a cache in
 * bf16 needs no cast in between; `ssdScan` asks for f32, and a new state has the dtype of the old one, which it replaces.
 */
const f32 = (shape: readonly Dim[]): TensorType => ({ dtype: "f32", shape });

function expectPositive(ctx: Infer, what: string, value: number): void {
  if (!Number.isInteger(value) || value < 1)
    throw ctx.error(`${what} is ${value}`, { expected: "a whole number of at least 1", got: String(value), fix: `correct ${what}` });
}

function expectPast(ctx: Infer, past: Expr, what = "past"): void {
  if (past.dtype !== "i32")
    throw ctx.error(`${what} is ${past.dtype}`, { expected: "i32", got: past.dtype, fix: "use an integer expression" });
}

/** Ids by absolute position, for at least the positions of this call. */
function expectIds(ctx: Infer, ids: TensorType, batch: Dim): void {
  expectDType(ctx, "ids", ids, ["i32"]);
  expectRank(ctx, "ids", ids, 2, "[batch, positions]");
  expectShape(ctx, "ids", ids, [batch, ids.shape[1]!], "[batch, positions]");
}

export function inferActivation([x]: Types, _: Attrs["activation"], ctx: Infer): Types {
  expectFloat(ctx, "x", x!);
  return [f32(x!.shape)];
}

export function inferSoftmax([x]: Types, { axis }: Attrs["softmax"], ctx: Infer): Types {
  expectFloat(ctx, "x", x!);
  expectAxis(ctx, x!.shape, axis);
  return [f32(x!.shape)];
}

function expectNorm(ctx: Infer, x: TensorType, weight: TensorType, eps: number): void {
  expectFloat(ctx, "x", x);
  expectFloat(ctx, "weight", weight);
  const size = expectNumber(ctx, "the last axis", expectAxis(ctx, x.shape, x.shape.length - 1));
  expectShape(ctx, "weight", weight, [size], "[last axis of x]");
  if (!(eps >= 0)) throw ctx.error(`eps is ${eps}`, { expected: "a number of at least 0", got: String(eps), fix: "correct eps" });
}

export function inferRmsNorm([x, weight]: Types, { eps }: Attrs["rmsNorm"], ctx: Infer): Types {
  expectNorm(ctx, x!, weight!, eps);
  return [f32(x!.shape)];
}

export function inferGatedRmsNorm([x, gate, weight]: Types, { eps }: Attrs["gatedRmsNorm"], ctx: Infer): Types {
  expectNorm(ctx, x!, weight!, eps);
  expectFloat(ctx, "gate", gate!);
  expectShape(ctx, "gate", gate!, x!.shape, "[shape of x]");
  return [f32(x!.shape)];
}

export function inferRope([x, positions, cos, sin]: Types, { rotary }: Attrs["rope"], ctx: Infer): Types {
  for (const [label, t] of [
    ["x", x!],
    ["cos", cos!],
    ["sin", sin!],
  ] as const)
    expectFloat(ctx, label, t);
  expectRank(ctx, "x", x!, 4, "[batch, seq, heads, D]");
  expectDType(ctx, "positions", positions!, ["i32"]);
  expectShape(ctx, "positions", positions!, x!.shape.slice(0, 2), "[batch, seq]");
  const D = expectNumber(ctx, "the head size", x!.shape[3]!);
  if (!Number.isInteger(rotary) || rotary < 2 || rotary % 2 !== 0 || rotary > D)
    throw ctx.error(`cannot rotate ${rotary} of ${D} dimensions`, {
      expected: `an even number from 2 to ${D}`,
      got: String(rotary),
      fix: "check the rotary fraction (partial_rotary_factor) and the head size",
    });
  expectRank(ctx, "cos", cos!, 2, "[maxPositions, rotary / 2]");
  expectShape(ctx, "cos", cos!, [cos!.shape[0]!, rotary / 2], "[maxPositions, rotary / 2]");
  expectShape(ctx, "sin", sin!, cos!.shape, "[shape of cos]");
  return [f32(x!.shape)];
}

export function inferCausalConv1d(inputs: Types, { width, bias, past }: Attrs["causalConv1d"], ctx: Infer): Types {
  const [x, weight] = inputs;
  const state = inputs.at(-1)!;
  expectRank(ctx, "x", x!, 3, "[batch, seq, channels]");
  expectPositive(ctx, "width", width);
  const [batch, , channels] = x!.shape;
  expectNumber(ctx, "the number of channels", channels!);
  for (const [label, t] of [
    ["x", x!],
    ["weight", weight!],
    ["state", state],
  ] as const)
    expectFloat(ctx, label, t);
  expectShape(ctx, "weight", weight!, [channels!, width], "[channels, width]");
  if (bias) {
    expectFloat(ctx, "bias", inputs[2]!);
    expectShape(ctx, "bias", inputs[2]!, [channels!], "[channels]");
  }
  if (past) {
    const [ids, ends] = inputs.slice(-3) as [TensorType, TensorType];
    expectPast(ctx, past);
    expectIds(ctx, ids, batch!);
    expectDType(ctx, "ends", ends, ["i32"]);
    expectShape(ctx, "ends", ends, [batch!], "[batch]");
  }
  expectShape(ctx, "state", state, [batch!, width, channels!], "[batch, width, channels]");
  return [f32(x!.shape), state];
}

export function inferSsdScan(inputs: Types, attrs: Attrs["ssdScan"], ctx: Infer): Types {
  const state = inputs.at(-1)!;
  const batch = expectScan(ctx, inputs, state, attrs);
  if (attrs.past) {
    expectPast(ctx, attrs.past);
    expectIds(ctx, inputs[7]!, batch);
  }
  expectPositive(ctx, "chunk", attrs.chunk);
  return [inputs[0]!, state];
}

/** What a scan and a step with a ring of inputs ask of their first seven operands, of a state and of the limits. Gives the batch. */
function expectScan(ctx: Infer, inputs: Types, state: TensorType, attrs: { readonly dtMin: number; readonly dtMax: number }): Dim {
  const [x, dt, A, B, C, D, dtBias] = inputs;
  const operands = { x: x!, dt: dt!, A: A!, B: B!, C: C!, D: D!, dtBias: dtBias! };
  for (const [label, t] of Object.entries(operands)) expectDType(ctx, label, t, ["f32"]);
  expectFloat(ctx, "state", state);
  expectRank(ctx, "x", x!, 4, "[batch, seq, heads, P]");
  expectRank(ctx, "B", B!, 4, "[batch, seq, groups, N]");
  const [batch, seq, H, P] = x!.shape as readonly [Dim, Dim, Dim, Dim];
  const [G, N] = B!.shape.slice(2) as [Dim, Dim];
  const heads = expectNumber(ctx, "the number of heads", H);
  const groups = expectNumber(ctx, "the number of groups", G);
  expectNumber(ctx, "the head size", P);
  expectNumber(ctx, "the state size", N);
  if (heads % groups !== 0)
    throw ctx.error("the heads do not divide into groups", {
      expected: `a multiple of ${groups} heads`,
      got: `${heads} heads`,
      fix: "check n_heads and n_groups",
    });
  expectShape(ctx, "dt", dt!, [batch, seq, H], "[batch, seq, heads]");
  expectShape(ctx, "B", B!, [batch, seq, G, N], "[batch, seq, groups, N]");
  expectShape(ctx, "C", C!, B!.shape, "[shape of B]");
  for (const [label, t] of [
    ["A", A!],
    ["D", D!],
    ["dtBias", dtBias!],
  ] as const)
    expectShape(ctx, label, t, [H], "[heads]");
  expectShape(ctx, "state", state, [batch, H, P, N], "[batch, heads, P, N]");
  if (!(attrs.dtMin <= attrs.dtMax))
    throw ctx.error("the limits of dt are empty", {
      expected: "dtMin <= dtMax",
      got: `${attrs.dtMin} and ${attrs.dtMax}`,
      fix: "check time_step_limit",
    });
  return batch;
}

export function inferSsdReplay(inputs: Types, attrs: Attrs["ssdReplay"], ctx: Infer): Types {
  const [state, xs, Bs, dts] = inputs.slice(7) as [TensorType, TensorType, TensorType, TensorType];
  const batch = expectScan(ctx, inputs, state, attrs);
  const [, seq, H, P] = inputs[0]!.shape as readonly [Dim, Dim, Dim, Dim];
  const [G, N] = inputs[3]!.shape.slice(2) as [Dim, Dim];
  if (seq !== 1)
    throw ctx.error("a step takes one position a row", {
      expected: "[batch, 1, heads, P]",
      got: printShape(inputs[0]!.shape),
      fix: "use ssdScan",
    });
  expectRank(ctx, "xs", xs, 4, "[batch, length, heads, P]");
  const length = expectNumber(ctx, "the length of the ring", xs.shape[1]!);
  expectFloat(ctx, "xs", xs);
  expectFloat(ctx, "Bs", Bs);
  expectDType(ctx, "dts", dts, ["f32"]);
  expectShape(ctx, "xs", xs, [batch, length, H, P], "[batch, length, heads, P]");
  expectShape(ctx, "Bs", Bs, [batch, length, G, N], "[batch, length, groups, N]");
  expectShape(ctx, "dts", dts, [batch, length, H], "[batch, length, heads]");
  expectPast(ctx, attrs.held, "held");
  return [inputs[0]!, state, xs, Bs, dts];
}

export function inferAttention(inputs: Types, { scale, ids, past }: Attrs["attention"], ctx: Infer): Types {
  const [q, k, v] = inputs;
  for (const [label, t] of [
    ["q", q!],
    ["k", k!],
    ["v", v!],
  ] as const)
    expectFloat(ctx, label, t);
  expectRank(ctx, "q", q!, 4, "[batch, seq, heads, D]");
  expectRank(ctx, "k", k!, 4, "[batch, kvHeads, keys, D]");
  const [batch, , H, D] = q!.shape as readonly [Dim, Dim, Dim, Dim];
  const [, Hkv, T] = k!.shape as readonly [Dim, Dim, Dim, Dim];
  const heads = expectNumber(ctx, "the number of heads", H);
  const kvHeads = expectNumber(ctx, "the number of key/value heads", Hkv);
  expectNumber(ctx, "the head size", D);
  if (heads % kvHeads !== 0)
    throw ctx.error("query heads do not divide into key/value heads", {
      expected: `a multiple of ${kvHeads} query heads`,
      got: `${heads}`,
      fix: "check num_attention_heads and num_key_value_heads",
    });
  expectShape(ctx, "k", k!, [batch, Hkv, T, D], "[batch, kvHeads, keys, D]");
  expectShape(ctx, "v", v!, k!.shape, "[shape of k]");
  if (ids) {
    expectDType(ctx, "ids", inputs[3]!, ["i32"]);
    expectShape(ctx, "ids", inputs[3]!, [batch, T], "[batch, keys]");
  }
  expectPast(ctx, past);
  if (!Number.isFinite(scale))
    throw ctx.error(`scale is ${scale}`, { expected: "a finite number", got: String(scale), fix: "correct scale" });
  return [f32(q!.shape)];
}

export function inferCrossEntropy([logits, labels]: Types, { ignoreIndex }: Attrs["crossEntropy"], ctx: Infer): Types {
  expectRank(ctx, "logits", logits!, 3, "[batch, seq, vocabulary]");
  expectDType(ctx, "logits", logits!, ["f32"]);
  expectDType(ctx, "labels", labels!, ["i32"]);
  if (!sameShape(labels!.shape, logits!.shape.slice(0, 2)))
    throw ctx.error("labels do not fit the logits", {
      expected: `[batch, seq] = ${printShape(logits!.shape.slice(0, 2))}`,
      got: printShape(labels!.shape),
      fix: `give one label for each position of ${logits!.shape.slice(0, 2).map(printDim).join(" x ")}`,
    });
  expectPositive(ctx, "the vocabulary", expectNumber(ctx, "the vocabulary", logits!.shape[2]!));
  if (!Number.isInteger(ignoreIndex))
    throw ctx.error(`ignoreIndex is ${ignoreIndex}`, {
      expected: "a whole number",
      got: String(ignoreIndex),
      fix: "use -100 as PyTorch does",
    });
  return [f32([])];
}

/** Columns of the settings of `processLogits`. */
const SETTINGS = 5;
/** Kernels count scores in f32. */
const MOST_SCORES = 2 ** 24;

function expectScores(ctx: Infer, label: string, scores: TensorType): readonly [batch: Dim, vocab: number] {
  expectRank(ctx, label, scores, 2, "[batch, vocabulary]");
  expectDType(ctx, label, scores, ["f32"]);
  const vocab = expectNumber(ctx, "the vocabulary", scores.shape[1]!);
  expectPositive(ctx, "the vocabulary", vocab);
  if (vocab > MOST_SCORES)
    throw ctx.error(`a vocabulary of ${vocab}`, { expected: `at most ${MOST_SCORES}`, got: String(vocab), fix: "sample on the host" });
  return [scores.shape[0]!, vocab];
}

export function inferProcessLogits([logits, seen, settings]: Types, _: Attrs["processLogits"], ctx: Infer): Types {
  const [batch] = expectScores(ctx, "logits", logits!);
  expectDType(ctx, "seen", seen!, ["bool"]);
  expectShape(ctx, "seen", seen!, logits!.shape, "[shape of the logits]");
  expectDType(ctx, "settings", settings!, ["f32"]);
  expectShape(ctx, "settings", settings!, [batch, SETTINGS], "[batch, settings]");
  return [f32(logits!.shape)];
}

export function inferSampleToken([scores, draw]: Types, _: Attrs["sampleToken"], ctx: Infer): Types {
  const [batch] = expectScores(ctx, "scores", scores!);
  expectDType(ctx, "draw", draw!, ["f32"]);
  expectShape(ctx, "draw", draw!, [batch], "[batch]");
  return [{ dtype: "i32", shape: [batch] }];
}
