import { times, toIntExpr } from "../int-expr.ts";
import type { Expr } from "../ir/expr.ts";
import { add, cast, isConst, mul } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions } from "../decisions.ts";
import type { BufferInfo, KernelPlan, Pointwise } from "../plan.ts";
import { bufferIndex, delinearize, elementCount } from "../plan.ts";
import type { RowProblem } from "../template.ts";
import type { At } from "../values.ts";
import { valueAt } from "../values.ts";
import { begin, plan, warmRows } from "./kernel.ts";

interface PointwiseDomain {
  readonly rows: Expr;
  readonly cols: number;
  readonly coords: (row: Expr, col: Expr) => Expr[];
  readonly guard: ((row: Expr, col: Expr) => Expr) | null;
}

/** Rows x columns over a whole tensor: the last numeric axis is the columns; a symbolic last axis makes rows of one column. */
function domainOf(shape: readonly Dim[]): PointwiseDomain {
  const last = shape.at(-1);
  if (typeof last !== "number") return { rows: elementCount(shape), cols: 1, coords: (row) => delinearize(shape, row), guard: null };
  const lead = shape.slice(0, -1);
  return { rows: elementCount(lead), cols: last, coords: (row, col) => [...delinearize(lead, row), col], guard: null };
}

interface Write {
  readonly sink: Node;
  readonly target: BufferInfo;
  readonly domain: readonly Dim[];
  readonly index: (coords: readonly Expr[]) => Expr;
  readonly value: (at: At, self: At, coords: readonly Expr[]) => Expr;
}

/** How many rows of a write come to one of a kernel's rows; null where they are no whole multiple, or only a run of the program tells. */
export function rowsPerRow(rows: Expr, of: Expr): number | null {
  if (rows === of) return 1;
  return isConst(rows) && isConst(of) && rows.value % of.value === 0 ? rows.value / of.value : null;
}

/** `node`: what the writes store, if that is all of one node; `labelled`: whose name it goes by. */
function pointwiseKernel(
  d: Decisions,
  name: string,
  writes: readonly Write[],
  node: Node | null = null,
  labelled: Node = writes[0]!.sink,
): KernelPlan {
  const dom = writes.map((w) => domainOf(w.domain)).reduce((least, x) => (rowsPerRow(x.rows, least.rows) === null ? x : least));
  const k = begin(d, writes[0]!.sink, name);
  const stores = writes.flatMap((w) => {
    const { rows, coords } = domainOf(w.domain);
    const each = rowsPerRow(rows, dom.rows)!;
    // each write sees its own node as an expression, and all share one argument list
    if (w.domain !== w.target.shape) k.scope.touched.set(w.target, elementCount(w.domain));
    const at: At = (n, coords) => valueAt({ scope: k.scope, stored: (m) => d.buffers.get(m), held: new Map() }, n, coords);
    // of a product in parts, its kernel is the one that adds them up
    const inside = (n: Node): BufferInfo | undefined => (n === w.sink ? d.parts.get(n) : d.buffers.get(n));
    const own: At = (n, coords) => valueAt({ scope: k.scope, stored: inside, held: new Map() }, n, coords);
    const buffer = k.scope.use(w.target, "write");
    return Array.from({ length: each }, (_, i): RowProblem["stores"][number] => ({
      buffer,
      dtype: w.target.dtype,
      per: "element",
      index: (row, col) => w.index(coords(add(mul(row, each), i), col)),
      value: (row, col) => cast(w.value(at, own, coords(add(mul(row, each), i), col)), w.target.dtype),
      guard: null,
    }));
  });
  const problem: RowProblem = { frame: k.frame, rows: dom.rows, cols: dom.cols, steps: [], stores };
  warmRows(problem);
  const base = plan(k, labelled, { kind: "rows", ...problem }, times(toIntExpr(dom.rows), dom.cols));
  const pointwise: Pointwise = {
    node,
    rows: dom.rows,
    cols: dom.cols,
    writes,
    join: (other) => pointwiseKernel(d, name, [...writes, ...(other.writes as readonly Write[])]),
  };
  return { ...base, pointwise };
}

/** A node that lies where `target` is, and what its kernel makes of it. */
const wholeNode = (sink: Node, target: BufferInfo): Write => ({
  sink,
  target,
  domain: typeOf(sink).shape,
  index: (c) => bufferIndex(target, c),
  value: (_at, self, c) => self(sink, c),
});

export const pointwise = (d: Decisions, sink: Node): KernelPlan =>
  pointwiseKernel(d, "pointwise", [wholeNode(sink, d.buffers.get(sink)!)], sink);

/** Adds up the parts of a product, with what follows it. */
export const sumOfParts = (d: Decisions, sink: Node, product: Node): KernelPlan =>
  pointwiseKernel(d, "gemm_sum", [wholeNode(sink, d.buffers.get(sink)!)], sink, product);

/** Copies a node's stored value into another buffer. */
export const copyKernel = (d: Decisions, from: Node, to: BufferInfo): KernelPlan =>
  pointwiseKernel(d, "copy", [
    { sink: from, target: to, domain: typeOf(from).shape, index: (c) => bufferIndex(to, c), value: (at, _self, c) => at(from, c) },
  ]);

/** Writes a slice of a state in place. */
export function cacheWrite(d: Decisions, n: NodeOf<"update">): KernelPlan {
  const target = d.buffers.get(n)!;
  const value = n.inputs[1]!;
  const { axis, start } = n.attrs;
  return pointwiseKernel(d, "cache_write", [
    {
      sink: n,
      target,
      domain: typeOf(value).shape,
      index: (c) =>
        bufferIndex(
          target,
          c.map((e, i) => (i === axis ? add(e, start) : e)),
        ),
      value: (at, _self, c) => at(value, c),
    },
  ]);
}
