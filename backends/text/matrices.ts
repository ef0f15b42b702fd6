import type { Caps, MatrixUnit } from "../../compiler/backend.ts";
import { isConst, walk } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { accessesOf, eachStmt, expressionsOf } from "../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";
import { writeOut } from "../../compiler/lower/unroll.ts";

/**
 * Products by matrices whose elements the language does not give to lanes. Accumulators go between registers and matrices through memory of the block: into
 * matrices before the outermost statement in which they are only multiplied into, usually the loop over k, and out of them after it.
 */

/** An accumulator that a statement multiplies into by matrices, and does nothing else with. */
export interface Accumulator {
  readonly acc: string;
  readonly unit: MatrixUnit;
  readonly fm: number;
  readonly fn: number;
}

/** How a target's matrices are filled from registers, which are known to be 0 where `zero` says so, and the other way. */
export interface Exchange {
  readonly isMatrix: (unit: MatrixUnit) => boolean;
  enter(a: Accumulator, zero: boolean): void;
  leave(a: Accumulator): void;
  /** Accumulators that are in matrices at the moment. */
  readonly open: Set<string>;
}

/** Writes a statement, its accumulators being in matrices meanwhile. `before`: the statements of the same body in front of it. */
export function aroundProducts(
  s: Stmt,
  before: readonly Stmt[],
  w: { readonly program: ThreadProgram; readonly caps: Caps },
  exchange: Exchange,
  write: () => void,
): void {
  const products = accumulatorsOf(s, w.caps, exchange).filter(({ acc }) => !exchange.open.has(acc));
  for (const a of products) exchange.enter(a, isZero(before, a.acc, w.program));
  for (const { acc } of products) exchange.open.add(acc);
  write();
  for (const { acc } of products) exchange.open.delete(acc);
  for (const a of products) exchange.leave(a);
}

function accumulatorsOf(s: Stmt, caps: Caps, { isMatrix }: Exchange): readonly Accumulator[] {
  if (s.op !== "unit" && s.op !== "for" && s.op !== "if") return [];
  const matrices = new Map(caps.units.filter(isMatrix).map((unit) => [unit.name, unit]));
  if (matrices.size === 0) return [];
  const found = new Map<string, Accumulator>();
  const touched = new Set<string>();
  const seen = new Set<Expr>();
  eachStmt([s], (x) => {
    const unit = x.op === "unit" ? matrices.get(x.unit) : undefined;
    if (x.op === "unit" && unit) found.set(x.acc, { acc: x.acc, unit, fm: x.fm, fn: x.fn });
    else for (const name of accessesOf(x).regs) touched.add(name);
    for (const e of expressionsOf(x))
      walk(
        e,
        (y) => {
          if (y.op === "reg") touched.add(y.name);
        },
        seen,
      );
  });
  return [...found.values()].filter(({ acc }) => !touched.has(acc));
}

/** Whether the statements before end with all registers of an array being 0. */
function isZero(before: readonly Stmt[], reg: string, p: ThreadProgram): boolean {
  const touches = (s: Stmt): boolean => accessesOf(s).regs.includes(reg);
  const relevant = before.filter((s) => {
    const touching: Stmt[] = [];
    eachStmt([s], (x) => {
      if (touches(x)) touching.push(x);
    });
    return touching.length > 0;
  });
  const zeros = new Set<number>();
  eachStmt(writeOut(relevant), (s) => {
    if (!touches(s)) return;
    if (s.op === "assign" && isConst(s.index) && isConst(s.value, 0)) zeros.add(s.index.value);
    else if (s.op !== "storeVec") zeros.clear();
  });
  return zeros.size === p.regs.find((d) => d.name === reg)!.count;
}

/** Calls `f` for each matrix of an accumulator, with its number and that of its first register. */
export function eachMatrix(a: Accumulator, f: (index: number, first: number) => void): void {
  for (let i = 0; i < a.fm * a.fn; i++) f(i, i * a.unit.elems);
}
