import type { DType } from "../../compiler/ir/dtype.ts";
import type { Expr, Load } from "../../compiler/ir/expr.ts";
import { isConst, rangeOf } from "../../compiler/ir/expr.ts";
import type { Block } from "../text/block.ts";
import { line, where } from "../text/block.ts";
import { variableName } from "../text/writer.ts";
import { loadElement } from "./access.ts";
import { valueType, zeroOf } from "./dialect.ts";
import type { Kernel } from "./kernel.ts";

/** The text of an operation, its operands written by `k.value`. */
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
      return k.register(e.name, e.index, b);
    case "shuffle":
      return k.dialect.shuffle(of(e.a), e.mask);
    case "unary":
      return unaryText(e, of(e.a), k);
    case "binary":
      return binaryText(e, b, k);
    case "select":
      return `(${of(e.c)} ? ${of(e.a)} : ${of(e.b)})`;
    case "cast":
      return castText(of(e.a), e.a.dtype, e.dtype, k);
    case "elem":
      throw new Error(`${k.dialect.language}: a tile element in a thread program (${e.tile})`);
  }
}

/** A guarded load is a statement: what its address takes may be out of range where the guard is false. */
function loadText(e: Load, b: Block, k: Kernel): string {
  const place = k.places.get(e.buffer)!;
  if (!e.guard) return loadElement(place, e.index, b, k);
  const name = k.fresh("x");
  const guard = k.value(e.guard, b);
  line(b, `${valueType(e.dtype)} ${name} = ${zeroOf(e.dtype)};`);
  where(b, guard, (inner) => {
    line(inner, `${name} = ${loadElement(place, e.index, inner, k)};`);
  });
  return name;
}

/** Literals of a float are written so that no compiler takes them for doubles. */
export function constantText(x: number, dtype: DType, k: Kernel): string {
  if (dtype === "bool") return x ? "true" : "false";
  if (dtype === "i32") return x === -(2 ** 31) ? "(-2147483647 - 1)" : x < 0 ? `(${x})` : `${x}`;
  if (Number.isNaN(x)) return k.dialect.floatOf("0x7fc00000u");
  if (!Number.isFinite(x)) return k.dialect.floatOf(x > 0 ? "0x7f800000u" : "0xff800000u");
  const digits = `${Math.abs(x)}`;
  const literal = /[.e]/.test(digits) ? `${digits}f` : `${digits}.0f`;
  return x < 0 || Object.is(x, -0) ? `(-${literal})` : literal;
}

function unaryText(e: Extract<Expr, { op: "unary" }>, a: string, k: Kernel): string {
  if (e.fn === "neg") return `(-${a})`;
  if (e.fn === "not") return `(!${a})`;
  return k.call(e.fn === "abs" && e.dtype === "i32" ? "abs_i32" : e.fn, a);
}

const INFIX = { add: "+", sub: "-", mul: "*", div: "/", lt: "<", le: "<=", eq: "==", ne: "!=", and: "&&", or: "||" } as const;

function binaryText(e: Extract<Expr, { op: "binary" }>, b: Block, k: Kernel): string {
  switch (e.fn) {
    case "idiv":
    case "mod":
      return divisionText(e, b, k);
    case "pow":
      return k.call("pow", k.value(e.a, b), k.value(e.b, b));
    case "min":
    case "max":
      return k.call(e.dtype === "i32" ? `${e.fn}_i32` : e.fn, k.value(e.a, b), k.value(e.b, b));
    default:
      return `(${k.value(e.a, b)} ${INFIX[e.fn]} ${k.value(e.b, b)})`;
  }
}

/** Rounds down; the divisor is positive. Shifts and masks do for powers of two, and the language's own operators where nothing is negative. */
function divisionText(e: Extract<Expr, { op: "binary" }>, b: Block, k: Kernel): string {
  const isDiv = e.fn === "idiv";
  const a = k.value(e.a, b);
  if (isConst(e.b) && Number.isInteger(Math.log2(e.b.value)))
    return isDiv ? `(${a} >> ${Math.log2(e.b.value)})` : `(${a} & ${e.b.value - 1})`;
  const d = k.value(e.b, b);
  if (rangeOf(e.a).min >= 0) return `(${a} ${isDiv ? "/" : "%"} ${d})`;
  return k.call(isDiv ? "idiv" : "mod", a, d);
}

function castText(a: string, from: DType, to: DType, k: Kernel): string {
  switch (to) {
    case "i32":
      return `int(${a})`;
    case "bool":
      return `(${a} != ${zeroOf(from)})`;
    case "f32":
    case "bf16":
    case "f16": {
      const number = valueType(from) === "float" ? a : `float(${a})`;
      return to === "f32" ? number : k.call(`round_${to}`, number);
    }
  }
}
