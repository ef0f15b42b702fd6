import type { DType } from "../compiler/ir/dtype.ts";
import type { Expr } from "../compiler/ir/expr.ts";
import * as scalar from "../compiler/ir/expr.ts";
import { axisOf, describe, emit, handle, operand, sizes, stored } from "./node.ts";
import * as rules from "./shape.ts";
import { fail, located, sizeOf } from "./trace.ts";
import type {
  AxisCheck,
  AxisOf,
  Concat,
  ConcatCheck,
  Dim,
  Drop,
  Piece,
  Pieces,
  Renamed,
  Replace,
  ReshapeCheck,
  Shape,
  Tensor,
  TransposeCheck,
} from "./types.ts";

/**
 * The same elements in the same order under other axes: splits "heads*head_dim" into "heads", "head_dim" or merges them, and adds or drops literal
 * axes. Names may neither vanish nor appear; products of literal numbers are checked when the model is traced.
 */
export function reshape<A extends Shape, D extends DType, const B extends Shape>(
  x: Tensor<A, D>,
  axes: B & ReshapeCheck<A, B>,
): Tensor<B, D> {
  return located(reshape, "reshape", () => {
    const to: Shape = axes;
    if (!rules.sameFactors(x.axes, to))
      fail({ what: `reshape: ${rules.show(x.axes)} to ${rules.show(to)} loses or invents a named dimension`, operands: [operand("x", x)] });
    return handle(rules.same(x.axes, to) ? x.node : emit("reshape", [x.node], { shape: sizes(to) }), to);
  });
}

/** The axes in another order, given by their names. */
export function transpose<A extends Shape, D extends DType, const B extends Shape>(
  x: Tensor<A, D>,
  axes: B & TransposeCheck<A, B>,
): Tensor<B, D> {
  return located(transpose, "transpose", () => {
    const to: Shape = axes;
    if (!rules.isOrderOf(x.axes, to))
      fail({ what: `transpose: ${rules.show(to)} is not an order of the axes ${rules.show(x.axes)}`, operands: [operand("x", x)] });
    return handle(emit("transpose", [x.node], { perm: to.map((axis) => axisOf(x, axis, "transpose")) }), to);
  });
}

/** The same tensor with other names for some axes; old and new name stand for one size. */
export function rename<A extends Shape, D extends DType, const N extends Readonly<Record<string, string>>>(
  x: Tensor<A, D>,
  names: N & ([Exclude<keyof N, A[number]>] extends [never] ? unknown : never),
): Tensor<Renamed<A, N>, D> {
  return located(rename, "rename", () => {
    const to = x.axes.map((axis) => (typeof axis === "string" ? (names[axis] ?? axis) : axis));
    const bad = to.findIndex((axis, i) => sizeOf(axis) !== sizeOf(x.axes[i]!));
    if (bad >= 0)
      fail({ what: `rename: '${x.axes[bad]!}' and '${to[bad]!}' differ in size`, operands: [operand("x", x)], got: describe([to[bad]!]) });
    return handle(x.node, to);
  });
}

/** `size` elements of an axis from `start`, a number (negative: from the end) or a run-time one. The axis is then called like `size`. */
export function slice<A extends Shape, D extends DType, const X extends AxisOf<A>, const N extends Dim>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"slice", A, X>,
  part: { readonly start: number | Expr; readonly size: N },
): Tensor<Replace<A, X, [N]>, D> {
  return located(slice, "slice", () => {
    const i = axisOf(x, axis, "slice");
    const to = rules.replace(x.axes, axis, [part.size]);
    return handle(emit("slice", [x.node], { axis: i, start: startOf(x.axes[i]!, part.start), size: sizeOf(part.size) }), to);
  });
}

function startOf(axis: Dim, start: number | Expr): Expr {
  if (typeof start !== "number") return start;
  return start < 0 ? scalar.add(sizeOf(axis), start) : scalar.i32(start);
}

/** The last elements of an axis, as many as the axis `size` has. The axis is then called like `size`. */
export function last<A extends Shape, D extends DType, const X extends AxisOf<A>, const N extends Dim>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"last", A, X>,
  size: N,
): Tensor<Replace<A, X, [N]>, D> {
  return located(last, "last", () => {
    const i = axisOf(x, axis, "last");
    const [whole, part] = [sizeOf(x.axes[i]!), sizeOf(size)];
    const to = rules.replace(x.axes, axis, [size]);
    if (whole === part) return handle(x.node, to);
    const start = scalar.sub(lengthOf(whole), lengthOf(part));
    return handle(emit("slice", [x.node], { axis: i, start, size: part }), to);
  });
}

const lengthOf = (size: number | Expr): Expr => (typeof size === "number" ? scalar.i32(size) : size);

