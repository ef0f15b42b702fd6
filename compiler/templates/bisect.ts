import { add, and, f32, lt, max, min, mul, neg, select, sub, unary } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { LARGEST_F32 } from "../ir/dtype.ts";

/** The least f32 that every device tells from 0: many take smaller ones for it. */
const TINY = 2 ** -126;

/**
 * Halvings that narrow any interval of f32 numbers down to two neighbours: one for -Infinity, one for the sign, 8 for the exponents, 26 for the digits.
 * tests/unit/bisect.test.ts tries it.
 */
export const HALVINGS = 36;

/**
 * A number from `low` to `high`, which halves what lies between them as f32 numbers, not as reals, near enough: 0 between numbers of two signs, the
 * geometric mean of ones that are far apart (what is below TINY counts as TINY), the arithmetic mean of near ones. It is one of the two only when they
 * are neighbours.
 */
export function halfway(low: Expr, high: Expr): Expr {
  const [a, b] = [unary("abs", low), unary("abs", high)];
  const [small, large] = [min(a, b), max(a, b)];
  const least = max(small, TINY);
  const root = mul(unary("sqrt", least), unary("sqrt", large));
  const geometric = select(lt(low, 0), neg(root), root);
  const arithmetic = add(low, mul(sub(high, low), 0.5));
  const sameSign = select(lt(mul(least, 4), large), geometric, arithmetic);
  return select(lt(low, -LARGEST_F32), f32(-LARGEST_F32), select(and(lt(low, 0), lt(0, high)), f32(0), sameSign));
}
