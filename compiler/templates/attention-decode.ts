import type { Caps } from "../backend.ts";
import { add, ceilDiv, i32, idiv, lt, min, mod, mul, sub } from "../ir/expr.ts";
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
  storedType,
  storeRows,
  valueOf,
  visibleScores,
} from "./attention-common.ts";
import { guarded, isVector, L1, largest, roundUp, stageType, leastUnit } from "./common.ts";

/**
 * Attention for one query, or a few, over a long cache. What counts is that each key and value comes from memory once and as it lies: a block owns
 * all query heads of a key head and walks over the whole cache in tiles of `keys`. Scores are sums of products along the head with a lane a
 * dimension (the other way round, keys would have to be transposed, which only many rows pay for); a tile of keys stays in L1 while the query rows
 * pass over it one after the other. Values are staged as they lie and multiplied by mma.
 *
 * There is one block for each key head and batch row, which fills a CPU. A GPU wants the keys split over more blocks and a second kernel that combines
 * their maxima and sums; that comes with the GPU backends.
 */
export const attentionDecode: Template<AttentionProblem> = { name: "attention-decode", configs, build };

interface DecodeConfig extends Config {
  readonly queries: number;
  readonly heads: number;
  readonly keys: number;
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
  const unit = leastUnit(caps);
  if (!isVector(caps)) {
    // a lane holds a partial sum of every row and key, in registers that cannot be indexed
    const keys = roundUp(16, unit.k);
    const heads = divisorUpTo(sharing(p), Math.min(unit.m, Math.floor(128 / keys)) / queries);
    return [{ queries, heads, keys }];
  }
  const rows = queries * sharing(p);
  if (rows > MOST_ROWS) return { reject: `${rows} query rows share a key head, more than ${MOST_ROWS} want their keys transposed` };
  // a tile of keys, or the staged values with the partial sums, is about half of L1
  const whole = roundUp(p.capacity, unit.n);
  const fit = L1 / 2 / (4 * Math.max(p.dim, rows * caps.lanes));
  const keys = Math.min(whole, Math.max(unit.n, Math.min(64, Math.floor(fit / unit.n) * unit.n)));
  const sizes = [keys, Math.min(whole, 2 * keys), Math.max(unit.n, roundUp(keys / 2, unit.n))];
  return [...new Set(sizes)].map((n) => ({ queries, heads: sharing(p), keys: n }));
}

function build(p: AttentionProblem, config: Config, caps: Caps): TileProgram {
  const { queries, heads, keys } = config as DecodeConfig;
  const unit = leastUnit(caps);
  const { lanes } = caps;
  const count = queries * heads;
  const rows = roundUp(count, unit.m);
  const width = roundUp(p.dim, unit.n);
  const valueType = stageType(unit, storedType(p.v(i32(0), i32(0), i32(0), i32(0))));
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
