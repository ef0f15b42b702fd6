import type { IntExpr, IntOp } from "./artifact.ts";
import type { Expr } from "./ir/expr.ts";
import { print } from "./ir/expr-text.ts";

const OPS: readonly IntOp[] = ["add", "sub", "mul", "idiv", "mod", "min", "max"];
const intOp = (fn: string): IntOp | undefined => OPS.find((op) => op === fn);

/** `a` times `b`, outside the 32 bits of the expressions that kernels compute: bytes and operations are counted in doubles. */
export function times(a: IntExpr, b: IntExpr): IntExpr {
  if (typeof b !== "number") return typeof a === "number" ? times(b, a) : ["mul", a, b];
  if (b === 1) return a;
  if (typeof a === "number") return a * b;
  return typeof a !== "string" && a[0] === "mul" && typeof a[2] === "number" ? times(a[1], a[2] * b) : ["mul", a, b];
}

export function plus(a: IntExpr, b: IntExpr): IntExpr {
  if (typeof a === "number") return typeof b === "number" ? a + b : a === 0 ? b : plus(b, a);
  if (b === 0) return a;
  const last = typeof a !== "string" && a[0] === "add" ? a[2] : undefined;
  return typeof b === "number" && typeof last === "number"
    ? ["add", (a as readonly [IntOp, IntExpr, IntExpr])[1], last + b]
    : ["add", a, b];
}

/** An integer expression over symbols as JSON, for the manifest. Throws on anything else: that is a mistake of a template. */
export function toIntExpr(e: Expr): IntExpr {
  if (e.op === "const") return e.value;
  if (e.op === "var") return e.name;
  const fn = e.op === "binary" ? intOp(e.fn) : undefined;
  if (e.op === "binary" && fn) return [fn, toIntExpr(e.a), toIntExpr(e.b)];
  throw new Error(`${print(e)} is not an integer expression over symbols`);
}
