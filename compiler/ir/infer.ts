import type { CulmError } from "../diagnostics.ts";
import type { DType } from "./dtype.ts";
import { DTYPES, isFloat } from "./dtype.ts";
import type { Expr } from "./expr.ts";
import type { BinaryFn } from "./operators.ts";
import { isConst, rangeOf } from "./expr.ts";
import { print } from "./expr-text.ts";
import { printDim, printShape } from "./graph-text.ts";
import type { Attrs, Dim, TensorType } from "./graph.ts";

/** What a typing rule is given besides types and attributes. */
export interface Infer {
  /** The type the maker of a source stated; null for every other operation. */
  readonly declared: TensorType | null;
  /** An error about this operation, with its call site and operands filled in. */
  error(what: string, more: { readonly expected?: string; readonly got?: string; readonly fix: string }): CulmError;
}
export type Types = readonly TensorType[];

// ---- checks that the rules share ------------------------------------------------------------------------------------
/** Equal numbers or the same symbol. A symbol never equals a number, even where its range has one value. */
export const sameDim = (a: Dim, b: Dim): boolean => a === b;
export const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean => a.length === b.length && a.every((d, i) => sameDim(d, b[i]!));
export const sameType = (a: TensorType, b: TensorType): boolean => a.dtype === b.dtype && sameShape(a.shape, b.shape);

/** The product of dimensions, or null when one of them is a symbol. */
export const count = (shape: readonly Dim[]): number | null =>
  shape.reduce<number | null>((n, d) => (n === null || typeof d !== "number" ? null : n * d), 1);

export function expectRank(ctx: Infer, label: string, t: TensorType, rank: number, axes: string): void {
  if (t.shape.length !== rank)
    throw ctx.error(`${label} has the wrong number of axes`, {
      expected: `${rank}: ${axes}`,
      got: `${t.shape.length}: ${printShape(t.shape)}`,
      fix: `reshape ${label} to ${axes}`,
    });
}

/** `axes` names the dimensions for the reader: "[seq, heads]". */
export function expectShape(ctx: Infer, label: string, t: TensorType, shape: readonly Dim[], axes: string): void {
  expectRank(ctx, label, t, shape.length, axes);
  if (!sameShape(t.shape, shape))
    throw ctx.error(`${label} has the wrong shape`, {
      expected: `${axes} = ${printShape(shape)}`,
      got: printShape(t.shape),
      fix: `make ${label} ${printShape(shape)}, or correct the operand that it has to agree with`,
    });
}

export function expectDType(ctx: Infer, label: string, t: TensorType, allowed: readonly DType[]): void {
  if (!allowed.includes(t.dtype))
    throw ctx.error(`${label} has dtype ${t.dtype}`, {
      expected: allowed.join(" or "),
      got: t.dtype,
      fix: `cast ${label} to ${allowed[0]!} first`,
    });
}
export const FLOATS: readonly DType[] = DTYPES.filter(isFloat);
export const expectFloat = (ctx: Infer, label: string, t: TensorType): void => expectDType(ctx, label, t, FLOATS);

export function expectAxis(ctx: Infer, shape: readonly Dim[], axis: number): Dim {
  if (!Number.isInteger(axis) || axis < 0 || axis >= shape.length)
    throw ctx.error(`axis ${axis} does not exist`, {
      expected: shape.length === 0 ? "a tensor with at least one axis" : `0 to ${shape.length - 1}, for ${printShape(shape)}`,
      got: String(axis),
      fix: "name an axis of the operand",
    });
  return shape[axis]!;
}

/** Sizes that a rule computes with cannot be symbols. */
export function expectNumber(ctx: Infer, what: string, d: Dim): number {
  if (typeof d !== "number")
    throw ctx.error(`${what} is the symbol ${d.name}`, {
      expected: "a size known when the model is built",
      got: d.name,
      fix: `give ${what} a number`,
    });
  return d;
}

const replaced = (shape: readonly Dim[], axis: number, d: Dim): readonly Dim[] => shape.map((old, i) => (i === axis ? d : old));
const without = (shape: readonly Dim[], axis: number): readonly Dim[] => shape.filter((_, i) => i !== axis);
const integer = (e: Expr): string => print(e);

function expectDims(ctx: Infer, shape: readonly Dim[]): void {
  for (const d of shape)
    if (typeof d === "number" ? !Number.isInteger(d) || d < 1 : d.min < 1)
      throw ctx.error("a dimension is not positive", {
        expected: "whole numbers of at least 1, or symbols whose range starts at 1 or more",
        got: printShape(shape),
        fix: "check the sizes that this shape is computed from",
      });
}

