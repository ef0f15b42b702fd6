import type { DType } from "./dtype.ts";
import { isFloat, round } from "./dtype.ts";
import { intern } from "./expr-node.ts";
import type { Expr } from "./expr-node.ts";
import { applyBinary, applyUnary } from "./operators.ts";
import type { BinaryFn, UnaryFn } from "./operators.ts";

export type { Expr } from "./expr-node.ts";
export type Load = Extract<Expr, { op: "load" }>;
export type Var = Extract<Expr, { op: "var" }>;

// ---- constructors ---------------------------------------------------------------------------------------------------
/** A number where an expression is expected stands for a constant of the other operand's dtype. */
export type Operand = Expr | number;

const fail = (message: string): never => {
  throw new Error(`expression: ${message}`);
};

export const constant = (value: number, dtype: DType): Expr => intern({ op: "const", dtype, value: round(value, dtype) });
export const f32 = (value: number): Expr => constant(value, "f32");
export const i32 = (value: number): Expr => constant(value, "i32");
export const bool = (value: boolean): Expr => constant(value ? 1 : 0, "bool");
export const TRUE = bool(true);
export const FALSE = bool(false);

const MIN = -(2 ** 31);
const MAX = 2 ** 31 - 1;

/** An integer variable with an inclusive range; the range is what proves bounds and 32-bit safety, so make it as tight as is true. */
export const intVar = (name: string, min: number = MIN, max: number = MAX): Var => {
  if (!(min <= max)) fail(`variable ${name} has the empty range [${min}, ${max}]`);
  return intern({ op: "var", dtype: "i32", name, min, max }) as Var;
};
/** A variable of any dtype without a useful range. */
export const variable = (name: string, dtype: DType): Var => intern({ op: "var", dtype, name, min: -Infinity, max: Infinity }) as Var;

export const lift = (x: Operand, dtype: DType): Expr => (typeof x === "number" ? constant(x, dtype) : x);

export const load = (buffer: string, dtype: DType, index: Operand, guard: Expr | null = null): Expr =>
  guard && isConst(guard, 0)
    ? constant(0, dtype)
    : intern({ op: "load", dtype, buffer, index: lift(index, "i32"), guard: guard && isConst(guard) ? null : guard });
export const elem = (tile: string, dtype: DType, row: Operand, col: Operand): Expr =>
  intern({ op: "elem", dtype, tile, row: lift(row, "i32"), col: lift(col, "i32") });
export const reg = (name: string, dtype: DType, index: Operand): Expr => intern({ op: "reg", dtype, name, index: lift(index, "i32") });
export const shuffle = (a: Expr, mask: number): Expr => intern({ op: "shuffle", dtype: a.dtype, a, mask });

export type Const = Extract<Expr, { op: "const" }>;
export function isConst(e: Expr): e is Const;
export function isConst(e: Expr, value: number): boolean;
export function isConst(e: Expr, value?: number): boolean {
  return e.op === "const" && (value === undefined || e.value === value);
}

export function unary(fn: UnaryFn, a: Expr): Expr {
  if (fn === "not" ? a.dtype !== "bool" : a.dtype !== "f32" && !(a.dtype === "i32" && (fn === "neg" || fn === "abs")))
    fail(`${fn} does not take ${a.dtype}; cast first`);
  if (isConst(a)) return constant(applyUnary(fn, a.value), a.dtype);
  if (a.op === "unary" && a.fn === fn && (fn === "neg" || fn === "not")) return a.a;
  return intern({ op: "unary", dtype: a.dtype, fn, a });
}

const COMPARE: ReadonlySet<BinaryFn> = new Set(["lt", "le", "eq", "ne"]);
const LOGIC: ReadonlySet<BinaryFn> = new Set(["and", "or"]);
const INTEGER: ReadonlySet<BinaryFn> = new Set(["idiv", "mod"]);
const FLOAT: ReadonlySet<BinaryFn> = new Set(["div", "pow"]);
const COMMUTATIVE: ReadonlySet<BinaryFn> = new Set(["add", "mul", "min", "max", "eq", "ne", "and", "or"]);

