import type { ProgramEntry, TensorEntry } from "../compiler/artifact.ts";

/** Elements as they lie in memory: f32 as Float32Array, i32 as Int32Array, f16 and bf16 as their bit patterns, bool as bytes. */
export type HostArray = Float32Array | Int32Array | Uint16Array | Uint8Array;

/** A program as its caller sees it: what goes in, what comes out, which numbers it is called with. */
export type ProgramInfo = Pick<ProgramEntry, "name" | "symbols" | "inputs" | "outputs">;

export type Symbols = Readonly<Record<string, number>>;

/** One kernel of a profiled run. */
export interface StepTime {
  /** Model path of the operation. */
  readonly label: string;
  /** Name of the kernel, which steps of one shape share. */
  readonly kernel: string;
  readonly milliseconds: number;
  /** What the step reads and writes, and computes, at the symbols of the run. */
  readonly bytes: number;
  readonly flops: number;
}

/**
 * Something that holds a model's weights and states and runs its programs: an artifact on a device (steps.ts), or a graph in the interpreter.
 * Inputs and outputs belong to their names, not to a program: programs with an input of one name read the same memory, and it is the memory of
 * the output of that name, if there is one, so that one program takes what another gave. The arrays that `input` and `output` give stay the same for
 * the executor's life, so a loop over tokens holds on to them and allocates nothing.
 */
export interface Executor {
  readonly programs: readonly ProgramInfo[];
  readonly states: readonly TensorEntry[];
  /** What it runs on, for people: "llvm x86-64-avx2, 2 threads". */
  readonly description: string;
  /** Buffers allocated so far, so that a test can hold a loop to allocating none. */
  readonly allocations: number;
  /** Memory of an input at the largest sizes; undefined when no program reads it. Filled before `run`; tell `wrote` what changed. */
  input(name: string): HostArray | undefined;
  /** Elements `first` to `first + count - 1` of an input were written. */
  wrote(name: string, first: number, count: number): void;
  /** Memory of an output at the largest sizes. It holds the last run's result after `fetch`. */
  output(name: string): HostArray | undefined;
  /** Brings the first `count` elements of an output to where `output` shows them. */
  fetch(name: string, count: number): void | Promise<void>;
  /** Runs a program once, with a value for each of its symbols. */
  run(program: string, symbols: Symbols): void | Promise<void>;
  /** As `run`, each kernel timed by itself; undefined where nothing can be timed (the interpreter). */
  readonly profile?: (program: string, symbols: Symbols) => Promise<readonly StepTime[]>;
  /** Copies elements of a state out, and in. */
  readState(name: string, first: number, target: HostArray): void | Promise<void>;
  writeState(name: string, first: number, source: HostArray): void | Promise<void>;
  /** Sets a state to zero. */
  clearState(name: string): void | Promise<void>;
  close(): void;
}
