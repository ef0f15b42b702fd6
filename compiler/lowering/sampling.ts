import { times, toIntExpr } from "../int-expr.ts";
import type { Expr } from "../ir/expr.ts";
import { i32, intVar } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions } from "../decisions.ts";
import type { KernelPlan } from "../plan.ts";
import { bufferIndex, dimExpr } from "../plan.ts";
import { FusionMismatch } from "../values.ts";
import { begin, outOf, plan } from "./kernel.ts";

const [ROW, COL] = [intVar("row", 0, 1 << 20), intVar("col", 0, 1 << 24)] as const;

export function processLogits(d: Decisions, sink: Node, n: NodeOf<"processLogits">): KernelPlan {
  // the kernel works in the memory of its result, so nothing else can be stored there
  if (sink !== n) throw new FusionMismatch(n, "scores are stored before anything is made of them");
  const k = begin(d, sink, "process_logits");
  const [logits, seen, settings] = n.inputs as [Node, Node, Node];
  const [batch, vocab] = typeOf(n).shape as [Dim, number];
  const buffer = d.buffers.get(n)!;
  const setting = (column: number) => (row: Expr) => k.at(settings, [row, i32(column)]);
  const problem = {
    kind: "logits" as const,
    frame: k.frame,
    rows: dimExpr(batch),
    vocab,
    logits: (row: Expr, col: Expr) => k.at(logits, [row, col]),
    seen: (row: Expr, col: Expr) => k.at(seen, [row, col]),
    settings: { penalty: setting(0), temperature: setting(1), topK: setting(2), topP: setting(3), minP: setting(4) },
    scores: { buffer: k.scope.use(buffer, "readwrite"), index: (row: Expr, col: Expr) => bufferIndex(buffer, [row, col]) },
  };
  problem.logits(ROW, COL);
  problem.seen(ROW, COL);
  for (const value of Object.values(problem.settings)) value(ROW);
  return plan(k, n, problem, times(toIntExpr(dimExpr(batch)), 4 * vocab));
}

export function sampleToken(d: Decisions, sink: Node, n: NodeOf<"sampleToken">): KernelPlan {
  const k = begin(d, sink, "sample_token");
  const [scores, draw] = n.inputs as [Node, Node];
  const [batch, vocab] = typeOf(scores).shape as [Dim, number];
  const out = outOf(d, k, sink, [n], (row: Expr) => [row]);
  const problem = {
    kind: "token" as const,
    frame: k.frame,
    rows: dimExpr(batch),
    vocab,
    scores: (row: Expr, col: Expr) => k.at(scores, [row, col]),
    draw: (row: Expr) => k.at(draw, [row]),
    outs: [out],
  };
  problem.scores(ROW, COL);
  problem.draw(ROW);
  out.index(ROW);
  out.value([i32(0)], ROW);
  return plan(k, n, problem, times(toIntExpr(dimExpr(batch)), 12 * vocab));
}
