import { i32, isConst, substitute } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { Stmt, ThreadProgram } from "../ir/thread.ts";

/**
 * Removes what does nothing: loops of no turns, loops and conditions around nothing, conditions that are known, barriers that nothing happens
 * between. A loop of one turn becomes its body; expressions fold again as the counter is put in.
 */
export function simplifyThread(p: ThreadProgram): ThreadProgram {
  const body = withoutIdleBarriers(simplifyAll(p.body));
  const last = body.at(-1)?.op === "barrier" ? body.slice(0, -1) : body;
  const first = last[0]?.op === "barrier" ? last.slice(1) : last;
  return { ...p, body: first };
}

const simplifyAll = (body: readonly Stmt[]): readonly Stmt[] => withoutIdleBarriers(body.flatMap(simplify));

function simplify(s: Stmt): readonly Stmt[] {
  if (s.op === "for") {
    if (isConst(s.count) && s.count.value <= 0) return [];
    if (isConst(s.count, 1)) return simplifyAll(substituteAll(s.body, new Map([[s.var, i32(0)]])));
    const body = simplifyAll(s.body);
    return body.length === 0 ? [] : [{ ...s, body }];
  }
  if (s.op === "if") {
    if (isConst(s.cond)) return simplifyAll(s.cond.value ? s.body : s.otherwise);
    const body = simplifyAll(s.body),
      otherwise = simplifyAll(s.otherwise);
    return body.length === 0 && otherwise.length === 0 ? [] : [{ ...s, body, otherwise }];
  }
  if ((s.op === "store" || s.op === "storeVec") && s.guard && isConst(s.guard)) return s.guard.value ? [{ ...s, guard: null }] : [];
  return [s];
}

const withoutIdleBarriers = (body: readonly Stmt[]): readonly Stmt[] =>
  body.filter((s, i) => s.op !== "barrier" || body[i - 1]?.op !== "barrier");

/** Replaces variables in all expressions of some statements. */
export function substituteAll(body: readonly Stmt[], env: ReadonlyMap<Expr, Expr>): readonly Stmt[] {
  const memo = new Map<Expr, Expr>();
  const put = (e: Expr): Expr => {
    const hit = memo.get(e) ?? substitute(e, env);
    memo.set(e, hit);
    return hit;
  };
  const maybe = (e: Expr | null): Expr | null => e && put(e);
  const one = (s: Stmt): Stmt => {
    switch (s.op) {
      case "assign":
        return { ...s, index: put(s.index), value: put(s.value) };
      case "store":
        return { ...s, index: put(s.index), value: put(s.value), guard: maybe(s.guard) };
      case "loadVec":
      case "storeVec":
        return { ...s, index: put(s.index), at: put(s.at), guard: maybe(s.guard) };
      case "asyncCopy":
        return { ...s, dstAt: put(s.dstAt), srcAt: put(s.srcAt), guard: maybe(s.guard) };
      case "unit": {
        const view = (v: typeof s.a): typeof s.a => ({ ...v, base: put(v.base), rowStride: put(v.rowStride), colStride: put(v.colStride) });
        return { ...s, rowBase: put(s.rowBase), colBase: put(s.colBase), a: view(s.a), b: view(s.b), k: put(s.k), rows: maybe(s.rows) };
      }
      case "laneReduce":
        return { ...s, index: put(s.index), value: put(s.value) };
      case "for":
        return { ...s, count: put(s.count), body: s.body.map(one) };
      case "if":
        return { ...s, cond: put(s.cond), body: s.body.map(one), otherwise: s.otherwise.map(one) };
      case "barrier":
      case "asyncWait":
        return s;
    }
  };
  return body.map(one);
}
