import type { HeadsJoin, Join, Decisions } from "../decisions.ts";
import type { Expr } from "../ir/expr.ts";
import { add, cast, i32, idiv, intVar, lt, mod, mul, select, sub, substitute, variable } from "../ir/expr.ts";
import type { Dim, Node } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { BufferInfo } from "../plan.ts";
import { bufferIndex, dimMax, elementCount } from "../plan.ts";
import type { ProductOut } from "../template.ts";
import type { Held } from "../values.ts";
import { valueAt } from "../values.ts";
import type { Kernel } from "./kernel.ts";

/**
 * A rotation needs two elements of a head at a time, half of `size` apart. So a product whose heads are turned is computed as two of half as many columns, which
 * share one weight: of every `size` rows of it the first half belongs to one and the second half to the other, and element and partner are accumulators of
 * one column. Every template has several weights anyway, for gates.
 */
export interface Pairs {
  /** Dimensions of a head that are turned. */
  readonly size: number;
  /** Which column of the product a column of the first and of the second is. */
  readonly columns: readonly [(n: Expr) => Expr, (n: Expr) => Expr];
}

/** The pairs of a product that these join, null where none of them needs any. */
export function pairsOf(joins: readonly Join[]): Pairs | null {
  const rope = joins.flatMap((join) => (join.kind === "heads" && join.rope ? [join.rope] : []))[0];
  if (!rope) return null;
  const size = rope.attrs.rotary;
  const half = size / 2;
  const first = (n: Expr): Expr => add(mul(idiv(n, half), size), mod(n, half));
  return { size, columns: [first, (n) => add(first(n), half)] };
}

/** A result of some columns of a product, as one of the firsts and one of the seconds of their pairs. */
export const inPairs = (out: ProductOut, { columns }: Pairs): readonly ProductOut[] =>
  columns.map((column, i) => ({
    ...out,
    columns: out.columns && [out.columns[0] / 2, out.columns[1] / 2],
    index: (row, col) => out.index(row, column(col)),
    value: (acc, row, col) => out.value([acc[i]!], row, column(col)),
  }));

/**
 * What the kernel of a product, computed in pairs, stores of some heads: one out for each element of the pairs.
 * @param coords the product's coordinates of a row and column
 */
export function headsOuts(
  d: Decisions,
  k: Kernel,
  sink: Node,
  product: Node,
  join: HeadsJoin,
  { size }: Pairs,
  coords: (row: Expr, col: Expr) => readonly Expr[],
): readonly ProductOut[] {
  const [from, to] = join.columns;
  const half = size / 2;
  const { value, heads, dim, at } = headsIn(join);
  const batch = typeOf(product).shape[0]!;
  const row = batch === 1 ? i32(0) : intVar("%b", 0, dimMax(batch) - 1);
  const head = upTo("%head", 0, heads);
  const pair = upTo("%pair", 0, half);
  // of a head of several runs only the first is turned, which a value has to know of when it is worked out
  const runs = dim / size;
  const [run, later] = [upTo("%run", 0, runs), upTo("%later", 1, runs)];
  const sums = [variable("%sum0", "f32"), variable("%sum1", "f32")] as const;
  const elements = (of: Expr): readonly Expr[] => [0, half].map((i) => add(add(mul(of, size), pair), i));
  const stored = (n: Node): BufferInfo | undefined => (n === sink || n === join.sink ? undefined : d.buffers.get(n));
  const values = (of: Expr): readonly Expr[] => {
    const held: readonly Held[] = elements(of).map((e, i) => ({
      coords: [row, i32(0), add(add(mul(head, dim), e), from)],
      value: sums[i]!,
    }));
    return elements(of).map((e) => valueAt({ scope: k.scope, stored, held: new Map([[product, held]]) }, value, at(row, head, e)));
  };
  const ofAll = (): readonly Expr[] => {
    if (runs === 1 || !join.rope) return values(run);
    const [turned, kept] = [values(i32(0)), values(later)];
    return turned.map((e, i) => select(lt(run, 1), e, kept[i]!));
  };

  const buffer = d.buffers.get(join.sink)!;
  const name = k.scope.use(buffer, "write");
  if (join.sink.op === "update") k.scope.touched.set(buffer, elementCount(typeOf(value).shape));
  const bind = (r: Expr, col: Expr): Map<Expr, Expr> => {
    const local = sub(col, from / 2);
    const inHead = mod(local, dim / 2);
    const of = idiv(inHead, half);
    return new Map([[row, coords(r, col)[0]!], [head, idiv(local, dim / 2)], [pair, mod(inHead, half)], [run, of], [later, of]]); // prettier-ignore
  };
  const wheres = elements(run).map((e) => bufferIndex(buffer, placeIn(join, at(row, head, e))));
  return ofAll().map((e, i) => {
    const rounded = cast(e, buffer.dtype);
    return {
      buffer: name,
      dtype: buffer.dtype,
      columns: [from / 2, to / 2],
      index: (r, col) => substitute(wheres[i]!, bind(r, col)),
      value: (acc, r, col) => substitute(rounded, bind(r, col).set(sums[0], acc[0]!).set(sums[1], acc[1]!)),
    };
  });
}

/** A coordinate from `least` on, below `count`. */
const upTo = (name: string, least: number, count: number): Expr => (count === 1 ? i32(0) : intVar(name, least, count - 1));

/** The value that is stored, and where it has an element of a head. */
function headsIn({ sink }: HeadsJoin): {
  readonly value: Node;
  readonly heads: number;
  readonly dim: number;
  readonly at: (row: Expr, head: Expr, element: Expr) => readonly Expr[];
} {
  const value = sink.op === "update" ? sink.inputs[1]! : sink;
  const shape = typeOf(value).shape as readonly [Dim, Dim, Dim, Dim];
  const dim = dimMax(shape[3]);
  return sink.op === "update"
    ? { value, heads: dimMax(shape[1]), dim, at: (row, head, element) => [row, head, i32(0), element] }
    : { value, heads: dimMax(shape[2]), dim, at: (row, head, element) => [row, i32(0), head, element] };
}

/** Where an element lies in what is stored: in a cache, behind the positions that it has. */
const placeIn = ({ sink }: HeadsJoin, coords: readonly Expr[]): readonly Expr[] =>
  sink.op === "update" ? coords.map((e, i) => (i === sink.attrs.axis ? add(e, sink.attrs.start) : e)) : coords;
