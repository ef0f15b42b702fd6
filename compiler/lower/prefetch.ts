import type { DType } from "../ir/dtype.ts";
import { add, and, i32, lt, min, rangeOf, reg, sub, walk } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { substituteStmts } from "../ir/thread-walk.ts";
import type { Stmt } from "../ir/thread.ts";
import type { Stmt as TileStmt } from "../ir/tile.ts";
import type { Context } from "./context.ts";
import { eachStatement } from "./fragments.ts";
import { writeOut } from "./unroll.ts";

type For = Extract<TileStmt, { op: "for" }>;

/** Registers of a lane that the next turn's tiles may take. */
const MOST_REGISTERS = 48;

/** A loop whose tiles come through registers: what the first turn needs, and what each turn puts into shared memory and then asks memory for. */
export interface Prefetched {
  readonly first: readonly Stmt[];
  readonly put: readonly Stmt[];
  readonly next: readonly Stmt[];
  /** The loop's body without the loads. */
  readonly rest: readonly TileStmt[];
}

/**
 * Software pipelining where the hardware copies nothing by itself: while a turn computes, the lanes hold the next turn's tiles in registers, on their way from
 * memory. Null where the loop does not begin with loads of memory that nothing in it writes, or where registers do not suffice. `whole`: what a
 * turn does, `s` with that or a part of it. `load`: lowers one of the loads.
 */
export function prefetch(
  s: For,
  whole: readonly TileStmt[],
  ctx: Context,
  load: (s: Extract<TileStmt, { op: "load" }>) => readonly Stmt[],
): Prefetched | null {
  if (s.stages < 2 || ctx.caps.indexableRegisters || rangeOf(s.count).min < 1) return null;
  const at = s.body.findIndex((x) => x.op !== "load");
  const loads = s.body.slice(0, at < 0 ? s.body.length : at).filter((x) => x.op === "load");
  const changed = new Set<string>(ctx.program.params.filter((p) => p.access !== "read").map((p) => p.name));
  eachStatement(whole, (x) => {
    if (x.op === "load" || x.op === "stage" || x.op === "fill" || x.op === "scan") changed.add(x.dst.name);
  });
  if (loads.length === 0 || loads.some((x) => reads(x.value, changed))) return null;

  const flat = loads.map((x) => writeOut(load(x)));
  const split = flat.map((body, i) => halves(body, loads[i]!.dst.dtype));
  const slots = split.reduce((n, h) => n + h.slots, 0);
  if (slots > MOST_REGISTERS) return null;
  const names = split.map((h, i) => {
    const name = ctx.fresh("next");
    ctx.regs.push({ name, dtype: loads[i]!.dst.dtype, count: h.slots, uniform: false });
    return name;
  });
  const fetch = split.flatMap((h, i) => h.fetch(names[i]!));
  const turn = (step: Expr): readonly Stmt[] => substituteStmts(fetch, new Map<Expr, Expr>([[s.var, step]]));
  const following = add(s.var, 1);
  return {
    first: turn(i32(0)),
    put: split.flatMap((h, i) => h.put(names[i]!)),
    // within the condition the minimum is `following`; it tells the ranges of addresses so
    next: [{ op: "if", cond: lt(following, s.count), body: turn(min(following, sub(s.count, 1))), otherwise: [] }],
    rest: s.body.slice(loads.length),
  };
}

function reads(value: Expr, names: ReadonlySet<string>): boolean {
  let found = false;
  walk(value, (e) => {
    found ||= (e.op === "load" && names.has(e.buffer)) || (e.op === "elem" && names.has(e.tile));
  });
  return found;
}

interface Halves {
  readonly slots: number;
  readonly fetch: (reg: string) => readonly Stmt[];
  readonly put: (reg: string) => readonly Stmt[];
}

/** A written-out load taken apart: values into registers, and registers into shared memory. */
function halves(body: readonly Stmt[], dtype: DType): Halves {
  let slots = 0;
  const fetch: ((name: string) => Stmt)[] = [];
  const put: ((name: string) => Stmt)[] = [];
  for (const s of body.flatMap((x) => guardedBy(x, null))) {
    const slot = slots;
    if (s.op === "store") {
      slots++;
      const assign = (name: string): Stmt => ({ op: "assign", reg: name, index: i32(slot), value: s.value });
      fetch.push(s.guard === null ? assign : (name) => ({ op: "if", cond: s.guard!, body: [assign(name)], otherwise: [] }));
      put.push((name) => ({ ...s, value: reg(name, dtype, slot) }));
    } else if (s.op === "loadVec") {
      fetch.push((name) => ({ ...s, reg: name, index: i32(slot) }));
    } else if (s.op === "storeVec") {
      slots += s.width;
      put.push((name) => ({ ...s, reg: name, index: i32(slot) }));
    } else throw new Error(`prefetch: a ${s.op} in the load of a tile`);
  }
  return { slots, fetch: (name) => fetch.map((f) => f(name)), put: (name) => put.map((f) => f(name)) };
}

/** Statements without conditions around them: a statement's own condition says it all. */
function guardedBy(s: Stmt, cond: Expr | null): readonly Stmt[] {
  if (s.op === "if") return s.body.flatMap((x) => guardedBy(x, cond ? and(cond, s.cond) : s.cond));
  if (cond === null || (s.op !== "store" && s.op !== "loadVec" && s.op !== "storeVec")) return [s];
  return [{ ...s, guard: s.guard ? and(cond, s.guard) : cond }];
}
