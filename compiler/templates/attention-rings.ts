import type { Caps } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import type { Reject } from "../template.ts";
import { blocksHeld, bytesOf, halfUnit, isVector, operandBytes, roundUp } from "./common.ts";

/** A decoded query's attention over a cache that hardware copies (attention-stream.ts): the rings that fit, and into how many parts the keys are best cut. */

/** A decoded query, or a few, as the choice of a ring sees them. */
export interface DecodeShape {
  /** Queries of a call, and query heads that share a key head. */
  readonly queries: number;
  readonly sharing: number;
  readonly dim: number;
  /** What keys and values are stored as. */
  readonly dtype: DType;
}

export interface CacheRing {
  /** Keys of a step. */
  readonly keys: number;
  readonly stages: number;
  /** Blocks that a multiprocessor holds at a time. */
  readonly held: number;
}

/** Queries up to this many a call are decoded. */
export const DECODE_QUERIES = 4;
/** Rings of a multiprocessor, of the blocks that it holds: fewer leave gaps. */
const LEAST_HELD = 3;
/** Blocks of one warp that have registers, of as many as a lane can have. */
const MOST_HELD = 8;
/** More parts than this, and combining them costs what sharing saves; a part has at least so many keys. */
const MOST_PARTS = 32;
const LEAST_KEYS = 64;
/** Steps that a block's beginning costs, and steps of a whole wave that a kernel more does. */
const BEGIN = 3;
const COMBINE = 2;
/** Of the blocks that there is room for, the share that moves as many bytes as all of them would: with fewer, a step takes as long as its own latency. */
const ENOUGH = 0.5;

/** The rings that fit, best first: on an H200, three steps of 32 keys are read as fast as copies alone could. */
export function cacheRings({ queries, sharing, dim, dtype }: DecodeShape, caps: Caps): readonly CacheRing[] | Reject {
  if (!caps.asyncCopy || isVector(caps)) return { reject: `${caps.name} copies nothing by itself` };
  if (queries > DECODE_QUERIES) return { reject: `${queries} queries a call, it takes ${DECODE_QUERIES}` };
  const unit = halfUnit(dtype, caps);
  if (!unit) return { reject: `${caps.name} has no hardware for matrices of what keys and values are stored as` };
  const least = Math.max(unit.k, unit.n);
  if (dim % least !== 0) return { reject: `heads of ${dim} are no whole tiles of ${unit.name}` };
  const rows = roundUp(queries * sharing, unit.m);
  if ((rows * dim) / caps.lanes > 128) return { reject: `${rows} rows of ${dim} do not fit in a warp's registers` };
  const bytes = (keys: number, stages: number): number =>
    stages * (2 * operandBytes(keys, dim, dtype, caps) + bytesOf(1, keys, "i32")) +
    operandBytes(rows, dim, dtype, caps) +
    operandBytes(rows, keys, dtype, caps) +
    bytesOf(1, rows, "i32");
  const found = ([[2 * least, 3], [least, 3], [least, 4]] as const) // prettier-ignore
    .map(([keys, stages]) => {
      return { keys, stages, held: Math.min(blocksHeld(bytes(keys, stages), caps), MOST_HELD) };
    })
    .filter(({ held }) => held >= LEAST_HELD);
  return found.length > 0 ? found : { reject: `rings of heads of ${dim} do not fit the shared memory of ${caps.name}` };
}

/**
 * Into how many parts the keys of `blocks` rows and key heads are best cut, 1 for none: so that blocks come in whole waves, or in one that has enough of them to be
 * limited by memory alone. A cost is the steps of all blocks together, where steps take as long as those of a wave of enough blocks.
 */
export function partsOfCache(blocks: number, capacity: number, { keys, held }: CacheRing, caps: Caps): number {
  const room = held * caps.workers;
  const steps = Math.ceil(capacity / keys);
  const costOf = (parts: number): number => {
    const last = (blocks * parts) % room;
    const filled = blocks * parts - last + (last > 0 ? Math.max(last, ENOUGH * room) : 0);
    return filled * (Math.ceil(steps / parts) + BEGIN) + (parts > 1 ? COMBINE * room : 0);
  };
  const most = Math.max(1, Math.min(MOST_PARTS, Math.floor(capacity / LEAST_KEYS)));
  return Array.from({ length: most }, (_, i) => i + 1).reduce((best, n) => (costOf(n) < costOf(best) ? n : best));
}
