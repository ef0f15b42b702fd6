import type { Caps } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import { TRUE, add, ceilDiv, i32, lt, min, mul, rangeOf, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, bufferView, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import type { Config, GemmProblem, Reject, Template } from "../template.ts";
import { clamp, enoughBlocks, guarded, isVector, roundUp, rowStat, statWidth, unitOf, weightAt } from "./common.ts";
import type { Weight } from "./common.ts";
import { loadEarly, storeOuts } from "./product-outs.ts";

/**
 * out = a * wᵀ for a few rows (decode): every weight is read once, and that is what it costs. Two forms. `panel`: a block computes all of `a`
 * once, prologue included, and multiplies it with several panels, read where they lie. `dot`: weights are row-major, lanes run along k and
 * every row of the weight is a dot product.
 */
export const gemv: Template<GemmProblem> = { name: "gemv", configs, build };

const MOST_ROWS = 16;

interface GemvConfig extends Config {
  /** 1: the dot form. */
  readonly dot: number;
  /** Panels of a block, or rows of the weight of a block. */
  readonly per: number;
  /** Dot form: how much of k the lanes take at a time. */
  readonly kc: number;
  /** Dot form: `a` is held in shared memory (1), or computed again wherever it is needed. */
  readonly hold: number;
  /** Warps of a block, all along k. */
  readonly groups: number;
}

const inPanels = (p: GemmProblem, caps: Caps): boolean => {
  const unit = unitOf(caps);
  const { panel } = p.weights[0]!;
  return isVector(caps) && panel > 0 && panel % unit.n === 0 && p.weights.every((w) => w.panel === panel && unit.inputs.includes(w.dtype));
};

function configs(p: GemmProblem, caps: Caps): readonly GemvConfig[] | Reject {
  const m = rangeOf(p.m).max;
  if (m > MOST_ROWS) return { reject: `up to ${m} rows; gemv is for at most ${MOST_ROWS}` };
  const bytes = p.k * p.weights.reduce((sum, w) => sum + BYTES[w.dtype], 0);
  if (inPanels(p, caps)) {
    const width = p.weights[0]!.panel;
    const share = Math.max(1, Math.floor(Math.ceil(p.n / width) / enoughBlocks(caps)));
    // a quarter of a megabyte of weights takes tens of microseconds to read: computing `a` and claiming the block vanish beside it
    const fill = Math.max(1, Math.floor((256 * 1024) / (bytes * width)));
    return distinct([Math.min(fill, share), Math.min(2 * fill, share), 1].map((per) => ({ dot: 0, per, kc: 0, hold: 1, groups: 1 })));
  }
  if (m * p.weights.length > 8) return { reject: `${m} rows of ${p.weights.length} weights do not fit in registers as dot products` };
  const wide = isVector(caps) ? 4 : Math.max(1, caps.vectorBytes / BYTES[p.weights[0]!.dtype]);
  // a statistic is computed again by each block: more rows then, where there are enough blocks all the same
  const many = p.a.stat !== null && Math.ceil(p.n / 4) >= 2 * enoughBlocks(caps);
  const groups = isVector(caps) ? 1 : warpsAlong(p.k / (caps.lanes * wide), p.a.stat !== null && !many, caps);
  const kc = Math.min(groups * caps.lanes * wide, roundUp(p.k, groups * caps.lanes));
  // `a` comes from a GPU's cache as fast as from shared memory
  const hold = isVector(caps) && 4 * m * roundUp(p.k, kc) <= caps.sharedBytes / 2 ? 1 : 0;
  const registers = (rows: number): number => (rows * kc * (m + 1) * p.weights.length) / (groups * caps.lanes);
  const preferred = isVector(caps) ? [4, 2, 8, 1] : many ? [4, 2, 1] : [2, 4, 1];
  const rows = preferred.filter((r) => r === 1 || (registers(r) <= 96 && Math.ceil(p.n / r) >= enoughBlocks(caps)));
  return distinct(rows.map((r) => ({ dot: 1, per: r, kc, hold, groups })));
}

/** Warps of a block. With more, most of them wait for the sums of the others; sooner where each block has a statistic to compute for few rows. */
const MOST_WARPS = 8;

/**
 * How many warps share a row of `steps` vectors of all lanes: what few rows cost is reading them, so that there are many blocks and much is on its way in
 * each. A warp has two vectors of a row at least: with one, a 1B model's step took 4 % longer on an H200.
 */
const warpsAlong = (steps: number, forFewRows: boolean, caps: Caps): number =>
  shareOf(steps, Math.min(forFewRows ? MOST_WARPS / 2 : MOST_WARPS, steps / 2, caps.maxThreads / caps.lanes));

/**
 * The largest power of two that is at most `most` and leaves each warp a vector of `steps`; half of that where only then all have equally many, since the
 * rest at the end is read under conditions.
 */
function shareOf(steps: number, most: number): number {
  const largest = 2 ** Math.floor(Math.log2(Math.max(1, Math.min(steps, most))));
  return largest > 1 && steps % largest !== 0 && steps % (largest / 2) === 0 ? largest / 2 : largest;
}

const distinct = (all: readonly GemvConfig[]): GemvConfig[] => all.filter((c, i) => all.findIndex((d) => d.per === c.per) === i);

function build(p: GemmProblem, config: Config, caps: Caps): TileProgram {
  return (config as GemvConfig).dot ? buildDot(p, config as GemvConfig, caps) : buildPanels(p, config as GemvConfig, caps);
}

/** `a` with its prologue, in shared memory; columns beyond k are 0. */
function holdA(b: TileBuilder, p: GemmProblem, rows: number, cols: number, stat: Tile | null): Tile {
  const a = b.shared("a", rows, cols);
  b.load(a, (row, col) => guarded(p.a.value(clamp(row, p.m), col, stat && at(stat, row, 0)), lt(col, p.k)));
  return a;
}

function buildPanels(p: GemmProblem, { per }: GemvConfig, caps: Caps): TileProgram {
  const width = p.weights[0]!.panel;
  const panels = Math.ceil(p.n / width);
  const m = rangeOf(p.m).max;
  const b = tileBuilder(p.frame, [Math.ceil(panels / per), 1, 1]);
  const stat = p.a.stat ? rowStat(b, p.a.stat, m, (row) => clamp(row, p.m), p.k, statWidth(caps, p.k)) : null;
  const a = holdA(b, p, m, p.k, stat);
  const acc = p.weights.map((_, w) => b.frag(`acc${w}`, m, width));

  b.loop("i", min(sub(panels, mul(b.bx, per)), per), (i) => {
    const panel = add(mul(b.bx, per), i);
    for (const [w, { buffer, dtype }] of p.weights.entries()) {
      b.fill(acc[w]!, 0);
      b.mma(acc[w]!, viewOf(a), bufferView(buffer, dtype, mul(panel, p.k * width), width, 1), p.k, p.m);
    }
    const first = mul(panel, width);
    const sums = (row: Expr, col: Expr): Expr[] => acc.map((t) => at(t, row, col));
    storeOuts(b, p, {
      over: acc[0]!,
      place: (row, col) => [row, add(first, col)],
      first,
      width,
      value: (out, row, col) => out.value(sums(row, col), row, add(first, col)),
      hasRow: (row) => lt(row, p.m),
    });
  });
  return b.build();
}

function buildDot(p: GemmProblem, { per, kc, hold, groups }: GemvConfig, caps: Caps): TileProgram {
  const m = rangeOf(p.m).max;
  const steps = Math.ceil(p.k / kc);
  const b = tileBuilder(p.frame, [ceilDiv(i32(p.n), per), 1, 1], [1, groups]);
  const width = groups === 1 ? statWidth(caps, p.k) : Math.min(4 * groups * caps.lanes, roundUp(p.k, groups * caps.lanes));
  const n = (row: Expr): Expr => add(mul(b.bx, per), row);
  const w = b.frag("w", per, kc);
  const weightStep = (weight: Weight, tile: Tile, ks: Expr): void => {
    b.map(tile, (row, col) => {
      const k = add(mul(ks, kc), col);
      return guarded(weightAt(weight, p.k, clamp(n(row), p.n), k), lt(k, p.k));
    });
  };
  // the first weights are on their way while the statistic is computed, which waits for the whole block
  const early = p.a.stat && !isVector(caps) ? p.weights.map((_, i) => b.frag(`first${i}`, per, kc)) : [];
  for (const [i, tile] of early.entries()) weightStep(p.weights[i]!, tile, i32(0));
  const ready = isVector(caps) ? null : loadEarly(b, p, { rows: m, first: mul(b.bx, per), count: per });
  const stat = p.a.stat ? rowStat(b, p.a.stat, m, (row) => clamp(row, p.m), p.k, width) : null;
  const held = hold ? holdA(b, p, m, steps * kc, stat) : null;
  const element = (r: number, k: Expr): Expr =>
    held ? at(held, r, k) : guarded(p.a.value(clamp(i32(r), p.m), k, stat && at(stat, r, 0)), lt(k, p.k));

  const rows = Array.from({ length: m }, (_, r) => r);
  const parts = p.weights.map((_, i) => rows.map((r) => b.frag(`part${i}_${r}`, per, kc)));
  const sums = p.weights.map((_, i) => rows.map((r) => b.frag(`sum${i}_${r}`, per, 1)));
  for (const t of parts.flat()) b.fill(t, 0);
  const multiply = (i: number, tile: Tile, ks: Expr): void => {
    for (const [r, part] of parts[i]!.entries())
      b.map(part, (row, col) => add(at(part, row, col), mul(at(tile, row, col), element(r, add(mul(ks, kc), col)))));
  };
  const step = (ks: Expr): void => {
    for (const [i, weight] of p.weights.entries()) {
      weightStep(weight, w, ks);
      multiply(i, w, ks);
    }
  };
  for (const [i, tile] of early.entries()) multiply(i, tile, i32(0));
  const done = early.length > 0 ? 1 : 0;
  // the last step, if it runs past the end, stands by itself, so that the others have nothing to check
  const whole = isVector(caps) ? steps : Math.floor(p.k / kc);
  b.loop("ks", Math.max(0, whole - done), (ks) => {
    step(add(ks, done));
  });
  if (Math.max(whole, done) < steps) step(i32(whole));
  for (const [i, of] of sums.entries()) for (const r of rows) b.rowReduce(of[r]!, "sum", parts[i]![r]!);

  for (const r of rows)
    b.when(lt(i32(r), p.m), () => {
      const own = (row: Expr): Expr[] => sums.map((of) => at(of[r]!, row, 0));
      storeOuts(b, p, {
        over: sums[0]![r]!,
        place: (row) => [i32(r), n(row)],
        first: mul(b.bx, per),
        width: per,
        hasRow: () => TRUE,
        value: (out, row) => (ready ? ready(out, own(row), r, row) : out.value(own(row), i32(r), n(row))),
      });
    });
  return b.build();
}
