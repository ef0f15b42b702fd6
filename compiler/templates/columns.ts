import type { Caps } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { TRUE, add, binary, lt, mul } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { ReduceFn, Tile } from "../ir/tile.ts";
import { COMBINE, guarded, identity, roundUp } from "./common.ts";

/** One row of a matrix, walked over in tiles of `width` columns by a block of one warp. */
export interface Columns {
  readonly b: TileBuilder;
  readonly count: number;
  readonly width: number;
}

/** Columns of a tile: a few vectors, which stay in registers and hide each other's latency. */
export const columnsWidth = (caps: Caps, count: number, vectors: number): number =>
  Math.min(vectors * caps.lanes, roundUp(count, caps.lanes));

/** `inside` is constant true in all tiles but the one that runs past the last column. */
export function eachTile({ b, count, width }: Columns, body: (column: (col: Expr) => Expr, inside: (col: Expr) => Expr) => void): void {
  const whole = Math.floor(count / width);
  b.loop("j", whole, (j) => {
    body(
      (col) => add(mul(j, width), col),
      () => TRUE,
    );
  });
  const first = whole * width;
  if (first < count)
    body(
      (col) => add(col, first),
      (col) => lt(add(col, first), count),
    );
}

export interface ColumnReduction {
  readonly name: string;
  readonly fn: ReduceFn;
  readonly dtype: DType;
  /** For each column; fragments of one row and one column may be read at [row, 0]. */
  readonly value: (row: Expr, column: Expr) => Expr;
}

/** Reduces over all columns, in one walk; the results are fragments [1, 1]. Lanes keep partial results, so the order does not depend on the machine's load. */
export function reduceColumns(columns: Columns, reductions: readonly ColumnReduction[]): readonly Tile[] {
  const { b, width } = columns;
  const parts = reductions.map((r) => ({ ...r, part: b.frag(`${r.name}_part`, 1, width, r.dtype), none: identity(r.fn, r.dtype) }));
  for (const { part, none } of parts) b.fill(part, none);
  eachTile(columns, (column, inside) => {
    for (const { fn, value, part, none } of parts)
      b.map(part, (row, col) => binary(COMBINE[fn], at(part, row, col), guarded(value(row, column(col)), inside(col), none)));
  });
  return parts.map(({ name, fn, dtype, part }) => {
    const result = b.frag(name, 1, 1, dtype);
    b.rowReduce(result, fn, part);
    return result;
  });
}
