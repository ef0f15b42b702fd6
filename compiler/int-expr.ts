import type { IntExpr, IntOp } from "./artifact.ts";
import type { Expr } from "./ir/expr.ts";
import { print } from "./ir/expr.ts";

const OPS: readonly IntOp[] = ["add", "sub", "mul", "idiv", "mod", "min", "max"];
const intOp = (fn: string): IntOp | undefined => OPS.find((op) => op === fn);

/** An integer expression over symbols as JSON, for the manifest. Throws on anything else: that is a mistake of a template. */
export function toIntExpr(e: Expr): IntExpr {
  if (e.op === "const") return e.value;
  if (e.op === "var") return e.name;
  const fn = e.op === "binary" ? intOp(e.fn) : undefined;
  if (e.op === "binary" && fn) return [fn, toIntExpr(e.a), toIntExpr(e.b)];
  throw new Error(`${print(e)} is not an integer expression over symbols`);
}
