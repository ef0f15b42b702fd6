import { i32, isConst, some, walk } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { accessesOf, eachStmt, expressionsOf, substituteStmts } from "../ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../ir/thread.ts";

/**
 * Removes what does nothing: loops of no turns, loops and conditions around nothing, conditions that are known or asked twice, barriers that nothing happens
 * between, arrays that nothing mentions. A loop of one turn becomes its body; expressions fold again as the counter is put in.
 */
export function simplifyThread(p: ThreadProgram): ThreadProgram {
  const body = withoutIdleBarriers(simplifyAll(p.body));
  const last = body.at(-1)?.op === "barrier" ? body.slice(0, -1) : body;
  const first = last[0]?.op === "barrier" ? last.slice(1) : last;
  const used = mentioned(first);
  return { ...p, shared: p.shared.filter((d) => used.has(d.name)), regs: p.regs.filter((d) => used.has(d.name)), body: first };
}

/** Names of the arrays that statements and their expressions use. */
function mentioned(body: readonly Stmt[]): ReadonlySet<string> {
  const names = new Set<string>();
  const seen = new Set<Expr>();
  eachStmt(body, (s) => {
    const { reads, writes, regs } = accessesOf(s);
    for (const name of [...reads, ...writes, ...regs]) names.add(name);
    for (const e of expressionsOf(s))
      walk(
        e,
        (x) => {
          if (x.op === "load") names.add(x.buffer);
          if (x.op === "reg") names.add(x.name);
        },
        seen,
      );
  });
  return names;
}

const simplifyAll = (body: readonly Stmt[]): readonly Stmt[] => withoutIdleBarriers(joinConditions(body.flatMap(simplify)));

/** Neighbours under one condition, which neither of them can change, become one: their loads can then be on their way together. */
function joinConditions(body: readonly Stmt[]): readonly Stmt[] {
  const joined: Stmt[] = [];
  for (const s of body) {
    const last = joined.at(-1);
    if (s.op === "if" && last?.op === "if" && last.cond === s.cond && s.otherwise.length + last.otherwise.length === 0 && isFixed(s.cond))
      joined[joined.length - 1] = { ...last, body: [...last.body, ...s.body] };
    else joined.push(s);
  }
  return joined;
}

/** Whether nothing that statements do changes the value. */
const isFixed = (e: Expr): boolean => !some(e, (x) => x.op === "reg" || x.op === "shuffle" || x.op === "load");

function simplify(s: Stmt): readonly Stmt[] {
  if (s.op === "for") {
    if (isConst(s.count) && s.count.value <= 0) return [];
    if (isConst(s.count, 1)) return simplifyAll(substituteStmts(s.body, new Map([[s.var, i32(0)]])));
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
