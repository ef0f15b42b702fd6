import type { Requirements } from "./artifact.ts";
import type { DType } from "./ir/dtype.ts";
import type { Expr } from "./ir/expr.ts";
import type { ThreadProgram } from "./ir/thread.ts";

export { NO_REQUIREMENTS } from "./artifact.ts";
export type { Requirements } from "./artifact.ts";

/** What a device can do: plain data, from a table or detected on the host. Templates and `place` read it; nothing else about the target reaches them. */
export interface Caps {
  /** e.g. "x86-64-avx512", "null-32". Part of every cache key. */
  readonly name: string;
  readonly dtypes: ReadonlySet<DType>;
  /** Lanes of a warp: 32 on most GPUs; on a CPU the elements of an f32 vector register. */
  readonly lanes: number;
  readonly maxThreads: number;
  readonly sharedBytes: number;
  /** Widest load of one lane. Equal to an element's size on a CPU, where lanes themselves make the vector. */
  readonly vectorBytes: number;
  readonly asyncCopy: boolean;
  /** Register arrays may be indexed by a run-time value (a CPU keeps them in memory); otherwise loops over them are unrolled. */
  readonly indexableRegisters: boolean;
  /** Operands of `mma` may be read straight from global memory. */
  readonly directOperands: boolean;
  /** Layout of matmul weights: panels of this many rows (k-major inside), or 0 for row-major. */
  readonly panel: number;
  /** The units templates may use, best first. There is always one. */
  readonly units: readonly MatrixUnit[];
  /**
   * Where values between kernels lie: anywhere in one arena, or each in a buffer of its own (WebGPU tracks whole buffers: one that a kernel writes
   * cannot be another of its arguments, whatever the offsets).
   */
  readonly arena: "one" | "buffers";
  /** Buffers that a kernel may have as arguments. */
  readonly maxBuffers: number;
  /** Sums of a product that a lane may hold, of a target with fewer registers than the 255 of most GPUs. */
  readonly accumulators?: number;
  /** What the device must offer; the artifact says it. */
  readonly requires: Requirements;
  /** Workers that run blocks at the same time (cores, SMs): what a grid should at least fill. */
  readonly workers: number;
}

/**
 * One matrix instruction, or its stand-in. A warp of `lanes` lanes, or several warps that have so many together, computes m x n x k; each lane owns `elems`
 * accumulator elements, element i of a lane at coord(lane, i). Scalar and vector FMA are rows too: a CPU's is m = 1, n = lanes, k = 1 with a register block.
 */
export interface MatrixUnit {
  readonly name: string;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly lanes: number;
  readonly elems: number;
  readonly inputs: readonly DType[];
  /** Bits of the fraction that operands of f32 are rounded to, to the nearest and from the middle away from zero, of a unit that does not take them as they are. */
  readonly fraction?: number;
  readonly coord: (lane: Expr, i: Expr) => readonly [row: Expr, col: Expr];
  /** Unit tiles kept in registers at once by the printed code (rows, cols); [1, 1] where the hardware decides. */
  readonly block: readonly [number, number];
  /**
   * Of a unit that works while its lanes go on: they have to wait for it (`unitWait`, thread.ts). It takes tiles of shared memory alone, whose rows are `rowBytes`
   * elements along k, as bytes, and are turned. One instruction computes neighbours in a row of unit tiles, up to `columns` columns, and reads the left operand once.
   */
  readonly asynchronous?: { readonly rowBytes: number; readonly columns: number };
  /** Shared memory that each warp needs to get accumulators into its registers, of a unit that keeps them elsewhere. */
  readonly exchangeBytes?: number;
}

export interface Source {
  readonly language: "llvm" | "cuda" | "metal" | "wgsl" | "none";
  readonly text: string;
  readonly entry: string;
  /** Shared memory one block needs; on a CPU the scratch memory of the worker that runs it. */
  readonly sharedBytes: number;
  /** Of a target that binds buffers: how each parameter is bound, and in how many windows (consecutive bindings). */
  readonly params?: readonly { readonly access: "read" | "readwrite"; readonly windows: number }[];
  /** Of a target whose driver compiles: threads of a workgroup, and how many symbols the kernel takes. */
  readonly launch?: { readonly threads: number; readonly symbols: number };
  /** What the kernel computes and how it was configured, for messages of toolchains. */
  readonly about?: string;
}

export interface Backend {
  readonly name: string;
  /** Capabilities of a named device, or of the host when `device` is "host". Throws when the name is unknown, listing the known ones. */
  caps(device: string): Caps;
  /** Brings a program into the form that `print` and the device's launches expect (its grid too). Absent where there is nothing to do. */
  legalize?(program: ThreadProgram, caps: Caps): ThreadProgram;
  print(program: ThreadProgram, caps: Caps): Source;
  /** Turns sources into something the runtime can load; null when the driver compiles (WGSL) or nothing runs (null). */
  readonly toolchain: Toolchain | null;
}

export interface Toolchain {
  /** Part of the cache key: tool name, version and flags. */
  version(caps: Caps): string;
  /** One binary that holds all the sources' entries. Throws with the tool's own message and the kernel's name. */
  compile(sources: readonly Source[], caps: Caps): Promise<Uint8Array>;
}
