import type { Caps } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import { add, cast, exp, i32, idiv, isConst, load, lt, mul } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder } from "../ir/tile-builder.ts";
import type { TileProgram } from "../ir/tile.ts";
import type { Config, Reject, SsdProblem, Template } from "../template.ts";
import { clamp, enoughBlocks, guarded, isVector, L1, largest, roundUp, shareOut } from "./common.ts";

/**
 * One position of the state-space recurrence: S' = exp(dt A) S + (dt x) B^T, y = S' C + D x. What counts is that the state passes once, as fast as memory
 * gives and takes it, so a block owns some rows of one head and holds them in registers from the load to the store; everything that depends on the head
 * alone is computed once a lane. The state is loaded by a statement of its own, the first: it depends on nothing that the step computes.
 * A state of 16 bits is rounded once, when it is stored; y is of what it was before.
 */
export const ssdStep: Template<SsdProblem> = { name: "ssd-step", configs, build };

export interface StepConfig extends Config {
  /** Rows of a block: elements along the head dimension. */
  readonly pb: number;
  /** Warps of a block, each with rows of its own. */
  readonly groups: number;
}

/** Bytes of the state that a lane has under way: enough to cover memory's latency with the warps that a multiprocessor holds, few enough to hold them all. */
const LANE_BYTES = [128, 64, 256] as const;

function configs(p: SsdProblem, caps: Caps): readonly StepConfig[] | Reject {
  if (!isConst(p.seq, 1)) return { reject: "it takes one position a row" };
  if (p.ids) return { reject: "a single position with sequence ids may begin a sequence" };
  return stateRows(p, caps);
}

/** How many rows of a head's state a block may have, best first. */
export function stateRows(p: Pick<SsdProblem, "batch" | "heads" | "headDim" | "stateSize" | "state">, caps: Caps): readonly StepConfig[] {
  const rows = (pb: number, groups: number): StepConfig => ({ pb: Math.min(pb, roundUp(p.headDim, groups)), groups });
  if (isVector(caps)) {
    // the rows of a block, and their products with C, stay in the cache next to the core
    const fit = Math.floor(L1 / 2 / (2 * 4 * p.stateSize));
    return [fit, 2 * fit, fit / 2].map((n) => rows(shareOut(p.headDim, Math.max(1, Math.floor(n))), 1));
  }
  const most = Math.max(1, Math.min(4, Math.floor(caps.maxThreads / caps.lanes), p.headDim));
  const few = largest(p.batch, 1 << 20) * p.heads < enoughBlocks(caps) / 4;
  const found = LANE_BYTES.map((bytes) => {
    const each = Math.max(1, Math.floor((bytes * caps.lanes) / (BYTES[p.state.dtype] * roundUp(p.stateSize, caps.lanes))));
    return rows(most * shareOut(Math.ceil(p.headDim / most), few ? Math.ceil(each / 4) : each), most);
  });
  return found.filter((c, i) => found.findIndex(({ pb }) => pb === c.pb) === i);
}

function build(p: SsdProblem, config: Config, caps: Caps): TileProgram {
  const { pb, groups } = config as StepConfig;
  const parts = Math.ceil(p.headDim / pb);
  const b = tileBuilder(p.frame, [parts, p.heads, p.batch], [groups, 1]);
  const [head, batch, t] = [b.by, b.bz, i32(0)];
  const group = idiv(head, p.heads / p.groups);
  const state = b.frag("state", pb, p.stateSize);
  const read = b.frag("read", pb, p.stateSize);
  const sums = b.frag("sums", pb, 1);
  const y = b.shared("y", pb, 1);
  const dim = (row: Expr): Expr => add(mul(b.bx, pb), row);
  const inside = (row: Expr): Expr => lt(dim(row), p.headDim);

  const { buffer, dtype, index } = p.state;
  const before = (row: Expr, n: Expr): Expr => guarded(cast(load(buffer, dtype, index(batch, head, dim(row), n)), "f32"), inside(row));
  const dt = p.dt(batch, t, head);
  const decay = exp(mul(dt, p.decay(head)));
  const x = (row: Expr): Expr => p.x(batch, t, head, clamp(dim(row), p.headDim));
  const after = (old: Expr, row: Expr, n: Expr): Expr => add(mul(old, decay), mul(mul(dt, x(row)), p.B(batch, t, group, n)));
  // where a lane's elements lie in memory, a statement is a pass over them
  if (isVector(caps)) b.map(state, (row, n) => after(before(row, n), row, n));
  else {
    b.map(state, before);
    b.map(state, (row, n) => after(at(state, row, n), row, n));
  }
  b.map(read, (row, n) => mul(at(state, row, n), p.C(batch, t, group, n)));
  b.rowReduce(sums, "sum", read);
  // each row's result in a lane of its own: gates take exponentials and divisions
  b.stage(y, sums);
  b.store(state, {
    buffer,
    dtype,
    index: (row, n) => index(batch, head, dim(row), n),
    value: (row, n) => cast(at(state, row, n), dtype),
    guard: inside,
  });
  for (const out of p.outs)
    b.store(y, {
      buffer: out.buffer,
      dtype: out.dtype,
      index: (row) => out.index(batch, t, head, dim(row)),
      value: (row) => out.value([add(at(y, row, 0), mul(p.D(head), x(row)))], batch, t, head, dim(row)),
      guard: inside,
    });
  return b.build();
}