/** Rejects a range start .. start+size-1 that can lie inside for no value of the symbols; what depends on them is checked when they are known. */
function expectInside(ctx: Infer, what: string, start: Expr, size: Dim, dim: Dim): void {
  if (start.dtype !== "i32")
    throw ctx.error(`${what} start is ${start.dtype}`, { expected: "i32", got: start.dtype, fix: "use an integer expression" });
  const first = rangeOf(start);
  const least = typeof size === "number" ? size : size.min;
  const most = typeof dim === "number" ? dim : dim.max;
  const whole = sameDim(size, dim);
  if (
    first.max < 0 ||
    first.min + least > most ||
    (whole && (isConst(start) ? start.value !== 0 : first.min > 0)) ||
    (isConst(start) && start.value < 0)
  )
    throw ctx.error(`${what} leaves the axis`, {
      expected: `start and start + size between 0 and ${printDim(dim)}`,
      got: `start ${integer(start)}, size ${printDim(size)}`,
      fix: "correct start or size",
    });
}

// ---- sources --------------------------------------------------------------------------------------------------------
export function inferDeclared(_: Types, __: unknown, ctx: Infer): Types {
  const t = ctx.declared;
  if (t === null) throw ctx.error("no type was stated", { fix: "make sources with makeSource" });
  expectDims(ctx, t.shape);
  return [t];
}

export function inferLiteral(_: Types, attrs: Attrs["literal"], ctx: Infer): Types {
  const [t] = inferDeclared(_, attrs, ctx);
  expectDType(ctx, "a literal", t!, [attrs.data instanceof Float32Array ? "f32" : "i32"]);
  if (count(t!.shape) !== attrs.data.length)
    throw ctx.error("the data does not fill the shape", {
      expected: `${count(t!.shape) ?? "no symbols in the shape"} values for ${printShape(t!.shape)}`,
      got: `${attrs.data.length} values`,
      fix: "give as many values as the shape has elements",
    });
  return [t!];
}

export function inferIota(_: Types, attrs: Attrs["iota"], ctx: Infer): Types {
  const [t] = inferDeclared(_, attrs, ctx);
  expectDType(ctx, "an iota", t!, ["i32"]);
  expectAxis(ctx, t!.shape, attrs.axis);
  return [t!];
}

export function inferScalar(_: Types, { expr }: Attrs["scalar"], ctx: Infer): Types {
  if (expr.dtype !== "i32")
    throw ctx.error(`the expression is ${expr.dtype}`, { expected: "i32", got: expr.dtype, fix: "cast the node that uses it instead" });
  return [{ dtype: "i32", shape: [] }];
}

// ---- elementwise ----------------------------------------------------------------------------------------------------
export function inferUnary([x]: Types, { fn }: Attrs["unary"], ctx: Infer): Types {
  expectDType(ctx, "x", x!, fn === "not" ? ["bool"] : fn === "neg" || fn === "abs" ? ["f32", "i32"] : ["f32"]);
  return [x!];
}

const BINARY_DTYPES: Readonly<Record<BinaryFn, readonly DType[]>> = {
  add: ["f32", "i32"],
  sub: ["f32", "i32"],
  mul: ["f32", "i32"],
  min: ["f32", "i32"],
  max: ["f32", "i32"],
  div: ["f32"],
  pow: ["f32"],
  idiv: ["i32"],
  mod: ["i32"],
  lt: ["f32", "i32", "bool"],
  le: ["f32", "i32", "bool"],
  eq: ["f32", "i32", "bool"],
  ne: ["f32", "i32", "bool"],
  and: ["bool"],
  or: ["bool"],
};
const TO_BOOL: ReadonlySet<BinaryFn> = new Set(["lt", "le", "eq", "ne"]);

function expectSameShape(ctx: Infer, a: TensorType, b: TensorType): void {
  if (!sameShape(a.shape, b.shape))
    throw ctx.error("shapes differ", {
      expected: `equal shapes, here ${printShape(a.shape)}`,
      got: printShape(b.shape),
      fix: "broadcast the smaller operand first",
    });
}
function expectSameDType(ctx: Infer, a: TensorType, b: TensorType): void {
  if (a.dtype !== b.dtype)
    throw ctx.error("dtypes differ", { expected: `equal dtypes, here ${a.dtype}`, got: b.dtype, fix: "cast one of the operands first" });
}

