import type { Caps } from "../backend.ts";
import { add, ceilDiv, i32, lt, min, mul, sub } from "../ir/expr.ts";
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
  storeRows,
  valueOf,
  visibleScores,
} from "./attention-common.ts";
import {
  bytesOf,
  enoughBlocks,
  evenly,
  guarded,
  isVector,
  L2,
  largest,
  leastUnit,
  mostRegisters,
  operandBytes,
  roundUp,
  unitOf,
  unitsOf,
  withinRegisters,
} from "./common.ts";

/**
 * Attention for many queries. A block owns `queries` queries of `heads` heads that share a key head, stages them once (with the prologue, usually
 * the rotary embedding, applied) and walks over the keys they may see in tiles of `keys`: scores by mma, online softmax, values by mma.
 */
export const attention: Template<AttentionProblem> = { name: "attention", configs, build };

interface AttentionConfig extends Config {
  readonly queries: number;
  readonly heads: number;
  readonly keys: number;
  readonly groupRows: number;
}

function configs(p: AttentionProblem, caps: Caps): readonly AttentionConfig[] | Reject {
  const why = misfit(p);
  if (why) return { reject: why };
  if (p.parts) return { reject: "it does not share the keys of a query between blocks" };
  const found = isVector(caps) ? vectorConfigs(p, caps) : tiledConfigs(p, caps);
  return found.length > 0 ? found : { reject: `no tile of ${caps.name} fits heads of ${p.dim}` };
}

/** `rows` rows of a block: all heads that share a key head if they fit, because with fewer queries a block walks over fewer keys that only its last ones see. */
function config(p: AttentionProblem, rows: number, keys: number, groupRows: number): AttentionConfig {
  const heads = divisorUpTo(sharing(p), rows);
  const queries = evenly(largest(p.seq, 1 << 20), Math.max(1, Math.floor(rows / heads)), 1);
  return { queries, heads, keys, groupRows };
}

const blocksOf = (p: AttentionProblem, c: AttentionConfig): number =>
  Math.ceil(largest(p.seq, 1 << 20) / c.queries) * (p.heads / c.heads) * largest(p.batch, 1 << 20);

const distinct = (found: readonly AttentionConfig[]): AttentionConfig[] =>
  found.filter((c, i) => found.findIndex((d) => Object.entries(c).every(([key, value]) => d[key] === value)) === i);

/**
 * Rows are what pays for a key tile: keys are transposed as they are staged, element by element. So as many rows as half of L2 holds with the staged
 * queries, scores, weights and accumulators; tiles of 64 keys keep the rescaling of the accumulators at a few percent.
 */
function vectorConfigs(p: AttentionProblem, caps: Caps): AttentionConfig[] {
  const unit = unitOf(caps);
  const step = unit.n * unit.block[1];
  const width = roundUp(p.dim, unit.n);
  const keysFor = (target: number): number => Math.min(roundUp(target, step), roundUp(p.capacity, step));
  const rowsFor = (keys: number): number =>
    Math.max(unit.block[0], Math.min(256, Math.floor((L2 / 2 / 4 - keys * (p.dim + width)) / (p.dim + width + 2 * keys))));
  const sizes = [64, 32, 128].flatMap((target) => {
    const keys = keysFor(target);
    return [1, 2, 4].map((part) => config(p, Math.max(unit.block[0], Math.floor(rowsFor(keys) / part)), keys, 1));
  });
  const found = distinct(sizes);
  const busy = (c: AttentionConfig): boolean => blocksOf(p, c) >= enoughBlocks(caps);
  return [...found.filter(busy), ...found.filter((c) => !busy(c))];
}

