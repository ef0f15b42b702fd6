import type { Caps } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { add, cast, ceilDiv, i32, intVar, lt, max, min, mul, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileProgram } from "../ir/tile.ts";
import { plainLoad } from "../lower/copy.ts";
import { unitRows } from "../lower/layout.ts";
import type { AttentionProblem, Config, Reject, Template } from "../template.ts";
import { misfit, onlineSoftmax, queryBlock, sequencesOf, sharing, storePart, storeRows, visibleScores } from "./attention-common.ts";
import type { QueryBlock } from "./attention-common.ts";
import { cacheRings } from "./attention-rings.ts";
import { guarded, halfUnit, largest, roundUp } from "./common.ts";

/**
 * Attention for one query, or a few, over a cache of 16-bit keys and values that hardware copies. A block is one warp that owns the query heads of a key head and
 * walks over the cache, or its part of it, with a ring of its own: nobody waits for anybody else, and what a multiprocessor has on its way are the rings of as many
 * blocks as its shared memory holds. Both products are the matrix hardware's, with the query heads as rows, most of which stand empty: what counts is memory.
 *
 * Values of padding have to be finite: they are multiplied by a weight of 0. Every position before the last has been written by the model itself, that of padding too, so
 * they are. (A copy that first asks for the id of its key waits for memory twice, which costs a third of the rate.) Of positions beyond, zeros are copied.
 */
export const attentionStream: Template<AttentionProblem> = { name: "attention-stream", configs, build };

interface StreamConfig extends Config {
  readonly queries: number;
  readonly keys: number;
  readonly stages: number;
}

function configs(p: AttentionProblem, caps: Caps): readonly StreamConfig[] | Reject {
  const why = misfit(p);
  if (why) return { reject: why };
  const dtype = cacheType(p);
  if (!dtype) return { reject: "keys and values are computed, or do not lie in memory in one type of 16 bits" };
  const queries = largest(p.seq, 1 << 20);
  const rings = cacheRings({ queries, sharing: sharing(p), dim: p.dim, dtype }, caps);
  return "reject" in rings ? rings : rings.map(({ keys, stages }) => ({ queries, keys, stages }));
}

/** The 16-bit type that keys and values both lie in memory in; null where they are computed, or differ. */
function cacheType(p: AttentionProblem): DType | null {
  const [b, h, j, d] = ["b", "h", "j", "d"].map((name) => intVar(name)) as [Expr, Expr, Expr, Expr];
  for (const dtype of ["bf16", "f16"] as const)
    if ([p.k(b, h, j, d), p.v(b, h, j, d)].every((e) => plainLoad(cast(e, dtype), dtype))) return dtype;
  return null;
}

function build(p: AttentionProblem, config: Config, caps: Caps): TileProgram {
  const { queries, keys, stages } = config as StreamConfig;
  const dtype = cacheType(p)!;
  const heads = sharing(p);
  const unit = halfUnit(dtype, caps)!;
  const rows = roundUp(queries * heads, unit.m);
  // a lane has several rows of a tile of the hardware, the same number apart: those that are beyond the last query in all lanes are left alone
  const live = roundUp(queries * heads, unit.m / unitRows(unit).slots);
  const b = tileBuilder(p.frame, [p.parts?.count ?? 1, p.kvHeads, p.batch]);
  const clamped = queryBlock(p, { queries, heads }, { batch: b.bz, group: b.by, tile: i32(0) });
  // where tiles end with the cache, what lies beyond the last key may be read: ids then are plain copies too, and addresses one sum
  const block: QueryBlock = p.capacity % keys === 0 ? { ...clamped, key: (j) => j } : clamped;
  const q = b.shared("q_tile", rows, p.dim, dtype);
  const k = b.shared("k_tile", keys, p.dim, dtype);
  const v = b.shared("v_tile", keys, p.dim, dtype);
  const weights = b.shared("weights", rows, keys, dtype);
  const query = b.frag("query", rows, p.dim);
  const scores = b.frag("scores", rows, keys);
  const acc = b.frag("acc", rows, p.dim);
  const sequences = sequencesOf(b, p, block, { rows, keys }, "frag");

  // through registers, so that all that a query takes is on its way at once; the rows beside them are zeros
  b.map(query, (row, d) => guarded(p.q(block.batch, block.query(row), block.head(row), d), lt(row, queries * heads)));
  b.stage(q, query);
  const softmax = onlineSoftmax(b, rows, live);
  b.fill(acc, 0);
  const tiles = ceilDiv(block.end, keys);
  const share = p.parts ? ceilDiv(tiles, p.parts.count) : tiles;
  const first = p.parts ? mul(b.bx, share) : i32(0);
  const count = p.parts ? max(min(share, sub(tiles, first)), 0) : tiles;
  b.loop(
    "step",
    count,
    (step) => {
      const from = mul(add(first, step), keys);
      sequences?.load(from);
      b.load(k, (j, d) => p.k(block.batch, block.kvHead, block.key(add(from, j)), d));
      b.load(v, (j, d) => guarded(p.v(block.batch, block.kvHead, block.key(add(from, j)), d), lt(add(from, j), block.end)));
      b.fill(scores, 0);
      b.mma(scores, viewOf(q), viewOf(k, { transposed: true }), p.dim);
      visibleScores(b, p, block, sequences, scores, from, (row, col) => at(scores, row, col), live);
      softmax.step(scores, acc);
      b.stage(weights, scores);
      b.mma(acc, viewOf(weights), viewOf(v), keys);
    },
    stages,
  );
  if (p.parts) storePart(b, p, b.bx, block, acc, softmax);
  else {
    softmax.finish(acc);
    storeRows(b, p, block, acc);
  }
  return b.build();
}
