import type { DType } from "../../compiler/ir/dtype.ts";
import { isConst, rangeOf } from "../../compiler/ir/expr.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";
import type { Level } from "./caps.ts";
import type { Lanes } from "./linear.ts";

/**
 * Where a block keeps its arrays. Shared arrays and large register arrays lie in the worker's scratch memory, small register arrays on the stack,
 * where LLVM can turn them into registers.
 */
export interface Frame {
  readonly arrays: ReadonlyMap<string, Slot>;
  /** Where `unit` packs a right operand whose columns are not adjacent; bytes from the start of scratch memory, or -1. */
  readonly packAt: number;
  /** Scratch memory that a block needs. */
  readonly scratchBytes: number;
}

export interface Slot {
  readonly dtype: DType;
  /** Elements, over all lanes. */
  readonly elements: number;
  /** Element i of lane t is at i * lanes + t; otherwise at i. */
  readonly perLane: boolean;
  /** Byte offset in scratch memory, or -1 for the stack. */
  readonly offset: number;
}

const ALIGN = 64;
/** A register array up to this size goes on the stack, and so many bytes of them together: threads of other systems' making have small stacks. */
const STACK_BYTES = 4096;
const STACK_TOTAL = 96 * 1024;

export const memoryBytes = (d: DType): number => (d === "f32" || d === "i32" ? 4 : d === "bool" ? 1 : 2);

export function layOut(program: ThreadProgram, lanes: Lanes, level: Level): Frame {
  let scratchBytes = 0;
  const reserve = (bytes: number): number => {
    const at = scratchBytes;
    scratchBytes += Math.ceil(bytes / ALIGN) * ALIGN;
    return at;
  };
  let stackBytes = 0;
  const arrays = new Map<string, Slot>();
  for (const { name, dtype, count } of program.shared)
    arrays.set(name, { dtype, elements: count, perLane: false, offset: reserve(count * memoryBytes(dtype)) });
  for (const { name, dtype, count } of program.regs) {
    const perLane = !lanes.uniformRegs.has(name);
    const elements = count * (perLane ? program.threads : 1);
    const bytes = elements * memoryBytes(dtype);
    const onStack = bytes <= STACK_BYTES && stackBytes + bytes <= STACK_TOTAL;
    if (onStack) stackBytes += bytes;
    arrays.set(name, { dtype, elements, perLane, offset: onStack ? -1 : reserve(bytes) });
  }
  const packed = packBytes(program.body, level);
  return { arrays, packAt: packed > 0 ? reserve(packed) : -1, scratchBytes };
}

/** Whether a unit's right operand must be copied before vectors of columns can be loaded from it. */
export const mustPack = (s: Extract<Stmt, { op: "unit" }>): boolean => !isConst(s.b.colStride, 1);

function packBytes(body: readonly Stmt[], level: Level): number {
  let most = 0;
  for (const s of body) {
    if (s.op === "for") most = Math.max(most, packBytes(s.body, level));
    if (s.op === "if") most = Math.max(most, packBytes(s.body, level), packBytes(s.otherwise, level));
    if (s.op === "unit" && mustPack(s)) {
      const k = rangeOf(s.k).max;
      if (k > 1 << 16)
        throw new Error(`unit ${s.acc}: the right operand has columns that are not adjacent, and an inner size without a useful bound`);
      most = Math.max(most, k * Math.min(s.fn, level.block[1]) * level.lanes * 4);
    }
  }
  return most;
}
