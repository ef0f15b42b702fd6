import { times, toIntExpr } from "../int-expr.ts";
import type { Expr } from "../ir/expr.ts";
import { cast, div, exp, f32, i32, lt, min, mul, select, sub } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions } from "../decisions.ts";
import type { BufferInfo, KernelPlan } from "../plan.ts";
import { bufferIndex, delinearize, dimExpr, dimMax, elementCount } from "../plan.ts";
import type { Get, RowProblem } from "../template.ts";
import type { Kernel } from "./kernel.ts";
import { begin, plan, f32Of, outOf, warmRows } from "./kernel.ts";
import { normInput, rsqrtMean } from "./norm.ts";

export function rowsPlan(k: Kernel, labelled: Node, problem: RowProblem, flopsPerElement: number): KernelPlan {
  warmRows(problem);
  return plan(k, labelled, { kind: "rows", ...problem }, times(toIntExpr(problem.rows), problem.cols * flopsPerElement));
}

/** A norm over the last axis, with what follows it. */
export const norm = (d: Decisions, sink: Node, a: NodeOf<"rmsNorm"> | NodeOf<"gatedRmsNorm">): KernelPlan => normKernel(d, sink, a, null);

/** A norm that computes its input, and stores that too. */
export const addNorm = (d: Decisions, sink: Node, a: NodeOf<"rmsNorm">): KernelPlan => normKernel(d, sink, a, a.inputs[0]!);

function normKernel(d: Decisions, sink: Node, a: NodeOf<"rmsNorm"> | NodeOf<"gatedRmsNorm">, input: Node | null): KernelPlan {
  const k = begin(d, sink, input ? "add_norm" : "norm", input);
  const shape = typeOf(a).shape;
  const lead = shape.slice(0, -1);
  const size = dimMax(shape.at(-1)!);
  const coords = (row: Expr, col: Expr): Expr[] => [...delinearize(lead, row), col];
  const out = outOf(d, k, sink, [a], coords);
  const weight = a.inputs.at(-1)!;
  const inputStore = (buffer: BufferInfo): RowProblem["stores"][number] => ({
    buffer: k.scope.use(buffer, "write"),
    dtype: buffer.dtype,
    per: "element",
    index: (row, col) => bufferIndex(buffer, coords(row, col)),
    value: (_row, _col, get) => cast(get("x"), buffer.dtype),
    guard: null,
  });
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: elementCount(lead),
      cols: size,
      steps: [
        { name: "x", kind: "temp", value: (row, col) => normInput(k.at, a, coords(row, col)) },
        { name: "weight", kind: "temp", value: (_row, col) => f32Of(k.at(weight, [col])) },
        { name: "squares", kind: "sum", value: (_r, _c, get) => mul(get("x"), get("x")) },
      ],
      stores: [
        ...(input ? [inputStore(d.buffers.get(input)!)] : []),
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "element",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) => out.value([mul(mul(get("x"), rsqrtMean(get("squares"), size, a.attrs.eps)), get("weight"))], row, col),
          guard: null,
        },
      ],
    },
    4,
  );
}

export interface ReduceDomain {
  readonly rows: Expr;
  readonly cols: number;
  readonly coords: (row: Expr, col: Expr) => Expr[];
  /** Whether a column is one of the axis; null: all are. */
  readonly inside: (col: Expr) => Expr | null;
  readonly symbolic: boolean;
}

/** Rows and columns of a reduction over `axis` of `shape`: a symbolic axis takes its largest size, and columns beyond the real one are masked. */
export function reduceDomain(shape: readonly Dim[], axis: number): ReduceDomain {
  const rest = shape.filter((_, i) => i !== axis);
  const size = shape[axis]!;
  const symbolic = typeof size !== "number";
  const safe = (col: Expr): Expr => (symbolic ? min(col, sub(size, 1)) : col);
  return {
    rows: elementCount(rest),
    cols: dimMax(size),
    symbolic,
    coords: (row, col) => {
      const c = delinearize(rest, row);
      return [...c.slice(0, axis), safe(col), ...c.slice(axis)];
    },
    inside: (col) => (symbolic ? lt(col, size) : null),
  };
}

