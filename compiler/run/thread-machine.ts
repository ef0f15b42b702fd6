import type { Caps } from "../backend.ts";
import type { ThreadProgram } from "../ir/thread.ts";
import type { Cell } from "./eval.ts";
import type { Memory, Moment, Registers, Report } from "./thread-memory.ts";

/** An asynchronous copy under way: what arrives where. */
interface Copy {
  readonly lane: number;
  readonly dst: Memory;
  readonly at: number;
  readonly values: readonly number[];
}

/** A product under way: what it adds to, and what its lanes read. */
export interface Product {
  readonly acc: Registers;
  readonly reads: readonly { readonly lane: number; readonly memory: Memory; readonly at: number }[];
}

/** A block being emulated. */
export interface Machine {
  readonly p: ThreadProgram;
  readonly caps: Caps;
  readonly now: Moment;
  readonly statements: string[];
  readonly report: Report;
  readonly cell: (name: string) => Cell;
  readonly tid: Cell;
  readonly memory: ReadonlyMap<string, Memory>;
  readonly regs: ReadonlyMap<string, Registers>;
  /** Which lanes run the present statement. */
  readonly active: Uint8Array;
  /** Groups of asynchronous copies, oldest first; the last is still open. */
  copies: Copy[][];
  /** Asynchronous products under way, oldest first. */
  products: Product[];
}

/** Runs for the lanes given; they are in ascending order. */
export type Run = (lanes: readonly number[]) => void;

export function find<T>(map: ReadonlyMap<string, T>, name: string): T {
  const x = map.get(name);
  if (x === undefined) throw new Error(`${name} is not declared`);
  return x;
}

/** The threads of a block that are not among `lanes`. */
export const missing = (lanes: readonly number[], threads: number): number[] => {
  const here = new Set(lanes);
  return Array.from({ length: threads }, (_, i) => i).filter((i) => !here.has(i));
};
