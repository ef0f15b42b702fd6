import { FALSE, TRUE, add, and, children, i32, intVar, le, lt, rewrite, some, substitute, variable } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { Tile } from "../ir/tile.ts";
import type { GemmProblem, ProductOut } from "../template.ts";
import { clamp, guarded } from "./common.ts";

/** A tile of accumulators, where it lies in the product, and what its elements become. */
export interface ProductTile {
  readonly over: Tile;
  readonly place: (row: Expr, col: Expr) => readonly [row: Expr, col: Expr];
  /** Its columns of the product: `width` from `first` on, a multiple of `width`. */
  readonly first: Expr;
  readonly width: number;
  readonly value: (out: ProductOut, row: Expr, col: Expr) => Expr;
  /** Whether a row of the product exists. */
  readonly hasRow: (row: Expr) => Expr;
}

/** Stores the results of a tile; those that have none of its columns are passed over by the whole block. */
export function storeOuts(b: TileBuilder, p: GemmProblem, tile: ProductTile): void {
  const { over, place, first, width, hasRow } = tile;
  for (const [columns, outs] of byColumns(p))
    b.when(meets(p, columns, first, width), () => {
      for (const out of outs)
        b.when(out.when ?? TRUE, () => {
          b.store(over, {
            buffer: out.buffer,
            dtype: out.dtype,
            index: (row, col) => out.index(...place(row, col)),
            value: (row, col) => tile.value(out, row, col),
            guard: (row, col) => {
              const [r, c] = place(row, col);
              return and(hasRow(r), within(columns, c, width));
            },
          });
        });
    });
}

type Columns = NonNullable<ProductOut["columns"]>;

/** The outs in order, neighbours of the same columns together. */
function byColumns(p: GemmProblem): readonly (readonly [Columns, readonly ProductOut[]])[] {
  const groups: [Columns, ProductOut[]][] = [];
  for (const out of p.outs) {
    const columns = out.columns ?? [0, p.n];
    const last = groups.at(-1);
    if (last?.[0].join() === columns.join()) last[1].push(out);
    else groups.push([columns, [out]]);
  }
  return groups;
}

/** Whether any of `width` columns from `first` on is one of these. */
const meets = (p: GemmProblem, [from, to]: Columns, first: Expr, width: number): Expr =>
  and(to === p.n ? TRUE : lt(first, to), from === 0 ? TRUE : lt(from, add(first, width)));

/** Whether a column is one of these, of a tile of `width` columns that meets them: all are, where they begin and end with a tile. */
const within = ([from, to]: Columns, col: Expr, width: number): Expr =>
  and(from % width === 0 ? TRUE : le(from, col), to % width === 0 ? TRUE : lt(col, to));

/** Where the sums of `rows` rows will be: `count` columns from `first` on, a multiple of `count`. */
export interface Sums {
  readonly rows: number;
  readonly first: Expr;
  readonly count: number;
}

/** The value of an out at row `row` and column `first` + `j`, of a product whose sums there are `acc`. */
export type ReadyValue = (out: ProductOut, acc: readonly Expr[], row: number, j: Expr) => Expr;

/**
 * Brings to registers what the outs' values load, so that it is on its way while the sums are computed, where afterwards the block would wait for it with
 * nothing else to do. Every lane has every element: they are few, and shared memory would make the block wait for them here.
 */
export function loadEarly(b: TileBuilder, p: GemmProblem, { rows, first, count }: Sums): ReadyValue {
  const accs = p.weights.map((_, i) => variable(`%acc${i}`, "f32"));
  const j = intVar("%j", 0, count - 1);
  const ready = new Map<ProductOut, { readonly values: readonly Expr[]; readonly col: Expr }>();
  let tiles = 0;
  const written = new Set(p.frame.params.filter((q) => q.access !== "read").map((q) => q.name));
  const replaced = (e: Expr): boolean => some(e, (x) => x.op === "load" && written.has(x.buffer));
  for (const [columns, outs] of byColumns(p)) {
    const col = intVar("%col", columns[0], columns[1] - 1);
    // what other columns hold is not there where the block passes them over
    const held = new Map<Expr, Expr>();
    const values = outs.map((out) => Array.from({ length: rows }, (_, r) => out.value(accs, clamp(i32(r), p.m), col)));
    const loads = [...new Set(values.flat().flatMap((value) => [...loadsOf(value, accs)]))];
    // what the kernel also writes comes first: where the block has to meet before it, nothing else then waits for that too
    const wanted = [...loads.filter(replaced), ...loads.filter((e) => !replaced(e))];
    const fill = wanted.map((e) => {
      const tile = b.frag(`early${tiles++}`, count, 1, e.dtype);
      held.set(e, at(tile, j, 0));
      return { e, tile };
    });
    b.when(fill.length > 0 ? meets(p, columns, first, count) : FALSE, () => {
      for (const { e, tile } of fill)
        b.map(tile, (i) => {
          const column = add(first, i);
          return guarded(substitute(e, new Map([[col, column]])), within(columns, column, count));
        });
    });
    for (const [i, out] of outs.entries())
      ready.set(out, { values: values[i]!.map((value) => rewrite(value, () => undefined, new Map(held))), col });
  }
  return (out, acc, r, i) => {
    const { values, col } = ready.get(out)!;
    return substitute(values[r]!, new Map([[col, add(first, i)], [j, i], ...accs.map((a, w) => [a, acc[w]!] as const)])); // prettier-ignore
  };
}

/** The outermost loads in `e` that do not depend on `results`, widened where the value widens them. */
function loadsOf(e: Expr, results: readonly Expr[], into: Set<Expr> = new Set()): Set<Expr> {
  const isLoad = e.op === "load" || (e.op === "cast" && e.dtype === "f32" && e.a.op === "load");
  if (isLoad && (e.dtype === "f32" || e.dtype === "i32") && !some(e, (x) => results.includes(x))) into.add(e);
  else for (const x of children(e)) loadsOf(x, results, into);
  return into;
}
