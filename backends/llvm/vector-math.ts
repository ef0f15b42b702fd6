/**
 * The elementary functions, as IR on vectors or scalars. No library is called: the kernels stand alone, and every lane takes the same path.
 * Accuracy (tests/unit/llvm-math.test.ts): exp, exp2, log, log1p, tanh, erf, sin and cos within about 2 units in the last place; all handle infinities,
 * NaN, and results that overflow or underflow.
 */
import type { Arith } from "./arith.ts";

const LN2_HI = 0.693359375; // exact in 9 bits, so that n * LN2_HI is exact
const LN2_LO = Math.LN2 - LN2_HI;
/** Adding and subtracting 1.5 * 2^23 rounds a float below 2^22 to the nearest integer, which then stands in the low bits. */
const ROUND = 12582912;

/** e^x: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r, and 2^n in two factors, so that subnormal results round correctly. */
export function exp(a: Arith, x0: string): string {
  // Outside these bounds the result is 0 or infinity. A NaN fails both comparisons and passes through.
  const low = a.select(a.fcmp("olt", x0, a.f(-104)), a.F, a.f(-104), x0);
  const x = a.select(a.fcmp("ogt", low, a.f(89)), a.F, a.f(89), low);
  const t = a.fma(x, a.f(Math.LOG2E), a.f(ROUND));
  const n = a.exact("fsub", t, a.f(ROUND));
  return scaledExp(a, a.fma(n, a.f(-LN2_LO), a.fma(n, a.f(-LN2_HI), x)), t);
}

/** 2^x: x = n + r / ln 2. The fraction is exact. */
export function exp2(a: Arith, x0: string): string {
  const low = a.select(a.fcmp("olt", x0, a.f(-151)), a.F, a.f(-151), x0);
  const x = a.select(a.fcmp("ogt", low, a.f(129)), a.F, a.f(129), low);
  const t = a.exact("fadd", x, a.f(ROUND));
  return scaledExp(a, a.exact("fmul", a.exact("fsub", x, a.exact("fsub", t, a.f(ROUND))), a.f(Math.LN2)), t);
}

/** e^r times 2^n, with |r| <= ln 2 / 2 and t = n + ROUND. */
function scaledExp(a: Arith, r: string, t: string): string {
  // Minimax on [-ln2/2, ln2/2] for (e^r - 1 - r) / r^2 (Cephes expf).
  const p = a.polynomial(r, [5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.98756915e-4]);
  const e = a.exact("fadd", a.fma(a.exact("fmul", r, r), p, r), a.f(1));
  const k = a.int("sub", a.bits(t), a.i(0x4b400000));
  const half = a.int("ashr", k, a.i(1));
  return a.exact("fmul", a.exact("fmul", e, powerOfTwo(a, half)), powerOfTwo(a, a.int("sub", k, half)));
}

const powerOfTwo = (a: Arith, n: string): string => a.fromBits(a.int("shl", a.int("add", n, a.i(127)), a.i(23)));

/** ln x: x = 2^e m with sqrt(1/2) <= m < sqrt 2, and a polynomial in m - 1. */
export function log(a: Arith, x: string): string {
  const tiny = a.fcmp("olt", x, a.f(2 ** -126));
  const normal = a.select(tiny, a.F, a.exact("fmul", x, a.f(2 ** 25)), x);
  // Subtracting the bits of sqrt(1/2) puts the exponent of the wanted split into the top bits (fdlibm's way).
  const u = a.int("sub", a.bits(normal), a.i(0x3f3504f3));
  const e = a.int("sub", a.int("ashr", u, a.i(23)), a.select(tiny, a.I, a.i(25), a.i(0)));
  const m = a.fromBits(a.int("add", a.int("and", u, a.i(0x7fffff)), a.i(0x3f3504f3)));
  const f = a.exact("fsub", m, a.f(1));
  const n = a.ins(`sitofp ${a.I} ${e} to ${a.F}`);
  // Cephes logf: ln(1 + f) = f - f^2/2 + f^3 P(f).
  const p = a.polynomial(
    f,
    [
      3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1, -1.2420140846e-1, 1.167699874e-1,
      -1.151461031e-1, 7.0376836292e-2,
    ],
  );
  const z = a.exact("fmul", f, f);
  const y = a.fma(n, a.f(LN2_LO), a.exact("fmul", a.exact("fmul", f, z), p));
  const s = a.exact("fadd", f, a.fma(a.f(-0.5), z, y));
  const finite = a.fma(n, a.f(LN2_HI), s);
  // +infinity and NaN give themselves, 0 gives -infinity, below 0 is NaN.
  const top = a.select(a.fcmp("ult", x, a.f(Infinity)), a.F, finite, x);
  const bottom = a.select(a.fcmp("oeq", x, a.f(0)), a.F, a.f(-Infinity), a.f(NaN));
  return a.select(a.fcmp("ugt", x, a.f(0)), a.F, a.select(a.fcmp("uno", x, x), a.F, x, top), bottom);
}

