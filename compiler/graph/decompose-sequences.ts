import type { Expr } from "../ir/expr.ts";
import { max, sub } from "../ir/expr.ts";
import type { Dim, Node } from "../ir/graph.ts";
import type { Builder } from "./build.ts";
import { shapeOf } from "./build.ts";

/** Sequence ids (ir/graph.ts) of the positions of a call, out of those of all positions: [batch, seq]. */
export const sliceOfCall = (b: Builder, ids: Node, past: Expr, seq: Dim): Node => b.slice(ids, 1, past, seq);

/** The sequence of the state that comes into a call: [batch]. */
export function sequenceBefore(b: Builder, ids: Node, past: Expr): Node {
  const batch = shapeOf(ids)[0]!;
  return b.unary("abs", b.reshape(b.slice(ids, 1, max(sub(past, 1), 0), 1), [batch]));
}
