import type { Caps, MatrixUnit } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { add, cast, elem, eq, f32, i32, idiv, intVar, lt, min, mod, mul, rewrite, select, some, sub, walk } from "../ir/expr.ts";
import type { Expr, Load } from "../ir/expr.ts";
import { at, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import type { Config, ReplayProblem, Template } from "../template.ts";
import { guarded, halfUnit, roundUp, shareOut } from "./common.ts";
import { decayOf, elementOf } from "./ssd-replay-common.ts";
import { replayRings, SOME } from "./ssd-replay-rings.ts";
import type { StreamConfig } from "./ssd-replay-rings.ts";

/**
 * The step of `ssd-replay` for states of 16 bits and hardware that copies. A block goes through heads of one group, whose states are on their way through a ring of shared
 * memory; what they have in common, C . B[j] of each entry, it computes once. S C is the matrix hardware's: C is in three columns, its first 8 bits, the next and the last,
 * so that every product is exact, as it would be in f32.
 */
export const ssdReplayStream: Template<ReplayProblem> = { name: "ssd-replay-stream", configs: replayRings, build };

/** Columns that C is cut into: f32 has 24 bits, bf16 8 of them. */
const PIECES = 3;
/** What the parts of a program share: its block's first head, group and row of the batch, and rows of tiles that hold an entry each, filled up to the hardware's. */
interface Block {
  readonly b: TileBuilder;
  readonly p: ReplayProblem;
  readonly unit: MatrixUnit;
  readonly heads: number;
  readonly first: Expr;
  readonly group: Expr;
  readonly batch: Expr;
  readonly entries: number;
}

const t = i32(0);

function build(p: ReplayProblem, config: Config, caps: Caps): TileProgram {
  const { heads, pb, stages, groups } = config as StreamConfig;
  const unit = halfUnit(p.state.dtype, caps)!;
  const b = tileBuilder(p.frame, [p.heads / heads, 1, p.batch], [groups, 1]);
  const first = mul(b.bx, heads);
  const block: Block = {
    b,
    p,
    unit,
    heads,
    first,
    group: idiv(first, p.heads / p.groups),
    batch: b.bz,
    entries: roundUp(p.length, unit.k),
  };
  const common = headsTogether(block);
  b.when(isLast(p), () => forStates(block, common));
  const turn = turnOf(block, common, pb);
  b.loop("step", (heads * p.headDim) / pb, turn, stages, true);
  keepOwn(block, common);
  return b.build();
}

/** Whether the ring is full with this input, so that states are stored. */
const isLast = ({ held, length }: ReplayProblem): Expr => eq(held, length - 1);

/** What the heads of a block have in common, and what depends on a head alone: one each, by columns. */
interface Together {
  /** C in pieces. */
  readonly pieces: Tile;
  /** dt of each entry. */
  readonly steps: Tile;
  /** What the state (row 0) and entry j (row j + 1) are multiplied by; 0 for what fills up the hardware's tiles. */
  readonly decays: Tile;
  /** What entries count in y, in pieces: of head h in rows unit.n * h and following. */
  readonly weights: Tile;
  /** What this input counts in y, with D. */
  readonly direct: Tile;
  /** B of each entry as it is stored, and this input's as it comes: only for new states. */
  readonly factors: Tile;
  readonly latest: Tile;
}

function headsTogether(block: Block): Together {
  const { b, p, unit, heads, first, group, batch, entries } = block;
  const { length, held, ring, stateSize } = p;
  const { dtype } = p.state;
  const there = (j: Expr): Expr => lt(j, held);
  const C = (n: Expr): Expr => p.C(batch, t, group, n);

  const pieces = b.shared("pieces", unit.n, stateSize, dtype);
  b.load(pieces, (row, n) => pieceOf(C(n), row, dtype));
  const steps = b.shared("steps", length, heads);
  const past = (j: Expr, h: Expr): Expr => guarded(elementOf(ring.dt, batch, j, add(first, h)), there(j));
  b.load(steps, (j, h) => select(eq(j, held), p.dt(batch, t, add(first, h)), past(j, h)));

  // what comes from memory comes before lanes first meet
  const [rates, skips] = [b.shared("rates", 1, heads), b.shared("skips", 1, heads)];
  b.load(rates, (_, h) => p.decay(add(first, h)));
  b.load(skips, (_, h) => p.D(add(first, h)));

  const products = b.frag("products", length, stateSize);
  b.map(products, (j, n) => mul(inputOf(block, j, n), C(n)));
  const matches = b.frag("matches", length, 1);
  b.rowReduce(matches, "sum", products);
  const scores = b.shared("scores", length, 1);
  b.stage(scores, matches);

  const decays = b.shared("decays", entries + 1, heads);
  const decay = (row: Expr, h: Expr): Expr => decayOf({ length, decay: () => at(rates, 0, h) }, (j) => at(steps, j, h), row, h);
  b.load(decays, (row, h) => select(lt(length, row), 0, decay(min(row, length), h)));
  const weights = b.shared("weights", heads * unit.n, entries, dtype);
  b.load(weights, (row, j) => {
    const weight = mul(at(scores, min(j, length - 1), 0), at(decays, add(j, 1), idiv(row, unit.n)));
    return pieceOf(weight, mod(row, unit.n), dtype);
  });
  const factors = b.shared("factors", entries, stateSize, dtype);
  const latest = b.shared("latest", 1, stateSize);
  const direct = b.shared("direct", 1, heads);
  b.load(direct, (_, h) => add(mul(at(scores, held, 0), at(decays, add(held, 1), h)), at(skips, 0, h)));
  return { pieces, steps, decays, weights, direct, factors, latest };
}

/** B of an entry: this input's as it comes, the others' as they are stored, 0 where there is none. */
function inputOf({ p, group, batch }: Block, j: Expr, n: Expr): Expr {
  const { held, ring } = p;
  return select(eq(j, held), p.B(batch, t, group, n), guarded(elementOf(ring.B, batch, j, group, n), lt(j, held)));
}

/** Loads what new states take of the entries. */
function forStates(block: Block, { factors, latest }: Together): void {
  const { b, p, group, batch } = block;
  b.load(factors, (j, n) => inputOf(block, j, n));
  b.load(latest, (_, n) => p.B(batch, t, group, n));
}

/** A turn: `pb` rows of a head. */
function turnOf(block: Block, common: Together, pb: number): (step: Expr) => void {
  const { b, p, unit, first, batch, entries } = block;
  const { pieces, decays, weights, direct } = common;
  const { length, held, ring } = p;
  const parts = p.headDim / pb;
  const state = b.shared("state", pb, p.stateSize, p.state.dtype);
  const xs = b.shared("xs", entries, pb, ring.x.dtype);
  const y = b.frag("y", pb, unit.n);
  const sums = b.frag("sums", pb, 1);
  const store = storeState(block, common, state, xs);
  return (step) => {
    const own = idiv(step, parts);
    const head = add(first, own);
    const dim = (row: Expr): Expr => add(mul(mod(step, parts), pb), row);
    const x = (row: Expr): Expr => p.x(batch, t, head, dim(row));
    const result = (row: Expr): Expr => add(at(sums, row, 0), mul(at(direct, 0, own), x(row)));
    const outs = p.outs.map((out) => ({ ...out, value: (row: Expr): Expr => out.value([result(row)], batch, t, head, dim(row)) }));
    b.load(state, (row, n) => elementOf(p.state, batch, head, dim(row), n));
    b.load(xs, (j, row) => guarded(elementOf(ring.x, batch, min(j, length - 1), head, dim(row)), lt(j, held)));
    const carried = carry(b, [x, ...outs.map(({ value }) => value)], p, pb);

    b.fill(y, 0);
    b.mma(y, viewOf(state), viewOf(pieces, { transposed: true }), p.stateSize);
    b.map(y, (row, col) => mul(at(y, row, col), at(decays, 0, own)));
    b.mma(y, viewOf(xs, { transposed: true }), viewOf(weights, { row: mul(own, unit.n), transposed: true }), entries);
    b.rowReduce(sums, "sum", y);
    for (const { buffer, dtype, index, value } of outs)
      b.store(sums, { buffer, dtype, index: (row) => index(batch, t, head, dim(row)), value: (row) => carried(value(row), row) });
    b.store(sums, {
      buffer: ring.x.buffer,
      dtype: ring.x.dtype,
      index: (row) => ring.x.index(batch, held, head, dim(row)),
      value: (row) => carried(x(row), row),
    });
    b.when(isLast(p), () => {
      store(own, (row, n) => p.state.index(batch, head, dim(row), n), (row) => carried(x(row), row)); // prettier-ignore
    });
  };
}

type StoreState = (own: Expr, index: (row: Expr, n: Expr) => Expr, x: (row: Expr) => Expr) => void;

/**
 * Brings the state that a turn has read up to date and stores it, some columns at a time. Entries are the matrix hardware's, each x by what it is multiplied by in two
 * pieces: the state keeps no more digits. This input, whose B is not rounded yet, is added by itself.
 */
function storeState({ b, p, unit, entries }: Block, { decays, factors, latest }: Together, state: Tile, xs: Tile): StoreState {
  const { dtype, buffer } = p.state;
  const [high, low] = [b.shared("high", entries, state.rows, dtype), b.shared("low", entries, state.rows, dtype)];
  const next = b.frag("next", state.rows, shareOut(p.stateSize / unit.k, SOME / unit.k) * unit.k);
  const stored = b.shared("stored", next.rows, next.cols, dtype);
  return (own, index, x) => {
    const scaled = (j: Expr, row: Expr): Expr => mul(at(decays, add(j, 1), own), at(xs, j, row));
    const now = (row: Expr): Expr => mul(at(decays, p.length, own), x(row));
    b.load(high, scaled);
    b.load(low, (j, row) => sub(scaled(j, row), digitsOf(scaled(j, row), dtype)));
    b.loop("some", p.stateSize / next.cols, (some) => {
      const along = (n: Expr): Expr => add(mul(some, next.cols), n);
      b.map(next, (row, n) => add(mul(at(state, row, along(n)), at(decays, 0, own)), mul(now(row), at(latest, 0, along(n)))));
      for (const piece of [high, low]) b.mma(next, viewOf(piece, { transposed: true }), viewOf(factors, { col: along(i32(0)) }), entries);
      b.stage(stored, next);
      b.store(stored, { buffer, dtype, index: (row, n) => index(row, along(n)), value: (row, n) => at(stored, row, n) });
    });
  };
}

/** This input's dt and B in their places in the ring; x is stored where its rows are. */
function keepOwn({ b, p, first, group, batch }: Block, { steps, latest }: Together): void {
  const { ring, held } = p;
  b.store(steps, {
    buffer: ring.dt.buffer,
    dtype: ring.dt.dtype,
    index: (_, h) => ring.dt.index(batch, held, add(first, h)),
    value: (j, h) => at(steps, j, h),
    guard: (j) => eq(j, held),
  });
  b.when(eq(mod(first, p.heads / p.groups), 0), () => {
    b.store(latest, {
      buffer: ring.B.buffer,
      dtype: ring.B.dtype,
      index: (_, n) => ring.B.index(batch, held, group, n),
      value: (_, n) => p.B(batch, t, group, n),
    });
  });
}

/** The first digits of a value, as many as a type has. */
const digitsOf = (value: Expr, dtype: DType): Expr => cast(cast(value, dtype), "f32");

/** Column `piece` of the pieces of a value: its first digits as the type has them, the first of what they leave out, and so on; 0 where nothing is left. */
function pieceOf(value: Expr, piece: Expr, dtype: DType): Expr {
  const choose = (i: number, rest: Expr): Expr =>
    i === PIECES ? f32(0) : select(eq(piece, i), digitsOf(rest, dtype), choose(i + 1, sub(rest, digitsOf(rest, dtype))));
  return choose(0, value);
}

/**
 * Has what `values` load for each row copied into tiles at the start of a turn, so that it comes as early as the state does; and gives what stands for such a value
 * at a row: the same of those tiles.
 */
function carry(b: TileBuilder, values: readonly ((row: Expr) => Expr)[], p: ReplayProblem, rows: number): (value: Expr, row: Expr) => Expr {
  const read = new Set(p.frame.params.filter(({ access }) => access === "read").map(({ name }) => name));
  const probe = intVar("row", 0, rows - 1);
  const loads = new Map<Load, Tile>();
  for (const value of values)
    walk(value(probe), (e) => {
      if (e.op === "load" && e.guard === null && read.has(e.buffer) && some(e.index, (x) => x === probe) && !loads.has(e))
        loads.set(e, b.shared(`carried${loads.size}`, 1, rows, e.dtype));
    });
  const moved = (e: Expr, to: Expr): Expr => rewrite(e, (x) => (x === probe ? to : undefined));
  for (const [from, tile] of loads) b.load(tile, (_, col) => moved(from, col));
  return (value, row) => {
    const tiles = new Map<Expr, Expr>([...loads].map(([from, { name, dtype }]) => [moved(from, row), elem(name, dtype, 0, row)]));
    return rewrite(value, (e) => tiles.get(e));
  };
}
