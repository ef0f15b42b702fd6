import type { Caps, MatrixUnit } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import type { DType } from "../ir/dtype.ts";
import { productsAtOnce } from "../lower/beside.ts";
import type { Config } from "../template.ts";
import { bytesOf, halfUnits, isVector, operandBytes, roundUp } from "./common.ts";

/** The tile of a product that streams both operands (gemm-stream.ts), and how many parts k is cut into: chosen by a model of cycles. */
export interface StreamConfig extends Config {
  readonly bm: number;
  readonly bn: number;
  readonly kc: number;
  readonly stages: number;
  readonly groupRows: number;
  readonly groupCols: number;
  /** Warps of a group, where that is not one. */
  readonly groupWarps?: number;
}

/** What a product is like for the choice of a tile. */
export interface ProductShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Weights that share the left operand, and what they are stored as. */
  readonly weights: number;
  readonly dtype: DType;
  /** Whether the best column of each row is looked for. */
  readonly best?: boolean;
  /** Whether two weights are rows of one in turns (ProductWeight.rows): results are then pairs of columns, rotated. */
  readonly pairs?: boolean;
}

/** Steps along k that are in shared memory. */
export const STAGES = { least: 3, most: 6 };
/** Shared memory that is left to whatever else a block holds. */
const SPARE_BYTES = 1024;

/**
 * What a multiprocessor does in a cycle of 1.7 GHz: bytes that it gets from memory while all others do too, bytes that it gets from the cache, bytes of shared memory,
 * and bytes of sums that it stores. Fitted, as what follows, to an H200: to some 700 tiles of the products of a Bamba of 9.78 billion parameters with 16 to 2048 rows
 * (docs/benchmarks.md). That clock is the model's own: an H200's is 1.98 GHz, and lower while it multiplies most. Of what passes through shared memory, at 128 bytes a
 * cycle, more than half hides behind products.
 */
const RATES = { memory: 21.5, cache: 80, shared: 300, store: 13 };

/**
 * Cycles that are lost: in a step, whose end the block's warps await; before the first step of a block; in each turn of a warp that awaits its operands and then its
 * products; and by who reads parts and adds them up.
 */
const LOST = { step: 55, block: 1000, turn: 32, sums: 1000 };

/** Parts of a multiprocessor: each has warps, and hardware for matrices, of its own. */
const QUARTERS = 4;

/** A kind of hardware that multiplies tiles, and the tiles that suit it. */
interface Kind {
  /** Multiply-adds of a multiprocessor in one cycle. */
  readonly products: number;
  /** Warps of a block, and accumulators that a lane of it may have: fewer where results are rotated pairs, which take more registers. */
  readonly blocks: readonly { readonly warps: number; readonly registers: number; readonly paired: number }[];
  /** Columns of a tile, of each weight. */
  readonly columns: number;
  /** Groups of a block along its rows, and tiles of the unit that each of them has there. */
  readonly groupRows: readonly number[];
  readonly down: readonly number[];
  /** Bytes along k of a step. */
  readonly depths: readonly number[];
}

/**
 * A warp by itself: from 192 columns on the left operand's bytes are few beside the weights', and parts of k cost more than they save. 256 bytes of each row at a
 * time were best on an H200.
 */
const WARPS: Kind = {
  products: 1550,
  blocks: [8, 7, 6, 4].map((warps) => ({ warps, registers: 128, paired: 128 })),
  columns: 192,
  groupRows: [1, 2, 4],
  down: [1, 2, 4],
  depths: [256, 128, 64],
};

/**
 * Several warps together, which do not wait for what they multiply (wgmma), so that hardware does all it can. A lane has as many registers as a block's lanes leave it; rotated
 * pairs of heads took some 2.3 of them for each accumulator (ptxas 13.0).
 */
