import type { Helper, Helpers } from "../text/helpers.ts";
import { helper, helpersOf } from "../text/helpers.ts";

export type HelperName =
  | "special"
  | "kept"
  | "is_nan"
  | "min_f32"
  | "max_f32"
  | "exp_f32"
  | "exp2_f32"
  | "log_f32"
  | "log1p_f32"
  | "tanh_f32"
  | "erf_f32"
  | "reduced"
  | "sin_f32"
  | "cos_f32"
  | "pow_f32"
  | "idiv_i32"
  | "mod_i32"
  | "bf16_bits"
  | "round_bf16"
  | "f16_bits"
  | "round_f16";

/**
 * Functions that kernels call, written into a module where it uses them. WGSL promises little of its own: exp and log lose digits with the size of the
 * argument, sin and cos hold within [-pi, pi], minimum and maximum may drop a NaN, conversions may round either way. These agree with the
 * interpreter within a few units in the last place; polynomials and splits as in backends/llvm/vector-math.ts. Subnormal numbers may count as zero.
 */
const HELPERS: Readonly<Record<HelperName, Helper<HelperName>>> = {
  // An expression of constants must not be infinite or NaN: what a variable holds is no constant.
  special: helper([], "var<private> infinity_bits: u32 = 0x7f800000u;"),
  // Drivers reckon with real numbers (Mesa makes a b + a c into a (b + c), and (a + b) - a into b), and WGSL has no word against it. A number that bits which
  // are 0, but not for the compiler, were added to is one that it knows nothing of.
  kept: helper([], "var<private> nothing: u32;\nfn kept(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) | nothing); }"),
  is_nan: helper([], "fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }"),
  min_f32: helper(["is_nan"], "fn min_f32(a: f32, b: f32) -> f32 { return select(b, a, a < b || is_nan(a)); }"),
  max_f32: helper(["is_nan"], "fn max_f32(a: f32, b: f32) -> f32 { return select(b, a, a > b || is_nan(a)); }"),
  exp_f32: helper(
    ["kept"],
    `
fn exp_f32(x0: f32) -> f32 {
  let low = select(x0, -104f, x0 < -104f);
  let x = select(low, 89f, low > 89f);
  let n = floor(fma(x, 1.44269504f, 0.5f));
  let r = fma(n, 2.12194440e-4f, kept(fma(n, -0.693359375f, x)));
  let p = fma(fma(fma(fma(fma(1.9875691500e-4f, r, 1.3981999507e-3f), r, 8.3334519073e-3f), r, 4.1665795894e-2f), r, 1.6666665459e-1f), r, 5.0000001201e-1f);
  let e = fma(r * r, p, r) + 1f;
  let k = i32(n);
  let half = k >> 1u;
  return e * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((k - half + 127) << 23u);
}`,
  ),
  exp2_f32: helper(
    [],
    `
fn exp2_f32(x0: f32) -> f32 {
  let low = select(x0, -150f, x0 < -150f);
  let x = select(low, 129f, low > 129f);
  let n = floor(x + 0.5f);
  let r = (x - n) * 0.693147181f;
  let p = fma(fma(fma(fma(fma(1.9875691500e-4f, r, 1.3981999507e-3f), r, 8.3334519073e-3f), r, 4.1665795894e-2f), r, 1.6666665459e-1f), r, 5.0000001201e-1f);
  let e = fma(r * r, p, r) + 1f;
  let k = i32(n);
  let half = k >> 1u;
  return e * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((k - half + 127) << 23u);
}`,
  ),
  log_f32: helper(
    ["special", "kept"],
    `
fn log_f32(x: f32) -> f32 {
  let tiny = x < 1.17549435e-38f;
  let u = bitcast<i32>(select(x, x * 33554432f, tiny)) - 0x3f3504f3;
  let n = f32((u >> 23u) - select(0, 25, tiny));
  let f = bitcast<f32>((u & 0x7fffff) + 0x3f3504f3) - 1f;
  let z = f * f;
  var p = fma(7.0376836292e-2f, f, -1.1514610310e-1f);
  p = fma(fma(fma(p, f, 1.1676998740e-1f), f, -1.2420140846e-1f), f, 1.4249322787e-1f);
  p = fma(fma(fma(fma(p, f, -1.6668057665e-1f), f, 2.0000714765e-1f), f, -2.4999993993e-1f), f, 3.3333331174e-1f);
  let y = kept(fma(n, -2.12194440e-4f, f * z * p));
  let finite = fma(n, 0.693359375f, f + fma(-0.5f, z, y));
  let infinity = bitcast<f32>(infinity_bits);
  if (x > 0f) { return select(finite, infinity, x >= infinity); }
  return select(bitcast<f32>(infinity_bits | 0x400000u), -infinity, x == 0f);
}`,
  ),
  // the logarithm of the rounded sum, plus what rounding it lost, divided by it
  log1p_f32: helper(
    ["log_f32", "kept"],
    `
fn log1p_f32(x: f32) -> f32 {
  let u = kept(1f + x);
  let lost = x - kept(u - 1f);
  let l = log_f32(u);
  return select(select(l + lost / u, l, u == 0f || u >= 3.4028234663852886e38f), x, abs(x) < 2.9802322387695312e-8f);
}`,
  ),
  tanh_f32: helper(
    ["exp_f32"],
    `
fn tanh_f32(x: f32) -> f32 {
  let m = abs(x);
  let z = x * x;
  let p = fma(fma(fma(fma(-5.70498872745e-3f, z, 2.06390887954e-2f), z, -5.37397155531e-2f), z, 1.33314422036e-1f), z, -3.33332819422e-1f);
  let small = fma(x * z, p, x);
  let large = 1f - 2f / (exp_f32(m + m) + 1f);
  return select(select(large, -large, x < 0f), small, m < 0.625f);
}`,
  ),
  erf_f32: helper(
    ["exp_f32"],
    `
fn erf_f32(x: f32) -> f32 {
  let t = abs(x);
  let s = x * x;
  var near = fma(fma(-5.96761703e-4f, s, 4.99119423e-3f), s, -2.67681349e-2f);
  near = fma(fma(fma(near, s, 1.12819925e-1f), s, -3.76125336e-1f), s, 1.28379166e-1f);
  near = fma(near, x, x);
  let high = fma(-1.7285347e-5f, t, 3.83197126e-4f);
  let low = fma(-3.88396438e-3f, t, 2.42546219e-2f);
  let q = fma(fma(fma(fma(high, s, low), t, -1.06777877e-1f), t, -6.34846687e-1f), t, -1.28717512e-1f);
  let far = select(1f - exp_f32(fma(q, t, -t)), 1f, t > 4f);
  return select(near, select(far, -far, x < 0f), t > 0.927734375f);
}`,
  ),
  // x - n pi/2 with pi/2 in four parts: products of n < 2^16 with the first three are exact, so that |x| up to 1e5 loses nothing
  reduced: helper(
    ["kept"],
    `
fn reduced(x: f32) -> vec2<f32> {
  let n = floor(fma(x, 0.636619772f, 0.5f));
  let high = kept(fma(n, -4.825592041015625e-4f, kept(fma(n, -1.5703125f, x))));
  let r = fma(n, -9.92093629e-10f, kept(fma(n, -1.2665987014770508e-6f, high)));
  return vec2<f32>(r, n);
}
fn sine(r: f32) -> f32 {
  let z = r * r;
  return fma(z * r, fma(fma(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f), r);
}
fn cosine(r: f32) -> f32 {
  let z = r * r;
  return fma(z * z, fma(fma(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f), fma(z, -0.5f, 1f));
}
fn quadrant(r: f32, q: i32) -> f32 {
  let value = select(sine(r), cosine(r), (q & 1) == 1);
  return select(value, -value, (q & 2) == 2);
}`,
  ),
  sin_f32: helper(["reduced"], "fn sin_f32(x: f32) -> f32 { let r = reduced(x); return quadrant(r.x, i32(r.y)); }"),
  cos_f32: helper(["reduced"], "fn cos_f32(x: f32) -> f32 { let r = reduced(x); return quadrant(r.x, i32(r.y) + 1); }"),
  // x^y = 2^(y log2 x), the logarithm and the product in two numbers each, so that the product does not magnify the logarithm's error
  pow_f32: helper(
    ["special", "is_nan", "kept"],
    `
fn two_sum(a: f32, b: f32) -> vec2<f32> {
  let s = kept(a + b);
  let t = kept(s - a);
  return vec2<f32>(s, kept(a - kept(s - t)) + kept(b - t));
}
fn two_product(a: f32, b: f32) -> vec2<f32> {
  // in halves of 12 digits, whose products are exact: fma may round twice
  let p = kept(a * b);
  let ah = bitcast<f32>(bitcast<u32>(a) & 0xfffff000u);
  let bh = bitcast<f32>(bitcast<u32>(b) & 0xfffff000u);
  let al = kept(a - ah);
  let bl = kept(b - bh);
  return vec2<f32>(p, kept(kept(kept(ah * bh - p) + ah * bl) + al * bh) + al * bl);
}
fn log2_parts(m: f32) -> vec2<f32> {
  let tiny = m < 1.17549435e-38f;
  let u = bitcast<i32>(select(m, m * 33554432f, tiny)) - 0x3f3504f3;
  let n = f32((u >> 23u) - select(0, 25, tiny));
  let f = bitcast<f32>((u & 0x7fffff) + 0x3f3504f3);
  let top = f - 1f;
  let bottom = two_sum(f, 1f);
  let s = top / bottom.x;
  let back = two_product(s, bottom.x);
  let rest = (kept(kept(top - back.x) - back.y) - s * bottom.y) / bottom.x;
  let z = s * s;
  let series = fma(fma(fma(fma(2.6230813e-1f, z, 3.2059882e-1f), z, 4.1219857e-1f), z, 5.7707801e-1f), z, 9.6179670e-1f);
  let first = two_product(s, 2.885390043258667f);
  let second = fma(s, 3.851926e-8f, first.y) + fma(rest, 2.885390043258667f, s * z * series);
  let sum = two_sum(n, first.x);
  let low = kept(sum.y + second);
  let high = kept(sum.x + low);
  return vec2<f32>(high, low - kept(high - sum.x));
}
fn pow_f32(x: f32, y: f32) -> f32 {
  let infinity = bitcast<f32>(infinity_bits);
  let nan = bitcast<f32>(infinity_bits | 0x400000u);
  if (y == 0f) { return 1f; }
  if (is_nan(x) || is_nan(y)) { return nan; }
  let m = abs(x);
  let whole = floor(y) == y;
  if (x < 0f && m < infinity && abs(y) < infinity && !whole) { return nan; }
  let odd = whole && abs(y) < 16777216f && (i32(y) & 1) == 1;
  let sign = select(1f, -1f, odd && (bitcast<u32>(x) >> 31u) == 1u);
  if (m == 1f) { return select(sign, nan, abs(y) == infinity); }
  if (m == 0f || m == infinity || abs(y) == infinity) { return sign * select(0f, infinity, (m > 1f) == (y > 0f)); }
  let l = log2_parts(m);
  let p = two_product(l.x, y);
  let q = fma(l.y, y, p.y);
  if (p.x > 129f) { return sign * infinity; }
  if (p.x < -152f) { return sign * 0f; }
  let n = floor(p.x + 0.5f);
  let r = kept(p.x - n) + q;
  var e = fma(fma(fma(1.5252733e-5f, r, 1.5403530e-4f), r, 1.3333558e-3f), r, 9.6181291e-3f);
  e = fma(fma(fma(fma(e, r, 5.5504109e-2f), r, 2.4022651e-1f), r, 6.9314718e-1f), r, 1f);
  let k = i32(n);
  let half = k >> 1u;
  return sign * e * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((k - half + 127) << 23u);
}`,
  ),
  // the divisor is positive
  idiv_i32: helper(
    [],
    `
fn idiv_i32(a: i32, b: i32) -> i32 {
  let q = a / b;
  return select(q, q - 1, a - q * b < 0);
}`,
  ),
  mod_i32: helper(["idiv_i32"], "fn mod_i32(a: i32, b: i32) -> i32 { return a - b * idiv_i32(a, b); }"),
  // nearest, ties to even; a NaN stays one
  bf16_bits: helper(
    ["is_nan"],
    `
fn bf16_bits(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  return select((u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u, (u >> 16u) | 0x40u, is_nan(x));
}`,
  ),
  round_bf16: helper(["bf16_bits"], "fn round_bf16(x: f32) -> f32 { return bitcast<f32>(bf16_bits(x) << 16u); }"),
  // Adding 0.5 puts a half's unit in the last place (2^-24) at the float's last bit, so that the addition rounds what becomes subnormal.
  f16_bits: helper(
    [],
    `
fn f16_bits(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  let magnitude = u & 0x7fffffffu;
  let normal = (magnitude + 0xc8000fffu + ((magnitude >> 13u) & 1u)) >> 13u;
  let subnormal = bitcast<u32>(abs(x) + 0.5f) - 0x3f000000u;
  let finite = select(normal, subnormal, magnitude < 0x38800000u);
  let huge = select(0x7c00u, 0x7e00u, magnitude > 0x7f800000u);
  return select(huge, finite, magnitude < 0x477ff000u) | ((u >> 16u) & 0x8000u);
}`,
  ),
  round_f16: helper(["f16_bits"], "fn round_f16(x: f32) -> f32 { return unpack2x16float(f16_bits(x)).x; }"),
};

export const wgslHelpers = (): Helpers<HelperName> => helpersOf(HELPERS);
