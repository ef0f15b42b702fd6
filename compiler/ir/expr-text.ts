import type { Expr } from "./expr.ts";
import type { BinaryFn } from "./operators.ts";

const INFIX: Partial<Record<BinaryFn, string>> = {
  add: "+",
  sub: "-",
  mul: "*",
  div: "/",
  idiv: "//",
  mod: "%",
  lt: "<",
  le: "<=",
  eq: "==",
  ne: "!=",
  and: "&&",
  or: "||",
};

/** Stable text: the same expression always prints the same. */
export function print(e: Expr): string {
  switch (e.op) {
    case "const":
      return e.dtype === "f32" && Number.isInteger(e.value)
        ? `${e.value}.0`
        : e.dtype === "bool"
          ? e.value
            ? "true"
            : "false"
          : `${e.value}`;
    case "var":
      return e.name;
    case "load":
      return `${e.buffer}[${print(e.index)}${e.guard ? ` if ${print(e.guard)}` : ""}]`;
    case "elem":
      return `${e.tile}(${print(e.row)}, ${print(e.col)})`;
    case "reg":
      return `${e.name}.${print(e.index)}`;
    case "shuffle":
      return `shuffle(${print(e.a)}, ^${e.mask})`;
    case "unary":
      return `${e.fn}(${print(e.a)})`;
    case "binary": {
      const infix = INFIX[e.fn];
      return infix ? `(${print(e.a)} ${infix} ${print(e.b)})` : `${e.fn}(${print(e.a)}, ${print(e.b)})`;
    }
    case "select":
      return `(${print(e.c)} ? ${print(e.a)} : ${print(e.b)})`;
    case "cast":
      return `${e.dtype}(${print(e.a)})`;
  }
}
