import type { IntExpr } from "../artifact.ts";
import { plus, times, toIntExpr } from "../int-expr.ts";
import type { DType } from "../ir/dtype.ts";
import { BYTES } from "../ir/dtype.ts";
import type { Expr } from "../ir/expr.ts";
import { cast, f32, i32, intVar, isConst, substitute, variable } from "../ir/expr.ts";
import type { Dim, Node } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions } from "../decisions.ts";
import type { BufferInfo, KernelPlan, Problem } from "../plan.ts";
import { bufferIndex, dimMax, elementCount } from "../plan.ts";
import type { Frame, Get, Out, RowProblem } from "../template.ts";
import type { At, Held, Scope } from "../values.ts";
import { FusionMismatch, newScope, reshapeCoords, valueAt } from "../values.ts";

export interface Kernel {
  readonly scope: Scope;
  readonly frame: Frame;
  /** Value of a node inside this kernel, outside any epilogue. */
  readonly at: At;
  /** Value of the sink where the kernel holds `anchors` at the given coordinates. */
  readonly finish: (held: ReadonlyMap<Node, readonly Held[]>, coords: readonly Expr[]) => Expr;
}

/** A kernel that stores `sink`, and maybe `inner`, a value on the way to it that it computes itself (of a product in parts: adds up). */
export function begin(d: Decisions, sink: Node, name: string, inner: Node | null = null): Kernel {
  const scope = newScope();
  const none: ReadonlyMap<Node, readonly Held[]> = new Map();
  const elsewhere = (n: Node): BufferInfo | undefined => (n === inner ? d.parts.get(n) : d.buffers.get(n));
  // inside its own kernel the sink is an expression, even though it is stored for everybody else
  const stored = (n: Node): BufferInfo | undefined => (n === sink ? undefined : elsewhere(n));
  const at: At = (n, coords) => valueAt({ scope, stored: elsewhere, held: none }, n, coords);
  return {
    scope,
    frame: { name, params: scope.params, symbols: d.graph.symbols },
    at,
    finish: (held, coords) => valueAt({ scope, stored, held }, sink, coords),
  };
}

export function plan(k: Kernel, labelled: Node, problem: Problem, flops: IntExpr): KernelPlan {
  const bytes = k.scope.args.reduce<IntExpr>((sum, { buffer, access }) => {
    const elements = toIntExpr(k.scope.touched.get(buffer) ?? elementCount(buffer.shape));
    return plus(sum, times(elements, BYTES[buffer.dtype] * (buffer.parts ?? 1) * (access === "readwrite" ? 2 : 1)));
  }, 0);
  return { label: labelled.name || labelled.op, problem, args: k.scope.args, flops, bytes, pointwise: null };
}
export const f32Of = (e: Expr): Expr => cast(e, "f32");

/** Coordinates of `sink` that hold the same element as `coords` of `anchor`, following the epilogue's reshapes. */
export function forward(anchor: Node, sink: Node, coords: readonly Expr[]): readonly Expr[] {
  const path: Node[] = [];
  const find = (n: Node): boolean => {
    if (n === anchor) return true;
    if (n.op !== "reshape" && !n.inputs.some((i) => sameShape(typeOf(i).shape, typeOf(n).shape))) return false;
    for (const i of n.inputs)
      if (find(i)) {
        path.push(n);
        return true;
      }
    return false;
  };
  if (!find(sink)) throw new FusionMismatch(anchor, "the epilogue does not lead back to its anchor");
  let at = coords;
  let shape = typeOf(anchor).shape;
  for (const n of path) {
    if (n.op === "reshape") at = reshapeCoords(shape, typeOf(n).shape, at);
    shape = typeOf(n).shape;
  }
  return at;
}
const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean => a.length === b.length && a.every((x, i) => x === b[i]);

/**
 * The value of the sink, rounded to `dtype`, and the sink's coordinates of it, as functions of the anchor's coordinates. The epilogue is worked out once over
 * variables, so that whether it fuses does not depend on what coordinates a template will ask for.
 */
export function epilogueOf<C extends readonly Expr[]>(
  k: Kernel,
  sink: Node,
  anchors: readonly Node[],
  dtype: DType,
  coordsOf: (...c: C) => readonly Expr[],
): { readonly at: (of: (coords: readonly Expr[]) => Expr) => (...c: C) => Expr; readonly value: Out<C>["value"] } {
  const axes = typeOf(anchors[0]!).shape.map((size, i) => (size === 1 ? i32(0) : intVar(`%${i}`, 0, dimMax(size) - 1)));
  const results = anchors.map((a, i) => variable(`%acc${i}`, typeOf(a).dtype === "i32" ? "i32" : "f32"));
  const held = new Map(anchors.map((a, i) => [a, [{ coords: axes, value: cast(results[i]!, typeOf(a).dtype) }]]));
  const sinkCoords = forward(anchors[0]!, sink, axes);
  const value = cast(k.finish(held, sinkCoords), dtype);
  const bind = (coords: readonly Expr[]): Map<Expr, Expr> =>
    new Map(axes.map((v, i) => [v, coords[i]!] as const).filter(([v]) => v.op === "var"));
  return {
    at: (of) => {
      const e = of(sinkCoords);
      return (...c) => substitute(e, bind(coordsOf(...c)));
    },
    value: (acc, ...c) => substitute(value, new Map([...bind(coordsOf(...c)), ...results.map((r, i) => [r, acc[i]!] as const)])),
  };
}

/** The result of an anchor kernel: the sink's buffer, its index and its value, as functions of the anchor's coordinates. */
export function outOf<C extends readonly Expr[]>(
  d: Decisions,
  k: Kernel,
  sink: Node,
  anchors: readonly Node[],
  coordsOf: (...c: C) => readonly Expr[],
): Out<C> {
  const buffer = d.buffers.get(sink)!;
  const name = k.scope.use(buffer, "write");
  const { at, value } = epilogueOf(k, sink, anchors, buffer.dtype, coordsOf);
  return { buffer: name, dtype: buffer.dtype, index: at((coords) => bufferIndex(buffer, coords)), value };
}

export const maxRows = (m: Expr): number => (isConst(m) ? m.value : 2 ** 31 - 1);

export function warmRows(p: RowProblem): void {
  const row = intVar("row", 0, Math.max(0, maxRows(p.rows) - 1));
  const col = intVar("col", 0, p.cols - 1);
  const get: Get = (name) => {
    if (!p.steps.some((s) => s.name === name)) throw new Error(`row kernel ${p.frame.name} has no step ${name}`);
    return f32(1);
  };
  for (const s of p.steps) s.value(row, col, get);
  for (const s of p.stores) {
    s.index(row, col);
    s.value(row, col, get);
    s.guard?.(row, col);
  }
}
