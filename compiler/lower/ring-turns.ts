import { BYTES } from "../ir/dtype.ts";
import { add, intVar, i32, lt, mod, mul, reg, select, some } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { substituteStmts } from "../ir/thread-walk.ts";
import type { Stmt } from "../ir/thread.ts";
import type { Stmt as TileStmt } from "../ir/tile.ts";
import { rowMajor } from "./affine.ts";
import type { Piece } from "./barriers.ts";
import { both, eachUnitRow, lowerExpr, NOWHERE, together, uniform, unrolled, when } from "./context.ts";
import type { Context } from "./context.ts";
import { placeOf } from "./layout.ts";
import type { Place } from "./layout.ts";
import { ownElement } from "./own-element.ts";
import type { Home, Loop, Ring, RingCopy } from "./rings.ts";

/**
 * A loop with a ring, in parts: what comes before the loop, and in a turn copies for a later one, statements of the loop's body that stand before its own copies,
 * how it waits for those, and the rest of the body. What is still of Tile IR is to be lowered in the context `inside`.
 */
export interface RingTurns {
  /** Copies of `first` that need not wait for other kernels; they belong to its first group. */
  readonly free: readonly Stmt[];
  readonly first: readonly Stmt[];
  readonly ahead: readonly Stmt[];
  readonly before: readonly TileStmt[];
  readonly wait: readonly Piece[];
  readonly rest: readonly TileStmt[];
  /** Copies for a later turn that are started when all else of this one is. */
  readonly behind: readonly Stmt[];
  /** Ahead of the loop and at the end of each of its turns: what says which slot is a turn's own. */
  readonly reset: readonly Stmt[];
  readonly move: readonly Stmt[];
  /** Waits for what the last turn has left under way. */
  readonly last: readonly Stmt[];
  readonly inside: Context;
}

/**
 * The hardware copies turns 0 .. stages-2 before the loop, and in each turn the one that is `stages - 1` further, into the slot that the turn before has read.
 * Shared tiles: wait, meet, copy, compute; by meeting, lanes know both that all copies of this turn have come and that all have read that slot.
 * Fragments: copy, wait, compute; a lane reads what it copied itself. An empty group of copies stands for a turn beyond the last.
 * Where products last into the next turn, their slot is still read then: copies go one turn less far ahead. A turn waits, also for the products of the turn before
 * the last, meets, starts its own, and copies while they are computed.
 */
export function ringTurns(s: Loop, ring: Ring, ctx: Context): RingTurns {
  const { stages, meets } = ring;
  const lasting = ring.lasting.map(([first]) => first!.acc.name);
  const far = stages - (lasting.length > 0 ? 2 : 1);
  const count = uniform(s.count, ctx);
  const slot = intVar(ctx.fresh("slot"), 0, stages - 1);
  const own = slotsOf(s, stages, far, ctx);
  const startOf = (turn: Expr, { size, from }: Home): Expr => add(mul(turn, size), from);
  const lowered = (copies: readonly RingCopy[]): readonly Stmt[] =>
    copies.flatMap((c) => {
      const home = ring.homes.get(c.dst.name)!;
      return lowerCopy(c, home.array, startOf(slot, home), ctx);
    });
  const turnOf = (copies: readonly Stmt[], turn: Expr, at: Expr): readonly Stmt[] =>
    when(lt(turn, count), substituteStmts(copies, new Map<Expr, Expr>([[s.var, turn], [slot, at]]))); // prettier-ignore
  const all = lowered(ring.copies);
  const wait = (pending: number): Stmt => ({ op: "asyncWait", pending });

  // a group of copies ends where something is waited for: those before the loop end without a wait that lasts, the last with the loop's own
  const free = independent(s, ring, ctx);
  const [early, late] = [lowered(free), lowered(ring.copies.filter((c) => !free.includes(c)))];
  const turns = Array.from({ length: far }, (_, i) => i32(i));
  const start = (copies: readonly Stmt[]): readonly (readonly Stmt[])[] => turns.map((turn) => turnOf(copies, turn, mod(turn, stages)));
  // what need not wait for the kernels before comes first, of all turns; it is then part of the first group
  const ahead = late.length > 0 ? start(early).flat() : [];
  const begin = start(late.length > 0 ? late : early);
  const first = begin.flatMap((body, i) => (meets && i === far - 1 ? body : [...body, wait(far)]));
  const next = turnOf(all, add(s.var, far), own.ahead);
  // what another turn reads this one does not write, and the turn itself comes after lanes have met
  const sources = new Set(ring.copies.map(({ from }) => from.buffer));
  const isCopy = (x: TileStmt): boolean => (x.op === "load" || x.op === "map") && ring.homes.has(x.dst.name);
  const before = s.body.slice(0, s.body.findIndex(isCopy));
  const here = [...ring.homes].map(([tile, home]) => [tile, startOf(own.here, home)] as const);
  return {
    free: ahead,
    first,
    reset: own.reset,
    before,
    ahead: meets ? [] : next,
    wait: !meets
      ? [{ op: "piece", body: [wait(far)] }]
      : lasting.length > 0
        ? [{ op: "piece", body: [wait(far - 1), { op: "unitWait", pending: lasting.length, done: [] }] }, { op: "barrier" }]
        : [{ op: "piece", body: [wait(far - 1)] }, { op: "barrier" }, { op: "piece", body: next, ...(s.apart ? { apart: sources } : {}) }],
    rest: s.body.slice(before.length).filter((x) => !isCopy(x)),
    behind: lasting.length > 0 ? next : [],
    move: own.move,
    last: lasting.length > 0 ? [{ op: "unitWait", pending: 0, done: lasting }] : [],
    inside: { ...ctx, slots: new Map([...ctx.slots, ...here]), lasting: lasting.length > 0 },
  };
}

