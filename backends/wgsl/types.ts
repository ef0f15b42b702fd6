import type { DType } from "../../compiler/ir/dtype.ts";

/** The WGSL type that values of a dtype are computed in; those of storage types are numbers that the type can hold. */
export const valueType = (dtype: DType): "f32" | "i32" | "bool" => (dtype === "i32" || dtype === "bool" ? dtype : "f32");

const ZERO = { f32: "0f", i32: "0", bool: "false" } as const;
export const zeroOf = (dtype: DType): string => ZERO[valueType(dtype)];
