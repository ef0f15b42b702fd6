/**
 * Arithmetic on one shape of value, scalar or vector, as LLVM IR text. Everything above this file is written once for both: vector math, the
 * conversions between storage types and the printing of expressions.
 */
import type { Level } from "./caps.ts";

/** Where instructions go. */
export interface Sink {
  /** Appends `name = code` and returns the fresh name. */
  ins(code: string): string;
  /** Adds a declaration to the module, once. */
  declare(text: string): void;
}

/** A floating-point constant of type `float` or `double`: LLVM takes the bits of the double, which must be exact in the type. */
export function floatBits(x: number): string {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, x);
  return `0x${view.getBigUint64(0).toString(16).toUpperCase().padStart(16, "0")}`;
}

const ZERO = floatBits(0);

export class Arith {
  /** 0 for scalars. */
  readonly lanes: number;
  readonly level: Level;
  readonly F: string;
  readonly D: string;
  /** 32-bit integers. (Scalar index arithmetic is in i64, see print.ts.) */
  readonly I: string;
  readonly L: string;
  readonly H: string;
  readonly B: string;
  private readonly sink: Sink;

  constructor(sink: Sink, lanes: number, level: Level) {
    this.sink = sink;
    this.lanes = lanes;
    this.level = level;
    this.F = this.of("float");
    this.D = this.of("double");
    this.I = this.of("i32");
    this.L = this.of("i64");
    this.H = this.of("i16");
    this.B = this.of("i1");
  }

  of(element: string): string {
    return this.lanes === 0 ? element : `<${this.lanes} x ${element}>`;
  }

  ins(code: string): string {
    return this.sink.ins(code);
  }

  private constant(element: string, text: string): string {
    if (this.lanes > 0 && (text === "0" || text === ZERO)) return "zeroinitializer";
    return this.lanes === 0 ? text : `<${Array<string>(this.lanes).fill(`${element} ${text}`).join(", ")}>`;
  }
  f(x: number): string {
    return this.constant("float", floatBits(Math.fround(x)));
  }
  d(x: number): string {
    return this.constant("double", floatBits(x));
  }
  i(x: number): string {
    return this.constant("i32", String(x | 0));
  }
  l(x: bigint): string {
    return this.constant("i64", String(x));
  }
  h(x: number): string {
    return this.constant("i16", String(x));
  }

  /** `contract` lets the code generator fuse a product and a sum, as every other implementation of these models does. */
  fadd(a: string, b: string): string {
    return this.ins(`fadd contract ${this.F} ${a}, ${b}`);
  }
  fsub(a: string, b: string): string {
    return this.ins(`fsub contract ${this.F} ${a}, ${b}`);
  }
  fmul(a: string, b: string): string {
    return this.ins(`fmul contract ${this.F} ${a}, ${b}`);
  }
  fdiv(a: string, b: string): string {
    return this.ins(`fdiv ${this.F} ${a}, ${b}`);
  }
  fneg(a: string): string {
    return this.ins(`fneg ${this.F} ${a}`);
  }
  /** Exactly rounded sum, difference and product, for the places where error terms are computed. */
  exact(op: "fadd" | "fsub" | "fmul", a: string, b: string): string {
    return this.ins(`${op} ${this.F} ${a}, ${b}`);
  }
  fma(a: string, b: string, c: string): string {
    return this.fused(this.F, "f32", a, b, c);
  }
  dfma(a: string, b: string, c: string): string {
    return this.fused(this.D, "f64", a, b, c);
  }
  private fused(type: string, suffix: string, a: string, b: string, c: string): string {
    if (!this.level.fma) return this.ins(`fadd ${type} ${this.ins(`fmul ${type} ${a}, ${b}`)}, ${c}`);
    return this.intrinsic("fma", type, suffix, [a, b, c]);
  }
  /** Calls an LLVM intrinsic whose operands and result have one type. */
  intrinsic(name: string, type: string, suffix: string, operands: readonly string[]): string {
    const symbol = `@llvm.${name}.${this.lanes === 0 ? "" : `v${this.lanes}`}${suffix}`;
    this.sink.declare(`declare ${type} ${symbol}(${operands.map(() => type).join(", ")})`);
    return this.ins(`call ${type} ${symbol}(${operands.map((o) => `${type} ${o}`).join(", ")})`);
  }
  declare(text: string): void {
    this.sink.declare(text);
  }

  sqrt(a: string): string {
    return this.intrinsic("sqrt", this.F, "f32", [a]);
  }
  fabs(a: string): string {
    return this.intrinsic("fabs", this.F, "f32", [a]);
  }
  copysign(magnitude: string, sign: string): string {
    const bits = this.ins(`and ${this.I} ${this.bits(magnitude)}, ${this.i(0x7fffffff)}`);
    const top = this.ins(`and ${this.I} ${this.bits(sign)}, ${this.i(-0x80000000)}`);
    return this.fromBits(this.ins(`or ${this.I} ${bits}, ${top}`));
  }
  floor(a: string): string {
    if (this.level.round) return this.intrinsic("floor", this.F, "f32", [a]);
    // Below 2^23 truncation through an integer is exact; from there on every float is an integer (or not finite) already.
    const small = this.fcmp("olt", this.fabs(a), this.f(8388608));
    const safe = this.select(small, this.F, a, this.f(0));
    const whole = this.ins(`sitofp ${this.I} ${this.ins(`fptosi ${this.F} ${safe} to ${this.I}`)} to ${this.F}`);
    const down = this.exact("fsub", whole, this.select(this.fcmp("ogt", whole, safe), this.F, this.f(1), this.f(0)));
    return this.select(small, this.F, this.copysign(down, a), a); // -0 stays -0
  }

