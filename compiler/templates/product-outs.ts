import { FALSE, TRUE, add, and, children, intVar, le, lt, rewrite, some, substitute, variable } from "../ir/expr.ts";
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
export type ReadyValue = (out: ProductOut, acc: readonly Expr[], row: Expr, j: Expr) => Expr;

/**
 * Brings to shared memory what the outs' values load, so that it is on its way while the sums are computed: each element by one lane, where afterwards the
 * block would wait for it with nothing else to do.
 */
export function loadEarly(b: TileBuilder, p: GemmProblem, { rows, first, count }: Sums): ReadyValue {
  const accs = p.weights.map((_, i) => variable(`%acc${i}`, "f32"));
  const [row, j] = [intVar("%row", 0, rows - 1), intVar("%j", 0, count - 1)];
  const ready = new Map<ProductOut, { readonly value: Expr; readonly col: Expr }>();
  const tiles = new Map<Expr, Expr>();
  for (const [columns, outs] of byColumns(p)) {
    const col = intVar("%col", columns[0], columns[1] - 1);
    const values = outs.map((out) => out.value(accs, row, col));
    const wanted = [...new Set(values.flatMap((value) => [...loadsOf(value, accs)]))].filter((e) => !tiles.has(e));
    const fill = wanted.map((e) => {
      const perRow = some(e, (x) => x === row);
      const tile = b.shared(`early${tiles.size}`, perRow ? rows : 1, count, e.dtype);
      tiles.set(e, at(tile, perRow ? row : 0, j));
      return { e, tile };
    });
    b.when(fill.length > 0 ? meets(p, columns, first, count) : FALSE, () => {
      for (const { e, tile } of fill)
        b.load(tile, (r, c) => {
          const column = add(first, c);
          return guarded(substitute(e, new Map([[row, clamp(r, p.m)], [col, column]])), within(columns, column, count)); // prettier-ignore
        });
    });
    for (const [i, out] of outs.entries()) ready.set(out, { value: rewrite(values[i]!, () => undefined, new Map(tiles)), col });
  }
  return (out, acc, r, c) => {
    const { value, col } = ready.get(out)!;
    return substitute(value, new Map([[row, r], [col, add(first, c)], [j, c], ...accs.map((a, i) => [a, acc[i]!] as const)])); // prettier-ignore
  };
}

/** The outermost loads in `e` that do not depend on `results`, widened where the value widens them. */
function loadsOf(e: Expr, results: readonly Expr[], into: Set<Expr> = new Set()): Set<Expr> {
  const isLoad = e.op === "load" || (e.op === "cast" && e.dtype === "f32" && e.a.op === "load");
  if (isLoad && (e.dtype === "f32" || e.dtype === "i32") && !some(e, (x) => results.includes(x))) into.add(e);
  else for (const x of children(e)) loadsOf(x, results, into);
  return into;
}
