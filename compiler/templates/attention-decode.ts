import type { Caps, MatrixUnit } from "../backend.ts";
import { add, ceilDiv, i32, idiv, lt, max, min, mod, mul, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileProgram } from "../ir/tile.ts";
import type { AttentionProblem, Config, Reject, Template } from "../template.ts";
import {
  divisorUpTo,
  misfit,
  onlineSoftmax,
  queryBlock,
  sequencesOf,
  sharing,
  stageTypes,
  storePart,
  storeRows,
  valueOf,
  visibleScores,
} from "./attention-common.ts";
import {
  bytesOf,
  guarded,
  isVector,
  L1,
  laneRegisters,
  largest,
  leastUnit,
  operandBytes,
  roundUp,
  unitOf,
  unitsOf,
  withinRegisters,
} from "./common.ts";

/**
 * Attention for one query, or a few, over a long cache. What counts is that each key and value comes from memory once and as it lies: a block owns
 * all query heads of a key head and walks over the cache, or its part of it, in tiles of `keys`. Two forms.
 *
 * On vector targets scores are sums of products along the head with a lane a dimension (the other way round, keys would have to be transposed, which
 * only many rows pay for); a tile of keys stays in L1 while the query rows pass over it one after the other. Values are staged as they lie and
 * multiplied by mma.
 *
 * Elsewhere both products are mma's with the warps of the block side by side along the keys, and then along the head; keys and values take turns in
 * one staged tile, since shared memory is what there is least of.
 */
export const attentionDecode: Template<AttentionProblem> = { name: "attention-decode", configs, build };

interface DecodeConfig extends Config {
  readonly queries: number;
  readonly heads: number;
  readonly keys: number;
  readonly groupCols: number;
}

/** Queries a call; with more, a block of `attention` has enough rows. */
const MOST_QUERIES = 4;
/** Rows of a block. Each reads a key tile again, from L1; from about this many on, staging it transposed and using mma is faster. */
const MOST_ROWS = 16;
/** Products that one statement adds up in a lane; longer heads take several passes, so that the text stays short. */
const MOST_TERMS = 16;

function configs(p: AttentionProblem, caps: Caps): readonly DecodeConfig[] | Reject {
  const why = misfit(p);
  if (why) return { reject: why };
  const queries = largest(p.seq, 1 << 20);
  if (queries > MOST_QUERIES) return { reject: `${queries} queries a call, it takes ${MOST_QUERIES}` };
  const found = isVector(caps) ? vectorConfigs(p, queries, caps) : tiledConfigs(p, queries, caps);
  return "reject" in found || found.length > 0 ? found : { reject: `no tile of ${caps.name} fits heads of ${p.dim}` };
}

function vectorConfigs(p: AttentionProblem, queries: number, caps: Caps): readonly DecodeConfig[] | Reject {
  const unit = unitOf(caps);
  const rows = queries * sharing(p);
  if (p.parts) return { reject: "a vector target walks over the whole cache in one block" };
  if (rows > MOST_ROWS) return { reject: `${rows} query rows share a key head, more than ${MOST_ROWS} want their keys transposed` };
  // a tile of keys, or the staged values with the partial sums, is about half of L1
  const whole = roundUp(p.capacity, unit.n);
  const fit = L1 / 2 / (4 * Math.max(p.dim, rows * caps.lanes));
  const keys = Math.min(whole, Math.max(unit.n, Math.min(64, Math.floor(fit / unit.n) * unit.n)));
  const sizes = [keys, Math.min(whole, 2 * keys), Math.max(unit.n, roundUp(keys / 2, unit.n))];
  return [...new Set(sizes)].map((n) => ({ queries, heads: sharing(p), keys: n, groupCols: 1 }));
}