export function binary(fn: BinaryFn, x: Operand, y: Operand): Expr {
  let a = typeof x === "number" ? lift(x, typeof y === "number" ? "i32" : y.dtype) : x;
  let b = lift(y, a.dtype);
  if (a.dtype !== b.dtype) fail(`${fn} of ${a.dtype} and ${b.dtype}; cast first`);
  if (
    LOGIC.has(fn)
      ? a.dtype !== "bool"
      : INTEGER.has(fn)
        ? a.dtype !== "i32"
        : FLOAT.has(fn)
          ? a.dtype !== "f32"
          : a.dtype !== "f32" && a.dtype !== "i32" && !(COMPARE.has(fn) && a.dtype === "bool")
  )
    fail(`${fn} does not take ${a.dtype}; cast first`);
  const dtype: DType = COMPARE.has(fn) || LOGIC.has(fn) ? "bool" : a.dtype;
  if (isConst(a) && isConst(b)) {
    if (INTEGER.has(fn) && b.value <= 0) fail(`${fn} by ${b.value}; the divisor must be positive`);
    const value = applyBinary(fn, a.value, b.value);
    if (dtype === "i32" && (value < MIN || value > MAX)) fail(`${a.value} ${fn} ${b.value} does not fit in 32 bits`);
    return constant(value, dtype);
  }
  if (COMMUTATIVE.has(fn) && isConst(a)) [a, b] = [b, a]; // constants on the right
  return simplify(fn, a, b, dtype) ?? intern({ op: "binary", dtype, fn, a, b });
}

/** The few identities that index arithmetic needs. Nothing here may change a floating-point result. */
function simplify(fn: BinaryFn, a: Expr, b: Expr, dtype: DType): Expr | undefined {
  const int = a.dtype === "i32";
  switch (fn) {
    case "add":
      if (isConst(b, 0) && int) return a;
      if (int && isConst(b) && a.op === "binary" && a.fn === "add" && isConst(a.b)) return add(a.a, a.b.value + b.value);
      return int ? (recombine(a, b) ?? recombine(b, a)) : undefined;
    case "sub":
      if (isConst(b) && b.value === 0 && !Object.is(b.value, -0)) return a;
      if (int && a === b) return i32(0);
      if (int && isConst(b)) return add(a, -b.value);
      return undefined;
    case "mul":
      if (isConst(b, 1)) return a;
      if (int && isConst(b, 0)) return b;
      if (int && isConst(b) && a.op === "binary" && a.fn === "mul" && isConst(a.b)) return mul(a.a, a.b.value * b.value);
      return undefined;
    case "div":
      return isConst(b, 1) ? a : undefined;
    case "idiv":
    case "mod":
      return divide(fn, a, b);
    case "lt": {
      if (!int) return undefined;
      const ra = rangeOf(a),
        rb = rangeOf(b);
      return ra.max < rb.min ? TRUE : ra.min >= rb.max ? FALSE : undefined;
    }
    case "le": {
      if (!int) return undefined;
      const ra = rangeOf(a),
        rb = rangeOf(b);
      return ra.max <= rb.min ? TRUE : ra.min > rb.max ? FALSE : undefined;
    }
    case "eq":
    case "ne": {
      if (!int) return undefined;
      const ra = rangeOf(a),
        rb = rangeOf(b);
      if (a === b) return bool(fn === "eq");
      return ra.max < rb.min || rb.max < ra.min ? bool(fn === "ne") : undefined;
    }
    case "and":
      return isConst(b) ? (b.value ? a : FALSE) : a === b ? a : undefined;
    case "or":
      return isConst(b) ? (b.value ? TRUE : a) : a === b ? a : undefined;
    case "min":
    case "max": {
      if (a === b) return a;
      if (!int) return undefined;
      const ra = rangeOf(a),
        rb = rangeOf(b);
      if (ra.max <= rb.min) return fn === "min" ? a : b;
      if (rb.max <= ra.min) return fn === "min" ? b : a;
      return undefined;
    }
    case "pow":
      return dtype === "f32" && isConst(b, 1) ? a : undefined;
  }
}

