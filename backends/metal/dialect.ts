import type { Dialect, Space } from "../c-like/dialect.ts";
import type { Target } from "./caps.ts";
import { bf16Bits, mathHelpers, nativeHelpers } from "./math.ts";

/** Where a pointer points to. Weights are device memory as well: what Metal calls constant is for what all threads read at once. */
export const SPACE: Readonly<Record<Space, string>> = { constant: "device", device: "device", shared: "threadgroup" };

const KINDS = ["value", "bits", "low", "high", "pair"] as const;
const ownNames = <P extends string>(prefix: P): Readonly<Record<`${P}_${(typeof KINDS)[number]}`, string>> =>
  Object.fromEntries(KINDS.map((kind) => [`${prefix}_${kind}`, `${prefix}_${kind}`])) as Record<`${P}_${(typeof KINDS)[number]}`, string>;

/** The Metal Shading Language. `readsBack`: threads of a block see what others of it wrote to device memory, so barriers have to order that too. */
export function metalDialect({ bfloat }: Target, readsBack: boolean): Dialect {
  return {
    language: "metal",
    memory: { f32: "float", i32: "int", bf16: bfloat ? "bfloat" : "ushort", f16: "half", bool: "uchar" },
    vectors: {
      float: { 1: "float", 2: "float2", 4: "float4" },
      int: { 1: "int", 2: "int2", 4: "int4" },
      bits: { 1: "uint", 2: "uint2", 4: "uint4" },
    },
    // no family has copies of its own to threadgroup memory that the language offers
    copies: null,
    makeVector: (type) => type,
    functions: {
      abs: "fabs",
      exp: "precise::exp",
      exp2: "precise::exp2",
      log: "precise::log",
      log1p: "log1p_f32",
      sqrt: "precise::sqrt",
      rsqrt: "precise::rsqrt",
      floor: "floor",
      sin: "precise::sin",
      cos: "precise::cos",
      tanh: "precise::tanh",
      erf: "erf_f32",
      pow: "precise::pow",
      min: "min_f32",
      max: "max_f32",
      idiv: "idiv_i32",
      mod: "mod_i32",
      abs_i32: "abs",
      min_i32: "min",
      max_i32: "max",
      fma: "fma",
      ...ownNames("bf16"),
      ...(bfloat ? { bf16_value: "float", bf16_bits: "bfloat" } : {}),
      round_bf16: "round_bf16",
      ...ownNames("f16"),
      f16_value: "float",
      f16_bits: "half",
      round_f16: "round_f16",
    },
    helpers: { ...mathHelpers, ...nativeHelpers("f16", "half"), ...(bfloat ? nativeHelpers("bf16", "bfloat") : bf16Bits) },
    vectorAt: (type, space, address, use) => `*(${SPACE[space]} ${use === "read" ? "const " : ""}${type}*)(${address})`,
    streamed: {},
    floatOf: (bits) => `as_type<float>(${bits})`,
    shuffle: (x, mask) => `simd_shuffle_xor(${x}, ${mask})`,
    barrier: `threadgroup_barrier(mem_flags::mem_threadgroup${readsBack ? " | mem_flags::mem_device" : ""});`,
    unroll: {
      out: "#pragma clang loop unroll(full)",
      loop: "#pragma clang loop unroll(disable)",
      product: "#pragma clang loop unroll(disable)",
    },
  };
}