/** The element at one position of an axis, a number (negative: from the end) or a run-time one; the axis goes. */
export function at<A extends Shape, D extends DType, const X extends AxisOf<A>>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"at", A, X>,
  position: number | Expr,
): Tensor<Drop<A, X>, D> {
  return located(at, "at", () => {
    const i = axisOf(x, axis, "at");
    const to = x.axes.filter((_, k) => k !== i);
    const start = startOf(x.axes[i]!, position);
    // where there is one position, nothing is cut out, and what follows can be part of the kernel before
    const whole = sizeOf(x.axes[i]!) === 1 && scalar.isConst(start, 0);
    const one = whole ? x.node : emit("slice", [x.node], { axis: i, start, size: 1 });
    return handle(emit("reshape", [one], { shape: sizes(to) }), to);
  });
}

/**
 * Cuts an axis into consecutive named pieces, in the order in which they are written. A piece is one axis ("xBC"), several (["heads", "head_dim"]),
 * or a number of elements, whose axis is then called like the piece. Their sizes must add up to the axis.
 */
export function split<A extends Shape, D extends DType, const X extends AxisOf<A>, const P extends Readonly<Record<string, Piece>>>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"split", A, X>,
  pieces: P,
): Pieces<A, X, P, D> {
  return located(split, "split", () => {
    const i = axisOf(x, axis, "split");
    const parts = Object.entries(pieces).map(([key, piece]) => {
      const axes: Shape = typeof piece === "object" ? piece : [typeof piece === "number" ? key : piece];
      const size = axes.map(numeric).reduce((a, b) => a * b, 1);
      if (typeof piece === "number" && piece !== size)
        fail({ what: `split: piece '${key}' has ${piece} elements`, expected: describe([key]) });
      return { key, axes, size };
    });
    const total = parts.reduce((sum, p) => sum + p.size, 0);
    if (total !== sizeOf(axis))
      fail({
        what: `split: the pieces of '${axis}' do not add up`,
        operands: [operand("x", x)],
        expected: describe([axis]),
        got: `${parts.map((p) => `${p.key} ${describe(p.axes)}`).join(" + ")} = ${total}`,
      });
    let start = 0;
    const taken = parts.map(({ key, axes, size }) => {
      const flat = emit("slice", [x.node], { axis: i, start: scalar.i32(start), size });
      start += size;
      const to = rules.replace(x.axes, axis, axes);
      return [key, handle(axes.length === 1 ? flat : emit("reshape", [flat], { shape: sizes(to) }), to)];
    });
    return Object.fromEntries(taken) as Pieces<A, X, P, D>;
  });
}

function numeric(axis: Dim): number {
  const size = sizeOf(axis);
  return typeof size === "number" ? size : fail({ what: `'${axis}' is known only at run time and cannot be a piece of an axis` });
}

/** a followed by b along one axis, called "a+b" in the result ("x+y" from "x" and "y"). All other axes must agree. */
export function concat<A extends Shape, D extends DType, B extends Shape, const X extends AxisOf<A>>(
  a: Tensor<A, D>,
  b: Tensor<B, NoInfer<D>> & ConcatCheck<A, B, X>,
  axis: X & AxisCheck<"concat", A, X>,
): Tensor<Concat<A, B, X>, D> {
  return located(concat, "concat", () => {
    const i = axisOf(a, axis, "concat");
    const to = a.axes.map((name, k): Dim => (k === i ? `${name}+${b.axes[k] ?? ""}` : name));
    if (a.axes.length !== b.axes.length || a.axes.some((name, k) => k !== i && b.axes[k] !== name))
      fail({
        what: `concat along '${axis}': ${rules.show(a.axes)} and ${rules.show(b.axes)} differ in another axis`,
        operands: [operand("a", a), operand("b", b)],
      });
    return handle(emit("concat", [a.node, b.node], { axis: i }), to);
  });
}

/** `low` elements of `value` before and `high` after along an axis, which is then called `as` (a name or number of that size). */
export function pad<A extends Shape, D extends DType, const X extends AxisOf<A>, const N extends Dim>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"pad", A, X>,
  by: { readonly low?: number; readonly high?: number; readonly value?: number; readonly as: N },
): Tensor<Replace<A, X, [N]>, D> {
  return located(pad, "pad", () => {
    const node = emit("pad", [x.node], { axis: axisOf(x, axis, "pad"), low: by.low ?? 0, high: by.high ?? 0, value: by.value ?? 0 });
    return handle(node, rules.replace(x.axes, axis, [by.as]));
  });
}

type Rest<T extends Shape> = T extends [Dim, ...infer R extends Shape] ? R : [];
type Row<D extends DType> = D extends "f16" | "bf16" ? "f32" : D;

/** Rows of a table by number (an embedding): [rows, ...] and i32 [...] give [..., ...]. A stored table is read as it is and its rows become f32. */
export function gather<T extends Shape, D extends DType, I extends Shape>(
  table: Tensor<T, D>,
  rows: Tensor<I, "i32">,
): Tensor<[...I, ...Rest<T>], Row<D>> {
  return located(gather, "gather", () => {
    const picked = emit("gather", [stored(table), rows.node], {});
    const dtype = picked.types[0]!.dtype;
    const wide = dtype === "f16" || dtype === "bf16" ? emit("cast", [picked], { to: "f32" }) : picked;
    return handle(wide, [...rows.axes, ...table.axes.slice(1)]);
  });
}