/** (x // d) * d + x % d is x: what flattening [batch, seq] and splitting it again gives. */
function recombine(a: Expr, b: Expr): Expr | undefined {
  if (b.op !== "binary" || b.fn !== "mod" || a.op !== "binary" || a.fn !== "mul") return undefined;
  const isQuotient = (q: Expr, d: Expr): boolean => d === b.b && q.op === "binary" && q.fn === "idiv" && q.a === b.a && q.b === b.b;
  return isQuotient(a.a, a.b) || isQuotient(a.b, a.a) ? b.a : undefined;
}

/** idiv and mod by a positive constant: split `a` into a multiple of the divisor and a rest whose range is known. */
function divide(fn: "idiv" | "mod", a: Expr, b: Expr): Expr | undefined {
  if (!isConst(b)) {
    const ra = rangeOf(a),
      rb = rangeOf(b);
    if (ra.min >= 0 && ra.max < rb.min) return fn === "idiv" ? i32(0) : a;
    return undefined;
  }
  const d = b.value;
  if (d <= 0) fail(`${fn} by ${d}; the divisor must be positive`);
  if (d === 1) return fn === "idiv" ? a : i32(0);
  const r = rangeOf(a);
  if (r.min >= 0 && r.max < d) return fn === "idiv" ? i32(0) : a;
  const whole: Expr[] = []; // terms divisible by d, already divided
  const rest: Expr[] = [];
  for (const t of terms(a)) {
    if (isConst(t) && t.value % d === 0) whole.push(i32(t.value / d));
    else if (t.op === "binary" && t.fn === "mul" && isConst(t.b) && t.b.value % d === 0) whole.push(mul(t.a, t.b.value / d));
    else rest.push(t);
  }
  if (whole.length > 0) {
    const left = sum(rest);
    const quotient = sum(whole);
    return fn === "idiv" ? add(quotient, idiv(left, d)) : mod(left, d);
  }
  if (fn === "idiv" && a.op === "binary" && a.fn === "idiv" && isConst(a.b)) return idiv(a.a, a.b.value * d);
  return undefined;
}

/** The addends of an integer sum. */
export function terms(e: Expr): Expr[] {
  return e.op === "binary" && e.fn === "add" ? [...terms(e.a), ...terms(e.b)] : [e];
}

export const sum = (es: readonly Expr[]): Expr => (es.length === 0 ? i32(0) : es.reduce((a, b) => add(a, b)));

export const add = (a: Operand, b: Operand): Expr => binary("add", a, b);
export const sub = (a: Operand, b: Operand): Expr => binary("sub", a, b);
export const mul = (a: Operand, b: Operand): Expr => binary("mul", a, b);
export const div = (a: Operand, b: Operand): Expr => binary("div", a, b);
export const idiv = (a: Operand, b: Operand): Expr => binary("idiv", a, b);
export const mod = (a: Operand, b: Operand): Expr => binary("mod", a, b);
export const min = (a: Operand, b: Operand): Expr => binary("min", a, b);
export const max = (a: Operand, b: Operand): Expr => binary("max", a, b);
export const lt = (a: Operand, b: Operand): Expr => binary("lt", a, b);
export const le = (a: Operand, b: Operand): Expr => binary("le", a, b);
export const ge = (a: Operand, b: Operand): Expr => binary("le", b, a);
export const eq = (a: Operand, b: Operand): Expr => binary("eq", a, b);
export const ne = (a: Operand, b: Operand): Expr => binary("ne", a, b);
export const and = (...es: readonly Expr[]): Expr => es.reduce((a, b) => binary("and", a, b), TRUE);
export const or = (a: Expr, b: Expr): Expr => binary("or", a, b);
export const not = (a: Expr): Expr => unary("not", a);
export const neg = (a: Expr): Expr => unary("neg", a);
export const abs = (a: Expr): Expr => unary("abs", a);
export const exp = (a: Expr): Expr => unary("exp", a);
export const exp2 = (a: Expr): Expr => unary("exp2", a);
export const ceilDiv = (a: Operand, d: number): Expr => idiv(add(a, d - 1), d);

export function select(c: Expr, x: Operand, y: Operand): Expr {
  if (c.dtype !== "bool") fail(`select needs a bool condition, got ${c.dtype}`);
  const a = typeof x === "number" ? lift(x, typeof y === "number" ? "f32" : y.dtype) : x;
  const b = lift(y, a.dtype);
  if (a.dtype !== b.dtype) fail(`select of ${a.dtype} and ${b.dtype}; cast first`);
  if (isConst(c)) return c.value ? a : b;
  return a === b ? a : intern({ op: "select", dtype: a.dtype, c, a, b });
}

