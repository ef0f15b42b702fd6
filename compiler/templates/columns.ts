import type { Caps } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { TRUE, add, binary, lt, mul } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { ReduceFn, Tile } from "../ir/tile.ts";
import { COMBINE, guarded, identity, isVector, roundUp } from "./common.ts";

/** One row of a matrix, walked over in tiles of `width` columns by the warps of a block side by side. */
export interface Columns {
  readonly b: TileBuilder;
  readonly count: number;
  readonly width: number;
}

/** Columns of a tile: a few vectors, which stay in registers and hide each other's latency. */
export function columnsWidth(caps: Caps, count: number, vectors: number): number {
  const lanes = columnWarps(caps, count) * caps.lanes;
  return Math.min(vectors * lanes, roundUp(count, lanes));
}

/** Warps that walk over a row side by side: on a GPU as many as a block of 256 lanes has, if there is something for each. */
export const columnWarps = (caps: Caps, count: number): number =>
  isVector(caps)
    ? 1
    : Math.max(1, Math.min(16, Math.floor(Math.min(256, caps.maxThreads) / caps.lanes), Math.ceil(count / (4 * caps.lanes))));

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
