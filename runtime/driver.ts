import type { Requirements } from "../compiler/artifact.ts";

/**
 * The contract between the runtime and a device. A driver knows nothing of models: it has memory, kernels, and lists of steps that are prepared once
 * and then run again and again, with nothing allocated on the way. What changes from run to run (grids, and symbols such as `past`) lies in two
 * small arrays that the list owns, so that a recording made from it stays valid.
 */
export interface Driver {
  /** "cpu", "cuda", "webgpu". */
  readonly name: string;
  open(options?: OpenOptions): Promise<Device>;
}

export interface OpenOptions {
  /** Worker threads, where the device has such; default: one for each processor this process may use. */
  readonly threads?: number;
  /** Which device, where there are several. */
  readonly index?: number;
  /** What the artifact asks of the device. Refused, with all that is missing, before anything is allocated. */
  readonly requires?: Requirements;
}

/**
 * What memory is for; drivers may place the kinds differently. A `result` is a few numbers that kernels only write and the host reads after each run: a driver may place it
 * where the host sees it without a copy, so it is read before the next run begins.
 */
export type BufferUse = "weights" | "state" | "arena" | "io" | "result";

export interface Device {
  /** For people: "CPU, 2 threads". */
  readonly name: string;
  /** Part of the key of everything that was tuned or compiled for this very device. */
  readonly fingerprint: string;
  /** The backend of the compiler whose artifacts it runs: "llvm", "wgsl". */
  readonly backend: string;
  /** Workers that run blocks at the same time; null where the device does not tell. */
  readonly workers: number | null;
  /** Objects made in its memory so far, so that a test can hold a loop to making none. */
  readonly allocations: number;
  /** Zeroed memory. Throws RangeError when there is not enough, here or in `ready`. */
  alloc(bytes: number, use: BufferUse): DeviceBuffer;
  /**
   * Resolves when all memory that was asked for is there, and not much of what was written is still on its way: some devices answer later, and hold what is
   * written until they have it. Throws RangeError when there is not enough memory.
   */
  ready(): Promise<void>;
  /** Bytes of its memory that nobody uses; absent where the device does not tell. */
  freeBytes?(): number;
  /**
   * Memory in which what is to be written is best made, so that the device copies from it as it is: to be filled, however long that takes, and given to a
   * buffer's `write` before more of it is asked for. Null for more than it has at once; absent where any memory will do.
   */
  staging?(bytes: number): Uint8Array | null;
  /** Copies between buffers of this device, in order with writes, runs and reads. Ranges within one buffer must not overlap. */
  copy(to: DeviceBuffer, toOffset: number, from: DeviceBuffer, fromOffset: number, bytes: number): void;
  /** Loads the binary that the target's toolchain made. */
  load(binary: Uint8Array): Promise<KernelModule>;
  /** Prepares steps to be run in order, each seeing all that the earlier ones wrote. `symbols` names the run-time values they use between them. */
  prepare(steps: readonly StepSpec[], symbols: readonly string[]): StepList;
  /** Ends the workers and frees what is left. Nothing of the device may be used afterwards. */
  close(): Promise<void>;
}

export interface DeviceBuffer {
  readonly bytes: number;
  /** The memory itself, where the host can see it; null where `write` and `read` are the only way. */
  readonly host: Uint8Array | null;
  /** The data is taken at once. Whoever writes much should wait for the device to be `ready` in between. */
  write(data: Uint8Array, offset?: number): void;
  /** A copy of what is there after everything that was called before. */
  read(offset?: number, bytes?: number): Promise<Uint8Array>;
  /** Sets all of it, or a part, to zero. */
  clear(offset?: number, bytes?: number): void;
  free(): void;
}

export interface KernelModule {
  /** Throws when there is no such entry. */
  kernel(entry: string): Kernel;
  free(): void;
}

export interface Kernel {
  readonly entry: string;
}

export interface Slice {
  readonly buffer: DeviceBuffer;
  /** In bytes. */
  readonly offset: number;
}

export interface StepSpec {
  readonly kernel: Kernel;
  /** One a parameter, in order. Different parameters of one step must not overlap in memory. */
  readonly args: readonly Slice[];
  /** The symbols that the kernel takes, in its order. */
  readonly symbols: readonly string[];
  /** Memory of its own that a block needs. */
  readonly sharedBytes: number;
}

export interface StepList {
  /** Blocks along x, y and z of step i at 3 i, to be set before a run. A step with a zero in it does nothing. */
  readonly grids: Int32Array;
  /** Values of the symbols, in the order that `prepare` was given. */
  readonly symbols: Int32Array;
  /**
   * Runs all steps. When the promise resolves, whatever is called later sees their results; a GPU may still be at work, so that a token costs one wait, that for
   * what is read. A CPU does them before it returns. One list of a device runs at a time.
   */
  run(): Promise<void>;
  /** The same, done when the promise resolves, without holding up the calling thread: for runs that take long, such as a prefill. */
  runInBackground(): Promise<void>;
  /** Runs all steps and returns how long each took, in nanoseconds. */
  runTimed(): Promise<Float64Array>;
  /**
   * How long each group of steps takes, in nanoseconds, when its steps run one right after the other: nearer to what they take in a run than each step alone.
   * Memory holds nothing that means anything afterwards. Absent where a single step is timed as well as that.
   */
  timeGroups?(groups: readonly (readonly number[])[]): Promise<Float64Array>;
  free(): void;
}
