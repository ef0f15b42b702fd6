import { substitute } from "./expr.ts";
import type { Expr } from "./expr.ts";
import type { Stmt } from "./thread.ts";

/** Calls `f` for every statement, those inside loops and conditions after the one around them. */
export function eachStmt(body: readonly Stmt[], f: (s: Stmt) => void): void {
  for (const s of body) {
    f(s);
    if (s.op === "for" || s.op === "if") eachStmt(s.body, f);
    if (s.op === "if") eachStmt(s.otherwise, f);
  }
}

const present = (...es: readonly (Expr | null)[]): Expr[] => es.filter((e) => e !== null);

/** The statement's own expressions, not those of statements inside it. */
export function expressionsOf(s: Stmt): readonly Expr[] {
  switch (s.op) {
    case "assign":
    case "laneReduce":
      return [s.index, s.value];
    case "store":
      return present(s.index, s.value, s.guard);
    case "loadVec":
    case "storeVec":
      return present(s.index, s.at, s.guard);
    case "asyncCopy":
      return present(s.dstAt, s.srcAt, s.guard);
    case "unit":
      return present(s.rowBase, s.colBase, s.k, s.rows, ...[s.a, s.b].flatMap((v) => [v.base, v.rowStride, v.colStride]));
    case "for":
      return [s.count];
    case "if":
      return [s.cond];
    case "barrier":
    case "asyncWait":
    case "unitWait":
      return [];
  }
}

/** Arrays and buffers that the statement itself names; what its expressions load comes on top. */
export function accessesOf(s: Stmt): {
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  readonly regs: readonly string[];
} {
  switch (s.op) {
    case "assign":
    case "laneReduce":
      return { reads: [], writes: [], regs: [s.reg] };
    case "store":
      return { reads: [], writes: [s.buffer], regs: [] };
    case "loadVec":
      return { reads: [s.buffer], writes: [], regs: [s.reg] };
    case "storeVec":
      return { reads: [], writes: [s.buffer], regs: [s.reg] };
    case "asyncCopy":
      return { reads: [s.src], writes: [s.dst], regs: [] };
    case "unit":
      return { reads: [s.a.name, s.b.name], writes: [], regs: [s.acc] };
    case "unitWait":
      return { reads: [], writes: [], regs: s.done };
    case "barrier":
    case "asyncWait":
    case "for":
    case "if":
      return { reads: [], writes: [], regs: [] };
  }
}

/** The statement with each of its own expressions, not those of statements inside it, replaced by what `f` makes of it. */
export function mapExpressions(s: Stmt, f: (e: Expr) => Expr): Stmt {
  const maybe = (e: Expr | null): Expr | null => e && f(e);
  switch (s.op) {
    case "assign":
    case "laneReduce":
      return { ...s, index: f(s.index), value: f(s.value) };
    case "store":
      return { ...s, index: f(s.index), value: f(s.value), guard: maybe(s.guard) };
    case "loadVec":
    case "storeVec":
      return { ...s, index: f(s.index), at: f(s.at), guard: maybe(s.guard) };
    case "asyncCopy":
      return { ...s, dstAt: f(s.dstAt), srcAt: f(s.srcAt), guard: maybe(s.guard) };
    case "unit": {
      const view = (v: typeof s.a): typeof s.a => ({ ...v, base: f(v.base), rowStride: f(v.rowStride), colStride: f(v.colStride) });
      return { ...s, rowBase: f(s.rowBase), colBase: f(s.colBase), a: view(s.a), b: view(s.b), k: f(s.k), rows: maybe(s.rows) };
    }
    case "for":
      return { ...s, count: f(s.count) };
    case "if":
      return { ...s, cond: f(s.cond) };
    case "barrier":
    case "asyncWait":
    case "unitWait":
      return s;
  }
}

/** Replaces variables in all expressions of some statements. */
export function substituteStmts(body: readonly Stmt[], env: ReadonlyMap<Expr, Expr>): readonly Stmt[] {
  const memo = new Map<Expr, Expr>();
  const put = (e: Expr): Expr => {
    const hit = memo.get(e) ?? substitute(e, env);
    memo.set(e, hit);
    return hit;
  };
  const one = (s: Stmt): Stmt => {
    const own = mapExpressions(s, put);
    if (own.op === "for") return { ...own, body: own.body.map(one) };
    if (own.op === "if") return { ...own, body: own.body.map(one), otherwise: own.otherwise.map(one) };
    return own;
  };
  return body.map(one);
}
