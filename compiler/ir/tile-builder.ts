import type { DType } from "./dtype.ts";
import { isFloat } from "./dtype.ts";
import type { Expr, Operand, Var } from "./expr.ts";
import { add, cast, elem, i32, intVar, isConst, lift, mul, rangeOf } from "./expr.ts";
import { coordinates } from "./tile.ts";
import type { Param, ReduceFn, Stmt, Tile, TileProgram, View } from "./tile.ts";
import { verifyTile } from "./tile-text.ts";

/** A value for each element of a tile; `row` and `col` are the variables of that name, with the tile's ranges. */
export type ElementFn = (row: Expr, col: Expr) => Expr;

export interface StoreSpec {
  readonly buffer: string;
  readonly dtype: DType;
  readonly index: ElementFn;
  readonly value: ElementFn;
  readonly guard?: ElementFn | null;
}

/** Writes a TileProgram statement by statement. Shapes and dtypes are checked as they are given, everything else by `build`. */
export interface TileBuilder {
  /** Block indices; the constant 0 where the grid has one block in that direction. */
  readonly bx: Expr;
  readonly by: Expr;
  readonly bz: Expr;
  shared(name: string, rows: number, cols: number, dtype?: DType): Tile;
  frag(name: string, rows: number, cols: number, dtype?: DType): Tile;
  /** No loop is made for a count of 0 or 1; the body of the latter sees the constant 0. `apart`: see Stmt. */
  loop(name: string, count: Operand, body: (i: Expr) => void, stages?: number, apart?: true): void;
  /** A constant condition is decided here. */
  when(cond: Expr, then: () => void, otherwise?: () => void): void;
  fill(dst: Tile, value: number): void;
  load(dst: Tile, value: ElementFn): void;
  stage(dst: Tile, src: Tile): void;
  map(dst: Tile, value: ElementFn): void;
  /** `dst`: a fragment of one column, or a shared tile with a column for each of the warps along the columns of `src`. */
  rowReduce(dst: Tile, fn: ReduceFn, src: Tile, accumulate?: boolean, rows?: number | null): void;
  scan(dst: Tile): void;
  /** `rows`: how many rows of acc count; null, or a constant not below acc's rows, for all. */
  mma(acc: Tile, a: View, b: View, k: Operand, rows?: Expr | null): void;
  store(over: Tile, spec: StoreSpec): void;
  build(): TileProgram;
}

/** What a program needs besides its statements; a template's Frame is one. */
export interface TileHeader {
  readonly name: string;
  readonly params: readonly Param[];
  readonly symbols: readonly Var[];
}

/** Element [row, col] of a tile as arithmetic sees it: storage floats widened to f32. */
export const at = (tile: Tile, row: Operand, col: Operand): Expr => {
  const e = elem(tile.name, tile.dtype, row, col);
  return isFloat(tile.dtype) ? cast(e, "f32") : e;
};

/** A shared tile as an operand of `mma`, from element [row, col] on; transposed, element [r, c] of the view is [c, r] of the tile. */
export const viewOf = (tile: Tile, at: { readonly row?: Operand; readonly col?: Operand; readonly transposed?: boolean } = {}): View => {
  const row = lift(at.row ?? 0, "i32"),
    col = lift(at.col ?? 0, "i32");
  const down = i32(tile.cols),
    right = i32(1);
  const base = add(mul(row, tile.cols), col);
  return {
    source: "tile",
    name: tile.name,
    dtype: tile.dtype,
    base,
    rowStride: at.transposed ? right : down,
    colStride: at.transposed ? down : right,
  };
};

/** A global buffer as an operand of `mma`. */
export const bufferView = (name: string, dtype: DType, base: Operand, rowStride: Operand, colStride: Operand): View => ({
  source: "buffer",
  name,
  dtype,
  base: lift(base, "i32"),
  rowStride: lift(rowStride, "i32"),
  colStride: lift(colStride, "i32"),
});

