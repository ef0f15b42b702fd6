import type { Helper } from "../text/helpers.ts";
import { helper } from "../text/helpers.ts";

/** A function of a kernel's file. */
const fn = (head: string, ...lines: readonly string[]): string =>
  [`static inline ${head} {`, ...lines.map((l) => `  ${l}`), "}"].join("\n");

/** Functions that Metal lacks. Polynomials as in backends/wgsl/math.ts: within a few units in the last place of the interpreter. */
export const mathHelpers: Readonly<Record<string, Helper<string>>> = {
  // fmin and fmax drop a NaN
  min_f32: helper([], fn("float min_f32(float a, float b)", "return (a < b || isnan(a)) ? a : b;")),
  max_f32: helper([], fn("float max_f32(float a, float b)", "return (a > b || isnan(a)) ? a : b;")),
  // the divisor is positive
  idiv_i32: helper([], fn("int idiv_i32(int a, int b)", "const int q = a / b;", "return (a - q * b < 0) ? q - 1 : q;")),
  mod_i32: helper([], fn("int mod_i32(int a, int b)", "const int r = a % b;", "return (r < 0) ? r + b : r;")),
  // the logarithm of the rounded sum, plus what rounding it lost, divided by it
  log1p_f32: helper(
    [],
    fn(
      "float log1p_f32(float x)",
      "const float u = 1.0f + x;",
      "const float lost = x - (u - 1.0f);",
      "const float l = precise::log(u);",
      "if (fabs(x) < 2.9802322387695312e-8f) return x;",
      "return (u <= 0.0f || u >= 3.4028234663852886e38f || isnan(u)) ? l : l + lost / u;",
    ),
  ),
  erf_f32: helper(
    [],
    fn(
      "float erf_f32(float x)",
      "const float t = fabs(x);",
      "const float s = x * x;",
      "float near = fma(fma(-5.96761703e-4f, s, 4.99119423e-3f), s, -2.67681349e-2f);",
      "near = fma(fma(fma(near, s, 1.12819925e-1f), s, -3.76125336e-1f), s, 1.28379166e-1f);",
      "near = fma(near, x, x);",
      "const float high = fma(-1.7285347e-5f, t, 3.83197126e-4f);",
      "const float low = fma(-3.88396438e-3f, t, 2.42546219e-2f);",
      "const float q = fma(fma(fma(fma(high, s, low), t, -1.06777877e-1f), t, -6.34846687e-1f), t, -1.28717512e-1f);",
      "const float far = (t > 4.0f) ? 1.0f : 1.0f - precise::exp(fma(q, t, -t));",
      "return (t > 0.927734375f) ? ((x < 0.0f) ? -far : far) : near;",
    ),
  ),
};

/** Numbers of 16 bits, where the language has a type for them (`half`, `bfloat`). */
export const nativeHelpers = (name: "f16" | "bf16", type: "half" | "bfloat"): Readonly<Record<string, Helper<string>>> => ({
  [`${name}_low`]: helper([], fn(`float ${name}_low(uint x)`, `return float(as_type<${type}2>(x).x);`)),
  [`${name}_high`]: helper([], fn(`float ${name}_high(uint x)`, `return float(as_type<${type}2>(x).y);`)),
  [`${name}_pair`]: helper([], fn(`uint ${name}_pair(float a, float b)`, `return as_type<uint>(${type}2(${type}(a), ${type}(b)));`)),
  [`round_${name}`]: helper([], fn(`float round_${name}(float x)`, `return float(${type}(x));`)),
});

/** bf16 as its bits, where the language has no type for it. To nearest, ties to even; a NaN stays one. */
export const bf16Bits: Readonly<Record<string, Helper<string>>> = {
  bf16_value: helper([], fn("float bf16_value(ushort x)", "return as_type<float>(uint(x) << 16);")),
  bf16_low: helper([], fn("float bf16_low(uint x)", "return as_type<float>(x << 16);")),
  bf16_high: helper([], fn("float bf16_high(uint x)", "return as_type<float>(x & 0xffff0000u);")),
  bf16_round: helper(
    [],
    fn(
      "uint bf16_round(float x)",
      "const uint u = as_type<uint>(x);",
      "return isnan(x) ? ((u >> 16) | 0x40u) : ((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);",
    ),
  ),
  bf16_bits: helper(["bf16_round"], fn("ushort bf16_bits(float x)", "return ushort(bf16_round(x));")),
  bf16_pair: helper(["bf16_round"], fn("uint bf16_pair(float a, float b)", "return bf16_round(a) | (bf16_round(b) << 16);")),
  round_bf16: helper(["bf16_round"], fn("float round_bf16(float x)", "return as_type<float>(bf16_round(x) << 16);")),
};