  bits(a: string): string {
    return this.ins(`bitcast ${this.F} ${a} to ${this.I}`);
  }
  fromBits(a: string): string {
    return this.ins(`bitcast ${this.I} ${a} to ${this.F}`);
  }
  int(op: string, a: string, b: string): string {
    return this.ins(`${op} ${this.I} ${a}, ${b}`);
  }
  fcmp(condition: string, a: string, b: string): string {
    return this.ins(`fcmp ${condition} ${this.F} ${a}, ${b}`);
  }
  icmp(condition: string, a: string, b: string): string {
    return this.ins(`icmp ${condition} ${this.I} ${a}, ${b}`);
  }
  select(condition: string, type: string, a: string, b: string): string {
    return this.ins(`select ${this.B} ${condition}, ${type} ${a}, ${type} ${b}`);
  }
  /** The smaller (larger) operand; a NaN wins, as it does in the definition of the language. `bIsNumber`: b cannot be NaN. */
  extreme(fn: "min" | "max", a: string, b: string, bIsNumber: boolean): string {
    // In this order a NaN in `a` falls through to `a`, and x86 has it as one instruction.
    const r = this.select(this.fcmp(fn === "min" ? "olt" : "ogt", b, a), this.F, b, a);
    return bIsNumber ? r : this.select(this.fcmp("uno", b, b), this.F, b, r);
  }
  /** c[0] + x * (c[1] + x * (...)). */
  polynomial(x: string, coefficients: readonly number[]): string {
    return coefficients.slice(0, -1).reduceRight((sum, c) => this.fma(sum, x, this.f(c)), this.f(coefficients.at(-1)!));
  }

  // ---- storage types: f16 and bf16 travel as 16-bit integers ---------------------------------------------------------------------------------------
  fromBf16(a: string): string {
    return this.fromBits(this.int("shl", this.ins(`zext ${this.H} ${a} to ${this.I}`), this.i(16)));
  }
  /** Nearest, ties to even; a NaN stays one. */
  toBf16(a: string): string {
    const u = this.bits(a);
    const odd = this.int("and", this.int("lshr", u, this.i(16)), this.i(1));
    const rounded = this.int("lshr", this.int("add", this.int("add", u, this.i(0x7fff)), odd), this.i(16));
    const nan = this.int("or", this.int("lshr", u, this.i(16)), this.i(0x40));
    return this.ins(`trunc ${this.I} ${this.select(this.fcmp("uno", a, a), this.I, nan, rounded)} to ${this.H}`);
  }
  fromF16(a: string): string {
    if (this.level.half)
      return this.ins(`fpext ${this.of("half")} ${this.ins(`bitcast ${this.H} ${a} to ${this.of("half")}`)} to ${this.F}`);
    // Put exponent and fraction in place and let a multiplication by 2^112 mend the exponent's bias; it makes subnormals right too.
    const wide = this.ins(`zext ${this.H} ${a} to ${this.I}`);
    const magnitude = this.int("shl", this.int("and", wide, this.i(0x7fff)), this.i(13));
    const scaled = this.bits(this.exact("fmul", this.fromBits(magnitude), this.f(2 ** 112)));
    const special = this.int("or", scaled, this.i(0x7f800000)); // infinities and NaNs, whose exponent the product cannot reach
    const finite = this.select(this.icmp("ult", magnitude, this.i(0x0f800000)), this.I, scaled, special);
    return this.fromBits(this.int("or", finite, this.int("shl", this.int("and", wide, this.i(0x8000)), this.i(16))));
  }
  /** Nearest, ties to even, with subnormals and infinities. */
  toF16(a: string): string {
    if (this.level.half)
      return this.ins(`bitcast ${this.of("half")} ${this.ins(`fptrunc ${this.F} ${a} to ${this.of("half")}`)} to ${this.H}`);
    const u = this.bits(a);
    const sign = this.int("and", this.int("lshr", u, this.i(16)), this.i(0x8000));
    const magnitude = this.int("and", u, this.i(0x7fffffff));
    const odd = this.int("and", this.int("lshr", magnitude, this.i(13)), this.i(1));
    const normal = this.int("lshr", this.int("add", this.int("add", magnitude, this.i(0xfff - 0x38000000)), odd), this.i(13));
    // Adding 0.5 puts a half's unit in the last place (2^-24) at the float's last bit, so that the addition does the rounding.
    const shifted = this.bits(this.exact("fadd", this.fromBits(magnitude), this.f(0.5)));
    const subnormal = this.int("sub", shifted, this.i(0x3f000000));
    const finite = this.select(this.icmp("ult", magnitude, this.i(0x38800000)), this.I, subnormal, normal);
    const huge = this.select(this.icmp("ugt", magnitude, this.i(0x7f800000)), this.I, this.i(0x7e00), this.i(0x7c00));
    const value = this.select(this.icmp("ult", magnitude, this.i(0x477ff000)), this.I, finite, huge);
    return this.ins(`trunc ${this.I} ${this.int("or", value, sign)} to ${this.H}`);
  }
}