/** ln(1 + x): the logarithm of the rounded sum, plus what rounding it lost, divided by it. */
export function log1p(a: Arith, x: string): string {
  const u = a.exact("fadd", x, a.f(1));
  const lost = a.exact("fsub", x, a.exact("fsub", u, a.f(1)));
  const l = log(a, u);
  const sum = a.exact("fadd", l, a.fdiv(lost, u));
  // For |x| < 2^-24 the sum is x itself; at u = 0 and infinity there is nothing to correct.
  const edge = a.ins(`or ${a.B} ${a.fcmp("oeq", u, a.f(0))}, ${a.fcmp("oeq", u, a.f(Infinity))}`);
  return a.select(edge, a.F, l, sum);
}

/** Cephes tanhf: an odd polynomial up to 0.625, then 1 - 2 / (e^2x + 1). */
export function tanh(a: Arith, x: string): string {
  const m = a.fabs(x);
  const z = a.exact("fmul", x, x);
  const p = a.polynomial(z, [-3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2, 2.06390887954e-2, -5.70498872745e-3]);
  const small = a.fma(a.exact("fmul", x, z), p, x);
  const e = exp(a, a.exact("fadd", m, m));
  const large = a.exact("fsub", a.f(1), a.fdiv(a.f(2), a.exact("fadd", e, a.f(1))));
  return a.select(a.fcmp("olt", m, a.f(0.625)), a.F, small, a.copysign(large, x));
}

/** erf x: an odd polynomial up to 475/512, then 1 - e^-q(|x|) (coefficients after N. Juffa's single-precision erf). */
export function erf(a: Arith, x: string): string {
  const t = a.fabs(x);
  const s = a.exact("fmul", x, x);
  const near = a.fma(a.polynomial(s, [1.28379166e-1, -3.76125336e-1, 1.12819925e-1, -2.67681349e-2, 4.99119423e-3, -5.96761703e-4]), x, x);
  const high = a.fma(a.f(-1.7285347e-5), t, a.f(3.83197126e-4));
  const low = a.fma(a.f(-3.88396438e-3), t, a.f(2.42546219e-2));
  const q0 = a.fma(high, s, low);
  const q1 = a.fma(q0, t, a.f(-1.06777877e-1));
  const q2 = a.fma(q1, t, a.f(-6.34846687e-1));
  const q3 = a.fma(q2, t, a.f(-1.28717512e-1));
  const far = a.copysign(a.exact("fsub", a.f(1), exp(a, a.fma(q3, t, a.fneg(t)))), x);
  // Beyond 4 erf is 1 in single precision, and the polynomial (infinity - infinity in the end) is of no use.
  const saturated = a.select(a.fcmp("ogt", t, a.f(4)), a.F, a.copysign(a.f(1), x), far);
  return a.select(a.fcmp("ogt", t, a.f(475 / 512)), a.F, saturated, near);
}

/** 1.5 * 2^52: the same trick in double precision. */
const DROUND = 6755399441055744;

/** sin x and cos x. The argument is reduced in double precision, exactly enough for |x| up to 2^30: rotary embeddings take the cosine of large positions. */
export function sinCos(a: Arith, fn: "sin" | "cos", x: string): string {
  const d = a.ins(`fpext ${a.F} ${x} to ${a.D}`);
  const t = a.dfma(d, a.d(2 / Math.PI), a.d(DROUND));
  const n = a.ins(`fsub ${a.D} ${t}, ${a.d(DROUND)}`);
  const r = a.ins(`fptrunc ${a.D} ${a.dfma(n, a.d(-6.07710050650619224932e-11), a.dfma(n, a.d(-1.57079632673412561417), d))} to ${a.F}`);
  const quadrant = a.ins(`trunc ${a.L} ${a.ins(`bitcast ${a.D} ${t} to ${a.L}`)} to ${a.I}`);
  const q = fn === "sin" ? quadrant : a.int("add", quadrant, a.i(1));
  const z = a.exact("fmul", r, r);
  // Cephes sinf and cosf on [-pi/4, pi/4].
  const sine = a.fma(a.exact("fmul", z, r), a.polynomial(z, [-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4]), r);
  const cosine = a.fma(
    a.exact("fmul", z, z),
    a.polynomial(z, [4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5]),
    a.fma(z, a.f(-0.5), a.f(1)),
  );
  const value = a.select(a.icmp("eq", a.int("and", q, a.i(1)), a.i(0)), a.F, sine, cosine);
  const sign = a.int("shl", a.int("and", q, a.i(2)), a.i(30));
  return a.fromBits(a.int("xor", a.bits(value), sign));
}