export const masked = (inside: Expr | null, value: Expr, neutral: number): Expr => (inside ? select(inside, value, f32(neutral)) : value);

export function softmax(d: Decisions, sink: Node, a: NodeOf<"softmax">): KernelPlan {
  const k = begin(d, sink, "softmax");
  const x = a.inputs[0]!;
  const dom = reduceDomain(typeOf(x).shape, a.attrs.axis);
  const out = outOf(d, k, sink, [a], (row: Expr, col: Expr) => dom.coords(row, col));
  const e = (get: Get): Expr => exp(sub(get("x"), get("max")));
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: dom.rows,
      cols: dom.cols,
      steps: [
        { name: "x", kind: "temp", value: (row, col) => masked(dom.inside(col), f32Of(k.at(x, dom.coords(row, col))), -Infinity) },
        { name: "max", kind: "max", value: (_r, _c, get) => get("x") },
        { name: "sum", kind: "sum", value: (_r, _c, get) => e(get) },
      ],
      stores: [
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "element",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) => out.value([div(e(get), get("sum"))], row, col),
          guard: dom.symbolic ? (_r, col) => dom.inside(col)! : null,
        },
      ],
    },
    12,
  );
}

/** Inclusive running sum as a masked reduction: quadratic in the axis, for graphs outside the templates' reach. */
export function runningSum(d: Decisions, sink: Node, a: NodeOf<"scan">): KernelPlan {
  const k = begin(d, sink, "running_sum");
  const x = a.inputs[0]!;
  const shape = typeOf(x).shape;
  const { axis } = a.attrs;
  const out = outOf(d, k, sink, [a], (row: Expr, _col: Expr) => delinearize(shape, row));
  const cols = dimMax(shape[axis]!);
  const last = sub(dimExpr(shape[axis]!), 1);
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: elementCount(shape),
      cols,
      steps: [
        {
          name: "sum",
          kind: "sum",
          value: (row, col) => {
            const c = delinearize(shape, row);
            return select(
              lt(c[axis]!, col),
              f32(0),
              f32Of(
                k.at(
                  x,
                  c.map((e, i) => (i === axis ? min(col, last) : e)),
                ),
              ),
            );
          },
        },
      ],
      stores: [
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "row",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) => out.value([get("sum")], row, col),
          guard: null,
        },
      ],
    },
    1,
  );
}

/** A product of two activations, as multiply and sum: for graphs outside the GEMM template's reach. */
export function matmulRows(d: Decisions, sink: Node, a: NodeOf<"matmul">): KernelPlan {
  const k = begin(d, sink, "matmul");
  const [x, y] = a.inputs as [Node, Node];
  const shape = typeOf(a).shape;
  const out = outOf(d, k, sink, [a], (row: Expr, _col: Expr) => delinearize(shape, row));
  const depth = typeOf(x).shape.at(-1)!;
  const inside = (col: Expr): Expr | null => (typeof depth === "number" ? null : lt(col, depth));
  const safe = (col: Expr): Expr => (typeof depth === "number" ? col : min(col, sub(depth, 1)));
  /** Coordinates of an operand's batch axes: right-aligned with the result's, axes of size 1 repeat. */
  const batchOf = (n: Node, c: readonly Expr[]): Expr[] => {
    const own = typeOf(n).shape.slice(0, -2);
    return own.map((size, i) => (size === 1 ? i32(0) : c[shape.length - 2 - own.length + i]!));
  };
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: elementCount(shape),
      cols: dimMax(depth),
      steps: [
        {
          name: "sum",
          kind: "sum",
          value: (row, col) => {
            const c = delinearize(shape, row);
            const [m, n] = [c.at(-2)!, c.at(-1)!];
            const i = safe(col);
            const left = f32Of(k.at(x, [...batchOf(x, c), m, i]));
            const right = f32Of(k.at(y, [...batchOf(y, c), ...(a.attrs.transB ? [n, i] : [i, n])]));
            return masked(inside(col), mul(left, right), 0);
          },
        },
      ],
      stores: [
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "row",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) => out.value([get("sum")], row, col),
          guard: null,
        },
      ],
    },
    2,
  );
}