/** Which slot is a turn's own, which is that of the turn that it copies, and what keeps count of both. */
interface Slots {
  readonly here: Expr;
  readonly ahead: Expr;
  readonly reset: readonly Stmt[];
  readonly move: readonly Stmt[];
}

/**
 * A remainder by a power of two is a mask. By another number it is counted: that costs less, and from `turn % 3 * size` NVIDIA's compiler makes `turn * size` less
 * something, moves the address of shared memory on by `size` a turn, and (ptxas 13.0) takes it for the unmoved address where other tiles are read in the loop.
 */
function slotsOf(s: Loop, stages: number, far: number, ctx: Context): Slots {
  if ((stages & (stages - 1)) === 0) return { here: mod(s.var, stages), ahead: mod(add(s.var, far), stages), reset: [], move: [] };
  const name = ctx.fresh("slot");
  ctx.regs.push({ name, dtype: "i32", count: 2, uniform: true });
  const [here, ahead] = [reg(name, "i32", i32(0)), reg(name, "i32", i32(1))];
  const assign = (here: Expr, ahead: Expr): readonly Stmt[] =>
    [here, ahead].map((value, i) => ({ op: "assign", reg: name, index: i32(i), value }));
  const after = (slot: Expr): Expr => select(lt(slot, stages - 1), add(slot, 1), 0);
  return { here, ahead, reset: assign(i32(0), i32(far)), move: assign(after(here), after(ahead)) };
}

function lowerCopy({ dst, from, layout }: RingCopy, array: string, slot: Expr, ctx: Context): readonly Stmt[] {
  const width = ctx.caps.vectorBytes / BYTES[dst.dtype];
  const copy = (at: Pick<Place, "row" | "col">, dstAt: Expr): Stmt => {
    const here = { ...NOWHERE, row: at.row, col: at.col };
    const guard = from.guard && lowerExpr(from.guard, here, null, ctx);
    const srcAt = lowerExpr(from.index, here, null, ctx);
    return { op: "asyncCopy", dst: array, dstAt, src: from.buffer, srcAt, dtype: dst.dtype, width, guard: guard && both(guard, null) };
  };
  if (layout === null)
    return together({ ...dst, cols: dst.cols / width }, ctx, (row, group, inside) => {
      const col = mul(group, width);
      return when(inside, [copy({ row, col }, add(slot, rowMajor(row, ctx.strides.get(dst.name)!, col)))]);
    });
  const vectors = Array.from({ length: layout.unit.elems / width }, (_, j) => j * width);
  return eachUnitRow(layout, ctx, (r) =>
    ctx.loop("c", layout.fn, unrolled(layout, ctx), (c) =>
      vectors.map((i) => {
        const at = placeOf(layout, ctx.lane, r, c, i);
        return copy(at, ownElement(at.index, dst.dtype, slot, ctx));
      }),
    ),
  );
}

/** Whether the first copies of a ring may come before the rest of the program: how many there are and what they read is up to nothing that it writes. */
export function isFirst(s: Loop, ring: Ring, ctx: Context): boolean {
  const written = new Set(ctx.program.params.filter((p) => p.access !== "read" && p.alone !== true).map((p) => p.name));
  const depends = (e: Expr): boolean => some(e, (x) => x.op === "load" && written.has(x.buffer));
  return !depends(s.count) && !ring.copies.some((c) => depends(c.from));
}

/** Whether all copies of a ring need not even wait for the kernels before. */
export const isIndependent = (s: Loop, ring: Ring, ctx: Context): boolean => independent(s, ring, ctx).length === ring.copies.length;

/** The copies that read only what nothing else changes while programs run, at addresses that no symbol takes part in. */
function independent(s: Loop, ring: Ring, ctx: Context): readonly RingCopy[] {
  const constant = new Set(
    ctx.program.params.filter((p) => p.alone === true || (p.constant === true && p.access === "read")).map((p) => p.name),
  );
  const symbols = new Set<Expr>(ctx.program.symbols);
  const depends = (e: Expr): boolean => some(e, (x) => symbols.has(x) || (x.op === "load" && !constant.has(x.buffer)));
  return depends(s.count) ? [] : ring.copies.filter((c) => !depends(c.from));
}