export function cast(a: Expr, dtype: DType): Expr {
  if (a.dtype === dtype) return a;
  if (isConst(a)) return constant(dtype === "i32" ? Math.trunc(a.value) : a.value, dtype);
  // widening a storage type loses nothing, so narrowing it back is the identity
  if (a.op === "cast" && a.dtype === "f32" && a.a.dtype === dtype && isFloat(dtype)) return a.a;
  return intern({ op: "cast", dtype, a });
}

// ---- ranges ---------------------------------------------------------------------------------------------------------
export interface Range {
  readonly min: number;
  readonly max: number;
}
const ranges = new Map<Expr, Range>();
const EVERYTHING: Range = { min: MIN, max: MAX };

/** An inclusive interval that holds every value of an integer (or bool) expression. Float expressions give the whole i32 interval: do not ask. */
export function rangeOf(e: Expr): Range {
  const hit = ranges.get(e);
  if (hit) return hit;
  const r = computeRange(e);
  ranges.set(e, r);
  return r;
}

function computeRange(e: Expr): Range {
  if (e.dtype === "bool" && e.op !== "const") return { min: 0, max: 1 };
  switch (e.op) {
    case "const":
      return { min: e.value, max: e.value };
    case "var":
      return { min: e.min, max: e.max };
    case "select": {
      const a = rangeOf(e.a),
        b = rangeOf(e.b);
      return { min: Math.min(a.min, b.min), max: Math.max(a.max, b.max) };
    }
    case "cast":
      return e.a.dtype === "bool" ? { min: 0, max: 1 } : EVERYTHING;
    case "unary": {
      if (e.fn !== "neg") return EVERYTHING;
      const a = rangeOf(e.a);
      return { min: -a.max, max: -a.min };
    }
    case "binary": {
      const a = rangeOf(e.a),
        b = rangeOf(e.b);
      switch (e.fn) {
        case "add":
          return { min: a.min + b.min, max: a.max + b.max };
        case "sub":
          return { min: a.min - b.max, max: a.max - b.min };
        case "mul": {
          const p = [a.min * b.min, a.min * b.max, a.max * b.min, a.max * b.max];
          return { min: Math.min(...p), max: Math.max(...p) };
        }
        case "idiv":
          return b.min > 0
            ? { min: Math.floor(Math.min(a.min / b.min, a.min / b.max)), max: Math.floor(Math.max(a.max / b.min, a.max / b.max)) }
            : EVERYTHING;
        case "mod":
          return b.min > 0 ? { min: 0, max: a.min >= 0 ? Math.min(a.max, b.max - 1) : b.max - 1 } : EVERYTHING;
        case "min":
          return { min: Math.min(a.min, b.min), max: Math.min(a.max, b.max) };
        case "max":
          return { min: Math.max(a.min, b.min), max: Math.max(a.max, b.max) };
        default:
          return EVERYTHING;
      }
    }
    default:
      return EVERYTHING;
  }
}

// ---- walking --------------------------------------------------------------------------------------------------------
/** The direct operands. */
export function children(e: Expr): readonly Expr[] {
  switch (e.op) {
    case "const":
    case "var":
      return [];
    case "load":
      return e.guard ? [e.index, e.guard] : [e.index];
    case "elem":
      return [e.row, e.col];
    case "reg":
      return [e.index];
    case "shuffle":
    case "unary":
    case "cast":
      return [e.a];
    case "binary":
      return [e.a, e.b];
    case "select":
      return [e.c, e.a, e.b];
  }
}

/** Rebuilds `e` bottom-up; `f` sees each node with its operands already rewritten and returns a replacement, or undefined to keep it. */
export function rewrite(e: Expr, f: (e: Expr) => Expr | undefined, memo: Map<Expr, Expr> = new Map()): Expr {
  const hit = memo.get(e);
  if (hit) return hit;
  const r = withOperands(e, (x) => rewrite(x, f, memo));
  const out = f(r) ?? r;
  memo.set(e, out);
  return out;
}

