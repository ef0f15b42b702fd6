import type { DType } from "./ir/dtype.ts";
import { BYTES, DTYPES } from "./ir/dtype.ts";
import { CulmError } from "./diagnostics.ts";

export type { DType } from "./ir/dtype.ts";
export { BYTES } from "./ir/dtype.ts";

/** What a device must offer to run an artifact; empty where every machine of the kind does. */
export interface Requirements {
  /** By the names of the target's API (WebGPU: "shader-f16", "subgroups"). */
  readonly features: readonly string[];
  /** Least values, by the API's names. */
  readonly limits: Readonly<Record<string, number>>;
  /** Lanes that a subgroup has to have; null: any number. */
  readonly subgroup: number | null;
}

export const NO_REQUIREMENTS: Requirements = { features: [], limits: {}, subgroup: null };

export const ARTIFACT_VERSION = 2;

/**
 * Artifact v2: everything the runtime needs to run a model except the weights themselves, which stay in their checkpoint and are packed on load.
 * A directory with `manifest.json` (this type), `kernels.bin` (the target's binary) and `literals.bin`. The runtime reads it and nothing else.
 */
export interface Manifest {
  readonly format: "culm-artifact";
  readonly version: typeof ARTIFACT_VERSION;
  /** Version of the compiler that wrote it. */
  readonly compiler: string;
  readonly name: string;
  readonly target: { readonly backend: string; readonly caps: string; readonly toolchain: string; readonly requires: Requirements };
  readonly weights: readonly WeightEntry[];
  readonly literals: readonly LiteralEntry[];
  readonly states: readonly TensorEntry[];
  readonly programs: readonly ProgramEntry[];
  readonly kernels: readonly KernelEntry[];
  /** Facts the text runtime needs (vocabulary size, special tokens): free-form, owned by the model. */
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** An integer expression over run-time symbols, as JSON: a number, a symbol's name, or an operator with two operands (idiv and mod round down). */
export type IntExpr = number | string | readonly [IntOp, IntExpr, IntExpr];
export type IntOp = "add" | "sub" | "mul" | "idiv" | "mod" | "min" | "max";

/** A tensor in memory: row-major, symbols give run-time sizes. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly IntExpr[];
  /** Bytes at the symbols' largest values. */
  readonly bytes: number;
}

/** One weight buffer: rows of one or more checkpoint tensors stacked, each read as [rows, cols]. `panel` 0 = row-major, else panels of that many rows (k-major inside, padded with zero rows). */
export interface WeightEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly parts: readonly { readonly tensor: string; readonly shape: readonly number[] }[];
  readonly rows: number;
  readonly cols: number;
  readonly panel: number;
  readonly bytes: number;
}

export interface LiteralEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Byte range in literals.bin. */
  readonly offset: number;
  readonly bytes: number;
}

/** Where an argument of a step lies. `arena`: one of the scratch buffers that the steps of all programs share. */
export type BufferRef =
  | { readonly kind: "weight" | "literal" | "state" | "input" | "output"; readonly name: string }
  | { readonly kind: "arena"; readonly arena: number; readonly offset: number };

export interface ProgramEntry {
  /** e.g. "prefill", "decode.1". */
  readonly name: string;
  readonly symbols: readonly { readonly name: string; readonly min: number; readonly max: number }[];
  readonly inputs: readonly TensorEntry[];
  readonly outputs: readonly TensorEntry[];
  /** Bytes that the program needs of each arena. */
  readonly arenas: readonly number[];
  readonly steps: readonly StepEntry[];
}

export interface StepEntry {
  /** Index into the manifest's kernels. */
  readonly kernel: number;
  readonly grid: readonly [IntExpr, IntExpr, IntExpr];
  readonly args: readonly BufferRef[];
  /** Model path of the operation, for profiles and messages. */
  readonly label: string;
  /** Bytes and floating-point operations at the symbols given, for rooflines. */
  readonly bytes: IntExpr;
  readonly flops: IntExpr;
}

export interface KernelEntry {
  readonly entry: string;
  readonly name: string;
  readonly template: string;
  readonly config: Readonly<Record<string, number>>;
  /** Order in which the kernel expects the symbols' values. */
  readonly symbols: readonly string[];
  readonly threads: number;
  /** Shared (CPU: scratch) memory one block needs. */
  readonly sharedBytes: number;
}

/** Evaluates an integer expression. Throws when a symbol has no value. */
export function evaluateIntExpr(e: IntExpr, symbols: Readonly<Record<string, number>>): number {
  if (typeof e === "number") return e;
  if (typeof e === "string") {
    const value = symbols[e];
    if (value === undefined)
      throw new CulmError({
        what: `run-time symbol "${e}" has no value`,
        expected: "a value for every symbol",
        got: `values for ${Object.keys(symbols).join(", ") || "none"}`,
      });
    return value;
  }
  const a = evaluateIntExpr(e[1], symbols);
  const b = evaluateIntExpr(e[2], symbols);
  switch (e[0]) {
    case "add":
      return a + b;
    case "sub":
      return a - b;
    case "mul":
      return a * b;
    case "idiv":
      return Math.floor(a / b);
    case "mod":
      return a - b * Math.floor(a / b);
    case "min":
      return Math.min(a, b);
    case "max":
      return Math.max(a, b);
  }
}

export const isDType = (x: unknown): x is DType => (DTYPES as readonly unknown[]).includes(x);
export const elementBytes = (d: DType): number => BYTES[d];
