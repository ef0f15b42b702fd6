import type { Caps, MatrixUnit } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import type { DType } from "../ir/dtype.ts";
import { add, and, ceilDiv, cast, i32, intVar, lt, mul } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileProgram } from "../ir/tile.ts";
import { plainLoad } from "../lower/copy.ts";
import type { Config, GemmProblem, ProductOut, Reject, Template } from "../template.ts";
import { guarded, halfUnit, isVector, largest, operandBytes, roundUp, weightAt } from "./common.ts";
import { storeOuts } from "./product-outs.ts";

/**
 * out = a * wᵀ where hardware copies both operands to shared memory while matrices are multiplied: weights of 16 bits, and a left operand that lies in memory as
 * the unit takes it. A block owns `bm` rows and `bn` columns and walks along k, or its part of it, through a ring of `stages` steps of `kc`.
 *
 * With few rows what counts is that weights come from memory without a break: one block for every worker, with as many bytes on the way as shared memory holds, in
 * as few waves as possible (measured on an H200: 256 bytes of each row at a time, in 3 to 6 stages). The left operand comes from the cache once for every block, so
 * that wide blocks, and with them parts of k, pay as soon as there are more than a few rows.
 */
export const gemmStream: Template<GemmProblem> = { name: "gemm-stream", configs, build };

interface StreamConfig extends Config {
  readonly bm: number;
  readonly bn: number;
  readonly kc: number;
  readonly stages: number;
  readonly groupRows: number;
  readonly groupCols: number;
}

/** What a product is like for the choice of a tile. */
export interface ProductShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Weights that share the left operand, and what they are stored as. */
  readonly weights: number;
  readonly dtype: DType;
}

const STAGES = { least: 3, most: 6 };
const WARPS = [8, 7, 6, 4];
/** Accumulators of a lane. */
const MOST_REGISTERS = 128;
/** Columns of a tile, of each weight: from here on the left operand's bytes are few beside the weights', and parts of k cost more than they save. */
const MOST_COLUMNS = 192;
/** Shared memory that is left to whatever else a block holds. */
const SPARE_BYTES = 1024;

/**
 * What a multiprocessor does in one of its cycles, of an H200: bytes that it gets from memory while all others do too, bytes that it gets from the cache, and
 * multiply-adds of its matrix hardware. What a wave of blocks costs beside that, in cycles; and a kernel more, which adding up parts is at most (where a norm reads
 * them, it is none: then only their bytes count, which changes hardly a choice).
 */
const RATES = { memory: 19, cache: 24, products: 500, wave: 1800, kernel: 3500 };

/** Elements along k that a block could have had while it meets. */
const STEP = 10;

/** Cycles that a product takes with a tile. */
function cyclesOf(
  { m, n, k, weights, dtype }: ProductShape,
  { bm, bn, kc }: Pick<StreamConfig, "bm" | "bn" | "kc">,
  parts: number,
  caps: Caps,
): number {
  const down = Math.ceil(m / bm);
  const blocks = down * Math.ceil(n / bn) * parts;
  const waves = Math.ceil(blocks / caps.workers);
  const bytes = BYTES[dtype];
  // of several blocks with the same weights one gets them from memory
  const weightBytes = weights * bn * bytes * (1 / down / RATES.memory + (1 - 1 / down) / RATES.cache);
  const step = Math.max(weightBytes + (bm * bytes) / RATES.cache, (weights * bm * bn) / RATES.products);
  // blocks meet once a step
  const meeting = 1 + STEP / kc;
  const sums = parts > 1 ? RATES.kernel + (2 * 4 * parts * m * n) / caps.workers / RATES.cache : 0;
  return waves * ((step * k * meeting) / parts + RATES.wave) + sums;
}

/** Into how many parts of k a product is best cut, 1 for none. */
export function partsOfProduct(shape: ProductShape, caps: Caps): number {
  const unit = halfUnit(shape.dtype, caps);
  if (!unit || !streams(shape, caps)) return 1;
  const costs = [1, 2, 4, 8].flatMap((parts) => {
    const best = tilesOf(shape, parts, unit, caps)[0];
    return best ? [{ parts, cycles: cyclesOf(shape, best, parts, caps) }] : [];
  });
  return costs.sort((a, b) => a.cycles - b.cycles)[0]?.parts ?? 1;
}

/** Whether hardware can copy and multiply operands of a product's size. */
export const streams = ({ k, dtype }: Pick<ProductShape, "k" | "dtype">, caps: Caps): boolean =>
  caps.asyncCopy && !isVector(caps) && halfUnit(dtype, caps) !== null && k % (caps.vectorBytes / BYTES[dtype]) === 0;

/** The tiles that fit, best first. */
function tilesOf(shape: ProductShape, parts: number, unit: MatrixUnit, caps: Caps): readonly StreamConfig[] {
  const { m, n, k, weights, dtype } = shape;
  const found: { readonly config: StreamConfig; readonly cycles: number; readonly loads: number }[] = [];
  for (const warps of WARPS.filter((w) => w * caps.lanes <= caps.maxThreads))
    for (const groupRows of [1, 2, 4].filter((g) => warps % g === 0))
      for (const down of [1, 2, 4])
        for (
          let across = 1;
          across * down * unit.elems * weights <= MOST_REGISTERS && unit.n * across * (warps / groupRows) <= MOST_COLUMNS;
          across++
        ) {
          const groupCols = warps / groupRows;
          const [bm, bn] = [unit.m * groupRows * down, unit.n * groupCols * across];
          if ((bm >= m + unit.m && bm > unit.m) || (bn >= 2 * n && across > 1)) continue;
          const depth = depthOf(shape, parts, bm, bn, unit, caps);
          if (!depth) continue;
          const config = { bm, bn, ...depth, groupRows, groupCols };
          // of tiles that cost the same, the one whose warps read least from shared memory
          const loads = (down * unit.m + weights * across * unit.n) / (down * across * warps);
          found.push({ config, cycles: cyclesOf({ m, n, k, weights, dtype }, config, parts, caps), loads });
        }
  return found.sort((a, b) => a.cycles - b.cycles || a.loads - b.loads).map((f) => f.config);
}

