import type { Caps } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import { add, binary, ceilDiv, children, i32, lt, mul, rangeOf, rewrite, some, sub, variable, walk } from "../ir/expr.ts";
import type { Expr, Operand } from "../ir/expr.ts";
import { at, tileBuilder } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import { coordinates } from "../ir/tile.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import type { Config, GemmProblem, Reject, Template } from "../template.ts";
import { clamp, COMBINE, guarded, isVector, shareOut, weightAt } from "./common.ts";
import { keepBest } from "./product-best.ts";
import { loadEarly, storeOuts } from "./product-outs.ts";

/**
 * out = a * wᵀ for a few rows, where hardware copies weights to shared memory while lanes multiply. One block a worker stays for the whole kernel; its warps lie
 * along k and hold all of `a`, prologue included, in registers. Tiles of some rows of the weights come through a ring, each lane copying the vectors that it
 * multiplies itself, so that nothing but the sums of a tile ever waits for other lanes. Blocks take tiles in turns: what all of them read at a time lies side by
 * side in memory.
 *
 * Two tiles of 64 KiB are on their way at any time in each block. Measured on an H200: that many bytes, in that few blocks, are what 98 % of the bandwidth takes.
 */
export const gemvStream: Template<GemmProblem> = { name: "gemv-stream", configs, build };

interface StreamConfig extends Config {
  /** Rows of each weight in a tile. */
  readonly per: number;
  /** Tiles in the ring. */
  readonly stages: number;
  /** Warps of a block, all along k. */
  readonly groups: number;
}

const MOST_ROWS = 4;
const MOST_WARPS = 16;
/** With fewer, too few lanes copy and multiply. */
const LEAST_WARPS = 4;
const TILE_BYTES = 64 * 1024;
const STAGES = 3;
/** Registers of a lane for `a`. */
const MOST_REGISTERS = 64;
/** What is left of shared memory for sums. */
const SUMS_BYTES = 4 * 1024;

function configs(p: GemmProblem, caps: Caps): readonly StreamConfig[] | Reject {
  const found = tilesFor(p, caps);
  if ("reject" in found || !p.best) return found;
  const fit = found.filter((c) => sharesWith(p, c, caps) === p.best!.count);
  return fit.length > 0 ? fit : { reject: `${p.best.count} shares of ${p.n} columns are not those of any tile` };
}

const blocksOf = (p: GemmProblem, per: number, caps: Caps): number => Math.min(caps.workers, Math.ceil(p.n / per));

/** A share of the columns is one of every tile that a block takes. */
const sharesWith = (p: GemmProblem, { per }: StreamConfig, caps: Caps): number => blocksOf(p, per, caps) * per;

/** Of how many shares of the columns the best is found; null where this is no stream. */
export function bestShares(p: GemmProblem, caps: Caps): number | null {
  const found = tilesFor(p, caps);
  return "reject" in found ? null : sharesWith(p, found[0]!, caps);
}

function tilesFor(p: GemmProblem, caps: Caps): readonly StreamConfig[] | Reject {
  const { dtype } = p.weights[0]!;
  const m = rangeOf(p.m).max;
  if (!caps.asyncCopy || isVector(caps)) return { reject: `${caps.name} copies nothing by itself` };
  if (m > MOST_ROWS) return { reject: `up to ${m} rows; a stream is for at most ${MOST_ROWS}` };
  if (p.weights.some((w) => w.panel !== 0 || w.dtype !== dtype)) return { reject: "weights in panels, or of several types" };
  const steps = p.k / (caps.lanes * (caps.vectorBytes / BYTES[dtype]));
  const groups = Number.isInteger(steps) ? warpsFor(steps, Math.min(MOST_WARPS, caps.maxThreads / caps.lanes)) : 0;
  if (groups < LEAST_WARPS) return { reject: `rows of ${p.k} elements of ${dtype} are not whole vectors for ${LEAST_WARPS} warps or more` };
  const registers = (m * p.k) / (groups * caps.lanes);
  if (registers > MOST_REGISTERS) return { reject: `${m} rows of ${p.k} elements do not fit in registers` };
  const rowBytes = p.k * BYTES[dtype] * p.weights.length;
  const most = Math.floor(Math.min(TILE_BYTES, (caps.sharedBytes - SUMS_BYTES) / STAGES) / rowBytes);
  if (most < 1) return { reject: `${STAGES} rows of ${rowBytes} bytes do not fit in shared memory` };
  const enough = Math.floor(p.n / caps.workers);
  if (enough < 1) return { reject: `${p.n} columns are fewer than ${caps.workers} workers` };
  const sizes = [...new Set([most, most / 2, 1].map((n) => shareOut(p.n, Math.min(n, enough))))];
  return sizes.map((per) => ({ per, stages: STAGES, groups }));
}

/** The most warps that share the steps of a row evenly. */
function warpsFor(steps: number, most: number): number {
  let n = Math.min(steps, Math.floor(most));
  while (n > 0 && steps % n !== 0) n--;
  return n;
}

