import type { Expr } from "../ir/expr.ts";
import { add, mul, unary } from "../ir/expr.ts";
import type { NodeOf } from "../ir/graph.ts";
import type { At } from "../values.ts";
import { activation } from "../values.ts";
import { f32Of } from "./kernel.ts";

/** What a norm squares and scales: x, or x times the gate's silu. spec/bamba.md c.4 and c.6 step 8. */
export function normInput(at: At, a: NodeOf<"rmsNorm"> | NodeOf<"gatedRmsNorm">, coords: readonly Expr[]): Expr {
  const x = f32Of(at(a.inputs[0]!, coords));
  return a.op === "rmsNorm" ? x : mul(x, activation("silu", f32Of(at(a.inputs[1]!, coords))));
}
/** 1 / sqrt(mean + eps) from a sum of squares. */
export const rsqrtMean = (sumOfSquares: Expr, size: number, eps: number): Expr => unary("rsqrt", add(mul(sumOfSquares, 1 / size), eps));