/** How long the steps along k are, and how many are in shared memory: 256 bytes of a row where three or more of them fit. */
function depthOf(
  { k, weights, dtype }: ProductShape,
  parts: number,
  bm: number,
  bn: number,
  unit: MatrixUnit,
  caps: Caps,
): Pick<StreamConfig, "kc" | "stages"> | null {
  for (const bytes of [256, 128, 64]) {
    const kc = Math.min(bytes / BYTES[dtype], roundUp(k, unit.k));
    const step = operandBytes(bm + weights * bn, kc, dtype, caps);
    const fit = Math.floor((caps.sharedBytes - SPARE_BYTES) / step);
    // more stages than steps would hold nothing
    const stages = Math.min(STAGES.most, Math.max(STAGES.least, Math.ceil(k / kc / parts)));
    if (kc % unit.k === 0 && (parts === 1 || k % (kc * parts) === 0) && fit >= STAGES.least) return { kc, stages: Math.min(stages, fit) };
  }
  return null;
}

function configs(p: GemmProblem, caps: Caps): readonly StreamConfig[] | Reject {
  const { dtype } = p.weights[0]!;
  if (!caps.asyncCopy || isVector(caps)) return { reject: `${caps.name} copies nothing by itself` };
  const unit = halfUnit(dtype, caps);
  if (!unit) return { reject: `${caps.name} has no hardware for matrices of ${dtype} alone` };
  if (p.weights.some((w) => w.panel !== 0 || w.dtype !== dtype)) return { reject: "weights in panels, or of several types" };
  const [row, depth] = [intVar("row"), intVar("k")];
  if (p.a.stat || !plainLoad(cast(p.a.value(row, depth, null), dtype), dtype))
    return { reject: `the left operand does not lie in memory in ${dtype}` };
  if (!streams({ k: p.k, dtype }, caps)) return { reject: `rows of ${p.k} elements of ${dtype} are not whole vectors` };
  const shape = { m: largest(p.m, 1 << 20), n: p.n, k: p.k, weights: p.weights.length, dtype };
  const found = tilesOf(shape, p.parts?.count ?? 1, unit, caps);
  return found.length > 0 ? found.slice(0, 6) : { reject: `no ring of ${STAGES.least} stages fits the shared memory of ${caps.name}` };
}

function build(p: GemmProblem, config: Config): TileProgram {
  const { bm, bn, kc, stages, groupRows, groupCols } = config as StreamConfig;
  const { dtype } = p.weights[0]!;
  const parts = p.parts?.count ?? 1;
  const b = tileBuilder(p.frame, [parts, ceilDiv(p.m, bm), Math.ceil(p.n / bn)], [groupRows, groupCols]);
  const steps = Math.ceil(p.k / kc / parts);
  const [down, first] = [mul(b.by, bm), mul(b.bz, bn)];
  const a = b.shared("a", bm, kc, dtype);
  const w = p.weights.map((_, i) => b.shared(`w${i}`, bn, kc, dtype));
  const acc = p.weights.map((_, i) => b.frag(`acc${i}`, bm, bn));
  for (const t of acc) b.fill(t, 0);
  b.loop(
    "step",
    steps,
    (step) => {
      const from = mul(parts > 1 ? add(mul(b.bx, steps), step) : step, kc);
      const k = (col: Expr): Expr => add(from, col);
      for (const [i, tile] of w.entries())
        b.load(tile, (row, col) => {
          const column = add(first, row);
          return guarded(weightAt(p.weights[i]!, p.k, column, k(col)), and(lt(column, p.n), lt(k(col), p.k)));
        });
      // rows beyond the last one are zeros: read in place of them, one row would come from the same place of the cache for all of them and for all blocks
      b.load(a, (row, col) => {
        const r = add(down, row);
        return guarded(p.a.value(r, k(col), null), and(lt(r, p.m), lt(k(col), p.k)));
      });
      for (const [i, tile] of acc.entries()) b.mma(tile, viewOf(a), viewOf(w[i]!, { transposed: true }), i32(kc));
    },
    stages,
  );

  const place = (row: Expr, col: Expr): [Expr, Expr] => [add(down, row), add(first, col)];
  const hasRow = (row: Expr): Expr => lt(row, p.m);
  const sums = (row: Expr, col: Expr): Expr[] => acc.map((t) => at(t, row, col));
  if (p.parts) {
    const { buffer, index } = p.parts;
    b.store(acc[0]!, {
      buffer,
      dtype: "f32",
      index: (row, col) => index(b.bx, ...place(row, col)),
      value: (row, col) => at(acc[0]!, row, col),
      guard: (row, col) => and(hasRow(add(down, row)), lt(add(first, col), p.n)),
    });
  } else {
    const value = (out: ProductOut, row: Expr, col: Expr): Expr => out.value(sums(row, col), ...place(row, col));
    storeOuts(b, p, { over: acc[0]!, place, first, width: bn, value, hasRow });
  }
  return b.build();
}