/** x^y = 2^(y log2 x) in double precision, so that the product does not magnify the logarithm's error. */
export function pow(a: Arith, x: string, y: string): string {
  const m = a.fabs(x);
  const dy = a.ins(`fpext ${a.F} ${y} to ${a.D}`);
  const dm = a.ins(`fpext ${a.F} ${m} to ${a.D}`);
  const u = a.ins(`sub ${a.L} ${a.ins(`bitcast ${a.D} ${dm} to ${a.L}`)}, ${a.l(0x3fe6a09e667f3bcdn)}`); // bits of sqrt(1/2)
  const e = a.ins(`sitofp ${a.I} ${a.ins(`trunc ${a.L} ${a.ins(`ashr ${a.L} ${u}, ${a.l(52n)}`)} to ${a.I}`)} to ${a.D}`);
  const mantissa = a.ins(`add ${a.L} ${a.ins(`and ${a.L} ${u}, ${a.l(0xfffffffffffffn)}`)}, ${a.l(0x3fe6a09e667f3bcdn)}`);
  const f = a.ins(`bitcast ${a.L} ${mantissa} to ${a.D}`);
  // ln f = 2 artanh s, s = (f - 1) / (f + 1), |s| < 0.172: the series up to s^11 leaves 1e-11.
  const s = a.ins(`fdiv ${a.D} ${a.ins(`fsub ${a.D} ${f}, ${a.d(1)}`)}, ${a.ins(`fadd ${a.D} ${f}, ${a.d(1)}`)}`);
  const z = a.ins(`fmul ${a.D} ${s}, ${s}`);
  const series = [1, 1 / 3, 1 / 5, 1 / 7, 1 / 9, 1 / 11].map((c) => 2 * Math.LOG2E * c);
  const sum = series.slice(0, -1).reduceRight((acc, c) => a.dfma(acc, z, a.d(c)), a.d(series.at(-1)!));
  const finite = a.dfma(s, sum, e);
  const zero = a.fcmp("oeq", m, a.f(0));
  const large = a.ins(`fcmp oge ${a.D} ${dm}, ${a.d(Infinity)}`);
  const log2 = a.select(zero, a.D, a.d(-Infinity), a.select(large, a.D, a.d(Infinity), a.select(a.fcmp("uno", m, m), a.D, dm, finite)));
  // 2^p for p clamped to where a float result is 0 or infinite.
  const p0 = a.ins(`fmul ${a.D} ${dy}, ${log2}`);
  const p1 = a.ins(`select ${a.B} ${a.ins(`fcmp olt ${a.D} ${p0}, ${a.d(-200)}`)}, ${a.D} ${a.d(-200)}, ${a.D} ${p0}`);
  const p = a.ins(`select ${a.B} ${a.ins(`fcmp ogt ${a.D} ${p1}, ${a.d(200)}`)}, ${a.D} ${a.d(200)}, ${a.D} ${p1}`);
  const t = a.ins(`fadd ${a.D} ${p}, ${a.d(DROUND)}`);
  const r = a.ins(`fsub ${a.D} ${p}, ${a.ins(`fsub ${a.D} ${t}, ${a.d(DROUND)}`)}`);
  const taylor: number[] = [];
  for (let i = 0, c = 1; i <= 9; c *= Math.LN2 / ++i) taylor.push(c);
  const power = taylor.slice(0, -1).reduceRight((acc, c) => a.dfma(acc, r, a.d(c)), a.d(taylor.at(-1)!));
  const scale = a.ins(
    `bitcast ${a.L} ${a.ins(`shl ${a.L} ${a.ins(`add ${a.L} ${a.ins(`bitcast ${a.D} ${t} to ${a.L}`)}, ${a.l(1023n)}`)}, ${a.l(52n)}`)} to ${a.D}`,
  );
  const positive = a.ins(`fptrunc ${a.D} ${a.ins(`fmul ${a.D} ${power}, ${scale}`)} to ${a.F}`);
  // A negative base has a value only at integers: its sign is that of an odd exponent.
  const whole = a.fcmp("oeq", a.floor(y), y);
  const halved = a.exact("fmul", y, a.f(0.5));
  const odd = a.ins(`and ${a.B} ${whole}, ${a.fcmp("one", a.floor(halved), halved)}`);
  const negative = a.ins(`icmp slt ${a.I} ${a.bits(x)}, ${a.i(0)}`);
  const signed = a.select(a.ins(`and ${a.B} ${odd}, ${negative}`), a.F, a.fneg(positive), positive);
  const notWhole = a.fcmp("one", a.floor(y), y); // false for NaN and infinities
  const finiteNegative = a.ins(`and ${a.B} ${a.fcmp("olt", x, a.f(0))}, ${a.fcmp("ogt", x, a.f(-Infinity))}`);
  const undefinedHere = a.ins(`and ${a.B} ${finiteNegative}, ${notWhole}`);
  const value = a.select(undefinedHere, a.F, a.f(NaN), signed);
  return a.select(a.fcmp("oeq", y, a.f(0)), a.F, a.f(1), value);
}