/** A warp owns 16 or 32 rows or whatever its unit computes; the widest block whose tiles fit in shared memory, unless that leaves workers idle. */
function tiledConfigs(p: AttentionProblem, caps: Caps): AttentionConfig[] {
  const least = leastUnit(caps);
  const step = roundUp(least.n, least.k);
  const { score: scoreType, value: valueType } = stageTypes(p, unitOf(caps));
  const depth = roundUp(p.dim, least.k),
    width = roundUp(p.dim, least.n);
  const most = largest(p.seq, 1 << 20) * sharing(p);
  const found: { readonly config: AttentionConfig; readonly worth: number; readonly registers: number }[] = [];
  for (const unit of unitsOf(caps))
    for (const groupRows of [8, 4, 2, 1])
      for (const down of [2, 1])
        for (const keys of [...new Set([64, 32, 16, step].map((n) => roundUp(n, step)))]) {
          const rows = unit.m * groupRows * down;
          const operands = operandBytes(rows, depth, scoreType, caps) + operandBytes(keys, depth, scoreType, caps);
          const shared = operands + operandBytes(keys, width, valueType, caps) + operandBytes(rows, keys, valueType, caps);
          const registers = (rows * (keys + width)) / (groupRows * caps.lanes);
          if (shared + bytesOf(1, rows + keys, "i32") > caps.sharedBytes) continue;
          if (registers > 160 || groupRows * caps.lanes > caps.maxThreads) continue;
          if ((rows > least.m && rows >= 2 * most) || (keys > step && keys >= 2 * p.capacity)) continue;
          const c = config(p, rows, keys, groupRows);
          const full = Math.min(1, blocksOf(p, c) / caps.workers);
          // rows share the fetching of a key; a tile of keys shares the rescaling of a row
          found.push({ config: c, worth: full * ((rows * keys) / (rows + keys)) * Math.min(1, (c.queries * c.heads) / rows), registers });
        }
  const fits = [...withinRegisters(found, mostRegisters(caps, 160))].sort((a, b) => b.worth - a.worth);
  return distinct(fits.map((f) => f.config)).slice(0, 8);
}

function build(p: AttentionProblem, chosen: Config, caps: Caps): TileProgram {
  const { queries, heads, keys, groupRows } = chosen as AttentionConfig;
  const unit = leastUnit(caps);
  const vector = isVector(caps);
  const rows = roundUp(queries * heads, unit.m * groupRows);
  const depth = roundUp(p.dim, unit.k),
    width = roundUp(p.dim, unit.n);
  const { score: scoreType, value: valueType } = stageTypes(p, unitOf(caps));

  const b = tileBuilder(p.frame, [ceilDiv(p.seq, queries), p.heads / heads, p.batch], [groupRows, 1]);
  const block = queryBlock(p, { queries, heads }, { batch: b.bz, group: b.by, tile: b.bx });
  const q = b.shared("q_tile", rows, depth, scoreType);
  // the vector unit needs adjacent keys; elsewhere keys are staged the way they lie, so that neighbouring lanes read neighbouring elements
  const k = vector ? b.shared("k_tile", depth, keys, scoreType) : b.shared("k_tile", keys, depth, scoreType);
  const v = b.shared("v_tile", keys, width, valueType);
  const weights = b.shared("weights", rows, keys, valueType);
  const scores = b.frag("scores", rows, keys);
  const acc = b.frag("acc", rows, width);
  const sequences = sequencesOf(b, p, block, { rows, keys });

  const inside = (d: Expr): Expr => lt(d, p.dim);
  b.load(q, (row, d) => guarded(p.q(block.batch, block.query(row), block.head(row), d), inside(d)));
  const softmax = onlineSoftmax(b, rows);
  b.fill(acc, 0);
  b.loop("step", ceilDiv(block.end, keys), (step) => {
    const from = mul(step, keys);
    const key = (j: Expr, d: Expr): Expr => guarded(p.k(block.batch, block.kvHead, block.key(add(from, j)), d), inside(d));
    b.load(k, (row, col) => (vector ? key(col, row) : key(row, col)));
    sequences?.load(from);
    b.fill(scores, 0);
    b.mma(scores, viewOf(q), viewOf(k, { transposed: !vector }), depth, block.count);
    visibleScores(b, p, block, sequences, scores, from, (row, col) => at(scores, row, col));
    softmax.step(scores, acc);
    b.stage(weights, scores);
    b.load(v, (row, d) => guarded(valueOf(p, block, sequences, from, row, d), inside(d)));
    // a unit that takes several keys at once gets the zeros that hidden ones weigh
    const count = unit.k > 1 ? i32(keys) : min(sub(block.end, from), keys);
    b.mma(acc, viewOf(weights), viewOf(v), count, block.count);
  });
  softmax.finish(acc);
  storeRows(b, p, block, acc);
  return b.build();
}
