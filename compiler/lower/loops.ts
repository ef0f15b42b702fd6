import type { Stmt } from "../ir/thread.ts";
import type { Stmt as TileStmt } from "../ir/tile.ts";
import type { Piece } from "./barriers.ts";
import { uniform } from "./context.ts";
import type { Context } from "./context.ts";
import { prefetch } from "./prefetch.ts";
import { isFirst, isIndependent, ringTurns } from "./ring-turns.ts";
import type { Loop, Ring } from "./rings.ts";

/** How what is in a loop is lowered. */
export interface Lower {
  readonly all: (body: readonly TileStmt[], ctx: Context) => readonly Piece[];
  readonly load: (s: Extract<TileStmt, { op: "load" }>, ctx: Context) => readonly Stmt[];
}

const piece = (body: readonly Stmt[]): readonly Piece[] => (body.length > 0 ? [{ op: "piece", body }] : []);

/** A loop, its tiles fetched ahead of the turns that use them where it asks for that: by the hardware, or through registers. */
export function lowerFor(s: Loop, ctx: Context, lower: Lower): readonly Piece[] {
  const ring = ctx.rings.get(s);
  if (ring) return lowerRing(s, ring, ctx, lower);
  const { first, turn } = turnOf(s, s.body, ctx, lower);
  return [...first, { op: "for", var: s.var, count: uniform(s.count, ctx), body: turn }];
}

/** What a part of the statements of a loop becomes: tiles that its turns begin with are fetched a turn ahead where that can be done, the first before the loop. */
function turnOf(
  s: Loop,
  part: readonly TileStmt[],
  ctx: Context,
  lower: Lower,
): { readonly first: readonly Piece[]; readonly turn: readonly Piece[] } {
  const early = prefetch({ ...s, body: part }, s.body, ctx, (x) => lower.load(x, ctx));
  if (!early) return { first: [], turn: lower.all(part, ctx) };
  return { first: piece(early.first), turn: [...piece(early.put), ...piece(early.next), ...lower.all(early.rest, ctx)] };
}

/** The first turns' copies, and the loop. In a loop around it, lanes may still read what the last turns of the time before have copied. */
function lowerRing(s: Loop, ring: Ring, ctx: Context, lower: Lower): readonly Piece[] {
  const { free, first, reset, ahead, before, wait, rest, behind, move, last, inside } = ringTurns(s, ring, ctx);
  // what the hardware cannot copy comes through registers
  const front = turnOf(s, before, inside, lower);
  const back = turnOf(s, rest, inside, lower);
  const loop: Piece = {
    op: "for",
    var: s.var,
    count: uniform(s.count, ctx),
    body: [...piece(ahead), ...front.turn, ...wait, ...back.turn, ...piece(behind), ...piece(move)],
  };
  const turns = [...piece(reset), loop, ...piece(last)];
  const fetched = [...front.first, ...back.first];
  const outermost = ctx.program.body.includes(s);
  if (outermost) ctx.ahead.push(...free);
  if (outermost && isFirst(s, ring, ctx)) {
    (isIndependent(s, ring, ctx) ? ctx.ahead : ctx.early).push(...first);
    return [...fetched, ...turns];
  }
  const begin = outermost ? first : [...free, ...first];
  return [...(ring.meets && !outermost ? [{ op: "barrier" } as const] : []), ...piece(begin), ...fetched, ...turns];
}
