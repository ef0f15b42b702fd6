import type { Operand, Site } from "../compiler/diagnostics.ts";
import type { DType } from "../compiler/ir/dtype.ts";
import type { Attrs, Dim as GraphDim, Node, NodeOf, Op, TensorType } from "../compiler/ir/graph.ts";
import type { Declared } from "../compiler/ir/ops.ts";
import { makeNode, makeSource } from "../compiler/ir/ops.ts";
import * as rules from "./shape.ts";
import { fail, join, sizeOf, trace } from "./trace.ts";
import type { AnyTensor, Dim, Shape, Tensor } from "./types.ts";

/** Adds an operation to the graph, under the author's line and the current module path. */
export const emit = <K extends Exclude<Op, Declared>>(op: K, inputs: readonly Node[], attrs: Attrs[K]): NodeOf<K> =>
  makeNode(op, inputs, attrs, place());

/** Adds a source of the type stated. */
export const emitSource = <K extends Declared>(op: K, type: TensorType, attrs: Attrs[K]): NodeOf<K> => makeSource(op, type, attrs, place());

function place(): { at: Site | null; name: string } {
  const t = trace();
  return { at: t.site ?? null, name: join(t.path, t.label) };
}

export const sizes = (axes: readonly Dim[]): GraphDim[] => axes.map(sizeOf);

/** The handle of a node. The caller knows its axes: a function's declared result type is what makes the cast true. */
export function handle<S extends Shape, D extends DType>(node: Node, axes: readonly Dim[]): Tensor<S, D> {
  const type = node.types[0]!;
  if (!rules.same(sizes(axes).map(printSize), type.shape.map(printSize)))
    fail({ what: `${node.op} made ${rules.show(type.shape.map(printSize))} where the language expected ${describe(axes)}` });
  return Object.freeze({ axes: Object.freeze([...axes]) as unknown as S, dtype: type.dtype as D, node });
}

const printSize = (d: GraphDim): Dim => (typeof d === "number" ? d : d.name);

/** "[batch, seq, inner=8192]" */
export function describe(axes: readonly Dim[]): string {
  const one = (axis: Dim): Dim => {
    const size = sizeOf(axis);
    return typeof axis === "string" && typeof size === "number" ? `${axis}=${size}` : axis;
  };
  return `[${axes.map(one).join(", ")}]`;
}

/** A tensor as an operand of an error message: its shape, and the line that made it. */
export function operand(label: string, x: AnyTensor): Operand {
  const n = x.node.op === "cast" && x.node.inputs[0]!.op === "param" ? x.node.inputs[0] : x.node;
  const what =
    n.op === "param" ? `checkpoint tensor ${n.attrs.name}` : n.op === "input" || n.op === "state" ? `${n.op} ${n.attrs.name}` : n.op;
  const at = n.at ? ` at ${n.at.file.slice(n.at.file.lastIndexOf("/") + 1)}:${n.at.line}:${n.at.col}` : "";
  return { label, is: `${x.dtype}${describe(x.axes)}`, from: `from ${what}${at}` };
}

/** `x` as a node of exactly these axes, repeated where it has none or a 1. */
export function grow(x: AnyTensor, axes: readonly Dim[]): Node {
  if (rules.same(x.axes, axes)) return x.node;
  const lead = axes.length - x.axes.length;
  return emit("broadcast", [x.node], { shape: sizes(axes), axes: x.axes.map((_, i) => i + lead) });
}

/** The same number in every element. */
export const filled = (value: number, axes: readonly Dim[], dtype: DType): Node =>
  emitSource("fill", { dtype, shape: sizes(axes) }, { value });

/** Position of an axis that the tensor must have exactly once. */
export function axisOf(x: AnyTensor, axis: Dim, op: string): number {
  const i = x.axes.indexOf(axis);
  if (i < 0) return fail({ what: `${op}: ${rules.show(x.axes)} has no axis '${axis}'`, operands: [operand("x", x)] });
  if (x.axes.lastIndexOf(axis) !== i)
    return fail({ what: `${op}: ${rules.show(x.axes)} has two axes '${axis}'; rename one of them`, operands: [operand("x", x)] });
  return i;
}

/** What a tensor is stored as, when the node only widens it: reading storage directly is what `matmul` and `gather` do better than a cast. */
export function stored(x: AnyTensor): Node {
  const n = x.node;
  return n.op === "cast" && n.attrs.to === "f32" && n.inputs[0]!.op === "param" ? n.inputs[0] : n;
}
