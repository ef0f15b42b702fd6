import type { Caps, MatrixUnit } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { add, cast, elem, eq, f32, i32, idiv, intVar, lt, min, mod, mul, rewrite, select, some, sub, walk } from "../ir/expr.ts";
import type { Expr, Load } from "../ir/expr.ts";
import { at, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import type { Config, ReplayProblem, Reject, Template } from "../template.ts";
import { bytesOf, guarded, halfUnit, isVector, largest, operandBytes, roundUp, shareOut } from "./common.ts";
import { decayOf, elementOf } from "./ssd-replay-common.ts";

/**
 * The step of `ssd-replay` for states of 16 bits and hardware that copies. A block goes through heads of one group, whose states are on their way through a ring of shared
 * memory; what they have in common, C . B[j] of each entry, it computes once. S C is the matrix hardware's: C is in three columns, its first 8 bits, the next and the last,
 * so that every product is exact, as it would be in f32.
 */
export const ssdReplayStream: Template<ReplayProblem> = { name: "ssd-replay-stream", configs, build };

export interface StreamConfig extends Config {
  /** Heads of a block. */
  readonly heads: number;
  /** Rows of a step: elements along the head dimension. */
  readonly pb: number;
  readonly stages: number;
  /** Warps of a block. */
  readonly groups: number;
}

/** Columns that C is cut into: f32 has 24 bits, bf16 8 of them. */
const PIECES = 3;
/** Columns of the new state that are computed at a time: as many registers and bytes as a block has for what is done rarely. */
const SOME = 32;
/** Steps that a block's beginning costs, on an H200. */
const PROLOGUE = 4;
/** Bytes of shared memory that the system takes of each block (CUDA programming guide, compute capability 8.0 and later). */
const RESERVED = 1024;

function configs(p: ReplayProblem, caps: Caps): readonly StreamConfig[] | Reject {
  if (!caps.asyncCopy || isVector(caps)) return { reject: `${caps.name} copies nothing by itself` };
  const { dtype } = p.state;
  const unit = halfUnit(dtype, caps);
  if (!unit) return { reject: `${caps.name} has no hardware for matrices of ${dtype}` };
  if (p.ring.x.dtype !== dtype || p.ring.B.dtype !== dtype) return { reject: "inputs are not stored as the state is" };
  if (p.stateSize % unit.k !== 0) return { reject: `states of ${p.stateSize} are no whole steps of ${unit.name}` };
  if (p.headDim % unit.m !== 0) return { reject: `heads of ${p.headDim} are no whole rows of ${unit.name}` };
  const rings = ([[p.headDim, 2], [p.headDim, 3], [p.headDim / 2, 4]] as const).filter(([pb]) => pb % unit.m === 0); // prettier-ignore
  const found = rings.flatMap(([pb, stages]) => {
    const heads = headsOf(p, pb, stages, unit, caps);
    return heads === null
      ? []
      : [{ heads, pb, stages, groups: shareOut(pb / unit.m, Math.min(4, Math.floor(caps.maxThreads / caps.lanes))) }];
  });
  return found.length > 0 ? found : { reject: `no ring of states of ${p.headDim} x ${p.stateSize} fits the shared memory of ${caps.name}` };
}

/**
 * How many heads a block goes through: no more than leave a multiprocessor as many blocks as it can hold, whose beginnings and ends the others fill; of those numbers what
 * leaves the last wave of blocks full, and the beginnings few. null where no block fits.
 */
function headsOf(p: ReplayProblem, pb: number, stages: number, unit: MatrixUnit, caps: Caps): number | null {
  const members = p.heads / p.groups;
  const heldOf = (heads: number): number => Math.floor(caps.sharedBytes / (RESERVED + sharedBytes(p, heads, pb, stages, unit, caps)));
  const costOf = (heads: number): number => {
    const blocks = (largest(p.batch, 1 << 20) * p.heads) / heads;
    return Math.ceil(blocks / (caps.workers * heldOf(heads))) * ((heads * p.headDim) / pb + PROLOGUE);
  };
  const counts = Array.from({ length: members }, (_, i) => i + 1).filter((n) => members % n === 0 && heldOf(n) === heldOf(1));
  return heldOf(1) === 0 ? null : counts.reduce((best, n) => (costOf(n) < costOf(best) ? n : best));
}

function sharedBytes(p: ReplayProblem, heads: number, pb: number, stages: number, unit: MatrixUnit, caps: Caps): number {
  const { dtype } = p.state;
  const rows = roundUp(p.length, unit.k);
  // of the state, the inputs in the ring, and what is carried for each row: this input and a gate
  const turn = operandBytes(pb, p.stateSize, dtype, caps) + operandBytes(rows, pb, dtype, caps) + 2 * bytesOf(1, pb, "f32");
  const own = bytesOf(unit.n, rows, dtype) + bytesOf(p.length + rows + 2, 1, "f32");
  const common = operandBytes(unit.n + rows, p.stateSize, dtype, caps) + bytesOf(1, p.stateSize, "f32") + bytesOf(p.length, 1, "f32");
  return stages * turn + heads * own + common + 2 * operandBytes(rows, pb, dtype, caps) + operandBytes(pb, SOME, dtype, caps);
}

function build(p: ReplayProblem, config: Config, caps: Caps): TileProgram {
  const { heads, pb, stages, groups } = config as StreamConfig;
  const { length, held, ring } = p;
  const { dtype } = p.state;
  const unit = halfUnit(dtype, caps)!;
  const members = p.heads / p.groups;
  const b = tileBuilder(p.frame, [p.heads / heads, 1, p.batch], [groups, 1]);
  const [batch, t] = [b.bz, i32(0)];
  const first = mul(b.bx, heads);
  const group = idiv(first, members);
  const rows = roundUp(length, unit.k);
  const isOwn = (j: Expr): Expr => eq(j, held);
  const there = (j: Expr): Expr => lt(j, held);

  // what the heads of a block have in common
  const input = (j: Expr, n: Expr): Expr =>
    select(isOwn(j), p.B(batch, t, group, n), guarded(elementOf(ring.B, batch, j, group, n), there(j)));
  const pieces = b.shared("pieces", unit.n, p.stateSize, dtype);
  b.load(pieces, (row, n) => pieceOf(p.C(batch, t, group, n), row, dtype));
  const steps = b.shared("steps", length, heads);
  b.load(steps, (j, h) => select(isOwn(j), p.dt(batch, t, add(first, h)), guarded(elementOf(ring.dt, batch, j, add(first, h)), there(j))));
  const products = b.frag("products", length, p.stateSize);
  b.map(products, (j, n) => mul(input(j, n), p.C(batch, t, group, n)));
  const matches = b.frag("matches", length, 1);
  b.rowReduce(matches, "sum", products);
  const scores = b.shared("scores", length, 1);
  b.stage(scores, matches);
  // row 0 is the state's, row j + 1 that of entry j; 0 for what fills up the hardware's tiles
  const decays = b.shared("decays", rows + 1, heads);
  b.load(decays, (row, h) =>
    select(
      lt(length, row),
      0,
      decayOf(p, (j) => at(steps, j, h), min(row, length), add(first, h)),
    ),
  );
  // of head h in rows unit.n * h and following
  const weights = b.shared("weights", heads * unit.n, rows, dtype);
  b.load(weights, (row, j) => {
    const weight = mul(at(scores, min(j, length - 1), 0), at(decays, add(j, 1), idiv(row, unit.n)));
    return pieceOf(weight, mod(row, unit.n), dtype);
  });
  const factors = b.shared("factors", rows, p.stateSize, dtype);
  b.load(factors, (j, n) => input(j, n));
  const latest = b.shared("latest", 1, p.stateSize);
  b.load(latest, (_, n) => p.B(batch, t, group, n));
  const direct = b.shared("direct", 1, heads);
  b.load(direct, (_, h) => add(mul(at(scores, held, 0), at(decays, add(held, 1), h)), p.D(add(first, h))));

  const parts = p.headDim / pb;
  const state = b.shared("state", pb, p.stateSize, dtype);
  const xs = b.shared("xs", rows, pb, ring.x.dtype);
  const y = b.frag("y", pb, unit.n);
  const sums = b.frag("sums", pb, 1);
  const [high, low] = [b.shared("high", rows, pb, dtype), b.shared("low", rows, pb, dtype)];
  const next = b.frag("next", pb, shareOut(p.stateSize / unit.k, SOME / unit.k) * unit.k);
  const stored = b.shared("stored", next.rows, next.cols, dtype);
  b.loop(
    "step",
    heads * parts,
    (step) => {
      const own = idiv(step, parts);
      const head = add(first, own);
      const dim = (row: Expr): Expr => add(mul(mod(step, parts), pb), row);
      const x = (row: Expr): Expr => p.x(batch, t, head, dim(row));
      const result = (row: Expr): Expr => add(at(sums, row, 0), mul(at(direct, 0, own), x(row)));
      const values = p.outs.map(
        (out) =>
          (row: Expr): Expr =>
            out.value([result(row)], batch, t, head, dim(row)),
      );
      b.load(state, (row, n) => elementOf(p.state, batch, head, dim(row), n));
      b.load(xs, (j, row) => guarded(elementOf(ring.x, batch, min(j, length - 1), head, dim(row)), there(j)));
      const carried = carry(b, [x, ...values], p, pb);

      b.fill(y, 0);
      b.mma(y, viewOf(state), viewOf(pieces, { transposed: true }), p.stateSize);
      b.map(y, (row, col) => mul(at(y, row, col), at(decays, 0, own)));
      b.mma(y, viewOf(xs, { transposed: true }), viewOf(weights, { row: mul(own, unit.n), transposed: true }), xs.rows);
      b.rowReduce(sums, "sum", y);
      for (const [i, out] of p.outs.entries())
        b.store(sums, {
          buffer: out.buffer,
          dtype: out.dtype,
          index: (row) => out.index(batch, t, head, dim(row)),
          value: (row) => carried(values[i]!(row), row),
        });
      b.store(sums, {
        buffer: ring.x.buffer,
        dtype: ring.x.dtype,
        index: (row) => ring.x.index(batch, held, head, dim(row)),
        value: (row) => carried(x(row), row),
      });
      b.when(eq(held, length - 1), () => {
        // each input by what it is multiplied by, in two pieces: the state keeps no more digits
        const scaled = (j: Expr, row: Expr): Expr => mul(at(decays, add(j, 1), own), at(xs, j, row));
        const now = (row: Expr): Expr => mul(at(decays, length, own), carried(x(row), row));
        b.load(high, scaled);
        b.load(low, (j, row) => sub(scaled(j, row), digitsOf(scaled(j, row), dtype)));
        b.loop("some", p.stateSize / next.cols, (some) => {
          const along = (n: Expr): Expr => add(mul(some, next.cols), n);
          b.map(next, (row, n) => add(mul(at(state, row, along(n)), at(decays, 0, own)), mul(now(row), at(latest, 0, along(n)))));
          for (const piece of [high, low]) b.mma(next, viewOf(piece, { transposed: true }), viewOf(factors, { col: along(i32(0)) }), rows);
          b.stage(stored, next);
          b.store(stored, {
            buffer: p.state.buffer,
            dtype,
            index: (row, n) => p.state.index(batch, head, dim(row), along(n)),
            value: (row, n) => at(stored, row, n),
          });
        });
      });
    },
    stages,
    true,
  );

  // this input's place in the ring
  b.store(steps, {
    buffer: ring.dt.buffer,
    dtype: ring.dt.dtype,
    index: (_, h) => ring.dt.index(batch, held, add(first, h)),
    value: (j, h) => at(steps, j, h),
    guard: isOwn,
  });
  b.when(eq(mod(first, members), 0), () =>
    b.store(factors, {
      buffer: ring.B.buffer,
      dtype: ring.B.dtype,
      index: (_, n) => ring.B.index(batch, held, group, n),
      value: (j, n) => at(factors, j, n),
      guard: isOwn,
    }),
  );
  return b.build();
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
