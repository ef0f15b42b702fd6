import type { MatrixUnit } from "../backend.ts";
import { TRUE, add, and, i32, idiv, isConst, lt, mod, mul } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { Tile } from "../ir/tile.ts";

/**
 * How a fragment tile is spread over the lanes of a block. The tile is cut into gr x gc parts, one a warp; a part into fm x fn unit tiles; element i
 * of unit tile (r, c) in a lane is at unit.coord(lane, i) of it and lives in register `registerAt`. Parts are rounded up to whole unit
 * tiles, so the registers at the end of a tile that does not divide are not elements of it: `eachElement` guards them.
 */
export interface FragLayout {
  readonly tile: Tile;
  readonly unit: MatrixUnit;
  readonly rows: UnitRows;
  readonly groups: readonly [number, number];
  readonly fm: number;
  readonly fn: number;
  /** Registers a lane holds. */
  readonly count: number;
  /** The array of registers, with `pitch` unit tiles in a row of which the fragment's begin at `from`: its own, unless it is computed beside others (beside.ts). */
  readonly array: string;
  readonly pitch: number;
  readonly from: number;
}

/** What the rows of a unit tile look like from one lane: how many distinct ones it touches, and which lanes touch the same ones. */
export interface UnitRows {
  readonly slots: number;
  /** Slot of element i. */
  readonly slotOf: readonly number[];
  /** An element of each slot. */
  readonly first: readonly number[];
  /** Lanes that share their rows differ by xor with combinations of these. */
  readonly masks: readonly number[];
}

const fail = (message: string): never => {
  throw new Error(`layout: ${message}`);
};

/** The layout of fragments that no matrix unit touches: rows across the lanes, `each` neighbours a lane, and `rows` of them next to each other where they are short. */
export function lanesUnit(lanes: number, each = 1, rows = 1): MatrixUnit {
  const across = lanes / rows;
  return {
    name: `lanes${across}${each === 1 ? "" : `x${each}`}${rows === 1 ? "" : `r${rows}`}`,
    m: rows,
    n: across * each,
    k: 1,
    lanes,
    elems: each,
    inputs: [],
    coord: (lane, i) => [rows === 1 ? i32(0) : idiv(lane, across), add(mul(rows === 1 ? lane : mod(lane, across), each), i)],
    block: [1, 1],
  };
}

/** The layout of columns that meet no rows: a row a lane, so that few rows are few statements. */
export const rowsUnit = (lanes: number): MatrixUnit => ({
  ...lanesUnit(lanes),
  name: `rows${lanes}`,
  m: lanes,
  n: 1,
  coord: (lane) => [lane, i32(0)],
});

const known = new WeakMap<MatrixUnit, UnitRows>();

/**
 * Derives the row structure from the lane map by evaluating it for every lane. Refuses maps that do not give each element of the unit tile to one
 * lane, and maps that row vectors and reductions cannot use.
 */
export function unitRows(unit: MatrixUnit): UnitRows {
  const hit = known.get(unit);
  if (hit) return hit;
  const owned = new Set<number>();
  const rowsOf = Array.from({ length: unit.lanes }, (_, lane) =>
    Array.from({ length: unit.elems }, (_, i) => {
      const [row, col] = unit.coord(i32(lane), i32(i)).map((e) => numeric(e, unit, lane, i)) as [number, number];
      if (!(row >= 0 && row < unit.m && col >= 0 && col < unit.n))
        fail(`${unit.name}: element ${i} of lane ${lane} is at [${row}, ${col}] of ${unit.m} x ${unit.n}`);
      if (owned.has(row * unit.n + col)) fail(`${unit.name}: element ${i} of lane ${lane} is at [${row}, ${col}], which has an owner`);
      owned.add(row * unit.n + col);
      return row;
    }),
  );
  if (owned.size !== unit.m * unit.n) fail(`${unit.name}: ${unit.m * unit.n - owned.size} elements have no lane`);
  const slotOf: number[] = [];
  const first: number[] = [];
  rowsOf[0]!.forEach((row, i) => {
    const seen = first.findIndex((f) => rowsOf[0]![f] === row);
    slotOf.push(seen >= 0 ? seen : first.push(i) - 1);
  });
  const shape = (rows: readonly number[]): string => rows.map((r) => rows.indexOf(r)).join();
  const sets = rowsOf.map((rows) => first.map((f) => rows[f]).join());
  for (let lane = 1; lane < unit.lanes; lane++)
    if (shape(rowsOf[lane]!) !== shape(rowsOf[0]!))
      fail(`${unit.name}: lane ${lane} shares rows between its elements in another way than lane 0 does`);
  const masks: number[] = [];
  for (let mask = 1; mask < unit.lanes; mask *= 2) if (sets.every((s, lane) => sets[lane ^ mask] === s)) masks.push(mask);
  for (let lane = 0; lane < unit.lanes; lane++) {
    const sharing = sets.filter((s) => s === sets[lane]).length;
    if (sharing !== 2 ** masks.length)
      fail(`${unit.name}: ${sharing} lanes share the rows of lane ${lane}, which xor with [${masks.join(", ")}] does not reach`);
    const own = new Set(rowsOf[lane]);
    for (let other = 0; other < unit.lanes; other++)
      if (sets[other] !== sets[lane] && rowsOf[other]!.some((r) => own.has(r)))
        fail(`${unit.name}: lanes ${lane} and ${other} share some of their rows but not all`);
  }
  const result: UnitRows = { slots: first.length, slotOf, first, masks };
  known.set(unit, result);
  return result;
}

