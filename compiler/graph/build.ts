import type { DType } from "../ir/dtype.ts";
import type { Expr } from "../ir/expr.ts";
import type { BinaryFn, UnaryFn } from "../ir/operators.ts";
import { i32 } from "../ir/expr.ts";
import type { Attrs, Dim, Node } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import { sameShape } from "../ir/infer.ts";
import type { Place } from "../ir/ops.ts";
import { makeNode, makeSource } from "../ir/ops.ts";

/** Short names for making primitives, all at one place of the model, for passes that put operations together. Numbers stand for filled tensors. */
export interface Builder {
  fill(value: number, shape: readonly Dim[], dtype?: DType): Node;
  iota(shape: readonly Dim[], axis: number): Node;
  /** An expression over symbols, the same at every place of `shape`. */
  scalar(e: Expr, shape: readonly Dim[]): Node;
  unary(fn: UnaryFn, x: Node): Node;
  binary(fn: BinaryFn, a: Node, b: Node | number): Node;
  select(cond: Node, a: Node, b: Node | number): Node;
  cast(x: Node, to: DType): Node;
  /** Repeats `x` over `shape`; axis i of `x` becomes axis `axes[i]`. */
  spread(x: Node, shape: readonly Dim[], axes: readonly number[]): Node;
  reshape(x: Node, shape: readonly Dim[]): Node;
  transpose(x: Node, perm: readonly number[]): Node;
  slice(x: Node, axis: number, start: Expr | number, size: Dim): Node;
  concat(parts: readonly Node[], axis: number): Node;
  reduce(fn: Attrs["reduce"]["fn"], x: Node, axis: number): Node;
  /** A reduction whose axis is kept, as its value repeated. */
  reduceSpread(fn: "sum" | "max" | "min", x: Node, axis: number): Node;
  scan(x: Node, axis: number): Node;
  gather(data: Node, indices: Node): Node;
  matmul(a: Node, b: Node, transB: boolean): Node;
}

export const shapeOf = (n: Node): readonly Dim[] => typeOf(n).shape;

export function builder(place: Place): Builder {
  const lift = (b: Node | number, like: Node): Node => (typeof b === "number" ? self.fill(b, shapeOf(like), typeOf(like).dtype) : b);
  const self: Builder = {
    fill: (value, shape, dtype = "f32") => makeSource("fill", { dtype, shape }, { value }, place),
    iota: (shape, axis) => makeSource("iota", { dtype: "i32", shape }, { axis }, place),
    scalar: (expr, shape) => self.spread(makeNode("scalar", [], { expr }, place), shape, []),
    unary: (fn, x) => makeNode("unary", [x], { fn }, place),
    binary: (fn, a, b) => makeNode("binary", [a, lift(b, a)], { fn }, place),
    select: (cond, a, b) => makeNode("select", [cond, a, lift(b, a)], {}, place),
    cast: (x, to) => (typeOf(x).dtype === to ? x : makeNode("cast", [x], { to }, place)),
    spread: (x, shape, axes) => (sameShape(shapeOf(x), shape) ? x : makeNode("broadcast", [x], { shape, axes }, place)),
    reshape: (x, shape) => (sameShape(shapeOf(x), shape) ? x : makeNode("reshape", [x], { shape }, place)),
    transpose: (x, perm) => makeNode("transpose", [x], { perm }, place),
    slice: (x, axis, start, size) => makeNode("slice", [x], { axis, start: typeof start === "number" ? i32(start) : start, size }, place),
    concat: (parts, axis) => makeNode("concat", parts, { axis }, place),
    reduce: (fn, x, axis) => makeNode("reduce", [x], { fn, axis }, place),
    reduceSpread: (fn, x, axis) => {
      const shape = shapeOf(x);
      const kept = shape.map((_, i) => i).filter((i) => i !== axis);
      return self.spread(self.reduce(fn, x, axis), shape, kept);
    },
    scan: (x, axis) => makeNode("scan", [x], { fn: "sum", axis }, place),
    gather: (data, indices) => makeNode("gather", [data, indices], {}, place),
    matmul: (a, b, transB) => makeNode("matmul", [a, b], { transB }, place),
  };
  return self;
}
