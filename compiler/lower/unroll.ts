import { i32, isConst } from "../ir/expr.ts";
import { substituteStmts } from "../ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../ir/thread.ts";
import { simplifyThread } from "./simplify.ts";

/** Writes out the loops marked `unroll`, innermost first, for targets whose compiler does not do it (registers are then indexed by constants only). */
export function unrollThread(p: ThreadProgram): ThreadProgram {
  return simplifyThread({ ...p, body: p.body.flatMap(unroll) });
}

function unroll(s: Stmt): readonly Stmt[] {
  if (s.op === "if") return [{ ...s, body: s.body.flatMap(unroll), otherwise: s.otherwise.flatMap(unroll) }];
  if (s.op !== "for") return [s];
  const body = s.body.flatMap(unroll);
  const count = s.count;
  if (!s.unroll || !isConst(count)) return [{ ...s, body }];
  return Array.from({ length: count.value }, (_, i) => substituteStmts(body, new Map([[s.var, i32(i)]]))).flat();
}
