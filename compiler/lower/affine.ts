import { add, isConst, mul, some, terms } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";

/** An integer expression as a sum of coefficient * atom, plus a constant. Atoms are whatever is not a sum or a multiple. */
export interface Affine {
  readonly atoms: ReadonlyMap<Expr, number>;
  readonly constant: number;
}

export function affine(e: Expr): Affine {
  const atoms = new Map<Expr, number>();
  let constant = 0;
  const put = (x: Expr, by: number): void => {
    for (const t of terms(x)) {
      if (isConst(t)) constant += by * t.value;
      else if (t.op === "binary" && t.fn === "mul" && isConst(t.b)) put(t.a, by * t.b.value);
      else if (t.op === "binary" && t.fn === "sub") {
        put(t.a, by);
        put(t.b, -by);
      } else atoms.set(t, (atoms.get(t) ?? 0) + by);
    }
  };
  put(e, 1);
  return { atoms, constant };
}

export const mentions = (e: Expr, v: Expr): boolean => some(e, (x) => x === v);

/** Whether `e`, for v = width * q + j, is width * (something without j) + j: consecutive and aligned as v runs through a group of `width`. */
export function isVector(e: Expr, v: Expr, width: number): boolean {
  const { atoms, constant } = affine(e);
  if (atoms.get(v) !== 1 || constant % width !== 0) return false;
  return [...atoms].every(([atom, by]) => atom === v || (by % width === 0 && !mentions(atom, v)));
}

/** Whether the condition is the same for all of v = width * q .. width * q + width-1: it does not mention v, or compares an aligned sum with a multiple. */
export function isVectorCondition(c: Expr, v: Expr, width: number): boolean {
  if (!mentions(c, v)) return true;
  if (c.op !== "binary") return false;
  if (c.fn === "and" || c.fn === "or") return isVectorCondition(c.a, v, width) && isVectorCondition(c.b, v, width);
  if (c.fn !== "lt" || mentions(c.b, v)) return false;
  const limit = affine(c.b);
  return isVector(c.a, v, width) && limit.constant % width === 0 && [...limit.atoms.values()].every((by) => by % width === 0);
}

/** row * cols + col of a row-major array. */
export const rowMajor = (row: Expr, cols: number, col: Expr): Expr => add(mul(row, cols), col);

/** The greatest common divisor; of 0 and a number, the number. */
export const gcd = (a: number, b: number): number => (b === 0 ? Math.abs(a) : gcd(b, a % b));

const divisors = new Map<Expr, number>();
/** A number that certainly divides an integer expression; 0 for the constant 0. */
export function divisorOf(e: Expr): number {
  const hit = divisors.get(e);
  if (hit !== undefined) return hit;
  const found = findDivisor(e);
  divisors.set(e, found);
  return found;
}

function findDivisor(e: Expr): number {
  if (e.op === "const") return Math.abs(e.value);
  if (e.op === "select") return gcd(divisorOf(e.a), divisorOf(e.b));
  if (e.op !== "binary") return 1;
  const [a, b] = [divisorOf(e.a), divisorOf(e.b)];
  switch (e.fn) {
    case "add":
    case "sub":
    case "min":
    case "max":
    case "mod":
      return gcd(a, b);
    case "mul":
      return a * b;
    case "idiv":
      return isConst(e.b) && a % e.b.value === 0 ? a / e.b.value : 1;
    default:
      return 1;
  }
}
