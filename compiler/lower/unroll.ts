import { i32, isConst } from "../ir/expr.ts";
import { substituteStmts } from "../ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../ir/thread.ts";
import { simplifyThread } from "./simplify.ts";

/** Writes out the loops marked `unroll`, innermost first, for targets whose compiler does not do it (registers are then indexed by constants only). */
export function unrollThread(p: ThreadProgram): ThreadProgram {
  return simplifyThread({ ...p, body: p.body.flatMap((s) => unroll(s, false)) });
}

/** Writes out all loops of known length. */
export const writeOut = (body: readonly Stmt[]): readonly Stmt[] => body.flatMap((s) => unroll(s, true));

function unroll(s: Stmt, all: boolean): readonly Stmt[] {
  const inner = (body: readonly Stmt[]): readonly Stmt[] => body.flatMap((x) => unroll(x, all));
  if (s.op === "if") return [{ ...s, body: inner(s.body), otherwise: inner(s.otherwise) }];
  if (s.op !== "for") return [s];
  const body = inner(s.body);
  const count = s.count;
  if (!(s.unroll || all) || !isConst(count)) return [{ ...s, body }];
  return Array.from({ length: count.value }, (_, i) => substituteStmts(body, new Map([[s.var, i32(i)]]))).flat();
}
