import { times, toIntExpr } from "../int-expr.ts";
import type { Expr } from "../ir/expr.ts";
import { f32, intVar, mul } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions, Join } from "../decisions.ts";
import type { BufferInfo, KernelPlan } from "../plan.ts";
import { delinearize, dimMax, elementCount, partIndex } from "../plan.ts";
import type { GemmProblem, ProductOut, ProductWeight, Prologue } from "../template.ts";
import type { At } from "../values.ts";
import { bestOf } from "./best.ts";
import { convFlops, convOuts } from "./conv-step.ts";
import { headsOuts, inPairs, pairsOf } from "./heads.ts";
import { begin, plan, f32Of, outOf, maxRows } from "./kernel.ts";
import { normInput, rsqrtMean } from "./norm.ts";
import { sumOfParts } from "./pointwise.ts";
import { reduction } from "./reduction.ts";

/**
 * A product: one kernel, and where blocks look for the best column, one that puts together what they found; or one that gives sums of parts of k, and where not all
 * who read them add them up, one that does.
 */
export function gemm(d: Decisions, sink: Node, anchors: readonly NodeOf<"matmul">[]): readonly KernelPlan[] {
  const product = anchors[0]!;
  const parts = d.parts.get(product);
  if (!parts) return whole(d, sink, anchors);
  const made = inParts(d, product, parts);
  return d.buffers.get(sink) === parts ? [made] : [made, sumOfParts(d, sink, product)];
}

function inParts(d: Decisions, product: NodeOf<"matmul">, parts: BufferInfo): KernelPlan {
  const k = begin(d, product, "gemm_parts");
  const shape = typeOf(product).shape;
  const lead = shape.slice(0, -1);
  const [m, n] = [elementCount(lead), dimMax(shape.at(-1)!)];
  const [a, w] = product.inputs as [Node, Node];
  const depth = dimMax(typeOf(a).shape.at(-1)!);
  const weight = d.buffers.get(w)!;
  const weights = [{ buffer: k.scope.use(weight, "read"), dtype: weight.dtype, panel: weight.panel }];
  const index = (part: Expr, row: Expr, col: Expr): Expr => partIndex(parts, part, [...delinearize(lead, row), col]);
  const prologue = plainPrologue(k.at, a, lead);
  warm(prologue, [], m, depth, n, 1);
  const given = { count: parts.parts!, buffer: k.scope.use(parts, "write"), index };
  const problem = { kind: "gemm" as const, frame: k.frame, m, n, k: depth, a: prologue, weights, outs: [], parts: given };
  return plan(k, product, problem, times(toIntExpr(m), 2 * n * depth));
}

function whole(d: Decisions, sink: Node, anchors: readonly NodeOf<"matmul">[]): readonly KernelPlan[] {
  const joins = d.joins.get(sink) ?? [];
  const pairs = pairsOf(joins);
  const k = begin(d, sink, anchors.length > 1 ? "gemm2" : joins[0] ? `gemm_${joins[0].kind}` : "gemm");
  const first = anchors[0]!;
  const a = first.inputs[0]!;
  const shape = typeOf(first).shape;
  const lead = shape.slice(0, -1);
  const m = elementCount(lead);
  const columns = dimMax(shape.at(-1)!);
  const n = pairs ? columns / 2 : columns;
  const depth = dimMax(typeOf(a).shape.at(-1)!);
  const weightOf = (x: Node): ProductWeight => {
    const buffer = d.buffers.get(x.inputs[1]!)!;
    return { buffer: k.scope.use(buffer, "read"), dtype: buffer.dtype, panel: buffer.panel };
  };
  const weights = pairs ? pairs.columns.map((rows) => ({ ...weightOf(first), rows })) : anchors.map(weightOf);
  const prologue = d.prologues.has(a) ? normPrologue(k.at, a, lead) : plainPrologue(k.at, a, lead);
  const coords = (row: Expr, col: Expr): readonly Expr[] => [...delinearize(lead, row), col];
  const own = uncovered(columns, joins).map((of) => ({ ...outOf(d, k, sink, anchors, coords), columns: of }));
  const outs = [
    ...(pairs ? own.flatMap((out) => inPairs(out, pairs)) : own),
    ...joins.flatMap((join) => {
      switch (join.kind) {
        case "conv":
          return convOuts(d, k, sink, first, join, coords);
        case "heads":
          return headsOuts(d, k, sink, first, join, pairs!, coords);
        case "argmax":
          return [];
      }
    }),
  ];
  warm(prologue, outs, m, depth, n, weights.length);
  const flops = joins.reduce((sum, join) => sum + (join.kind === "conv" ? convFlops(join) : 0), 2 * n * depth * weights.length);
  const problem: GemmProblem = { frame: k.frame, m, n, k: depth, a: prologue, weights, outs };
  const argmax = joins.find((join) => join.kind === "argmax");
  const best = argmax ? bestOf(d, k, sink, first, argmax, problem) : null;
  const product = plan(
    k,
    { ...first, name: labelOf(anchors, joins) },
    { kind: "gemm", ...(best?.problem ?? problem) },
    times(toIntExpr(m), flops),
  );
  return argmax ? [product, ...(best?.kernels ?? reduction(d, argmax.sink, argmax.reduce))] : [product];
}

/** What a kernel computes: products, and what joins the one. */
const labelOf = (anchors: readonly Node[], joins: readonly Join[]): string =>
  [...new Set([...anchors, ...joins.map((join) => (join.kind === "conv" ? join.conv : join.sink))].map(({ name }) => name))].join("+");

/** The columns that somebody reads as they are, in runs; null for all. */
function uncovered(n: number, joins: readonly Join[]): readonly ProductOut["columns"][] {
  const covered = joins.filter(({ alone }) => alone).map(({ columns }) => columns);
  if (covered.length === 0) return [null];
  const runs: [number, number][] = [];
  let at = 0;
  for (const [from, to] of covered.sort(([a], [b]) => a - b)) {
    if (at < from) runs.push([at, from]);
    at = to;
  }
  if (at < n) runs.push([at, n]);
  return runs;
}

/** Problems are functions, and a template may call them after fusion is over; calling each once now makes a mismatch show while it can still be mended, and fixes the argument order. */
function warm(prologue: Prologue, outs: readonly ProductOut[], m: Expr, k: number, n: number, accs: number): void {
  const row = intVar("row", 0, Math.max(0, maxRows(m) - 1));
  const depth = intVar("k", 0, k - 1);
  const stat = prologue.stat ? prologue.stat.value(row, depth) : null;
  prologue.value(row, depth, stat);
  for (const out of outs) {
    const [from, to] = out.columns ?? [0, n];
    const col = intVar("col", from, to - 1);
    out.index(row, col);
    out.value(new Array<Expr>(accs).fill(f32(0)), row, col);
  }
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