export function tileBuilder(
  header: TileHeader,
  grid: readonly [Operand, Operand, Operand],
  groups: readonly [number, number] = [1, 1],
  groupWarps = 1,
): TileBuilder {
  const tiles: Tile[] = [];
  let body: Stmt[] = [];
  const counts = grid.map((g) => lift(g, "i32")) as [Expr, Expr, Expr];
  const block = (name: string, count: Expr): Expr => (isConst(count, 1) ? i32(0) : intVar(name, 0, Math.max(0, rangeOf(count).max - 1)));
  const fail = (message: string): never => {
    throw new Error(`tile program ${header.name}: ${message}`);
  };
  const need = (ok: boolean, message: () => string): void => {
    if (!ok) fail(message());
  };
  const nested = (f: () => void): Stmt[] => {
    const outer = body;
    body = [];
    f();
    const inner = body;
    body = outer;
    return inner;
  };
  const tile = (scope: Tile["scope"], name: string, rows: number, cols: number, dtype: DType): Tile => {
    need(Number.isInteger(rows) && Number.isInteger(cols) && rows > 0 && cols > 0, () => `tile ${name} has the shape [${rows}, ${cols}]`);
    need(
      tiles.every((t) => t.name !== name),
      () => `two tiles are called ${name}`,
    );
    const t: Tile = { name, scope, dtype, rows, cols };
    tiles.push(t);
    return t;
  };
  const valueOf = (t: Tile, value: ElementFn, dtype: DType): Expr => cast(value(...coordinates(t)), dtype);
  const isScope = (t: Tile, scope: Tile["scope"], what: string): void =>
    need(t.scope === scope, () => `${what} takes a ${scope} tile, ${t.name} is ${t.scope}`);

  return {
    bx: block("bx", counts[0]),
    by: block("by", counts[1]),
    bz: block("bz", counts[2]),
    shared: (name, rows, cols, dtype = "f32") => tile("shared", name, rows, cols, dtype),
    frag: (name, rows, cols, dtype = "f32") => tile("frag", name, rows, cols, dtype),
    loop(name, n, f, stages = 1, apart) {
      const count = lift(n, "i32");
      if (isConst(count) && count.value <= 1) {
        if (count.value === 1) f(i32(0));
        return;
      }
      const v = intVar(name, 0, Math.max(0, rangeOf(count).max - 1));
      body.push({ op: "for", var: v, count, stages, ...(apart ? { apart } : {}), body: nested(() => f(v)) });
    },
    when(cond, then, otherwise) {
      if (isConst(cond)) {
        if (cond.value) then();
        else otherwise?.();
      } else body.push({ op: "if", cond, body: nested(then), otherwise: otherwise ? nested(otherwise) : [] });
    },
    fill: (dst, value) => void body.push({ op: "fill", dst, value }),
    load(dst, value) {
      isScope(dst, "shared", "load");
      body.push({ op: "load", dst, value: valueOf(dst, value, dst.dtype) });
    },
    stage(dst, src) {
      isScope(dst, "shared", "the target of stage");
      isScope(src, "frag", "the source of stage");
      need(dst.rows === src.rows && dst.cols === src.cols, () => `stage of ${shape(src)} into ${shape(dst)}`);
      body.push({ op: "stage", dst, src });
    },
    map(dst, value) {
      isScope(dst, "frag", "map");
      body.push({ op: "map", dst, value: valueOf(dst, value, dst.dtype) });
    },
    rowReduce(dst, fn, src, accumulate = false, rows = null) {
      isScope(src, "frag", "rowReduce");
      const columns = dst.scope === "frag" ? dst.cols === 1 : src.cols % dst.cols === 0 && !accumulate;
      need(columns && dst.rows === src.rows && dst.dtype === src.dtype, () => `rowReduce of ${shape(src)} into ${shape(dst)}`);
      body.push({ op: "rowReduce", dst, fn, src, accumulate, rows });
    },
    scan(dst) {
      isScope(dst, "shared", "scan");
      need(dst.cols === 1 && dst.dtype === "f32", () => `scan of ${shape(dst)}; it takes f32 [rows, 1]`);
      body.push({ op: "scan", dst });
    },
    mma(acc, a, b, k, rows = null) {
      isScope(acc, "frag", "mma");
      need(acc.dtype === "f32", () => `mma accumulates in f32, ${acc.name} is ${acc.dtype}`);
      body.push({ op: "mma", acc, a, b, k: lift(k, "i32"), rows: rows && rangeOf(rows).min >= acc.rows ? null : rows });
    },
    store(over, spec) {
      const [row, col] = coordinates(over);
      const guard = spec.guard?.(row, col) ?? null;
      if (guard && isConst(guard, 0)) return;
      const value = cast(spec.value(row, col), spec.dtype);
      const index = spec.index(row, col);
      body.push({ op: "store", over, buffer: spec.buffer, dtype: spec.dtype, index, value, guard: guard && isConst(guard) ? null : guard });
    },
    build() {
      const program: TileProgram = { ...frameOf(header), grid: counts, tiles, body, groups, ...(groupWarps === 1 ? {} : { groupWarps }) };
      verifyTile(program);
      return program;
    },
  };
}

const frameOf = ({ name, params, symbols }: TileHeader): TileHeader => ({ name, params, symbols });
const shape = (t: Tile): string => `${t.name} ${t.dtype}[${t.rows}, ${t.cols}]`;
