import type { DType } from "../../compiler/ir/dtype.ts";
import type { Expr, Load } from "../../compiler/ir/expr.ts";
import { isConst, rangeOf } from "../../compiler/ir/expr.ts";
import type { Block } from "../text/block.ts";
import { close, line, where } from "../text/block.ts";
import type { Turns } from "../text/writer.ts";
import { variableName } from "../text/writer.ts";
import { loadElement } from "./access.ts";
import type { Kernel } from "./kernel.ts";
import { exchanged } from "./lanes.ts";
import { valueType, zeroOf } from "./types.ts";

export const registerName = (name: string, index: Expr, b: Block, k: Kernel): string =>
  k.indexed.has(name) ? `r_${name}[${k.value(index, b)}]` : `r_${name}_${isConst(index) ? index.value : "?"}`;

/** Lines that a GPU's driver may make of a loop by unrolling it: those of a GEMV, whose loads are then all on their way at once, and of a step of a product. */
const UNROLLED = 400;

/**
 * A loop of `count` turns around what is in `inner`. Compilers do not learn how many turns where it would be much: what is to be written out has been written
 * out already, and drivers that unroll on top of it take up to a minute for a kernel. Nor where the subgroups are not those of a GPU, or not known: what
 * runs WebGPU on a processor compiles slowly, and gains nothing.
 */
export function closeLoop(inner: Block, counter: string, count: Expr, turns: Turns, k: Kernel): void {
  const gpu = (k.caps.requires.subgroup ?? 0) >= 16;
  // steps of products however long: unrolled by the driver one of 2048 x 2048 x 2048 was 2 % faster on an H200
  const short =
    turns === "out" || turns === "product" || (turns === "any" && isConst(count) && count.value * inner.lines.length <= UNROLLED);
  const end = isConst(count) && !(gpu && short) ? `${count.value} + zero` : k.value(count, inner.parent!);
  close(inner, `for (var ${counter} = 0; ${counter} < ${end}; ${counter}++)`);
}

/** The text of an operation. */
export function textOf(e: Expr, b: Block, k: Kernel): string {
  const of = (x: Expr): string => k.value(x, b);
  switch (e.op) {
    case "const":
      return constantText(e.value, e.dtype, k);
    case "var":
      return variableName(e.name);
    case "load":
      return loadText(e, b, k);
    case "reg":
      return registerName(e.name, e.index, b, k);
    case "shuffle":
      return exchanged(e, b, k);
    case "unary":
      return unaryText(e, of(e.a), k);
    case "binary":
      return binaryText(e, b, k);
    case "select":
      return `select(${of(e.b)}, ${of(e.a)}, ${of(e.c)})`;
    case "cast":
      return castText(of(e.a), e.a.dtype, e.dtype, k);
    case "elem":
      throw new Error(`wgsl: a tile element in a thread program (${e.tile})`);
  }
}

function loadText(e: Load, b: Block, k: Kernel): string {
  const place = k.places.get(e.buffer)!;
  if (!e.guard) return loadElement(place, e.index, b, k);
  const name = k.fresh("x");
  line(b, `var ${name} = ${zeroOf(e.dtype)};`);
  where(b, k.value(e.guard, b), (inner) => {
    line(inner, `${name} = ${loadElement(place, e.index, inner, k)};`);
  });
  return name;
}

export function constantText(x: number, dtype: DType, k: Kernel): string {
  if (dtype === "bool") return x ? "true" : "false";
  if (dtype === "i32") return x === -(2 ** 31) ? "i32(-2147483648)" : x < 0 ? `(${x})` : `${x}`;
  if (Number.isFinite(x)) return x < 0 || Object.is(x, -0) ? `(-${Math.abs(x)}f)` : `${x}f`;
  k.helpers.use("special");
  if (Number.isNaN(x)) return "bitcast<f32>(infinity_bits | 0x400000u)";
  return x > 0 ? "bitcast<f32>(infinity_bits)" : "bitcast<f32>(infinity_bits | 0x80000000u)";
}

