import type { DType } from "../ir/dtype.ts";
import { isFloat } from "../ir/dtype.ts";
import { add, idiv, isConst, lt, mod, mul, TRUE } from "../ir/expr.ts";
import type { Expr, Load } from "../ir/expr.ts";
import type { Stmt } from "../ir/thread.ts";

/** Makes a loop of `count` turns, or none; a loop of one turn is its body. */
export type Loop = (hint: string, count: number, unroll: boolean, body: (i: Expr) => readonly Stmt[]) => readonly Stmt[];

/**
 * All lanes of the block together visit a rows x cols array, each element once. Lanes with consecutive numbers get consecutive columns, so that
 * their addresses are contiguous; division is used only where neither size is a multiple of the other. `inside` is false for lanes past the end.
 */
export function cooperate(
  rows: number,
  cols: number,
  block: { readonly tid: Expr; readonly threads: number; readonly vector: boolean; readonly loop: Loop },
  body: (row: Expr, col: Expr, inside: Expr) => readonly Stmt[],
): readonly Stmt[] {
  const { tid, threads, loop } = block;
  if (cols >= threads || (block.vector && threads % cols !== 0)) {
    const whole = Math.floor(cols / threads);
    const rest = cols % threads;
    return loop("r", rows, false, (row) => [
      ...loop("c", whole, false, (c) => body(row, add(mul(c, threads), tid), TRUE)),
      ...(rest > 0 ? body(row, add(tid, whole * threads), lt(tid, rest)) : []),
    ]);
  }
  if (threads % cols === 0) {
    const step = threads / cols;
    const whole = Math.floor(rows / step);
    const rest = rows % step;
    const col = mod(tid, cols);
    return [
      ...loop("r", whole, false, (r) => body(add(mul(r, step), idiv(tid, cols)), col, TRUE)),
      ...(rest > 0 ? body(add(idiv(tid, cols), whole * step), col, lt(tid, rest * cols)) : []),
    ];
  }
  const count = rows * cols;
  const whole = Math.floor(count / threads);
  const visit = (e: Expr, inside: Expr): readonly Stmt[] => body(idiv(e, cols), mod(e, cols), inside);
  return [
    ...loop("e", whole, false, (i) => visit(add(mul(i, threads), tid), TRUE)),
    ...(count % threads > 0 ? visit(add(tid, whole * threads), lt(tid, count % threads)) : []),
  ];
}

/**
 * The load that a value of type `dtype` amounts to, if it does nothing but copy: casts that widen and narrow back, and a choice of 0 where the
 * guard of the load is false anyway, are looked through. (`guarded` of the templates writes such choices, in f32.)
 */
export function plainLoad(value: Expr, dtype: DType): Load | null {
  if (value.op === "load") return value.dtype === dtype ? value : null;
  if (value.op === "cast") return isFloat(dtype) && (value.dtype === "f32" || value.dtype === dtype) ? plainLoad(value.a, dtype) : null;
  if (value.op !== "select" || !isConst(value.b, 0)) return null;
  const inner = plainLoad(value.a, dtype);
  const held = new Set(inner?.guard ? conjuncts(inner.guard) : []);
  return conjuncts(value.c).every((c) => held.has(c)) ? inner : null;
}

const conjuncts = (e: Expr): Expr[] => (e.op === "binary" && e.fn === "and" ? [...conjuncts(e.a), ...conjuncts(e.b)] : [e]);
