import type { DType } from "./dtype.ts";
import type { BinaryFn, UnaryFn } from "./operators.ts";

/**
 * Scalar expressions, shared by all three IRs. They are hash-consed: two equal expressions are the same object, so `===` is equality and
 * per-expression caches are plain maps. Only the constructors of expr.ts build them.
 */
export type Expr =
  | { readonly op: "const"; readonly dtype: DType; readonly value: number }
  /** A scalar bound by its surroundings: a loop counter, a block index, a run-time symbol such as `seq`. Integer variables carry an inclusive range. */
  | { readonly op: "var"; readonly dtype: DType; readonly name: string; readonly min: number; readonly max: number }
  /** Element `index` of a global buffer (or, in Thread, of a shared array). Where `guard` is false the value is 0 and memory is not touched. */
  | { readonly op: "load"; readonly dtype: DType; readonly buffer: string; readonly index: Expr; readonly guard: Expr | null }
  /** Tile IR only: an element of a shared or fragment tile. */
  | { readonly op: "elem"; readonly dtype: DType; readonly tile: string; readonly row: Expr; readonly col: Expr }
  /** Thread IR only: an element of this lane's register array. */
  | { readonly op: "reg"; readonly dtype: DType; readonly name: string; readonly index: Expr }
  /** Thread IR only: the value of `a` in the lane whose number is this lane's xor `mask`. */
  | { readonly op: "shuffle"; readonly dtype: DType; readonly a: Expr; readonly mask: number }
  | { readonly op: "unary"; readonly dtype: DType; readonly fn: UnaryFn; readonly a: Expr }
  | { readonly op: "binary"; readonly dtype: DType; readonly fn: BinaryFn; readonly a: Expr; readonly b: Expr }
  | { readonly op: "select"; readonly dtype: DType; readonly c: Expr; readonly a: Expr; readonly b: Expr }
  | { readonly op: "cast"; readonly dtype: DType; readonly a: Expr };

/**
 * Expressions in tables by kind, dtype and what names them, then by their operands. Compiling builds millions, most of which exist already, so a key is a
 * number or a string that is there anyway. They stay for the life of the process, as do facts about them.
 */
const tables = new Map<Expr["op"], Map<DType, Map<unknown, Map<unknown, Expr>>>>();
const ids = new Map<Expr, number>();

/** One number for two operands: each has fewer than 26 bits, since no Map holds more than 2^24. */
const pair = (a: Expr, b: Expr | null): number => ids.get(a)! * 2 ** 26 + (b === null ? 0 : ids.get(b)! + 1);

/** What an expression has beside its operands, where that is one thing; of a choice, the condition. */
function nameOf(e: Expr): unknown {
  switch (e.op) {
    case "const":
      return Object.is(e.value, -0);
    case "var":
    case "reg":
      return e.name;
    case "load":
      return e.buffer;
    case "elem":
      return e.tile;
    case "shuffle":
      return e.mask;
    case "unary":
    case "binary":
      return e.fn;
    case "select":
      return e.c;
    case "cast":
      return null;
  }
}

function keyOf(e: Expr): unknown {
  switch (e.op) {
    case "const":
      return e.value;
    case "var":
      return `${e.min} ${e.max}`;
    case "load":
      return pair(e.index, e.guard);
    case "elem":
      return pair(e.row, e.col);
    case "reg":
      return e.index;
    case "shuffle":
    case "unary":
    case "cast":
      return e.a;
    case "binary":
    case "select":
      return pair(e.a, e.b);
  }
}

/** The value of a key, made when it is asked for the first time. */
function entry<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let found = map.get(key);
  if (found === undefined) map.set(key, (found = make()));
  return found;
}
const emptyMap = <K, V>(): Map<K, V> => new Map<K, V>();

export function intern(e: Expr): Expr {
  const named = entry(
    entry(tables, e.op, emptyMap<DType, Map<unknown, Map<unknown, Expr>>>),
    e.dtype,
    emptyMap<unknown, Map<unknown, Expr>>,
  );
  const table = entry(named, nameOf(e), emptyMap<unknown, Expr>);
  const key = keyOf(e);
  const hit = table.get(key);
  if (hit) return hit;
  Object.freeze(e);
  table.set(key, e);
  ids.set(e, ids.size);
  return e;
}
