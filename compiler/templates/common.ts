import type { Caps, MatrixUnit } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { BYTES } from "../ir/dtype.ts";
import {
  add,
  and,
  binary,
  cast,
  constant,
  i32,
  idiv,
  isConst,
  load,
  lt,
  min,
  mod,
  mul,
  rangeOf,
  rewrite,
  select,
  sub,
} from "../ir/expr.ts";
import type { Expr, Operand } from "../ir/expr.ts";
import type { BinaryFn } from "../ir/operators.ts";
import { at } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { ReduceFn, Tile } from "../ir/tile.ts";
import { paddedRow } from "../lower/shared.ts";
import type { ProductWeight, Prologue } from "../template.ts";

// ---- edges ----------------------------------------------------------------------------------------------------------

/**
 * `value` where `inside` holds and `outside` elsewhere, for a value asked for at coordinates that may lie past an edge. `select` evaluates both
 * sides, so every load in it gets the condition as its guard. Coordinates stay linear in `row` and `col` (clamping would hide from `place`
 * that neighbours are adjacent in memory); clamp only what is the same for all columns.
 */
export function guarded(value: Expr, inside: Expr, outside = 0): Expr {
  if (isConst(inside, 1)) return value;
  const safe = rewrite(value, (x) =>
    x.op === "load" ? load(x.buffer, x.dtype, x.index, x.guard ? and(x.guard, inside) : inside) : undefined,
  );
  return select(inside, safe, constant(outside, value.dtype));
}

/** A coordinate that may run past the end, held at the last one: the value there is thrown away, and the memory exists. */
export const clamp = (e: Expr, count: Operand): Expr => min(e, typeof count === "number" ? i32(count - 1) : sub(count, 1));

export const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** Cuts `n` into equal pieces of at most about `target`, each a multiple of `unit`: a last piece that is nearly empty costs as much as a full one. */
export const evenly = (n: number, target: number, unit: number): number =>
  roundUp(Math.ceil(n / Math.ceil(n / Math.max(target, unit))), unit);

/** How many of `pieces` to take at a time, `most` at most: a number that divides them if one is not far below, so that none is missing in the end. */
export function shareOut(pieces: number, most: number): number {
  const limit = Math.max(1, Math.min(pieces, Math.floor(most)));
  for (let n = limit; n > limit / 2; n--) if (pieces % n === 0) return n;
  return limit;
}

// ---- targets --------------------------------------------------------------------------------------------------------

/** Bytes of the caches that a vector target's tiles are sized for: small enough for any core of the last ten years. */
export const L1 = 32 * 1024;
export const L2 = 512 * 1024;

export const unitOf = (caps: Caps): MatrixUnit => caps.units[0]!;

/** The first unit and those that differ from it in size only, largest tile first. */
export const unitsOf = (caps: Caps): readonly MatrixUnit[] =>
  caps.units.filter((u) => u.k === unitOf(caps).k && u.inputs.join() === unitOf(caps).inputs.join());

/** The one of them with the smallest tile: what sizes are rounded up to. `place` takes the largest that divides them. */
export const leastUnit = (caps: Caps): MatrixUnit => unitsOf(caps).at(-1)!;

/**
 * Values that a lane should hold, for a target whose loops over registers are written out: `most`, and fewer where subgroups are narrow. Those are CPUs, whose
 * compilers take seconds for long kernels and gain nothing by them.
 */
export const laneRegisters = (caps: Caps, most: number): number => (caps.lanes < 16 ? most / 4 : most);

/** Accumulators a lane should have: `most` where the hardware multiplies, fewer where lanes do and hold the operands too. */
export const mostRegisters = (caps: Caps, most: number): number =>
  Math.min(caps.accumulators ?? Infinity, laneRegisters(caps, unitOf(caps).block[0] > 1 ? most / 2 : most));

/** Those of `found` that keep to a number of registers, or what comes nearest. */
export function withinRegisters<C extends { readonly registers: number }>(found: readonly C[], most: number): readonly C[] {
  const least = Math.min(...found.map((c) => c.registers));
  return found.filter((c) => c.registers <= Math.max(least, most));
}

/** The hardware for matrices of `dtype` that takes no wider type: operands that lie in memory in it are multiplied as they are. */
export const halfUnits = (dtype: DType, caps: Caps): readonly MatrixUnit[] =>
  dtype === "f32" ? [] : caps.units.filter((u) => u.inputs.includes(dtype) && !u.inputs.includes("f32"));

