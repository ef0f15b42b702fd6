import type { DType } from "../compiler/ir/dtype.ts";
import type { BinaryFn, UnaryFn } from "../compiler/ir/operators.ts";
import type { Activation } from "../compiler/ir/graph.ts";
import { emit, filled, grow, handle, operand } from "./node.ts";
import * as rules from "./shape.ts";
import { fail, located } from "./trace.ts";
import type { AnyTensor, BinaryCheck, Broadcast, Dim, Float, Numeric, Shape, Tensor } from "./types.ts";

type Called = (...args: never[]) => unknown;

/** The common axes of two operands, or an error that shows them. */
function meet(op: string, a: AnyTensor, b: AnyTensor): Dim[] {
  const axes = rules.broadcast(a.axes, b.axes);
  if (axes) return axes;
  return fail({
    what: `${op}: ${rules.show(a.axes)} and ${rules.show(b.axes)} do not broadcast`,
    operands: [operand("a", a), operand("b", b)],
  });
}

function sameType(op: string, a: AnyTensor, b: AnyTensor): void {
  if (a.dtype === b.dtype) return;
  fail({
    what: `${op}: ${a.dtype} ${rules.show(a.axes)} and ${b.dtype} ${rules.show(b.axes)} differ in element type; cast one of them`,
    operands: [operand("a", a), operand("b", b)],
  });
}

function binary(called: Called, label: string, fn: BinaryFn, a: AnyTensor, b: AnyTensor | number, flip = false): AnyTensor {
  return located(called, label, () => {
    if (typeof b !== "number") sameType(label, a, b);
    const axes = typeof b === "number" ? a.axes : meet(label, a, b);
    const x = grow(a, axes);
    const y = typeof b === "number" ? filled(b, axes, a.dtype) : grow(b, axes);
    return handle(emit("binary", flip ? [y, x] : [x, y], { fn }), axes);
  });
}

// Each function is written out, with its message in its type: a shared generic would show its own name in the error.

/** a + b, broadcasting. Axes meet from the right by name; an axis that one side lacks, or has as a literal 1, repeats. A number stands for itself everywhere. */
export function add<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"add", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, D> {
  return binary(add, "add", "add", a, b) as Tensor<Broadcast<A, B>, D>;
}
/** a - b, broadcasting as `add`. */
export function sub<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"sub", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, D> {
  return binary(sub, "sub", "sub", a, b) as Tensor<Broadcast<A, B>, D>;
}
/** a * b, broadcasting as `add`. */
export function mul<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"mul", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, D> {
  return binary(mul, "mul", "mul", a, b) as Tensor<Broadcast<A, B>, D>;
}
/** a / b in f32, broadcasting as `add`. */
export function div<A extends Shape, B extends Shape = [], E extends DType = "f32">(
  a: Tensor<A>,
  b: (Tensor<B, E> & BinaryCheck<"div", A, "f32", B, E>) | number,
): Tensor<Broadcast<A, B>> {
  return binary(div, "div", "div", a, b) as Tensor<Broadcast<A, B>>;
}
/** a to the power b in f32, broadcasting as `add`. */
export function pow<A extends Shape, B extends Shape = [], E extends DType = "f32">(
  a: Tensor<A>,
  b: (Tensor<B, E> & BinaryCheck<"pow", A, "f32", B, E>) | number,
): Tensor<Broadcast<A, B>> {
  return binary(pow, "pow", "pow", a, b) as Tensor<Broadcast<A, B>>;
}
/** The smaller of a and b, broadcasting as `add`. The least along an axis is `amin`. */
export function min<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"min", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, D> {
  return binary(min, "min", "min", a, b) as Tensor<Broadcast<A, B>, D>;
}
/** The larger of a and b, broadcasting as `add`. The greatest along an axis is `amax`. */
export function max<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"max", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, D> {
  return binary(max, "max", "max", a, b) as Tensor<Broadcast<A, B>, D>;
}