export function inferBinary([a, b]: Types, { fn }: Attrs["binary"], ctx: Infer): Types {
  expectSameShape(ctx, a!, b!);
  expectSameDType(ctx, a!, b!);
  expectDType(ctx, `an operand of ${fn}`, a!, BINARY_DTYPES[fn]);
  return [{ dtype: TO_BOOL.has(fn) ? "bool" : a!.dtype, shape: a!.shape }];
}

export function inferSelect([cond, a, b]: Types, _: Attrs["select"], ctx: Infer): Types {
  expectDType(ctx, "cond", cond!, ["bool"]);
  expectSameShape(ctx, a!, b!);
  expectSameDType(ctx, a!, b!);
  expectSameShape(ctx, a!, cond!);
  return [a!];
}

// ---- shapes ---------------------------------------------------------------------------------------------------------
export function inferBroadcast([x]: Types, { shape, axes }: Attrs["broadcast"], ctx: Infer): Types {
  expectDims(ctx, shape);
  if (
    axes.length !== x!.shape.length ||
    axes.some((a, i) => !Number.isInteger(a) || a <= (i === 0 ? -1 : axes[i - 1]!) || a >= shape.length)
  )
    throw ctx.error("axes do not place the operand in the result", {
      expected: `${x!.shape.length} increasing axes of ${printShape(shape)}`,
      got: `[${axes.join(", ")}]`,
      fix: "name one axis of the result for each axis of the operand; transpose first to change their order",
    });
  const bad = axes.findIndex((a, i) => !sameDim(x!.shape[i]!, shape[a]!) && x!.shape[i] !== 1);
  if (bad >= 0)
    throw ctx.error(`axis ${bad} does not fit the result's axis ${axes[bad]!}`, {
      expected: `${printDim(shape[axes[bad]!]!)} or 1`,
      got: printDim(x!.shape[bad]!),
      fix: "only axes of size 1 repeat; check the shapes",
    });
  return [{ dtype: x!.dtype, shape }];
}

/** A shape as runs: the product of the numbers before each symbol, the symbol, and so on. Two shapes reshape into each other when their runs are equal. */
function runs(shape: readonly Dim[]): Dim[] {
  const out: Dim[] = [1];
  for (const d of shape)
    if (typeof d === "number") out[out.length - 1] = (out[out.length - 1] as number) * d;
    else out.push(d, 1);
  return out;
}

export function inferReshape([x]: Types, { shape }: Attrs["reshape"], ctx: Infer): Types {
  expectDims(ctx, shape);
  if (!sameShape(runs(x!.shape), runs(shape)))
    throw ctx.error(`cannot reshape ${printShape(x!.shape)} to ${printShape(shape)}`, {
      expected: "the same elements in the same order: equal products of the numbers, symbols kept where they are",
      got: `${printShape(runs(x!.shape))} against ${printShape(runs(shape))} (numbers between symbols multiplied)`,
      fix: "split or merge neighbouring numeric axes only",
    });
  return [{ dtype: x!.dtype, shape }];
}

export function inferTranspose([x]: Types, { perm }: Attrs["transpose"], ctx: Infer): Types {
  const n = x!.shape.length;
  if (perm.length !== n || !x!.shape.every((_, i) => perm.includes(i)))
    throw ctx.error("not a permutation of the axes", {
      expected: `each of 0 to ${n - 1} once`,
      got: `[${perm.join(", ")}]`,
      fix: "list every axis once",
    });
  return [{ dtype: x!.dtype, shape: perm.map((p) => x!.shape[p]!) }];
}

export function inferSlice([x]: Types, { axis, start, size }: Attrs["slice"], ctx: Infer): Types {
  const d = expectAxis(ctx, x!.shape, axis);
  expectDims(ctx, [size]);
  expectInside(ctx, "the slice", start, size, d);
  return [{ dtype: x!.dtype, shape: replaced(x!.shape, axis, size) }];
}

export function inferPad([x]: Types, { axis, low, high }: Attrs["pad"], ctx: Infer): Types {
  const d = expectNumber(ctx, `axis ${axis}`, expectAxis(ctx, x!.shape, axis));
  if (![low, high].every((p) => Number.isInteger(p) && p >= 0))
    throw ctx.error("the padding is negative or not whole", {
      expected: "low, high >= 0",
      got: `low ${low}, high ${high}`,
      fix: "use slice to remove elements",
    });
  return [{ dtype: x!.dtype, shape: replaced(x!.shape, axis, d + low + high) }];
}