function build(p: GemmProblem, config: Config, caps: Caps): TileProgram {
  const { per, stages, groups } = config as StreamConfig;
  const m = rangeOf(p.m).max;
  const tiles = Math.ceil(p.n / per);
  const blocks = blocksOf(p, per, caps);
  const b = tileBuilder(p.frame, [blocks, 1, 1], [1, groups]);
  const held = new Map<Expr, Expr>();
  const rows = Array.from({ length: m }, (_, r) => holdRow(b, p, r, groups, held));
  const w = p.weights.map(({ dtype }, i) => b.frag(`w${i}`, per, p.k, dtype));
  const products = rows.map((_, r) => p.weights.map((_, i) => b.frag(`product${i}_${r}`, per, p.k)));
  const parts = rows.map((_, r) => p.weights.map((_, i) => b.shared(`parts${i}_${r}`, per, groups)));
  const own = b.frag("own", per, 1);
  const best = rows.map((_, r) => p.best && keepBest(b, p.best, `_${r}`, per));

  b.loop(
    "tile",
    ceilDiv(sub(i32(tiles), b.bx), blocks),
    (i) => {
      const first = mul(add(mul(i, blocks), b.bx), per);
      const column = (j: Expr): Expr => add(first, j);
      const ready = loadEarly(b, p, { rows: m, first, count: per });
      for (const [x, tile] of w.entries()) b.map(tile, (j, k) => weightAt(p.weights[x]!, p.k, clamp(column(j), p.n), k));
      for (const [r, row] of rows.entries())
        for (const [x, tile] of w.entries()) {
          b.map(products[r]![x]!, (j, k) => mul(at(tile, j, k), at(row, 0, k)));
          b.rowReduce(parts[r]![x]!, "sum", products[r]![x]!);
        }
      for (const r of rows.keys())
        storeOuts(b, p, {
          over: own,
          place: (j) => [i32(r), column(j)],
          first,
          width: per,
          hasRow: () => lt(i32(r), p.m),
          value: (out, j) => ready(out, parts[r]!.map((t) => sumOf(t, j)), r, j), // prettier-ignore
        });
      for (const [r, of] of best.entries())
        of?.offer(column, (j, col) => guarded(of.value(parts[r]!.map((t) => sumOf(t, j)), i32(r), clamp(col, p.n)), lt(col, p.n), -Infinity)); // prettier-ignore
    },
    stages,
  );
  for (const [r, of] of best.entries()) of?.store((j) => add(mul(b.bx, per), j), i32(r), lt(i32(r), p.m));
  return b.build();
}

/** What the warps have found of a row, together. */
const sumOf = (parts: Tile, row: Expr): Expr => partsOf(parts, row).reduce((x, y) => add(x, y));

/**
 * Row `r` of `a` in registers, each lane its columns. What the statistic and the value have in common is computed once, and what constant memory gives (a norm's
 * weight) is read first: it can be on its way while the kernels in front still work. `known`: tiles that hold such values already.
 */
function holdRow(b: TileBuilder, p: GemmProblem, r: number, groups: number, known: Map<Expr, Expr>): Tile {
  const row = clamp(i32(r), p.m);
  const x = b.frag(`a${r}`, 1, p.k);
  const { stat } = p.a;
  if (!stat) {
    b.map(x, (_, k) => p.a.value(row, k, null));
    return x;
  }
  const [, k] = coordinates(x);
  for (const e of partsToHold(p, row, k)) {
    if (known.has(e)) continue;
    const tile = b.frag(`held${known.size}`, 1, p.k);
    b.map(tile, () => e);
    known.set(e, at(tile, 0, k));
  }
  const held = (e: Expr): Expr => rewrite(e, () => undefined, new Map(known));
  const [terms, total] = [b.frag(`terms${r}`, 1, p.k), b.frag(`total${r}`, 1, 1)];
  const parts = b.shared(`stat${r}`, 1, groups);
  b.map(terms, () => held(stat.value(row, k)));
  b.rowReduce(parts, stat.fn, terms);
  b.map(total, () => partsOf(parts, 0).reduce((y, z) => binary(COMBINE[stat.fn], y, z)));
  b.map(x, (own) => held(p.a.value(row, k, at(total, own, 0))));
  return x;
}

const partsOf = (parts: Tile, row: Operand): Expr[] => Array.from({ length: parts.cols }, (_, j) => at(parts, row, j));

/** The largest parts of the operand's values that constant memory alone gives, and then those that the statistic's values are computed of too. */
function partsToHold(p: GemmProblem, row: Expr, k: Expr): readonly Expr[] {
  const total = variable("%stat", "f32");
  const constant = new Set(p.frame.params.filter((q) => q.constant === true && q.access === "read").map((q) => q.name));
  const ofStat = new Set<Expr>();
  walk(p.a.stat!.value(row, k), (e) => void ofStat.add(e));
  const [first, then] = [new Set<Expr>(), new Set<Expr>()];
  const visit = (e: Expr): void => {
    const loads = e.dtype === "f32" && some(e, (x) => x.op === "load");
    if (loads && !some(e, (x) => x === total || (x.op === "load" && !constant.has(x.buffer)))) first.add(e);
    else if (loads && ofStat.has(e)) then.add(e);
    else for (const x of children(e)) visit(x);
  };
  visit(p.a.value(row, k, total));
  return [...first, ...then];
}