/** Such hardware that a warp uses by itself. */
export const halfUnit = (dtype: DType, caps: Caps): MatrixUnit | null =>
  halfUnits(dtype, caps).find(({ lanes }) => lanes === caps.lanes) ?? null;

/** A target whose unit is a vector FMA: b needs adjacent columns, a is read as single elements, both from anywhere in memory. */
export const isVector = (caps: Caps): boolean => unitOf(caps).m === 1 && unitOf(caps).k === 1 && caps.directOperands;

/** What operands are staged as: f32 if the unit takes it, otherwise the weight's own type, otherwise whatever the unit likes best. */
export const stageType = (unit: MatrixUnit, stored: DType): DType => {
  if (unit.inputs.includes("f32")) return "f32";
  return unit.inputs.includes(stored) ? stored : unit.inputs[0]!;
};

/** Bytes of shared memory that the system takes of each block beside its own (CUDA programming guide, compute capability 8.0 and later). */
const RESERVED = 1024;

/** Blocks of so many bytes of shared memory that a multiprocessor holds at a time: it has what one block can have, and what the system takes of that. */
export const blocksHeld = (bytes: number, caps: Caps): number => Math.floor((caps.sharedBytes + RESERVED) / (bytes + RESERVED));

/** Grids want a few blocks a worker, so that the last ones to finish do not leave the others idle. */
export const enoughBlocks = (caps: Caps): number => 4 * caps.workers;

/** The largest value that an expression over symbols can have; unbounded symbols count as `most`. */
export const largest = (e: Expr, most: number): number => Math.min(rangeOf(e).max, most);

// ---- weights --------------------------------------------------------------------------------------------------------

export type Weight = ProductWeight;

/** Where element (n, k) of a [N, K] weight lies. */
export const weightIndex = (w: Weight, k: number, n: Expr, at: Expr): Expr =>
  w.panel === 0 ? add(mul(w.rows?.(n) ?? n, k), at) : add(add(mul(idiv(n, w.panel), k * w.panel), mul(at, w.panel)), mod(n, w.panel));

export const weightAt = (w: Weight, k: number, n: Expr, at: Expr): Expr => cast(load(w.buffer, w.dtype, weightIndex(w, k, n, at)), "f32");

// ---- row statistics ---------------------------------------------------------------------------------------------------

export const COMBINE: Readonly<Record<ReduceFn, BinaryFn>> = { sum: "add", max: "max", min: "min" };

/** What a reduction starts from. */
export const identity = (fn: ReduceFn, dtype: DType): number =>
  fn === "sum" ? 0 : dtype === "i32" ? (fn === "max" ? -(2 ** 31) : 2 ** 31 - 1) : fn === "max" ? -Infinity : Infinity;

/**
 * Reduces a prologue's statistic over k for `rows` rows, into a shared column. Lanes run along k and keep a partial result each; one
 * reduction across lanes ends it.
 */
export function rowStat(
  b: TileBuilder,
  stat: NonNullable<Prologue["stat"]>,
  rows: number,
  rowAt: (row: Expr) => Expr,
  k: number,
  width: number,
): Tile {
  const partial = b.frag("stat_part", rows, width);
  const total = b.frag("stat_row", rows, 1);
  const out = b.shared("stat", rows, 1);
  const none = identity(stat.fn, "f32");
  b.fill(partial, none);
  b.loop("ks", Math.ceil(k / width), (ks) => {
    b.map(partial, (row, col) => {
      const at_k = add(mul(ks, width), col);
      const value = guarded(stat.value(rowAt(row), at_k), lt(at_k, k), none);
      return binary(COMBINE[stat.fn], at(partial, row, col), value);
    });
  });
  b.rowReduce(total, stat.fn, partial);
  b.stage(out, total);
  return out;
}

/** Columns of the partial results of `rowStat`: some vectors of a row at a time where a lane is a vector element, so that cache lines are used up. */
export const statWidth = (caps: Caps, k: number): number => Math.min(isVector(caps) ? 4 * caps.lanes : caps.lanes, roundUp(k, caps.lanes));

export const bytesOf = (rows: number, cols: number, dtype: DType): number => rows * cols * BYTES[dtype];

/** Bytes of a tile that a matrix unit reads, with the gaps between its rows. */
export const operandBytes = (rows: number, cols: number, dtype: DType, caps: Caps): number =>
  rows * paddedRow(cols, dtype, caps) * BYTES[dtype];
