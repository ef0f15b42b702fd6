import type { Caps } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { BYTES } from "../ir/dtype.ts";
import { isConst } from "../ir/expr.ts";
import type { Stmt, TileProgram, View } from "../ir/tile.ts";
import { eachStatement } from "./fragments.ts";

/**
 * Elements from one row to the next of a tile of `cols` columns that a matrix unit reads, on a target whose lanes read vectors: an odd number of vectors, so
 * that vectors on neighbouring rows lie in different banks of shared memory. Rows that are no whole vectors stay as they are.
 */
export function paddedRow(cols: number, dtype: DType, caps: Pick<Caps, "vectorBytes">): number {
  const vector = caps.vectorBytes / BYTES[dtype];
  return vector > 1 && cols % (2 * vector) === 0 ? cols + vector : cols;
}

/** The row strides of a program's shared tiles. Only operands of `mma` that are whole tiles are padded: other views count on rows without gaps. */
export function sharedStrides(program: TileProgram, caps: Caps): ReadonlyMap<string, number> {
  const views = new Map<string, View[]>();
  eachStatement(program.body, (s: Stmt) => {
    if (s.op === "mma") for (const v of [s.a, s.b]) if (v.source === "tile") views.set(v.name, [...(views.get(v.name) ?? []), v]);
  });
  return new Map(
    program.tiles
      .filter((t) => t.scope === "shared")
      .map((t) => {
        const of = views.get(t.name) ?? [];
        const whole = of.length > 0 && t.rows > 1 && of.every((v) => isConst(v.base, 0) && isWhole(v, t.cols));
        return [t.name, whole ? paddedRow(t.cols, t.dtype, caps) : t.cols];
      }),
  );
}

const isWhole = (v: View, cols: number): boolean =>
  (isConst(v.rowStride, cols) && isConst(v.colStride, 1)) || (isConst(v.rowStride, 1) && isConst(v.colStride, cols));