export function inferConcat(parts: Types, { axis }: Attrs["concat"], ctx: Infer): Types {
  const first = parts[0]!;
  expectAxis(ctx, first.shape, axis);
  let total = 0;
  for (const [i, p] of parts.entries()) {
    expectSameDType(ctx, first, p);
    const other = p.shape[axis];
    total += other === undefined ? 0 : expectNumber(ctx, `axis ${axis} of part ${i}`, other);
    if (!sameShape(without(first.shape, axis), without(p.shape, axis)) || p.shape.length !== first.shape.length)
      throw ctx.error(`part ${i} does not fit part 0`, {
        expected: `${printShape(first.shape)}, except on axis ${axis}`,
        got: printShape(p.shape),
        fix: "all axes but the concatenated one have to agree",
      });
  }
  return [{ dtype: first.dtype, shape: replaced(first.shape, axis, total) }];
}

// ---- across elements ------------------------------------------------------------------------------------------------
export function inferReduce([x]: Types, { fn, axis }: Attrs["reduce"], ctx: Infer): Types {
  expectAxis(ctx, x!.shape, axis);
  expectDType(ctx, "x", x!, ["f32", "i32"]);
  return [{ dtype: fn === "argmax" ? "i32" : x!.dtype, shape: without(x!.shape, axis) }];
}

export function inferScan([x]: Types, { axis }: Attrs["scan"], ctx: Infer): Types {
  expectAxis(ctx, x!.shape, axis);
  expectDType(ctx, "x", x!, ["f32", "i32"]);
  return [x!];
}

export function inferGather([data, indices]: Types, _: Attrs["gather"], ctx: Infer): Types {
  expectDType(ctx, "indices", indices!, ["i32"]);
  if (data!.shape.length === 0)
    throw ctx.error("data has no axis to pick from", { expected: "[rows, ...]", got: "[]", fix: "gather from a tensor with rows" });
  return [{ dtype: data!.dtype, shape: [...indices!.shape, ...data!.shape.slice(1)] }];
}

export function inferUpdate([target, value]: Types, { axis, start }: Attrs["update"], ctx: Infer): Types {
  const d = expectAxis(ctx, target!.shape, axis);
  expectSameDType(ctx, target!, value!);
  if (value!.shape.length !== target!.shape.length || !sameShape(without(target!.shape, axis), without(value!.shape, axis)))
    throw ctx.error("the value does not fit the target", {
      expected: `${printShape(target!.shape)}, shorter on axis ${axis}`,
      got: printShape(value!.shape),
      fix: "transpose or reshape the value to the target's axes",
    });
  expectInside(ctx, "the update", start, value!.shape[axis]!, d);
  return [target!];
}

export function inferMatmul([a, b]: Types, { transB }: Attrs["matmul"], ctx: Infer): Types {
  expectFloat(ctx, "a", a!);
  expectFloat(ctx, "b", b!);
  const [ra, rb] = [a!.shape.length, b!.shape.length];
  if (ra < 2 || rb < 2 || (rb !== 2 && rb !== ra))
    throw ctx.error("the ranks do not fit a matrix product", {
      expected: `a [..., M, K] and b ${transB ? "[N, K] or [..., N, K]" : "[K, N] or [..., K, N]"}`,
      got: `${printShape(a!.shape)} and ${printShape(b!.shape)}`,
      fix: "give both operands at least two axes and, when b has more, the same leading ones",
    });
  const inner = b!.shape[transB ? rb - 1 : rb - 2]!;
  if (!sameDim(a!.shape[ra - 1]!, inner))
    throw ctx.error("inner sizes differ", {
      expected: `b ${transB ? "[..., N, K]" : "[..., K, N]"} with K = ${printDim(a!.shape[ra - 1]!)}, the last axis of a`,
      got: `K = ${printDim(inner)}`,
      fix:
        !transB && rb === 2 && sameDim(a!.shape[ra - 1]!, b!.shape[rb - 1]!)
          ? "b looks transposed: set transB"
          : "correct the weight's shape or the operand",
    });
  if (rb > 2 && !sameShape(a!.shape.slice(0, -2), b!.shape.slice(0, -2)))
    throw ctx.error("leading axes differ", {
      expected: printShape(a!.shape.slice(0, -2)),
      got: printShape(b!.shape.slice(0, -2)),
      fix: "broadcast the operands to the same leading axes",
    });
  return [{ dtype: "f32", shape: [...a!.shape.slice(0, -1), b!.shape[transB ? rb - 2 : rb - 1]!] }];
}
