import { round } from "../ir/dtype.ts";
import type { DType } from "../ir/dtype.ts";
import { children } from "../ir/expr.ts";
import { applyBinary, applyUnary } from "../ir/operators.ts";
import type { Expr, Var } from "../ir/expr.ts";
import type { BinaryFn } from "../ir/operators.ts";

/** An expression made callable: its value in the present surroundings. */
export type Compiled = () => number;

/** Where a variable's present value lies; loops write it, compiled expressions read it. */
export interface Cell {
  value: number;
}

/** Asked once for each leaf while an expression is compiled, not while it runs. What a level does not have, it leaves out. */
export interface Binder {
  variable(v: Var): Cell;
  load?(buffer: string, dtype: DType): (index: number) => number;
  elem?(tile: string, dtype: DType): (row: number, col: number) => number;
  reg?(name: string, dtype: DType): (index: number) => number;
  /** `a` is compiled on its own: it keeps no value from one call to the next, so it may be called with another lane's surroundings. */
  shuffle?(a: Compiled, mask: number): Compiled;
}

/**
 * Turns an expression into closures, with the meaning of `evaluate` in expr.ts. A subexpression that occurs more than once is computed once
 * a call (expressions are hash-consed, so large index expressions share most of their parts).
 */
export function compileExpr(e: Expr, binder: Binder): Compiled {
  const uses = countUses(e);
  const now: Cell = { value: 0 };
  const memo = new Map<Expr, Compiled>();
  const go = (x: Expr): Compiled => {
    const hit = memo.get(x);
    if (hit) return hit;
    const plain = closure(x, go, binder);
    const f = children(x).length > 0 && uses.get(x)! > 1 ? shared(plain, now) : plain;
    memo.set(x, f);
    return f;
  };
  const f = go(e);
  return [...uses.values()].some((n) => n > 1)
    ? () => {
        now.value++;
        return f();
      }
    : f;
}

function countUses(root: Expr): Map<Expr, number> {
  const uses = new Map<Expr, number>([[root, 1]]);
  const visit = (x: Expr): void => {
    for (const c of children(x)) {
      const n = uses.get(c) ?? 0;
      uses.set(c, n + 1);
      // what is below a shuffle is compiled apart and shares nothing with the rest
      if (n === 0 && c.op !== "shuffle") visit(c);
    }
  };
  if (root.op !== "shuffle") visit(root);
  return uses;
}

function shared(f: Compiled, now: Cell): Compiled {
  let at = -1;
  let value = 0;
  return () => {
    if (at !== now.value) {
      value = f();
      at = now.value;
    }
    return value;
  };
}

function closure(e: Expr, go: (e: Expr) => Compiled, binder: Binder): Compiled {
  switch (e.op) {
    case "const": {
      const value = e.value;
      return () => value;
    }
    case "var": {
      const cell = binder.variable(e);
      return () => cell.value;
    }
    case "load": {
      const read = binder.load?.(e.buffer, e.dtype) ?? absent(e);
      const index = go(e.index);
      if (!e.guard) return () => read(index());
      const guard = go(e.guard);
      return () => (guard() ? read(index()) : 0);
    }
    case "elem": {
      const read = binder.elem?.(e.tile, e.dtype) ?? absent(e);
      const row = go(e.row),
        col = go(e.col);
      return () => read(row(), col());
    }
    case "reg": {
      const read = binder.reg?.(e.name, e.dtype) ?? absent(e);
      const index = go(e.index);
      return () => read(index());
    }
    case "shuffle":
      return binder.shuffle?.(compileExpr(e.a, binder), e.mask) ?? absent(e);
    case "unary": {
      const fn = e.fn;
      const a = go(e.a);
      return fn === "neg" ? () => -a() : fn === "exp" ? () => Math.exp(a()) : () => applyUnary(fn, a());
    }
    case "binary":
      return binaryClosure(e.fn, go(e.a), go(e.b), e.b);
    case "select": {
      const c = go(e.c),
        a = go(e.a),
        b = go(e.b);
      return () => {
        const x = a(),
          y = b();
        return c() ? x : y;
      };
    }
    case "cast": {
      const to = e.dtype;
      const a = go(e.a);
      return to === "i32" ? () => Math.trunc(a()) : () => round(a(), to);
    }
  }
}

/** The common operators each get a closure of their own, and one more where the right side is a constant: index arithmetic is mostly that. */
function binaryClosure(fn: BinaryFn, a: Compiled, b: Compiled, right: Expr): Compiled {
  if (right.op === "const") {
    const y = right.value;
    switch (fn) {
      case "add":
        return () => a() + y;
      case "mul":
        return () => a() * y;
      case "idiv":
        return () => Math.floor(a() / y);
      case "mod":
        return () => {
          const x = a();
          return x - y * Math.floor(x / y);
        };
      case "lt":
        return () => (a() < y ? 1 : 0);
      default:
        return () => applyBinary(fn, a(), y);
    }
  }
  switch (fn) {
    case "add":
      return () => a() + b();
    case "sub":
      return () => a() - b();
    case "mul":
      return () => a() * b();
    case "div":
      return () => a() / b();
    case "lt":
      return () => (a() < b() ? 1 : 0);
    case "and":
      return () => (a() && b() ? 1 : 0);
    default:
      return () => applyBinary(fn, a(), b());
  }
}

const absent = (e: Expr) => (): never => {
  throw new Error(`expression: a ${e.op} cannot be evaluated here`);
};