function unaryText(e: Extract<Expr, { op: "unary" }>, a: string, k: Kernel): string {
  const { use } = k.helpers;
  switch (e.fn) {
    case "neg":
      return `(-${a})`;
    case "not":
      return `(!${a})`;
    case "abs":
    case "sqrt":
    case "floor":
      return `${e.fn}(${a})`;
    case "rsqrt":
      return `inverseSqrt(${a})`;
    case "exp":
      return `${use("exp_f32")}(${a})`;
    case "exp2":
      return `${use("exp2_f32")}(${a})`;
    case "log":
      return `${use("log_f32")}(${a})`;
    case "log1p":
      return `${use("log1p_f32")}(${a})`;
    case "tanh":
      return `${use("tanh_f32")}(${a})`;
    case "erf":
      return `${use("erf_f32")}(${a})`;
    case "sin":
      return `${use("sin_f32")}(${a})`;
    case "cos":
      return `${use("cos_f32")}(${a})`;
  }
}

const INFIX = { add: "+", sub: "-", mul: "*", div: "/", lt: "<", le: "<=", eq: "==", ne: "!=", and: "&&", or: "||" } as const;

function binaryText(e: Extract<Expr, { op: "binary" }>, b: Block, k: Kernel): string {
  const { use } = k.helpers;
  const isFloat = e.a.dtype === "f32";
  switch (e.fn) {
    case "idiv":
    case "mod":
      return divisionText(e, b, k);
    case "pow":
      return `${use("pow_f32")}(${k.value(e.a, b)}, ${k.value(e.b, b)})`;
    case "min":
    case "max":
      return `${isFloat ? use(e.fn === "min" ? "min_f32" : "max_f32") : e.fn}(${k.value(e.a, b)}, ${k.value(e.b, b)})`;
    case "eq":
    case "ne":
      // a compiler that takes it for granted that there is no NaN would decide these
      if (isFloat && e.a === e.b) return `${e.fn === "eq" ? "!" : ""}${use("is_nan")}(${k.value(e.a, b)})`;
      // WGSL's != is false where one is a NaN
      if (isFloat && e.fn === "ne") return `!(${k.value(e.a, b)} == ${k.value(e.b, b)})`;
      break;
    default:
  }
  return `(${k.value(e.a, b)} ${INFIX[e.fn]} ${k.value(e.b, b)})`;
}

/** Rounds down; the divisor is positive. Shifts and masks do for powers of two, and WGSL's own operators where nothing is negative. */
function divisionText(e: Extract<Expr, { op: "binary" }>, b: Block, k: Kernel): string {
  const isDiv = e.fn === "idiv";
  const a = k.value(e.a, b);
  if (isConst(e.b) && Number.isInteger(Math.log2(e.b.value)))
    return isDiv ? `(${a} >> ${Math.log2(e.b.value)}u)` : `(${a} & ${e.b.value - 1})`;
  const d = k.value(e.b, b);
  if (rangeOf(e.a).min >= 0) return `(${a} ${isDiv ? "/" : "%"} ${d})`;
  return `${k.helpers.use(isDiv ? "idiv_i32" : "mod_i32")}(${a}, ${d})`;
}

function castText(a: string, from: DType, to: DType, k: Kernel): string {
  const isNumber = valueType(from) === "f32";
  switch (to) {
    case "i32":
      return from === "bool" ? `select(0, 1, ${a})` : `i32(${a})`;
    case "bool":
      return `(${a} != ${zeroOf(from)})`;
    case "f32":
    case "bf16":
    case "f16": {
      const number = isNumber ? a : from === "bool" ? `select(0f, 1f, ${a})` : `f32(${a})`;
      return to === "f32" ? number : `${k.helpers.use(to === "bf16" ? "round_bf16" : "round_f16")}(${number})`;
    }
  }
}
