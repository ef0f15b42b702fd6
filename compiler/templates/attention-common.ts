import type { MatrixUnit } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { abs, add, and, div, eq, exp2, i32, idiv, lt, max, min, mod, mul, select, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { Tile } from "../ir/tile.ts";
import type { AttentionProblem } from "../template.ts";
import { clamp, stageType } from "./common.ts";

// ---- the queries of a block -------------------------------------------------------------------------------------------

/**
 * The rows of a block: a run of queries times a run of heads that share a key head, so that a key, once fetched and staged, serves them all.
 * Query-major: the rows that exist are the first `count`, wherever the sequence ends. Rows past them repeat the last query and are not stored.
 */
export interface QueryBlock {
  readonly batch: Expr;
  readonly kvHead: Expr;
  readonly count: Expr;
  /** The keys that any row of the block sees lie below this, and it is at least 1. */
  readonly end: Expr;
  /** Query and head of a row, both inside their ranges. */
  readonly query: (row: Expr) => Expr;
  readonly head: (row: Expr) => Expr;
  /** Row `row` sees keys below this, as far as position alone decides. */
  readonly limit: (row: Expr) => Expr;
  /** Where keys are staged past `end`, the last one stands in: the memory exists, and its weight is zero. Alike for all of d, so loads stay contiguous. */
  readonly key: (j: Expr) => Expr;
}

/** Query heads that share a key head. */
export const sharing = (p: AttentionProblem): number => p.heads / p.kvHeads;

/** `queries` x `heads` rows for the block that is `tile` along the queries and `group` along the heads. */
export function queryBlock(
  p: AttentionProblem,
  size: { readonly queries: number; readonly heads: number },
  at: { readonly batch: Expr; readonly group: Expr; readonly tile: Expr },
): QueryBlock {
  const { queries, heads } = size;
  const first = mul(at.tile, queries);
  const query = (row: Expr): Expr => clamp(add(first, idiv(row, heads)), p.seq);
  const seen = p.causal ? min(add(first, queries), p.seq) : p.seq;
  const end = min(add(p.past, seen), p.capacity);
  return {
    batch: at.batch,
    kvHead: idiv(at.group, sharing(p) / heads),
    count: mul(min(sub(p.seq, first), queries), heads),
    end,
    query,
    head: (row) => add(mul(at.group, heads), mod(row, heads)),
    limit: (row) => (p.causal ? min(end, add(add(p.past, query(row)), 1)) : end),
    key: (j) => clamp(j, end),
  };
}

/** The largest divisor of `n` that is at most `limit`. */
export function divisorUpTo(n: number, limit: number): number {
  let d = Math.max(1, Math.min(n, Math.floor(limit)));
  while (n % d !== 0) d--;
  return d;
}

/** The type a value is stored as, for targets whose unit does not take f32; f32 when it is computed. */
const storedType = (e: Expr): DType => (e.op === "cast" && e.a.op === "load" ? e.a.dtype : "f32");

/** What is staged for the two products. Operands of one mma are of one type: queries with keys, weights with values. */
export function stageTypes(p: AttentionProblem, unit: MatrixUnit): { readonly score: DType; readonly value: DType } {
  const zero = i32(0);
  return {
    score: stageType(unit, storedType(p.k(zero, zero, zero, zero))),
    value: stageType(unit, storedType(p.v(zero, zero, zero, zero))),
  };
}

// ---- sequences --------------------------------------------------------------------------------------------------------

/** Which rows and keys are of one sequence: ids are looked up once a block for the rows, into memory or registers, and once a tile for the keys. */
export interface Sequences {
  /** Fetches the ids of the tile of `keys` keys from `from` on. */
  readonly load: (from: Expr) => void;
  /** Key i of the tile is a token of the sequence that the row continues. */
  readonly together: (row: Expr, i: Expr) => Expr;
  /** Key i of the tile is a token and no padding. */
  readonly real: (i: Expr) => Expr;
}

export function sequencesOf(
  b: TileBuilder,
  p: AttentionProblem,
  block: QueryBlock,
  size: { readonly rows: number; readonly keys: number },
  scope: "shared" | "frag" = "shared",
): Sequences | null {
  const { ids } = p;
  if (!ids) return null;
  const ofRow = (row: Expr): Expr => abs(ids(block.batch, add(p.past, block.query(row))));
  const own = b[scope]("row_ids", size.rows, 1, "i32");
  const tile = b.shared("key_ids", 1, size.keys, "i32");
  if (scope === "frag") b.map(own, ofRow);
  else b.load(own, ofRow);
  return {
    load(from) {
      b.load(tile, (_, col) => ids(block.batch, block.key(add(from, col))));
    },
    together: (row, i) => eq(at(tile, 0, i), at(own, row, 0)),
    real: (i) => lt(0, at(tile, 0, i)),
  };
}

// ---- online softmax ---------------------------------------------------------------------------------------------------

/**
 * The softmax of rows that arrive a tile of keys at a time: a running maximum, a running sum of 2^(score - maximum), and the same weighted sum of
 * values. When the maximum grows, what was summed so far shrinks by 2^(old - new). Scores are scaled for powers of 2 (visibleScores).
 */
export interface OnlineSoftmax {
  /** Scores in, weights out; `acc` is made ready for the values of these keys. A score of -Infinity becomes a weight of exactly 0. */
  readonly step: (scores: Tile, acc: Tile) => void;
  /** Divides by the sum. Rows that saw no key are 0. */
  readonly finish: (acc: Tile) => void;
  /** Of each row, the greatest score so far and the sum of the weights relative to it. */
  readonly top: Tile;
  readonly total: Tile;
}

/** Below any score, and finite: where nothing has been seen, -Infinity - LOWEST is still -Infinity and LOWEST - LOWEST is 0, so that no power is of a NaN. */
const LOWEST = -1e38;

/** Where hardware has more rows than there are queries: `value` in the first `live`, elsewhere `other`, which lanes need not compute. */
const inLive = (row: Expr, live: number | null, value: Expr, other: Expr | number): Expr =>
  live === null ? value : select(lt(row, live), value, other);

/** `live`: only so many rows have a query (all when null). Weights of the others are 0, and their `acc` stays as it is. */
export function onlineSoftmax(b: TileBuilder, rows: number, live: number | null = null): OnlineSoftmax {
  const top = b.frag("top", rows, 1);
  const total = b.frag("total", rows, 1);
  const shrink = b.frag("shrink", rows, 1);
  b.fill(top, LOWEST);
  b.fill(total, 0);
  return {
    top,
    total,
    step(scores, acc) {
      b.map(shrink, (row) => at(top, row, 0));
      b.rowReduce(top, "max", scores, true, live);
      b.map(shrink, (row) => inLive(row, live, exp2(sub(at(shrink, row, 0), at(top, row, 0))), 1));
      b.map(scores, (row, col) => inLive(row, live, exp2(sub(at(scores, row, col), at(top, row, 0))), 0));
      b.map(total, (row) => mul(at(total, row, 0), at(shrink, row, 0)));
      b.rowReduce(total, "sum", scores, true, live);
      b.map(acc, (row, col) => inLive(row, live, mul(at(acc, row, col), at(shrink, row, 0)), at(acc, row, col)));
    },
    finish(acc) {
      // the key with the largest score weighs 1, so a smaller total means that there was none, and acc is 0
      b.map(total, (row) => div(1, max(at(total, row, 0), 1)));
      b.map(acc, (row, col) => mul(at(acc, row, col), at(total, row, 0)));
    },
  };
}

/** Scores of a tile of keys from `from` on: scaled where the row sees the key, also so that weights are powers of 2, -Infinity elsewhere, and in rows from `live` on (where that is not null). */
export function visibleScores(
  b: TileBuilder,
  p: AttentionProblem,
  block: QueryBlock,
  sequences: Sequences | null,
  scores: Tile,
  from: Expr,
  product: (row: Expr, col: Expr) => Expr,
  live: number | null = null,
): void {
  b.map(scores, (row, col) => {
    const near = lt(add(from, col), block.limit(row));
    const seen = sequences ? and(near, sequences.together(row, col)) : near;
    return inLive(row, live, select(seen, mul(product(row, col), p.scale * Math.LOG2E), -Infinity), -Infinity);
  });
}

/**
 * A staged value. That of padding is replaced, because its weight of 0 does not silence a NaN. (Values of tokens are results of this same call or of
 * earlier ones, and are trusted where the causal order or another sequence hides them.)
 */
export const valueOf = (p: AttentionProblem, block: QueryBlock, sequences: Sequences | null, from: Expr, i: Expr, d: Expr): Expr => {
  const value = p.v(block.batch, block.kvHead, block.key(add(from, i)), d);
  return sequences ? select(sequences.real(i), value, 0) : value;
};

// ---- results ----------------------------------------------------------------------------------------------------------

export function storeRows(b: TileBuilder, p: AttentionProblem, block: QueryBlock, acc: Tile): void {
  for (const out of p.outs) {
    const place = (row: Expr, d: Expr): [Expr, Expr, Expr, Expr] => [block.batch, block.query(row), block.head(row), d];
    b.store(acc, {
      buffer: out.buffer,
      dtype: out.dtype,
      index: (row, col) => out.index(...place(row, col)),
      value: (row, col) => out.value([at(acc, row, col)], ...place(row, col)),
      guard: (row, col) => and(lt(row, block.count), lt(col, i32(p.dim))),
    });
  }
}

/** What `combine` (lowering/mixers.ts) takes: the weighted sums of a part of the keys, and behind them the maximum and the sum of the weights. */
export function storePart(b: TileBuilder, p: AttentionProblem, part: Expr, block: QueryBlock, acc: Tile, softmax: OnlineSoftmax): void {
  const { buffer, index } = p.parts!;
  const place = (row: Expr, col: Expr): Expr => index(block.batch, block.query(row), block.head(row), part, col);
  const exists = (row: Expr): Expr => lt(row, block.count);
  const store = (tile: Tile, index: (row: Expr, col: Expr) => Expr, guard: (row: Expr, col: Expr) => Expr): void => {
    b.store(tile, { buffer, dtype: "f32", index, value: (row, col) => at(tile, row, col), guard });
  };
  store(acc, place, (row, col) => and(exists(row), lt(col, i32(p.dim))));
  store(softmax.top, (row) => place(row, i32(p.dim)), exists);
  store(softmax.total, (row) => place(row, i32(p.dim + 1)), exists);
}

/** What both templates ask of a problem. */
export const misfit = (p: AttentionProblem): string | null =>
  p.heads % p.kvHeads === 0 ? null : `${p.heads} query heads do not share ${p.kvHeads} key heads evenly`;
