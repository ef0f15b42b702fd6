import type { Caps } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import { add, and, ceilDiv, i32, lt, min, mul, rangeOf, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, bufferView, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import type { Config, GemmProblem, Reject, Template } from "../template.ts";
import { clamp, enoughBlocks, guarded, isVector, roundUp, rowStat, statWidth, unitOf, weightAt } from "./common.ts";

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
  /** Dot form: warps that share a row's k, and warps with rows of their own. */
  readonly along: number;
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
    return distinct(
      [Math.min(fill, share), Math.min(2 * fill, share), 1].map((per) => ({ dot: 0, per, kc: 0, hold: 1, along: 1, groups: 1 })),
    );
  }
  if (m * p.weights.length > 8) return { reject: `${m} rows of ${p.weights.length} weights do not fit in registers as dot products` };
  if (!isVector(caps)) return warpConfigs(p, m, caps);
  const wide = 4;
  const kc = Math.min(caps.lanes * wide, roundUp(p.k, caps.lanes));
  const hold = 4 * m * roundUp(p.k, kc) <= caps.sharedBytes / 2 ? 1 : 0;
  const registers = (rows: number): number => (rows * kc * (m + 1) * p.weights.length) / caps.lanes;
  const rows = [4, 2, 8, 1].filter((r) => r === 1 || (registers(r) <= 96 && Math.ceil(p.n / r) >= enoughBlocks(caps)));
  return distinct(rows.map((per) => ({ dot: 1, per, kc, hold, along: 1, groups: 1 })));
}

/**
 * On an H200 a block of 256 lanes along k, each with one 16-byte load of each of two rows in flight, reads at 75 to 100 % of copy speed for every
 * weight of a 1- and a 9-billion-parameter Bamba; more rows a block make too few blocks of small weights (docs/benchmarks.md). `a` comes through
 * the first-level cache: copying it to shared memory first costs a third.
 */
function warpConfigs(p: GemmProblem, m: number, caps: Caps): GemvConfig[] {
  const wide = Math.max(1, caps.vectorBytes / BYTES[p.weights[0]!.dtype]);
  const warps = Math.max(1, Math.floor(Math.min(256, caps.maxThreads) / caps.lanes));
  const found: GemvConfig[] = [];
  for (const [share, rows] of [
    [1, 2],
    [2, 2],
    [1, 1],
    [1, 4],
    [4, 2],
    [warps, 4],
  ] as const) {
    // prettier-ignore
    // no more warps along k than have something to read
    const along = Math.max(1, Math.min(Math.floor(warps / share), Math.ceil(p.k / (caps.lanes * wide))));
    const groups = Math.min(Math.max(1, Math.floor(warps / along)), share);
    const kc = Math.min(along * caps.lanes * wide, roundUp(p.k, along * caps.lanes));
    const each = Math.max(1, Math.floor(rows / p.weights.length));
    const registers = (each * kc * (m + 1) * p.weights.length) / (along * caps.lanes);
    if (registers > 128 && each > 1) continue;
    found.push({ dot: 1, per: each * groups, kc, hold: 0, along, groups });
  }
  return distinct(found);
}

const distinct = (all: readonly GemvConfig[]): GemvConfig[] =>
  all.filter((c, i) => all.findIndex((d) => d.per === c.per && d.along === c.along) === i);

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
    for (const out of p.outs) {
      const column = (col: Expr): Expr => add(mul(panel, width), col);
      b.store(acc[0]!, {
        buffer: out.buffer,
        dtype: out.dtype,
        index: (row, col) => out.index(row, column(col)),
        value: (row, col) =>
          out.value(
            acc.map((t) => at(t, row, col)),
            row,
            column(col),
          ),
        guard: (row, col) => (p.n % width === 0 ? lt(row, p.m) : and(lt(row, p.m), lt(column(col), p.n))),
      });
    }
  });
  return b.build();
}

function buildDot(p: GemmProblem, { per, kc, hold, along, groups }: GemvConfig, caps: Caps): TileProgram {
  const m = rangeOf(p.m).max;
  const steps = Math.ceil(p.k / kc);
  const b = tileBuilder(p.frame, [ceilDiv(i32(p.n), per), 1, 1], [groups, along]);
  // every warp takes part in the statistic, so its rows are a multiple of the warps
  const stat = p.a.stat ? rowStat(b, p.a.stat, roundUp(m, groups), (row) => clamp(row, p.m), p.k, along * statWidth(caps, p.k)) : null;
  const held = hold ? holdA(b, p, m, steps * kc, stat) : null;
  const element = (r: number, k: Expr): Expr =>
    held ? at(held, r, k) : guarded(p.a.value(clamp(i32(r), p.m), k, stat && at(stat, r, 0)), lt(k, p.k));

  const n = (row: Expr): Expr => add(mul(b.bx, per), row);
  const w = b.frag("w", per, kc);
  const rows = Array.from({ length: m }, (_, r) => r);
  const parts = p.weights.map((_, i) => rows.map((r) => b.frag(`part${i}_${r}`, per, kc)));
  const sums = p.weights.map((_, i) => rows.map((r) => b.frag(`sum${i}_${r}`, per, 1)));
  for (const t of parts.flat()) b.fill(t, 0);
  b.loop("ks", steps, (ks) => {
    for (const [i, weight] of p.weights.entries()) {
      b.map(w, (row, col) => guarded(weightAt(weight, p.k, clamp(n(row), p.n), add(mul(ks, kc), col)), lt(add(mul(ks, kc), col), p.k)));
      for (const r of rows)
        b.map(parts[i]![r]!, (row, col) => add(at(parts[i]![r]!, row, col), mul(at(w, row, col), element(r, add(mul(ks, kc), col)))));
    }
  });
  for (const [i, of] of sums.entries()) for (const r of rows) b.rowReduce(of[r]!, "sum", parts[i]![r]!);

  for (const r of rows)
    b.when(lt(i32(r), p.m), () => {
      for (const out of p.outs)
        b.store(sums[0]![r]!, {
          buffer: out.buffer,
          dtype: out.dtype,
          index: (row) => out.index(i32(r), n(row)),
          value: (row) =>
            out.value(
              sums.map((of) => at(of[r]!, row, 0)),
              i32(r),
              n(row),
            ),
          guard: (row) => lt(n(row), p.n),
        });
    });
  return b.build();
}
