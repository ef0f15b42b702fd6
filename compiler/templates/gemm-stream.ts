import type { Caps } from "../backend.ts";
import { add, and, ceilDiv, cast, i32, intVar, lt, mul } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileProgram } from "../ir/tile.ts";
import { plainLoad } from "../lower/copy.ts";
import type { Config, GemmProblem, ProductOut, Reject, Template } from "../template.ts";
import { guarded, halfUnits, isVector, largest, weightAt } from "./common.ts";
import { storeBest } from "./product-best.ts";
import { storeOuts } from "./product-outs.ts";
import { STAGES, streams, tilesOf } from "./stream-tiles.ts";
import type { StreamConfig } from "./stream-tiles.ts";

/**
 * out = a * wᵀ where hardware copies both operands to shared memory while matrices are multiplied: weights of 16 bits, and a left operand that lies in memory as
 * the unit takes it. A block owns `bm` rows and `bn` columns and walks along k, or its part of it, through a ring of `stages` steps of `kc`.
 *
 * With few rows what counts is that weights come from memory without a break: one block for every worker, with as many bytes on the way as shared memory holds, in
 * as few waves as possible (measured on an H200: 256 bytes of each row at a time, in 3 to 6 stages). The left operand comes from the cache once for every block, so
 * that wide blocks, and with them parts of k, pay as soon as there are more than a few rows.
 */
export const gemmStream: Template<GemmProblem> = { name: "gemm-stream", configs, build };

function configs(p: GemmProblem, caps: Caps): readonly StreamConfig[] | Reject {
  if (!p.best) return tilesFor(p, false, caps);
  const found = tilesFor(p, true, caps);
  if ("reject" in found) return found;
  const fit = found.filter((c) => sharesWith(p, c) === p.best!.count);
  return fit.length > 0 ? fit : { reject: `${p.best.count} shares of ${p.n} columns are not those of any tile` };
}

/** A tile's columns are a share. */
const sharesWith = (p: GemmProblem, { bn }: StreamConfig): number => Math.ceil(p.n / bn);

/** Of how many shares of the columns the best is found; null where hardware does not copy the operands. */
export function bestShares(p: GemmProblem, caps: Caps): number | null {
  const found = tilesFor(p, true, caps);
  return "reject" in found ? null : sharesWith(p, found[0]!);
}

function tilesFor(p: GemmProblem, best: boolean, caps: Caps): readonly StreamConfig[] | Reject {
  const { dtype } = p.weights[0]!;
  if (!caps.asyncCopy || isVector(caps)) return { reject: `${caps.name} copies nothing by itself` };
  if (halfUnits(dtype, caps).length === 0) return { reject: `${caps.name} has no hardware for matrices of ${dtype} alone` };
  if (p.weights.some((w) => w.panel !== 0 || w.dtype !== dtype)) return { reject: "weights in panels, or of several types" };
  const [row, depth] = [intVar("row"), intVar("k")];
  if (p.a.stat || !plainLoad(cast(p.a.value(row, depth, null), dtype), dtype))
    return { reject: `the left operand does not lie in memory in ${dtype}` };
  if (!streams({ k: p.k, dtype }, caps)) return { reject: `rows of ${p.k} elements of ${dtype} are not whole vectors` };
  const shape = { m: largest(p.m, 1 << 20), n: p.n, k: p.k, weights: p.weights.length, dtype, best, pairs: p.weights.some((w) => w.rows) };
  const found = tilesOf(shape, p.parts?.count ?? 1, caps).map(({ config }) => config);
  return found.length > 0 ? found.slice(0, 6) : { reject: `no ring of ${STAGES.least} stages fits the shared memory of ${caps.name}` };
}

function build(p: GemmProblem, config: Config): TileProgram {
  const { bm, bn, kc, stages, groupRows, groupCols, groupWarps } = config as StreamConfig;
  const { dtype } = p.weights[0]!;
  const parts = p.parts?.count ?? 1;
  const b = tileBuilder(p.frame, [parts, ceilDiv(p.m, bm), Math.ceil(p.n / bn)], [groupRows, groupCols], groupWarps);
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
    if (p.best) storeBest(b, p, p.best, { over: acc[0]!, place, hasRow, sums, share: b.bz });
  }
  return b.build();
}
