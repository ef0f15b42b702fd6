import { add, cast, exp, i32, load, lt, max, mul, select, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { Kept, ReplayProblem } from "../template.ts";

/** Element of what is kept between steps, in f32. */
export const elementOf = <C extends readonly Expr[]>({ buffer, dtype, index }: Kept<C>, ...coords: C): Expr =>
  cast(load(buffer, dtype, index(...coords)), "f32");

/** The numbers of so many entries of a ring. */
export const entries = (count: number): readonly Expr[] => Array.from({ length: count }, (_, j) => i32(j));

/**
 * By what a head's state (row 0) and the entries of its ring (row j + 1) are multiplied: exp(A sum of dt after it), and an entry's own dt.
 * `step(j)`: dt of entry j, 0 where there is none.
 */
export function decayOf({ length, decay }: Pick<ReplayProblem, "length" | "decay">, step: (j: Expr) => Expr, row: Expr, head: Expr): Expr {
  const after = entries(length)
    .map((j) => select(lt(j, row), 0, step(j)))
    .reduce((sum, each) => add(sum, each));
  return mul(exp(mul(after, decay(head))), select(lt(0, row), step(max(sub(row, 1), 0)), 1));
}