const GROUPS: Kind = {
  products: 2400,
  blocks: [
    { warps: 8, registers: 160, paired: 96 },
    { warps: 12, registers: 112, paired: 64 },
    { warps: 16, registers: 64, paired: 32 },
    { warps: 4, registers: 128, paired: 72 },
  ],
  columns: 256,
  groupRows: [1, 2, 3, 4],
  down: [1, 2, 4],
  depths: [128],
};

/** Warps that use a unit together. */
const warpsOf = (unit: MatrixUnit, caps: Caps): number => unit.lanes / caps.lanes;

const kindOf = (unit: MatrixUnit, caps: Caps): Kind => (warpsOf(unit, caps) > 1 ? GROUPS : WARPS);

/** A tile, and how a unit computes it. */
interface Candidate {
  readonly unit: MatrixUnit;
  readonly config: StreamConfig;
  readonly down: number;
  readonly across: number;
}

/** Cycles that a product takes with a tile: copies of a step and products of the one before go on together, all but the first copies and the last products. */
function cyclesOf(shape: ProductShape, candidate: Candidate, parts: number, caps: Caps): number {
  const { m, n, k } = shape;
  const { bm, bn, kc } = candidate.config;
  const waves = Math.ceil((Math.ceil(m / bm) * Math.ceil(n / bn) * parts) / caps.workers);
  const [copies, products] = [kc * copying(shape, candidate), kc * multiplying(shape, candidate, caps)];
  const steps = Math.ceil(k / kc / parts) * (Math.max(copies, products) + LOST.step) + Math.min(copies, products);
  const block = LOST.block + steps + bytesOf(bm, bn, "f32") / RATES.store;
  const sums = parts > 1 ? LOST.sums + bytesOf(parts * m, n, "f32") / caps.workers / RATES.memory : 0;
  return waves * block + sums;
}

/** Cycles in which what one element along k takes comes: of several blocks with the same weights one gets them from memory. */
function copying({ m, weights, dtype }: ProductShape, { config: { bm, bn } }: Candidate): number {
  const down = Math.ceil(m / bm);
  return BYTES[dtype] * (weights * bn * (1 / down / RATES.memory + (1 - 1 / down) / RATES.cache) + bm / RATES.cache);
}

/**
 * Cycles that the products of one element along k take: the hardware's own, whose quarters may have unequally many warps, and those of operands that pass through shared
 * memory. Warps by themselves then wait in each turn; groups have products under way meanwhile, and wait where those are fewer than fill a turn.
 */
function multiplying({ weights, dtype }: ProductShape, candidate: Candidate, caps: Caps): number {
  const { unit, config } = candidate;
  const { bm, bn, groupRows, groupCols } = config;
  const warps = groupRows * groupCols * warpsOf(unit, caps);
  const idle = roundUp(warps, QUARTERS) / warps;
  const own = (idle * weights * bm * bn) / kindOf(unit, caps).products;
  const busy = own + (linesOf(weights, candidate) * BYTES[dtype]) / RATES.shared;
  const turn = LOST.turn / unit.k;
  return unit.asynchronous ? Math.max(busy, turn) : busy + turn;
}

/**
 * Rows and columns of operands that pass through shared memory for one element along k: copies write them once, and each warp, or instruction of several warps, reads
 * its own. An asynchronous unit reads the rows again for each of its tiles, but once for weights that it multiplies at once, and a warp keeps them.
 */
function linesOf(weights: number, { unit, config, down, across }: Candidate): number {
  const { bm, bn, groupRows, groupCols } = config;
  const columns = weights * across * unit.n;
  const times = Math.ceil(weights / productsAtOnce(unit, across * unit.n, groupCols));
  const read = unit.asynchronous ? down * (times * unit.m + columns) : down * unit.m + columns;
  return bm + weights * bn + groupRows * groupCols * read;
}

/** Of tiles that cost the same, the one that moves least through shared memory is best. */
const loadsOf = (weights: number, candidate: Candidate): number =>
  linesOf(weights, candidate) / (candidate.config.bm * candidate.config.bn);

