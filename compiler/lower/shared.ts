import type { Caps } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { BYTES } from "../ir/dtype.ts";
import { isConst } from "../ir/expr.ts";
import type { Stmt, TileProgram, View } from "../ir/tile.ts";
import { eachStatement } from "./fragments.ts";

/** Bytes that all banks of shared memory deliver at a time. */
const LINE = 128;

/** Whether elements are 16-bit operands that hardware copies. */
const isCopied = (dtype: DType, caps: Pick<Caps, "vectorBytes" | "asyncCopy">): boolean =>
  caps.asyncCopy && caps.vectorBytes === 16 && BYTES[dtype] === 2;

/** Whether the rows of a tile that a matrix unit reads are turned (thread.ts): of operands that hardware copies, whose rows are whole lines and stay that. */
const isTurned = (cols: number, dtype: DType, caps: Pick<Caps, "vectorBytes" | "asyncCopy">): boolean =>
  isCopied(dtype, caps) && (cols * BYTES[dtype]) % LINE === 0;

/**
 * Elements from one row to the next of a tile of `cols` columns that a matrix unit reads, on a target whose lanes read vectors: an odd number of vectors, so
 * that vectors on neighbouring rows lie in different banks of shared memory. Rows that are turned, or no whole vectors, stay as they are.
 */
export const paddedRow = (cols: number, dtype: DType, caps: Pick<Caps, "vectorBytes" | "asyncCopy">): number =>
  isTurned(cols, dtype, caps) ? cols : padded(cols, dtype, caps);

function padded(cols: number, dtype: DType, caps: Pick<Caps, "vectorBytes">): number {
  const vector = caps.vectorBytes / BYTES[dtype];
  return vector > 1 && cols % (2 * vector) === 0 ? cols + vector : cols;
}

/** How a shared tile lies in memory: elements from one row to the next, and whether rows are turned. */
export interface SharedRows {
  readonly stride: number;
  readonly turned: boolean;
}

/**
 * The rows of a program's shared tiles. Only operands of `mma` that are whole tiles are padded: other views count on rows as they are. Rows that are turned do not move, so
 * that a view may begin anywhere. What is staged and no operand is padded too: lanes of a unit write rows below each other at a time.
 */
export function sharedRows(program: TileProgram, caps: Caps): ReadonlyMap<string, SharedRows> {
  const views = new Map<string, View[]>();
  const staged = new Set<string>();
  eachStatement(program.body, (s: Stmt) => {
    if (s.op === "stage") staged.add(s.dst.name);
    if (s.op === "mma") for (const v of [s.a, s.b]) if (v.source === "tile") views.set(v.name, [...(views.get(v.name) ?? []), v]);
  });
  return new Map(
    program.tiles
      .filter((t) => t.scope === "shared")
      .map((t) => {
        const of = views.get(t.name);
        const operand = of !== undefined && t.rows > 1 && of.every((v) => isWhole(v, t.cols));
        const turned = operand && isTurned(t.cols, t.dtype, caps);
        const apart = operand ? of.every((v) => isConst(v.base, 0)) : of === undefined && staged.has(t.name) && isCopied(t.dtype, caps);
        return [t.name, { stride: apart && !turned ? padded(t.cols, t.dtype, caps) : t.cols, turned }];
      }),
  );
}

const isWhole = (v: View, cols: number): boolean =>
  (isConst(v.rowStride, cols) && isConst(v.colStride, 1)) || (isConst(v.rowStride, 1) && isConst(v.colStride, cols));