function numeric(e: Expr, unit: MatrixUnit, lane: number, i: number): number {
  if (!isConst(e)) throw new Error(`layout: ${unit.name}: the coordinate of element ${i} of lane ${lane} is not a number`);
  return e.value;
}

/** `exact`: the tile takes part in an mma, which computes whole unit tiles. */
export function fragLayout(tile: Tile, unit: MatrixUnit, groups: readonly [number, number], exact: boolean): FragLayout {
  const [gr, gc] = groups;
  const vector = tile.cols === 1;
  if (exact && (tile.rows % (gr * unit.m) !== 0 || tile.cols % (gc * unit.n) !== 0))
    fail(
      `${tile.name} [${tile.rows}, ${tile.cols}] over ${gr} x ${gc} warps is not a multiple of the ${unit.m} x ${unit.n} tile of ${unit.name}`,
    );
  const rows = unitRows(unit);
  const fm = Math.ceil(tile.rows / (gr * unit.m));
  const fn = vector ? 1 : Math.ceil(tile.cols / (gc * unit.n));
  const count = fm * (vector ? rows.slots : fn * unit.elems);
  return { tile, unit, rows, groups, fm, fn, count, array: tile.name, pitch: fn, from: 0 };
}

/** Element i of unit tile (r, c). */
export type UnitElement = readonly [r: Expr, c: Expr, i: Expr];

/** Where an element of a fragment of several columns lives in its register array. */
export const registerAt = (l: FragLayout, [r, c, i]: UnitElement): Expr => add(mul(add(mul(r, l.pitch), add(c, l.from)), l.unit.elems), i);

/** The lane's place: which lane of which warp of the block, as expressions over `tid`. */
export interface Lane {
  readonly lane: Expr;
  readonly warpRow: Expr;
  readonly warpCol: Expr;
}

export function laneOf(tid: Expr, lanes: number, groups: readonly [number, number]): Lane {
  const warp = idiv(tid, lanes);
  return { lane: mod(tid, lanes), warpRow: idiv(warp, groups[1]), warpCol: mod(warp, groups[1]) };
}

export const rowBase = (l: FragLayout, at: Lane): Expr => mul(at.warpRow, l.fm * l.unit.m);
export const colBase = (l: FragLayout, at: Lane): Expr => mul(at.warpCol, l.fn * l.unit.n);

/** One element of this lane. */
export interface Place {
  readonly row: Expr;
  readonly col: Expr;
  /** Which element of which unit tile it is, of a fragment of several columns, and where it lives in the fragment's register array. */
  readonly element: UnitElement;
  readonly index: Expr;
  /** Where the row's element of a row vector lives in its register array. */
  readonly rowIndex: Expr;
  /** Where the column's element of a fragment of one row lives, in a layout whose unit has one row. */
  readonly colIndex: Expr;
  /** False where the register is past the tile's edge. */
  readonly inside: Expr;
}

/** Element i of unit tile (r, c) of a fragment with several columns. */
export function placeOf(l: FragLayout, at: Lane, r: Expr, c: Expr, i: number): Place {
  const [er, ec] = l.unit.coord(at.lane, i32(i));
  const element: UnitElement = [r, c, i32(i)];
  const row = add(add(rowBase(l, at), mul(r, l.unit.m)), er);
  const col = add(add(colBase(l, at), mul(c, l.unit.n)), ec);
  return {
    row,
    col,
    element,
    index: registerAt(l, element),
    rowIndex: add(mul(r, l.rows.slots), l.rows.slotOf[i]!),
    colIndex: add(mul(c, l.unit.elems), i),
    inside: and(lt(row, l.tile.rows), lt(col, l.tile.cols)),
  };
}

/** Row slot s of unit row r, for row vectors. */
export function rowPlaceOf(l: FragLayout, at: Lane, r: Expr, s: number): Place {
  const [er] = l.unit.coord(at.lane, i32(l.rows.first[s]!));
  const row = add(add(rowBase(l, at), mul(r, l.unit.m)), er);
  const index = add(mul(r, l.rows.slots), s);
  // rows that a lane has for itself are of the first warps along them alone: others would read the same memory for nothing
  const alone = l.rows.masks.length === 0 ? lt(at.warpCol, 1) : TRUE;
  return {
    row,
    col: i32(0),
    element: [r, i32(0), i32(s)],
    index,
    rowIndex: index,
    colIndex: i32(0),
    inside: and(lt(row, l.tile.rows), alone),
  };
}

/** True in the one lane of the block that stands for a row of a row vector: the first of those that share it, in the first column of warps. */
export function leads(l: FragLayout, tid: Expr, at: Lane): Expr {
  const warps = l.groups[0] * l.groups[1];
  const first = l.rows.masks.map((mask) => lt(mod(idiv(at.lane, mask), 2), 1));
  if (2 ** l.rows.masks.length === l.unit.lanes) return and(warps === 1 ? lt(tid, 1) : lt(at.lane, 1), lt(at.warpCol, 1));
  return and(...first, lt(at.warpCol, 1));
}