/** a < b as bool, broadcasting as `add`. */
export function lt<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"lt", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, "bool"> {
  return binary(lt, "lt", "lt", a, b) as Tensor<Broadcast<A, B>, "bool">;
}
/** a <= b as bool, broadcasting as `add`. */
export function le<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"le", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, "bool"> {
  return binary(le, "le", "le", a, b) as Tensor<Broadcast<A, B>, "bool">;
}
/** a > b as bool, broadcasting as `add`. */
export function gt<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"gt", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, "bool"> {
  return binary(gt, "gt", "lt", a, b, true) as Tensor<Broadcast<A, B>, "bool">;
}
/** a >= b as bool, broadcasting as `add`. */
export function ge<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"ge", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, "bool"> {
  return binary(ge, "ge", "le", a, b, true) as Tensor<Broadcast<A, B>, "bool">;
}
/** a = b as bool, broadcasting as `add`. */
export function eq<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"eq", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, "bool"> {
  return binary(eq, "eq", "eq", a, b) as Tensor<Broadcast<A, B>, "bool">;
}
/** a differs from b, as bool, broadcasting as `add`. */
export function ne<A extends Shape, D extends Numeric, B extends Shape = [], E extends DType = D>(
  a: Tensor<A, D>,
  b: (Tensor<B, E> & BinaryCheck<"ne", A, D, B, E>) | number,
): Tensor<Broadcast<A, B>, "bool"> {
  return binary(ne, "ne", "ne", a, b) as Tensor<Broadcast<A, B>, "bool">;
}
/** Both of two bools, broadcasting as `add`. */
export function and<A extends Shape, B extends Shape, E extends DType>(
  a: Tensor<A, "bool">,
  b: Tensor<B, E> & BinaryCheck<"and", A, "bool", B, E>,
): Tensor<Broadcast<A, B>, "bool"> {
  return binary(and, "and", "and", a, b) as Tensor<Broadcast<A, B>, "bool">;
}
/** Either of two bools, broadcasting as `add`. */
export function or<A extends Shape, B extends Shape, E extends DType>(
  a: Tensor<A, "bool">,
  b: Tensor<B, E> & BinaryCheck<"or", A, "bool", B, E>,
): Tensor<Broadcast<A, B>, "bool"> {
  return binary(or, "or", "or", a, b) as Tensor<Broadcast<A, B>, "bool">;
}

/** a where the condition holds and b elsewhere; all three broadcast as in `add`. */
export function select<C extends Shape, A extends Shape, B extends Shape, D extends Numeric, E extends DType>(
  condition: Tensor<C, "bool">,
  a: Tensor<A, D> & BinaryCheck<"select", C, "bool", A, "bool">,
  b: Tensor<B, E> & BinaryCheck<"select", Broadcast<C, A>, D, B, E>,
): Tensor<Broadcast<Broadcast<C, A>, B>, D> {
  return located(select, "select", () => {
    sameType("select", a, b);
    const axes = meet("select", { ...a, axes: meet("select", condition, a) }, b);
    return handle(emit("select", [grow(condition, axes), grow(a, axes), grow(b, axes)], {}), axes);
  });
}

// ---- one operand ----------------------------------------------------------------------------------------------------
type Same1<D extends DType> = <S extends Shape, E extends D = D>(x: Tensor<S, E>) => Tensor<S, E>;

/** A function of one tensor whose result is like it. */
const unary = <D extends DType>(fn: UnaryFn): Same1<D> => {
  const call = <S extends Shape, E extends D>(x: Tensor<S, E>): Tensor<S, E> =>
    located(call, fn, () => handle(emit("unary", [x.node], { fn }), x.axes));
  return call;
};
const activation = (fn: Activation): (<S extends Shape>(x: Tensor<S>) => Tensor<S>) => {
  const call = <S extends Shape>(x: Tensor<S>): Tensor<S> => located(call, fn, () => handle(emit("activation", [x.node], { fn }), x.axes));
  return call;
};

export const neg = unary<Numeric>("neg");
export const abs = unary<Numeric>("abs");
export const exp = unary<"f32">("exp");
export const log = unary<"f32">("log");
/** ln(1 + x), exact for small x. */
export const log1p = unary<"f32">("log1p");
export const sqrt = unary<"f32">("sqrt");
/** 1 / sqrt(x) */
export const rsqrt = unary<"f32">("rsqrt");
export const floor = unary<"f32">("floor");
export const sin = unary<"f32">("sin");
export const cos = unary<"f32">("cos");
export const erf = unary<"f32">("erf");
export const not = unary<"bool">("not");
/** x / (1 + exp(-x)) */
export const silu = activation("silu");
/** x * (1 + erf(x / sqrt(2))) / 2 */
export const gelu = activation("gelu");
/** The tanh approximation of `gelu`. */
export const geluTanh = activation("geluTanh");
export const relu = activation("relu");
/** ln(1 + exp(x)) */
export const softplus = activation("softplus");
export const sigmoid = activation("sigmoid");
export const tanh = activation("tanh");

/** Any of the above activations, chosen by name (a config's `hidden_act`). */
export function activate<S extends Shape>(x: Tensor<S>, fn: Activation): Tensor<S> {
  return located(activate, fn, () => handle(emit("activation", [x.node], { fn }), x.axes));
}

/** `x` with its elements converted: to i32 by dropping the fraction, to a storage type by rounding to nearest, ties to even. */
export function cast<S extends Shape, E extends DType>(x: Tensor<S, DType>, to: E): Tensor<S, E> {
  return located(cast, "cast", () => (x.dtype === to ? (x as Tensor<S, E>) : handle(emit("cast", [x.node], { to }), x.axes)));
}

/** `x` with every element rounded to what a storage type can hold (nearest, ties to even), and still f32. Rounding to f32 is `x` itself. */
export function round<S extends Shape>(x: Tensor<S>, to: Float): Tensor<S> {
  return located(round, "round", () => (to === "f32" ? x : handle(emit("cast", [emit("cast", [x.node], { to })], { to: "f32" }), x.axes)));
}
