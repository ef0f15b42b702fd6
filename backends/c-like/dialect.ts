import type { Source } from "../../compiler/backend.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import type { BinaryFn, UnaryFn } from "../../compiler/ir/operators.ts";
import type { Helper } from "../text/helpers.ts";
import type { Turns } from "../text/writer.ts";

/** Where an array lies. A language with address spaces spells pointers by it. "constant": device memory that nothing writes while a program runs. */
export type Space = "constant" | "device" | "shared";

/** What vectors in memory are made of: an f32 or i32 each, or 32 bits that hold several elements. */
export type Word = "float" | "int" | "bits";

type Half = "bf16" | "f16";

/**
 * Functions that a kernel may call, beside what is an operator in every such language. `X_value`: an element in memory as a number; `X_bits`: the other way, rounded
 * to nearest, ties to even; `X_low`, `X_high`: one of the two elements in 32 bits; `X_pair`: two numbers as 32 bits, the first in the low half;
 * `round_X`: a number rounded to the storage type.
 */
export type FunctionName =
  | Exclude<UnaryFn, "neg" | "not">
  | Extract<BinaryFn, "min" | "max" | "pow" | "idiv" | "mod">
  | "abs_i32"
  | "min_i32"
  | "max_i32"
  | "fma"
  | `${Half}_${"value" | "bits" | "low" | "high" | "pair"}`
  | `round_${Half}`;

/** What differs between languages like C. All of it is spelling: what a program does is decided before. */
export interface Dialect {
  readonly language: Source["language"];
  /** The type of an element in memory. */
  readonly memory: Readonly<Record<DType, string>>;
  /** Vectors of 1, 2 and 4 words, whose components are x, y, z and w. */
  readonly vectors: Readonly<Record<Word, Readonly<Record<1 | 2 | 4, string>>>>;
  /** The function that makes a vector of its words. */
  readonly makeVector: (type: string) => string;
  /** Names of functions. One that the language lacks is in `helpers` under that name. */
  readonly functions: Readonly<Record<FunctionName, string>>;
  readonly helpers: Readonly<Record<string, Helper<string>>>;
  /** The vector that `address` points to, to be read or to be assigned to. */
  readonly vectorAt: (type: string, space: Space, address: string, use: "read" | "write") => string;
  /** Functions that load a vector of constant memory of which nothing is read again, by the vector's type. */
  readonly streamed: Readonly<Record<string, string>>;
  readonly floatOf: (bits: string) => string;
  /** The value of the lane whose number differs from this one's by xor with `mask`. */
  readonly shuffle: (x: string, mask: number) => string;
  /** All threads of the block wait for each other, and see what was written before. */
  readonly barrier: string;
  /**
   * Copies by the hardware from device memory to shared memory: the name of a function (to, from) that starts one of so many bytes, of one (to, from, holds) that
   * writes zeros where a condition does not hold, and statements that end a group of copies and wait until at most `pending` groups are under way. Null where
   * there are none.
   */
  readonly copies: {
    readonly start: (bytes: number) => string;
    readonly startWhere: (bytes: number) => string;
    readonly wait: (pending: number) => readonly string[];
  } | null;
  /** The line before a loop that the compiler is not to treat as it likes. */
  readonly unroll: Readonly<Record<Exclude<Turns, "any">, string>>;
}

/** The type that values of a dtype are computed in; those of storage types are numbers that the type can hold. */
export const valueType = (dtype: DType): "float" | "int" | "bool" => (dtype === "i32" ? "int" : dtype === "bool" ? "bool" : "float");

const ZERO = { float: "0.0f", int: "0", bool: "false" } as const;
export const zeroOf = (dtype: DType): string => ZERO[valueType(dtype)];

export const wordOf = (dtype: DType): Word => (dtype === "f32" ? "float" : dtype === "i32" ? "int" : "bits");