/** As many warps and keys as fit: a block has one chain of loads, barriers and reductions a tile, so wide tiles mean few of them. */
function tiledConfigs(p: AttentionProblem, queries: number, caps: Caps): readonly DecodeConfig[] | Reject {
  const heads = divisorUpTo(sharing(p), Math.max(1, Math.floor(32 / queries)));
  const unit = rowUnit(queries * heads, caps);
  const types = stageTypes(p, unit);
  const rows = roundUp(queries * heads, unit.m);
  const depth = roundUp(p.dim, unit.k);
  const found: (DecodeConfig & { readonly registers: number })[] = [];
  for (const groupCols of [8, 4, 2, 1])
    for (const across of [4, 2, 1]) {
      const keys = roundUp(groupCols * unit.n * across, Math.max(unit.k, groupCols * unit.n));
      const width = roundUp(p.dim, unit.n * groupCols);
      const tile =
        types.score === types.value
          ? operandBytes(keys, Math.max(depth, width), types.score, caps)
          : operandBytes(keys, depth, types.score, caps) + operandBytes(keys, width, types.value, caps);
      const shared =
        tile +
        operandBytes(rows, depth, types.score, caps) +
        operandBytes(rows, keys, types.value, caps) +
        bytesOf(1, 2 * groupCols * rows + rows + keys, "f32");
      const registers = (rows * (keys + width)) / (groupCols * caps.lanes);
      if (shared > caps.sharedBytes || registers > 160 || groupCols * caps.lanes > caps.maxThreads) continue;
      if (keys > Math.max(unit.n, unit.k) && keys >= 2 * p.capacity) continue;
      found.push({ queries, heads, keys, groupCols, registers });
    }
  // from about 64 keys on a tile, more warps serve better than more keys each
  const worth = (c: DecodeConfig): number => Math.min(c.keys, 64) * 16 + Math.min(c.groupCols, 4);
  return [...withinRegisters(found, laneRegisters(caps, 160))]
    .sort((a, b) => worth(b) - worth(a) || a.keys - b.keys)
    .slice(0, 6)
    .map(({ registers: _, ...config }) => config);
}

/** The unit whose tile has no more rows than twice those there are, or the smallest. */
const rowUnit = (rows: number, caps: Caps): MatrixUnit => unitsOf(caps).find(({ m }) => m < 2 * rows) ?? leastUnit(caps);

function build(p: AttentionProblem, config: Config, caps: Caps): TileProgram {
  return isVector(caps) ? buildVector(p, config as DecodeConfig, caps) : buildTiled(p, config as DecodeConfig, caps);
}

function buildTiled(p: AttentionProblem, { queries, heads, keys, groupCols }: DecodeConfig, caps: Caps): TileProgram {
  const unit = rowUnit(queries * heads, caps);
  const types = stageTypes(p, unit);
  const rows = roundUp(queries * heads, unit.m);
  const depth = roundUp(p.dim, unit.k);
  const width = roundUp(p.dim, unit.n * groupCols);
  const b = tileBuilder(p.frame, [p.heads / heads, p.batch, p.parts?.count ?? 1], [1, groupCols]);
  const block = queryBlock(p, { queries, heads }, { batch: b.by, group: b.bx, tile: i32(0) });
  const q = b.shared("q_tile", rows, depth, types.score);
  const k = b.shared("k_tile", keys, types.score === types.value ? Math.max(depth, width) : depth, types.score);
  const v = types.score === types.value ? k : b.shared("v_tile", keys, width, types.value);
  const weights = b.shared("weights", rows, keys, types.value);
  const scores = b.frag("scores", rows, keys);
  const acc = b.frag("acc", rows, width);
  const sequences = sequencesOf(b, p, block, { rows, keys });

  const inside = (d: Expr): Expr => lt(d, p.dim);
  b.load(q, (row, d) => guarded(p.q(block.batch, block.query(row), block.head(row), d), inside(d)));
  const softmax = onlineSoftmax(b, rows);
  b.fill(acc, 0);
  const tiles = ceilDiv(block.end, keys);
  const share = p.parts ? ceilDiv(tiles, p.parts.count) : tiles;
  const first = p.parts ? mul(b.bz, share) : i32(0);
  b.loop("step", p.parts ? max(min(share, sub(tiles, first)), 0) : tiles, (step) => {
    const from = mul(add(first, step), keys);
    b.load(k, (j, d) => guarded(p.k(block.batch, block.kvHead, block.key(add(from, j)), d), inside(d)));
    sequences?.load(from);
    b.fill(scores, 0);
    b.mma(scores, viewOf(q), viewOf(k, { transposed: true }), depth, block.count);
    visibleScores(b, p, block, sequences, scores, from, (row, col) => at(scores, row, col));
    softmax.step(scores, acc);
    b.stage(weights, scores);
    b.load(v, (j, d) => guarded(valueOf(p, block, sequences, from, j, d), inside(d)));
    // a unit that takes several keys at once gets the zeros that hidden ones weigh
    b.mma(acc, viewOf(weights), viewOf(v), unit.k > 1 ? i32(keys) : min(sub(block.end, from), keys), block.count);
  });
  if (p.parts) storePart(b, p, b.bz, block, acc, softmax);
  else {
    softmax.finish(acc);
    storeRows(b, p, block, acc);
  }
  return b.build();
}

