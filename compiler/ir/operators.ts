/** The scalar operators of expressions, and what they do to numbers. */

export const UNARY = ["neg", "abs", "exp", "exp2", "log", "log1p", "sqrt", "rsqrt", "floor", "sin", "cos", "tanh", "erf", "not"] as const;
/** `exp2(x)` = 2^x, which GPUs have and take exp from; `log1p(x)` = ln(1 + x); `not` takes a bool; the rest are f32, and `neg`/`abs` also i32. */
export type UnaryFn = (typeof UNARY)[number];

export const BINARY = ["add", "sub", "mul", "div", "idiv", "mod", "min", "max", "pow", "lt", "le", "eq", "ne", "and", "or"] as const;
/** `div` is f32; `idiv` (floor) and `mod` (result has the sign of the divisor) are i32 with a positive divisor; comparisons give bool. */
export type BinaryFn = (typeof BINARY)[number];

/** What a unary operator does to a number (f32 operands may be held in double precision). */
export function applyUnary(fn: UnaryFn, x: number): number {
  switch (fn) {
    case "neg":
      return -x;
    case "abs":
      return Math.abs(x);
    case "exp":
      return Math.exp(x);
    case "exp2":
      return 2 ** x;
    case "log":
      return Math.log(x);
    case "log1p":
      return Math.log1p(x);
    case "sqrt":
      return Math.sqrt(x);
    case "rsqrt":
      return 1 / Math.sqrt(x);
    case "floor":
      return Math.floor(x);
    case "sin":
      return Math.sin(x);
    case "cos":
      return Math.cos(x);
    case "tanh":
      return Math.tanh(x);
    case "erf":
      return erfOf(x);
    case "not":
      return x ? 0 : 1;
  }
}

/** erf by its Maclaurin series (|x| < 3) or the continued fraction of erfc: full double precision is not needed, 1e-12 is reached. */
function erfOf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 3) {
    let term = a;
    let sum = a;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
      if (n > 200) break;
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let f = 0;
  for (let n = 60; n > 0; n--) f = n / 2 / (a + f);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + f));
}

/** What a binary operator does to two numbers. */
export function applyBinary(fn: BinaryFn, a: number, b: number): number {
  switch (fn) {
    case "add":
      return a + b;
    case "sub":
      return a - b;
    case "mul":
      return a * b;
    case "div":
      return a / b;
    case "idiv":
      return Math.floor(a / b);
    case "mod":
      return a - b * Math.floor(a / b);
    case "min":
      return a < b || Number.isNaN(a) ? a : b;
    case "max":
      return a > b || Number.isNaN(a) ? a : b;
    case "pow":
      return Math.pow(a, b);
    case "lt":
      return a < b ? 1 : 0;
    case "le":
      return a <= b ? 1 : 0;
    case "eq":
      return a === b ? 1 : 0;
    case "ne":
      return a !== b ? 1 : 0;
    case "and":
      return a && b ? 1 : 0;
    case "or":
      return a || b ? 1 : 0;
  }
}