/** Whether hardware can copy and multiply operands of a product's size. */
export const streams = ({ k, dtype }: Pick<ProductShape, "k" | "dtype">, caps: Caps): boolean =>
  caps.asyncCopy && !isVector(caps) && halfUnits(dtype, caps).length > 0 && k % (caps.vectorBytes / BYTES[dtype]) === 0;

/** Into how many parts of k a product is best cut, 1 for none. */
export function partsOfProduct(shape: ProductShape, caps: Caps): number {
  if (!streams(shape, caps)) return 1;
  const costs = [1, 2, 4, 8].flatMap((parts) => tilesOf(shape, parts, caps).slice(0, 1).map(({ cycles }) => ({ parts, cycles }))); // prettier-ignore
  return costs.sort((a, b) => a.cycles - b.cycles)[0]?.parts ?? 1;
}

/** The tiles that fit, best first. */
export function tilesOf(
  shape: ProductShape,
  parts: number,
  caps: Caps,
): readonly { readonly config: StreamConfig; readonly cycles: number }[] {
  return halfUnits(shape.dtype, caps)
    .flatMap((unit) => candidatesOf(shape, parts, unit, caps))
    .map((c) => ({ config: c.config, cycles: cyclesOf(shape, c, parts, caps), loads: loadsOf(shape.weights, c) }))
    .sort((a, b) => a.cycles - b.cycles || a.loads - b.loads);
}

function candidatesOf(shape: ProductShape, parts: number, unit: MatrixUnit, caps: Caps): readonly Candidate[] {
  const { m, n, weights } = shape;
  const kind = kindOf(unit, caps);
  const found: Candidate[] = [];
  const groupWarps = warpsOf(unit, caps);
  const together = groupWarps > 1 ? { groupWarps } : {};
  for (const { warps, registers, paired } of kind.blocks.filter((b) => b.warps * caps.lanes <= caps.maxThreads)) {
    const groups = warps / groupWarps;
    for (const groupRows of kind.groupRows.filter((g) => groups % g === 0))
      for (const down of kind.down) {
        const groupCols = groups / groupRows;
        const sums = shape.pairs ? paired : registers;
        const most = Math.min(sums / (down * unit.elems * weights), kind.columns / (unit.n * groupCols));
        for (let across = 1; across <= most; across++) {
          const [bm, bn] = [unit.m * groupRows * down, unit.n * groupCols * across];
          if ((bm >= m + unit.m && bm > unit.m) || (bn >= 2 * n && across > 1)) continue;
          // groups along a row meet twice to find the best of their columns
          const spare = SPARE_BYTES + (shape.best && groupCols > 1 ? 2 * bytesOf(groupCols, bm, "f32") : 0);
          const depth = depthOf(shape, parts, bm, bn, unit, spare, caps);
          if (depth) found.push({ unit, config: { bm, bn, ...depth, groupRows, groupCols, ...together }, down, across });
        }
      }
  }
  return found;
}

/** How long the steps along k are, and how many are in shared memory: the longest of which three or more fit. */
function depthOf(
  { k, weights, dtype }: ProductShape,
  parts: number,
  bm: number,
  bn: number,
  unit: MatrixUnit,
  spare: number,
  caps: Caps,
): Pick<StreamConfig, "kc" | "stages"> | null {
  for (const bytes of kindOf(unit, caps).depths) {
    // a unit that knows rows by their addresses takes whole ones
    const kc = unit.asynchronous ? bytes / BYTES[dtype] : Math.min(bytes / BYTES[dtype], roundUp(k, unit.k));
    const step = operandBytes(bm + weights * bn, kc, dtype, caps);
    const fit = Math.floor((caps.sharedBytes - spare) / step);
    // more stages than steps would hold nothing
    const stages = Math.min(STAGES.most, Math.max(STAGES.least, Math.ceil(k / kc / parts)));
    if (kc % unit.k === 0 && (parts === 1 || k % (kc * parts) === 0) && fit >= STAGES.least) return { kc, stages: Math.min(stages, fit) };
  }
  return null;
}
