import type { ArgmaxJoin, Decisions } from "../decisions.ts";
import type { Expr } from "../ir/expr.ts";
import { add, eq, f32, intVar, mul } from "../ir/expr.ts";
import type { Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { KernelPlan } from "../plan.ts";
import { delinearize } from "../plan.ts";
import type { GemmProblem, ProductBest } from "../template.ts";
import { bestShares as inTiles } from "../templates/gemm-stream.ts";
import { bestShares as inTurns } from "../templates/gemv-stream.ts";
import type { Kernel } from "./kernel.ts";
import { epilogueOf, f32Of, maxRows } from "./kernel.ts";
import { combine, partsBuffer } from "./reduction.ts";

/**
 * A product of which blocks look for the column of each row's largest value too, and the kernel that finishes the search; null where the template that will
 * compute the product does not look for it.
 */
export function bestOf(
  d: Decisions,
  k: Kernel,
  sink: Node,
  product: NodeOf<"matmul">,
  { reduce, sink: stored, when }: ArgmaxJoin,
  problem: GemmProblem,
): { readonly problem: GemmProblem; readonly kernels: readonly KernelPlan[] } | null {
  const count = inTurns(problem, d.caps) ?? inTiles(problem, d.caps);
  if (count === null) return null;
  const parts = partsBuffer(reduce, count);
  const lead = typeOf(product).shape.slice(0, -1);
  const result = epilogueOf(k, sink, [product], typeOf(sink).dtype, (row: Expr, col: Expr) => [...delinearize(lead, row), col]);
  const value: ProductBest["value"] = (acc, row, col) => f32Of(result.value(acc, row, col));
  value([f32(0)], intVar("row", 0, Math.max(0, maxRows(problem.m) - 1)), intVar("col", 0, problem.n - 1));
  const index: ProductBest["index"] = (row, share, i) => add(mul(add(mul(row, count), share), 2), i);
  // nothing in the program reads the product any more
  const outs = when ? problem.outs.map((out) => ({ ...out, when: eq(when, 1) })) : problem.outs;
  const best = { count, buffer: k.scope.use(parts, "write"), index, value };
  return { problem: { ...problem, outs, best }, kernels: [combine(d, stored, reduce, parts)] };
}
