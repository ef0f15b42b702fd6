import type { Expr } from "../../compiler/ir/expr.ts";
import { substitute } from "../../compiler/ir/expr.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";

/** Replaces variables by expressions in a statement. */
export function substituteStmt(s: Stmt, env: ReadonlyMap<Expr, Expr>): Stmt {
  const go = (e: Expr): Expr => substitute(e, env);
  const maybe = (e: Expr | null): Expr | null => e && go(e);
  const all = (body: readonly Stmt[]): Stmt[] => body.map((x) => substituteStmt(x, env));
  switch (s.op) {
    case "assign":
    case "laneReduce":
      return { ...s, index: go(s.index), value: go(s.value) };
    case "store":
      return { ...s, index: go(s.index), value: go(s.value), guard: maybe(s.guard) };
    case "loadVec":
    case "storeVec":
      return { ...s, index: go(s.index), at: go(s.at), guard: maybe(s.guard) };
    case "asyncCopy":
      return { ...s, dstAt: go(s.dstAt), srcAt: go(s.srcAt), guard: maybe(s.guard) };
    case "unit": {
      const view = (v: typeof s.a): typeof s.a => ({ ...v, base: go(v.base), rowStride: go(v.rowStride), colStride: go(v.colStride) });
      return { ...s, rowBase: go(s.rowBase), colBase: go(s.colBase), a: view(s.a), b: view(s.b), k: go(s.k), rows: maybe(s.rows) };
    }
    case "for":
      return { ...s, count: go(s.count), body: all(s.body) };
    case "if":
      return { ...s, cond: go(s.cond), body: all(s.body), otherwise: all(s.otherwise) };
    case "barrier":
    case "asyncWait":
      return s;
  }
}

/** The expressions that a statement evaluates itself (not those of statements inside it). */
export function expressionsOf(s: Stmt): Expr[] {
  switch (s.op) {
    case "assign":
    case "laneReduce":
      return [s.index, s.value];
    case "store":
      return [s.index, s.value, ...(s.guard ? [s.guard] : [])];
    default:
      return [];
  }
}
