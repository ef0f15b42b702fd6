import type { Caps, MatrixUnit } from "../backend.ts";
import { TRUE, add, and, ceilDiv, i32, lt, min, mul, sub } from "../ir/expr.ts";
import type { DType } from "../ir/dtype.ts";
import type { Expr } from "../ir/expr.ts";
import { at, bufferView, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { Tile, TileProgram, View } from "../ir/tile.ts";
import type { Config, GemmProblem, ProductOut, Reject, Template } from "../template.ts";
import {
  bytesOf,
  clamp,
  enoughBlocks,
  evenly,
  guarded,
  isVector,
  L1,
  L2,
  largest,
  leastUnit,
  mostRegisters,
  operandBytes,
  roundUp,
  rowStat,
  shareOut,
  stageType,
  statWidth,
  unitOf,
  unitsOf,
  weightAt,
} from "./common.ts";
import { storeOuts } from "./product-outs.ts";

/**
 * out = a * wᵀ for many rows. A block owns `bm` rows and `bn` columns and walks along k in steps of `kc`: it stages a's step, with the
 * prologue applied, then for every piece of its columns stages the weight's step (or reads it in place: `direct`) and multiplies.
 * On a target with packed weights a piece is one panel; elsewhere the whole of `bn` is one piece.
 */
export const gemm: Template<GemmProblem> = { name: "gemm", configs, build };

interface GemmConfig extends Config {
  readonly bm: number;
  readonly bn: number;
  readonly kc: number;
  /** 1: weights are read by the unit where they lie. */
  readonly direct: number;
  readonly stages: number;
  readonly groupRows: number;
  readonly groupCols: number;
  /** Which of the target's units the tiles are staged for. */
  readonly unit: number;
}

function configs(p: GemmProblem, caps: Caps): readonly GemmConfig[] | Reject {
  const found = isVector(caps) ? vectorConfigs(p, caps) : tiledConfigs(p, caps);
  return found.length > 0 ? found : { reject: `no tile of ${caps.name} fits a gemm with ${p.weights.length} weights` };
}

/** Columns of one weight tile: a panel, or as many as the unit's register block holds. */
function pieceOf(p: GemmProblem, caps: Caps, bn: number): number {
  const unit = unitOf(caps);
  if (!isVector(caps)) return bn;
  const panel = p.weights[0]!.panel;
  return panel > 0 && panel % unit.n === 0 && p.weights.every((w) => w.panel === panel) ? panel : unit.n * unit.block[1];
}

/**
 * A core keeps a weight step (kc x piece) in most of L1 while all rows pass over it, and its a step and accumulators in half of L2. More columns a block
 * stage `a` less often, more rows convert weights less often; 256 and 192 make each a percent or two of the arithmetic.
 */
function vectorConfigs(p: GemmProblem, caps: Caps): GemmConfig[] {
  const unit = unitOf(caps);
  const mr = unit.block[0];
  const piece = pieceOf(p, caps, 0);
  const pieces = Math.ceil(p.n / piece);
  const m = largest(p.m, 1 << 20);
  const kc = unit.n * shareOut(Math.ceil(p.k / unit.n), (0.75 * L1) / (4 * piece) / unit.n);
  const most = Math.max(1, Math.floor(8 / p.weights.length)); // each piece of each weight is a statement of its own: bounds the text
  const wide = shareOut(pieces, Math.min(most, Math.max(1, Math.ceil(256 / piece))));
  const tall = Math.min(192, Math.floor(L2 / 2 / (4 * (kc + p.weights.length * wide * piece))));
  const inPlace = caps.directOperands && p.weights.every((w) => w.panel === piece);
  const config = (rows: number, per: number, direct: boolean): GemmConfig => ({
    bm: Math.min(m, evenly(m, Math.max(mr, rows), mr)),
    bn: per * piece,
    kc,
    direct: direct ? 1 : 0,
    stages: 1,
    groupRows: 1,
    groupCols: 1,
    unit: 0,
  });
  // a weight in f32 has nothing to convert, and a few rows have nothing to convert it for
  const direct = inPlace && (m <= 2 * mr || p.weights.every((w) => w.dtype === "f32"));
  const blocks = (c: GemmConfig): number => Math.ceil(m / c.bm) * Math.ceil(p.n / c.bn);
  const sizes = [config(tall, wide, direct), config(tall, shareOut(pieces, wide / 2), direct), config(tall / 2, wide, direct)];
  sizes.push(config(tall / 2, shareOut(pieces, wide / 2), direct), config(mr * 2, 1, direct), config(tall, wide, inPlace && !direct));
  const unique = sizes.filter((c, i) => sizes.findIndex((d) => same(c, d)) === i);
  return [...unique.filter((c) => blocks(c) >= enoughBlocks(caps)), ...unique.filter((c) => blocks(c) < enoughBlocks(caps))];
}

const same = (a: Config, b: Config): boolean => Object.entries(a).every(([key, value]) => b[key] === value);

/** Units for matrices of the very type that the weights are stored in, where the target's first do not take it: what is staged for them is not rounded. */
const exactUnits = (p: GemmProblem, caps: Caps): readonly MatrixUnit[] => {
  const { dtype } = p.weights[0]!;
  const others = caps.units.filter((u) => u.lanes === caps.lanes && !unitsOf(caps).includes(u) && u.inputs.includes(dtype));
  return p.weights.every((w) => w.dtype === dtype) && unitOf(caps).inputs.includes("f32") && dtype !== "f32"
    ? others.filter((u) => !u.inputs.includes("f32"))
    : [];
};

/** Threads with all their registers that a GPU's multiprocessor has room for: two warps for each of four schedulers. */
const RESIDENT = 256;

/** The share of the device's lanes that blocks of `threads` keep at work, from the first wave to the end of the last. */
function atWork(blocks: number, threads: number, { workers }: Caps): number {
  const waves = Math.ceil(blocks / (workers * Math.max(1, Math.floor(RESIDENT / threads))));
  return (blocks * threads) / (waves * workers * Math.max(RESIDENT, threads));
}

/** Warps in a block of shared memory: the widest tile that fits, unless the grid would then leave workers idle. */
function tiledConfigs(p: GemmProblem, caps: Caps): GemmConfig[] {
  const found: { readonly config: GemmConfig; readonly worth: number }[] = [];
  const m = largest(p.m, 1 << 20);
  // with asynchronous copies two tiles at a time are in shared memory, without them the second waits in registers
  const copies = caps.asyncCopy ? 2 : 1;
  for (const unit of [...unitsOf(caps), ...exactUnits(p, caps)]) {
    const dtype = stageType(unit, p.weights[0]!.dtype);
    const exact = !unitsOf(caps).includes(unit);
    for (const groupRows of [4, 2, 1])
      for (const groupCols of p.a.stat ? [1] : [2, 1])
        // of two tiles as good as each other the wider one: a lane holds its rows of the left operand while it goes from column to column
        for (const right of [8, 4, 2, 1])
          for (const down of [4, 2, 1])
            for (const [depth, direct] of depthsOf(unit, caps)) {
              const bm = unit.m * groupRows * down,
                bn = unit.n * groupCols * right;
              const kc = Math.min(roundUp(depth, unit.k), roundUp(p.k, unit.k));
              if (direct && !readsInPlace(p, bn, kc, dtype)) continue;
              const operands = operandBytes(bm, kc, dtype, caps) + (direct ? 0 : p.weights.length * operandBytes(bn, kc, dtype, caps));
              const exchange = groupRows * groupCols * (unit.exchangeBytes ?? 0);
              const shared = copies * operands + (p.a.stat ? bytesOf(bm, 1, "f32") : 0) + exchange;
              const registers = down * right * unit.elems * p.weights.length;
              const threads = groupRows * groupCols * caps.lanes;
              // where lanes multiply, 8 x 16 elements each are best: all the registers that one block of 256 leaves them
              const most = unit.block[0] > 1 ? mostRegisters(caps, 256) : mostRegisters(caps, 128);
              if (shared > caps.sharedBytes || registers > most || threads > caps.maxThreads) continue;
              if ((bm >= 2 * m && bm > leastUnit(caps).m) || (bn >= 2 * p.n && bn > leastUnit(caps).n)) continue;
              // a step of more columns waits less often for the block to meet
              const blocks = Math.ceil(m / bm) * Math.ceil(p.n / bn);
              const reuse = (bm * bn) / (bm + p.weights.length * bn);
              found.push({
                config: { bm, bn, kc, direct: direct ? 1 : 0, stages: 2, groupRows, groupCols, unit: exact ? caps.units.indexOf(unit) : 0 },
                // hardware for matrices is several times faster than lanes
                worth: atWork(blocks, threads, caps) * reuse * (kc / (kc + 8)) * (1 + registers / 1000) * (exact ? 4 : 1),
              });
            }
  }
  found.sort((a, b) => b.worth - a.worth);
  // units of two sizes come to the same tiles
  const unique = [...new Map(found.map((f) => [JSON.stringify(f.config), f.config])).values()];
  const [inPlace, staged] = [1, 0].map((direct) => unique.filter((c) => c.direct === direct)) as [GemmConfig[], GemmConfig[]];
  return inPlace.length === 0 ? staged.slice(0, 8) : [...inPlace.slice(0, 4), ...staged.slice(0, 4)];
}

/** How far along k a step may go, and whether the unit then reads weights where they lie, which saves the block's waiting for them. */
const depthsOf = (unit: MatrixUnit, caps: Caps): (readonly [depth: number, direct: boolean])[] =>
  (unit.block[0] > 1 ? [32, 16, 8] : [32]).flatMap((depth) =>
    (caps.directOperands ? [true, false] : [false]).map((d) => [depth, d] as const),
  );

/** Whether a weight's tiles lie in memory row after row, with nothing to convert and nothing beyond the end: memory is read there. */
const readsInPlace = (p: GemmProblem, bn: number, kc: number, dtype: DType): boolean =>
  p.n % bn === 0 && p.k % kc === 0 && p.weights.every((w) => w.panel === 0 && !w.rows && w.dtype === dtype);

function build(p: GemmProblem, config: Config, caps: Caps): TileProgram {
  const { bm, bn, kc, direct, stages, groupRows, groupCols, unit: chosen } = config as GemmConfig;
  const unit = caps.units[chosen]!;
  const vector = isVector(caps);
  const piece = pieceOf(p, caps, bn);
  const pieces = bn / piece;
  const total = Math.ceil(p.n / piece);
  const b = tileBuilder(p.frame, [ceilDiv(p.m, bm), Math.ceil(total / pieces), 1], [groupRows, groupCols]);
  const dtype = stageType(unit, p.weights[0]!.dtype);

  const rowAt = (row: Expr): Expr => clamp(add(mul(b.bx, bm), row), p.m);
  const rows = min(sub(p.m, mul(b.bx, bm)), bm);
  const stat = p.a.stat ? rowStat(b, p.a.stat, bm, rowAt, p.k, statWidth(caps, p.k)) : null;

  const a = b.shared("a", bm, kc, dtype);
  const acc = p.weights.map((_, w) => Array.from({ length: pieces }, (_, i) => b.frag(`acc${w}_${i}`, bm, piece)));
  // the vector unit needs adjacent columns; elsewhere a weight is staged the way it lies, so that neighbouring lanes read neighbouring elements
  const held = p.weights.map((_, w) =>
    direct ? null : vector ? (w === 0 ? b.shared("b", kc, piece, dtype) : null) : b.shared(`b${w}`, bn, kc, dtype),
  );
  const pieceAt = (i: number): Expr => add(mul(b.by, pieces), i);
  const exists = (i: number): Expr => lt(pieceAt(i), total);

  const stageWeight = (tile: Tile, w: number, i: number, k0: Expr): View => {
    const element = (n: Expr, k: Expr): Expr => {
      const column = add(mul(pieceAt(i), piece), n);
      const padded = p.weights[w]!.panel === piece; // rows beyond n are there, as zeros
      return guarded(weightAt(p.weights[w]!, p.k, column, add(k0, k)), and(padded ? TRUE : lt(column, p.n), lt(add(k0, k), p.k)));
    };
    b.load(tile, (row, col) => (vector ? element(col, row) : element(row, col)));
    return viewOf(tile, { transposed: !vector });
  };
  const inPlace = (w: number, i: number, k0: Expr): View => {
    const { buffer, dtype: stored } = p.weights[w]!;
    if (!vector) return bufferView(buffer, stored, add(mul(mul(pieceAt(i), piece), p.k), k0), 1, p.k);
    return bufferView(buffer, stored, add(mul(pieceAt(i), p.k * piece), mul(k0, piece)), piece, 1);
  };

  for (const tiles of acc) for (const t of tiles) b.fill(t, 0);
  b.loop(
    "kc",
    Math.ceil(p.k / kc),
    (step) => {
      const k0 = mul(step, kc);
      b.load(a, (row, col) => guarded(p.a.value(rowAt(row), add(k0, col), stat && at(stat, row, 0)), lt(add(k0, col), p.k)));
      // a unit that takes several k at once gets the zeros that were staged past the end
      const k = unit.k > 1 ? i32(kc) : min(sub(p.k, k0), kc);
      for (let i = 0; i < pieces; i++)
        b.when(exists(i), () => {
          const operand = (w: number): View => {
            const tile = vector ? held[0] : held[w];
            return tile ? stageWeight(tile, w, i, k0) : inPlace(w, i, k0);
          };
          // where each weight has a tile of its own, all are staged before anything is multiplied
          const staged = vector ? null : acc.map((_, w) => operand(w));
          for (const [w, tiles] of acc.entries()) b.mma(tiles[i]!, viewOf(a), staged?.[w] ?? operand(w), k, rows);
        });
    },
    stages,
  );

  for (let i = 0; i < pieces; i++)
    b.when(exists(i), () => {
      const first = mul(pieceAt(i), piece);
      const place = (row: Expr, col: Expr): [Expr, Expr] => [add(mul(b.bx, bm), row), add(first, col)];
      const sums = (row: Expr, col: Expr): Expr[] => acc.map((tiles) => at(tiles[i]!, row, col));
      const value = (out: ProductOut, row: Expr, col: Expr): Expr => out.value(sums(row, col), ...place(row, col));
      storeOuts(b, p, { over: acc[0]![i]!, place, first, width: piece, value, hasRow: (row) => lt(row, p.m) });
    });
  return b.build();
}