/** `e` with other operands; itself where they are the same, as its constructor would find. */
function withOperands(e: Expr, go: (e: Expr) => Expr): Expr {
  switch (e.op) {
    case "const":
    case "var":
      return e;
    case "load": {
      const index = go(e.index),
        guard = e.guard && go(e.guard);
      return index === e.index && guard === e.guard ? e : load(e.buffer, e.dtype, index, guard);
    }
    case "elem": {
      const row = go(e.row),
        col = go(e.col);
      return row === e.row && col === e.col ? e : elem(e.tile, e.dtype, row, col);
    }
    case "reg": {
      const index = go(e.index);
      return index === e.index ? e : reg(e.name, e.dtype, index);
    }
    case "shuffle": {
      const a = go(e.a);
      return a === e.a ? e : shuffle(a, e.mask);
    }
    case "unary": {
      const a = go(e.a);
      return a === e.a ? e : unary(e.fn, a);
    }
    case "binary": {
      const a = go(e.a),
        b = go(e.b);
      return a === e.a && b === e.b ? e : binary(e.fn, a, b);
    }
    case "select": {
      const c = go(e.c),
        a = go(e.a),
        b = go(e.b);
      return c === e.c && a === e.a && b === e.b ? e : select(c, a, b);
    }
    case "cast": {
      const a = go(e.a);
      return a === e.a ? e : cast(a, e.dtype);
    }
  }
}

/** Replaces variables by expressions. */
export const substitute = (e: Expr, env: ReadonlyMap<Expr, Expr>): Expr => rewrite(e, (x) => env.get(x));

/** Calls `f` once for every distinct node below and including `e`, operands first. */
export function walk(e: Expr, f: (e: Expr) => void, seen: Set<Expr> = new Set()): void {
  if (seen.has(e)) return;
  seen.add(e);
  for (const c of children(e)) walk(c, f, seen);
  f(e);
}

export function some(e: Expr, f: (e: Expr) => boolean): boolean {
  let found = false;
  walk(e, (x) => {
    found ||= f(x);
  });
  return found;
}

// ---- evaluation -----------------------------------------------------------------------------------------------------
/** What the surroundings of an expression supply when it is evaluated. */
export interface Env {
  variable(name: string): number;
  load(buffer: string, index: number): number;
  elem(tile: string, row: number, col: number): number;
  reg(name: string, index: number): number;
  shuffle(a: Expr, mask: number): number;
}

/**
 * Evaluates one expression. A guarded load whose guard is false gives 0 and does not touch memory. `select` evaluates both sides, as vector
 * code does: a load that may be out of range needs a guard of its own.
 */
export function evaluate(e: Expr, env: Env): number {
  switch (e.op) {
    case "const":
      return e.value;
    case "var":
      return env.variable(e.name);
    case "load":
      return e.guard && !evaluate(e.guard, env) ? 0 : env.load(e.buffer, evaluate(e.index, env));
    case "elem":
      return env.elem(e.tile, evaluate(e.row, env), evaluate(e.col, env));
    case "reg":
      return env.reg(e.name, evaluate(e.index, env));
    case "shuffle":
      return env.shuffle(e.a, e.mask);
    case "unary":
      return applyUnary(e.fn, evaluate(e.a, env));
    case "binary":
      return applyBinary(e.fn, evaluate(e.a, env), evaluate(e.b, env));
    case "select": {
      const a = evaluate(e.a, env),
        b = evaluate(e.b, env);
      return evaluate(e.c, env) ? a : b;
    }
    case "cast": {
      const x = evaluate(e.a, env);
      return e.dtype === "i32" ? Math.trunc(x) : round(x, e.dtype);
    }
  }
}

const missing = (what: string) => (): never => fail(`${what} cannot be evaluated here`);
/** Evaluates an expression over variables only (grid sizes, buffer sizes). Throws when a variable is not bound. */
export const evaluateInt = (e: Expr, vars: Readonly<Record<string, number>>): number =>
  evaluate(e, {
    variable: (name) => vars[name] ?? fail(`variable ${name} is not bound; bound: ${Object.keys(vars).join(", ")}`),
    load: missing("a load"),
    elem: missing("a tile element"),
    reg: missing("a register"),
    shuffle: missing("a shuffle"),
  });
