import type { Expr } from "../ir/expr.ts";
import { add, cast, eq, f32, idiv, load, lt, min, mod, mul, select } from "../ir/expr.ts";
import type { Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions } from "../decisions.ts";
import type { BufferInfo, KernelPlan } from "../plan.ts";
import { delinearize, dimMax, maxOf } from "../plan.ts";
import type { RowProblem, RowStep } from "../template.ts";
import type { Kernel } from "./kernel.ts";
import { begin, f32Of, outOf } from "./kernel.ts";
import type { ReduceDomain } from "./rows.ts";
import { masked, reduceDomain, rowsPlan } from "./rows.ts";

/** A part of a row has at least so many columns; with fewer, the second kernel costs more than sharing saves. */
const LEAST_COLUMNS = 512;

/** One kernel; or, for a few long rows (the likeliest token), one whose blocks share the rows and one that combines what they give. */
export function reduction(d: Decisions, sink: Node, a: NodeOf<"reduce">): readonly KernelPlan[] {
  const dom = reduceDomain(typeOf(a.inputs[0]!).shape, a.attrs.axis);
  const count = partsOf(d, dom);
  if (count === 1) return [whole(d, sink, a, dom)];
  const parts = partsBuffer(a, count);
  return [partial(d, a, dom, parts), combine(d, sink, a, parts)];
}

/** What is found in each of `count` parts of a row: [..., count, 1], or of an argmax [..., count, 2], the largest and its index. */
export function partsBuffer(a: NodeOf<"reduce">, count: number): BufferInfo {
  const shape = [...typeOf(a).shape, count, a.attrs.fn === "argmax" ? 2 : 1];
  return { kind: "arena", name: `${a.name}.parts`, dtype: "f32", shape, panel: 0 };
}

/** Into how many parts rows are cut, so that there is work for every worker: equal ones of whole warps, or equal ones, if they can be had with at least half as many. */
function partsOf({ caps }: Decisions, dom: ReduceDomain): number {
  // a CPU's worker goes through a row as fast as memory gives it
  if (caps.panel > 0 || dom.symbolic) return 1;
  const most = Math.max(1, Math.min(Math.floor(dom.cols / LEAST_COLUMNS), Math.floor(caps.workers / maxOf(dom.rows))));
  for (const unit of [caps.lanes, 1]) for (let count = most; count > most / 2; count--) if (dom.cols % (count * unit) === 0) return count;
  return most;
}

type Value = (row: Expr, col: Expr) => Expr;
type Fn = NodeOf<"reduce">["attrs"]["fn"];

const neutralOf = (fn: Fn): number => (fn === "sum" ? 0 : fn === "min" ? Infinity : -Infinity);

/** The reduction of `value`; for argmax the largest, then the least `index` that has it. Where none has (the largest is NaN), `last` is in range. */
function stepsOf(fn: Fn, value: Value, index: Value, last: number): readonly RowStep[] {
  if (fn !== "argmax") return [{ name: "result", kind: fn, value }];
  return [
    { name: "result", kind: "max", value },
    { name: "index", kind: "min", value: (row, col, get) => select(eq(value(row, col), get("result")), index(row, col), f32(last)) },
  ];
}

/** The reduction's result, with what follows it. */
function resultOf(d: Decisions, k: Kernel, sink: Node, a: NodeOf<"reduce">): RowProblem["stores"][number] {
  const out = outOf(d, k, sink, [a], (row: Expr, _col: Expr) => delinearize(typeOf(a).shape, row));
  return {
    buffer: out.buffer,
    dtype: out.dtype,
    per: "row",
    index: (row, col) => out.index(row, col),
    value: (row, col, get) => out.value([a.attrs.fn === "argmax" ? cast(get("index"), "i32") : get("result")], row, col),
    guard: null,
  };
}

function whole(d: Decisions, sink: Node, a: NodeOf<"reduce">, dom: ReduceDomain): KernelPlan {
  const { fn } = a.attrs;
  const k = begin(d, sink, `reduce_${fn}`);
  const stores = [resultOf(d, k, sink, a)];
  const value: Value = (row, col) => masked(dom.inside(col), f32Of(k.at(a.inputs[0]!, dom.coords(row, col))), neutralOf(fn));
  const steps = stepsOf(fn, value, (_, col) => cast(col, "f32"), dom.cols - 1);
  return rowsPlan(k, a, { frame: k.frame, rows: dom.rows, cols: dom.cols, steps, stores }, 1);
}

/** Each part is a row. Stores the results of its steps: of an argmax the largest value and its index. */
function partial(d: Decisions, a: NodeOf<"reduce">, dom: ReduceDomain, parts: BufferInfo): KernelPlan {
  const { fn } = a.attrs;
  const k = begin(d, a, `reduce_${fn}_parts`);
  const buffer = k.scope.use(parts, "write");
  const [count, results] = parts.shape.slice(-2).map(dimMax) as [number, number];
  const width = Math.ceil(dom.cols / count);
  const column: Value = (row, col) => add(mul(mod(row, count), width), col);
  const value: Value = (row, col) => {
    const at = column(row, col);
    const inside = count * width === dom.cols ? null : lt(at, dom.cols);
    const there = inside ? min(at, dom.cols - 1) : at;
    return masked(inside, f32Of(k.at(a.inputs[0]!, dom.coords(idiv(row, count), there))), neutralOf(fn));
  };
  const steps = stepsOf(fn, value, (row, col) => cast(column(row, col), "f32"), dom.cols - 1);
  const stores = steps.map(({ name }, i): RowProblem["stores"][number] => ({
    buffer,
    dtype: parts.dtype,
    per: "row",
    index: (row) => add(mul(row, results), i),
    value: (_row, _col, get) => get(name),
    guard: null,
  }));
  return rowsPlan(k, a, { frame: k.frame, rows: mul(dom.rows, count), cols: width, steps, stores }, 1);
}

/** Puts the parts together, with what follows the reduction. */
export function combine(d: Decisions, sink: Node, a: NodeOf<"reduce">, parts: BufferInfo): KernelPlan {
  const { fn } = a.attrs;
  const dom = reduceDomain(typeOf(a.inputs[0]!).shape, a.attrs.axis);
  const k = begin(d, sink, `reduce_${fn}`);
  const buffer = k.scope.use(parts, "read");
  const [count, results] = parts.shape.slice(-2).map(dimMax) as [number, number];
  const resultAt =
    (i: number): Value =>
    (row, col) =>
      load(buffer, parts.dtype, add(mul(add(mul(row, count), col), results), i));
  const steps = stepsOf(fn, resultAt(0), resultAt(1), dom.cols - 1);
  return rowsPlan(k, a, { frame: k.frame, rows: dom.rows, cols: count, steps, stores: [resultOf(d, k, sink, a)] }, 1);
}
