import { cast, eq, f32, i32, lt, max, select } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { Tile } from "../ir/tile.ts";
import type { GemmProblem, ProductBest } from "../template.ts";
import { guarded } from "./common.ts";
import type { ProductTile } from "./product-outs.ts";

export interface RunningBest {
  /** Compares what the block has of each share with `value`, that of the share's column of a tile. */
  readonly offer: (column: (j: Expr) => Expr, value: (j: Expr, col: Expr) => Expr) => void;
  readonly value: ProductBest["value"];
  readonly store: (share: (j: Expr) => Expr, row: Expr, exists: Expr) => void;
}

/** Running largest values of `per` shares, and the first columns that have them; a lane has a share. */
export function keepBest(b: TileBuilder, { buffer, index, value }: ProductBest, name: string, per: number): RunningBest {
  const [found, top, column] = ["found", "top", "column"].map((of) => b.frag(`${of}${name}`, per, 1)) as [Tile, Tile, Tile];
  b.fill(top, -Infinity);
  b.fill(column, 0);
  return {
    value,
    offer: (columnOf, valueAt) => {
      b.map(found, (j) => valueAt(j, columnOf(j)));
      b.map(column, (j) => select(lt(at(top, j, 0), at(found, j, 0)), cast(columnOf(j), "f32"), at(column, j, 0)));
      b.map(top, (j) => max(at(top, j, 0), at(found, j, 0)));
    },
    store: (share, row, exists) => {
      for (const [i, tile] of [top, column].entries())
        b.store(tile, {
          buffer,
          dtype: "f32",
          index: (j) => index(row, share(j), i as 0 | 1),
          value: (j) => at(tile, j, 0),
          guard: () => exists,
        });
    },
  };
}

/** A tile of accumulators, one share of the columns. */
interface BestTile extends Pick<ProductTile, "over" | "place" | "hasRow"> {
  readonly sums: (row: Expr, col: Expr) => readonly Expr[];
  readonly share: Expr;
}

/**
 * The largest value of each row of a tile, and its first column. Computed in the place of the accumulators, which take most of a lane's registers and have been
 * stored by then.
 */
export function storeBest(b: TileBuilder, p: GemmProblem, { buffer, index, value }: ProductBest, { share, ...tile }: BestTile): void {
  const { over, place, hasRow, sums } = tile;
  const [top, column] = ["top", "column"].map((name) => b.frag(name, over.rows, 1)) as [Tile, Tile];
  b.map(over, (row, col) => {
    const [r, c] = place(row, col);
    return guarded(value(sums(row, col), r, c), lt(c, p.n), -Infinity);
  });
  b.rowReduce(top, "max", over);
  b.map(over, (row, col) => select(eq(at(over, row, col), at(top, row, 0)), cast(place(row, col)[1], "f32"), f32(p.n - 1)));
  b.rowReduce(column, "min", over);
  for (const [i, tile] of [top, column].entries())
    b.store(tile, {
      buffer,
      dtype: "f32",
      index: (row) => index(place(row, i32(0))[0], share, i as 0 | 1),
      value: (row) => at(tile, row, 0),
      guard: (row) => hasRow(place(row, i32(0))[0]),
    });
}
