import type { Caps } from "../../../compiler/backend.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { BYTES, read } from "../../../compiler/ir/dtype.ts";
import { evaluateInt } from "../../../compiler/ir/expr.ts";
import type { Var } from "../../../compiler/ir/expr.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import { emulateThread, printFinding } from "../../../compiler/run/thread.ts";
import type { HostArray } from "../../../compiler/run/tile.ts";
import { inputFor } from "./inputs.ts";

/** A kernel of an artifact, and the program that it was printed from. */
export interface KernelProgram {
  readonly entry: string;
  readonly label: string;
  readonly program: ThreadProgram;
}

/** What a kernel is run with, and what must come of it: verify/cases.json. */
export interface KernelCase {
  readonly entry: string;
  readonly label: string;
  readonly threads: number;
  readonly grid: readonly [number, number, number];
  /** Values of the kernel's symbols, in its order. */
  readonly symbols: readonly number[];
  /** The arguments in order. The inputs' rule (inputs.ts) makes elements of seeds; outputs begin so too. */
  readonly buffers: readonly { readonly dtype: DType; readonly elements: number; readonly seed: number }[];
  readonly expected: readonly Expected[];
  /** Why it is not run, where it is not. */
  readonly skipped: string | null;
}

/** Elements of a buffer after the kernel: `count` numbers of elements, as integers of 32 bits, at `offset` of verify/expected.bin, and their values as f32 behind them. */
interface Expected {
  readonly buffer: number;
  readonly offset: number;
  readonly count: number;
  /** Absolute, and relative to the expected value. */
  readonly tolerance: number;
}

export interface Cases {
  readonly cases: readonly KernelCase[];
  readonly expected: Uint8Array;
}

/** Memory that the inputs of one kernel may take. */
const MOST_BYTES = 1.5 * 2 ** 30;
/** Elements of a buffer that are compared. */
const MOST_ELEMENTS = 512;
/** Sums are in another order on a GPU, and its functions are right to a few units in the last place; what is stored is rounded to its type on top. */
const TOLERANCE: Readonly<Record<DType, number>> = { f32: 1e-3, f16: 4e-3, bf16: 2e-2, i32: 0, bool: 0 };

/** A few positions, so that a call has a past and an end in the middle of a tile. */
const valueOf = (symbol: Var): number => Math.min(symbol.max, Math.max(symbol.min, 3));

/**
 * A case for each kernel. What it must give is computed by the emulator for three blocks of its grid; blocks do not depend on each other. A large
 * kernel takes the emulator seconds.
 * @throws Error when the emulator finds a kernel at fault
 */
export function casesOf(kernels: readonly KernelProgram[], caps: Caps): Cases {
  const chunks: Uint8Array[] = [];
  let end = 0;
  const keep: Keep = (elements, values) => {
    const offset = end;
    for (const part of [elements, values]) {
      chunks.push(new Uint8Array(part.buffer));
      end += part.byteLength;
    }
    return offset;
  };
  const cases = kernels.map((k, i) => caseOf(k, caps, 16 * i, keep));
  const expected = new Uint8Array(end);
  let at = 0;
  for (const c of chunks) {
    expected.set(c, at);
    at += c.byteLength;
  }
  return { cases, expected };
}

type Keep = (elements: Int32Array, values: Float32Array) => number;

function caseOf({ entry, label, program }: KernelProgram, caps: Caps, seed: number, keep: Keep): KernelCase {
  const symbols = Object.fromEntries(program.symbols.map((s) => [s.name, valueOf(s)]));
  const grid = program.grid.map((g) => evaluateInt(g, symbols)) as [number, number, number];
  const buffers = program.params.map((q, i) => ({ dtype: q.dtype, elements: q.elements ?? 0, seed: seed + i }));
  const about = { entry, label, threads: program.threads, grid, symbols: program.symbols.map((s) => symbols[s.name]!), buffers };
  const bytes = buffers.reduce((n, b) => n + b.elements * BYTES[b.dtype], 0);
  if (bytes > MOST_BYTES) return { ...about, expected: [], skipped: `its arguments take ${Math.round(bytes / 2 ** 20)} MiB` };
  const memory = buffers.map((b) => inputFor(b.dtype, b.elements, b.seed));
  const written = program.params.flatMap((q, i) => (q.access === "read" ? [] : [i]));
  const before = new Map(written.map((i) => [i, memory[i]!.slice()]));
  const found = emulateThread(
    program,
    caps,
    Object.fromEntries(program.params.map((q, i) => [q.name, memory[i]!])),
    symbols,
    blocksOf(grid),
  );
  if (found.length > 0) throw new Error(`${entry} (${label}):\n${found.slice(0, 3).map(printFinding).join("\n")}`);
  const expected = written.map((i): Expected => {
    const { dtype } = buffers[i]!;
    const elements = changedElements(memory[i]!, before.get(i)!);
    const values = Float32Array.from(elements, (at) => read(memory[i]!, dtype, at));
    return { buffer: i, offset: keep(elements, values), count: elements.length, tolerance: TOLERANCE[dtype] };
  });
  return { ...about, expected, skipped: null };
}

type Block = readonly [x: number, y: number, z: number];

/** The first, the last, and one in the middle: where columns of a product are of different results, it has others than those. */
function blocksOf(grid: Block): readonly Block[] {
  const at = [0, 0.5, 1].map((share) => grid.map((n) => Math.floor((n - 1) * share)) as unknown as Block);
  return [...new Map(at.map((b) => [b.join(), b])).values()];
}

/** Elements that are not what they were; some of them where they are many, evenly. */
function changedElements(after: HostArray, before: HostArray): Int32Array {
  const found: number[] = [];
  for (let i = 0; i < after.length; i++) if (!Object.is(after[i], before[i])) found.push(i);
  const step = Math.max(1, found.length / MOST_ELEMENTS);
  return Int32Array.from({ length: Math.min(found.length, MOST_ELEMENTS) }, (_, i) => found[Math.floor(i * step)]!);
}
