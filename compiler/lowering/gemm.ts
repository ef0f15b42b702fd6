import { times, toIntExpr } from "../int-expr.ts";
import type { Expr } from "../ir/expr.ts";
import { f32, intVar, mul } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions } from "../decisions.ts";
import type { KernelPlan } from "../plan.ts";
import { delinearize, dimMax, elementCount } from "../plan.ts";
import type { Out, Prologue } from "../template.ts";
import type { At } from "../values.ts";
import { begin, plan, f32Of, outOf, maxRows } from "./kernel.ts";
import { normInput, rsqrtMean } from "./norm.ts";

export function gemm(d: Decisions, sink: Node, anchors: readonly NodeOf<"matmul">[]): KernelPlan {
  const k = begin(d, sink, anchors.length > 1 ? "gemm2" : "gemm");
  const first = anchors[0]!;
  const a = first.inputs[0]!;
  const shape = typeOf(first).shape;
  const lead = shape.slice(0, -1);
  const m = elementCount(lead);
  const n = dimMax(shape.at(-1)!);
  const depth = dimMax(typeOf(a).shape.at(-1)!);
  const weights = anchors.map((x) => {
    const buffer = d.buffers.get(x.inputs[1]!)!;
    return { buffer: k.scope.use(buffer, "read"), dtype: buffer.dtype, panel: buffer.panel };
  });
  const prologue = d.prologues.has(a) ? normPrologue(k.at, a, lead) : plainPrologue(k.at, a, lead);
  const out = outOf(d, k, sink, anchors, (row: Expr, col: Expr) => [...delinearize(lead, row), col]);
  warm(prologue, out, m, depth, n, anchors.length);
  return plan(
    k,
    { ...first, name: anchors.map((x) => x.name).join("+") },
    { kind: "gemm", frame: k.frame, m, n, k: depth, a: prologue, weights, outs: [out] },
    times(toIntExpr(m), 2 * n * depth * anchors.length),
  );
}

/** Problems are functions, and a template may call them after fusion is over; calling each once now makes a mismatch show while it can still be mended, and fixes the argument order. */
function warm(prologue: Prologue, out: Out<[Expr, Expr]>, m: Expr, k: number, n: number, accs: number): void {
  const row = intVar("row", 0, Math.max(0, maxRows(m) - 1));
  const depth = intVar("k", 0, k - 1);
  const stat = prologue.stat ? prologue.stat.value(row, depth) : null;
  prologue.value(row, depth, stat);
  const col = intVar("col", 0, n - 1);
  out.index(row, col);
  out.value(new Array<Expr>(accs).fill(f32(0)), row, col);
}
function plainPrologue(at: At, a: Node, lead: readonly Dim[]): Prologue {
  return { stat: null, value: (row, k) => f32Of(at(a, [...delinearize(lead, row), k])) };
}

/** A norm folded into the product that reads it: the row's sum of squares is reduced once a block. */
function normPrologue(at: At, a: Node, lead: readonly Dim[]): Prologue {
  if (a.op !== "rmsNorm" && a.op !== "gatedRmsNorm") throw new Error(`${a.op} is not a norm`);
  const size = dimMax(typeOf(a).shape.at(-1)!);
  const weight = a.inputs.at(-1)!;
  const x = (row: Expr, k: Expr): Expr => normInput(at, a, [...delinearize(lead, row), k]);
  return {
    stat: { fn: "sum", value: (row, k) => mul(x(row, k), x(row, k)) },
    value: (row, k, stat) => mul(mul(x(row, k), rsqrtMean(stat!, size, a.attrs.eps)), f32Of(at(weight, [k]))),
  };
}