function buildVector(p: AttentionProblem, { queries, heads, keys }: DecodeConfig, caps: Caps): TileProgram {
  const unit = unitOf(caps);
  const { lanes } = caps;
  const count = queries * heads;
  const rows = roundUp(count, unit.m);
  const width = roundUp(p.dim, unit.n);
  const valueType = stageTypes(p, unit).value;
  const passes = Math.ceil(p.dim / (lanes * MOST_TERMS));
  const terms = Math.ceil(p.dim / (lanes * passes));

  const b = tileBuilder(p.frame, [p.heads / heads, p.batch, 1]);
  const block = queryBlock(p, { queries, heads }, { batch: b.by, group: b.bx, tile: i32(0) });
  const q = b.shared("q_tile", count, passes * terms * lanes);
  const v = b.shared("v_tile", keys, width, valueType);
  const weights = b.shared("weights", rows, keys, valueType);
  // a row for every key of every query row: its products, summed within a lane, then over the lanes, then as one element of a tile of scores
  const partial = b.frag("partial", count * keys, lanes);
  const product = b.frag("product", count * keys, 1);
  const products = b.shared("products", count * keys, 1);
  const scores = b.frag("scores", rows, keys);
  const acc = b.frag("acc", rows, width);
  const sequences = sequencesOf(b, p, block, { rows, keys });

  const inside = (d: Expr): Expr => lt(d, p.dim);
  b.load(q, (row, d) => guarded(p.q(block.batch, block.query(row), block.head(row), d), inside(d)));
  const softmax = onlineSoftmax(b, rows);
  b.fill(acc, 0);
  b.loop("step", ceilDiv(block.end, keys), (step) => {
    const from = mul(step, keys);
    if (passes > 1) b.fill(partial, 0);
    b.loop("pass", passes, (pass) => {
      b.map(partial, (row, lane) => {
        const j = block.key(add(from, mod(row, keys)));
        const term = (i: number): Expr => {
          const d = add(add(mul(pass, terms * lanes), lane), i * lanes);
          return mul(guarded(p.k(block.batch, block.kvHead, j, d), inside(d)), at(q, idiv(row, keys), d));
        };
        const sum = Array.from({ length: terms }, (_, i) => term(i)).reduce((x, y) => add(x, y));
        return passes > 1 ? add(at(partial, row, lane), sum) : sum;
      });
    });
    b.rowReduce(product, "sum", partial);
    b.stage(products, product);
    sequences?.load(from);
    visibleScores(b, p, block, sequences, scores, from, (row, col) => at(products, add(mul(min(row, count - 1), keys), col), 0));
    softmax.step(scores, acc);
    b.stage(weights, scores);
    b.load(v, (row, d) => guarded(valueOf(p, block, sequences, from, row, d), inside(d)));
    // a unit that takes several keys at once gets the zeros that hidden ones weigh
    b.mma(acc, viewOf(weights), viewOf(v), unit.k > 1 ? i32(keys) : min(sub(block.end, from), keys), block.count);
  });
  softmax.finish(acc);
  storeRows(b, p, block, acc);
  return b.build();
}
