import type { Caps, MatrixUnit } from "../backend.ts";
import type { Config, Reject, ReplayProblem } from "../template.ts";
import { blocksHeld, bytesOf, halfUnit, isVector, largest, operandBytes, roundUp, shareOut } from "./common.ts";

/** Steps with a ring of inputs that stream states (ssd-replay-stream.ts): the rings of shared memory that fit, and how many heads a block is best given. */

export interface StreamConfig extends Config {
  /** Heads of a block. */
  readonly heads: number;
  /** Rows of a step: elements along the head dimension. */
  readonly pb: number;
  readonly stages: number;
  /** Warps of a block. */
  readonly groups: number;
}

/** Columns of the new state that are computed at a time: as many registers and bytes as a block has for what is done rarely. */
export const SOME = 32;
/** Steps that a block's beginning costs, on an H200. */
const PROLOGUE = 4;

/** The rings that fit, best first: on an H200 two steps of whole heads, with as many blocks as a multiprocessor holds. */
export function replayRings(p: ReplayProblem, caps: Caps): readonly StreamConfig[] | Reject {
  if (!caps.asyncCopy || isVector(caps)) return { reject: `${caps.name} copies nothing by itself` };
  const { dtype } = p.state;
  const unit = halfUnit(dtype, caps);
  if (!unit) return { reject: `${caps.name} has no hardware for matrices of ${dtype}` };
  if (p.ring.x.dtype !== dtype || p.ring.B.dtype !== dtype) return { reject: "inputs are not stored as the state is" };
  if (p.stateSize % unit.k !== 0) return { reject: `states of ${p.stateSize} are no whole steps of ${unit.name}` };
  if (p.headDim % unit.m !== 0) return { reject: `heads of ${p.headDim} are no whole rows of ${unit.name}` };
  const rings = ([[p.headDim, 2], [p.headDim, 3], [p.headDim / 2, 4]] as const).filter(([pb]) => pb % unit.m === 0); // prettier-ignore
  const found = rings.flatMap(([pb, stages]) => {
    const heads = headsOf(p, pb, stages, unit, caps);
    return heads === null
      ? []
      : [{ heads, pb, stages, groups: shareOut(pb / unit.m, Math.min(4, Math.floor(caps.maxThreads / caps.lanes))) }];
  });
  return found.length > 0 ? found : { reject: `no ring of states of ${p.headDim} x ${p.stateSize} fits the shared memory of ${caps.name}` };
}

/**
 * How many heads a block goes through: no more than leave a multiprocessor as many blocks as it can hold, whose beginnings and ends the others fill; of those numbers what
 * leaves the last wave of blocks full, and the beginnings few. null where no block fits.
 */
function headsOf(p: ReplayProblem, pb: number, stages: number, unit: MatrixUnit, caps: Caps): number | null {
  const members = p.heads / p.groups;
  const heldOf = (heads: number): number => blocksHeld(sharedBytes(p, heads, pb, stages, unit, caps), caps);
  const costOf = (heads: number): number => {
    const blocks = (largest(p.batch, 1 << 20) * p.heads) / heads;
    return Math.ceil(blocks / (caps.workers * heldOf(heads))) * ((heads * p.headDim) / pb + PROLOGUE);
  };
  const counts = Array.from({ length: members }, (_, i) => i + 1).filter((n) => members % n === 0 && heldOf(n) === heldOf(1));
  return heldOf(1) === 0 ? null : counts.reduce((best, n) => (costOf(n) < costOf(best) ? n : best));
}

function sharedBytes(p: ReplayProblem, heads: number, pb: number, stages: number, unit: MatrixUnit, caps: Caps): number {
  const { dtype } = p.state;
  const rows = roundUp(p.length, unit.k);
  // of the state, the inputs in the ring, and what is carried for each row: this input and a gate
  const turn = operandBytes(pb, p.stateSize, dtype, caps) + operandBytes(rows, pb, dtype, caps) + 2 * bytesOf(1, pb, "f32");
  const own = bytesOf(unit.n, rows, dtype) + bytesOf(p.length + rows + 4, 1, "f32");
  const common = operandBytes(unit.n + rows, p.stateSize, dtype, caps) + bytesOf(1, p.stateSize, "f32") + bytesOf(p.length, 1, "f32");
  return stages * turn + heads * own + common + 2 * operandBytes(rows, pb, dtype, caps) + operandBytes(pb, SOME, dtype, caps);
}
