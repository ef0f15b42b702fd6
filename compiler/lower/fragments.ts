import type { Caps, MatrixUnit } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { BYTES } from "../ir/dtype.ts";
import { isConst, mod, walk } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { coordinates } from "../ir/tile.ts";
import type { Stmt, Tile, TileProgram } from "../ir/tile.ts";
import { affine, isVector, mentions } from "./affine.ts";
import { fragLayout, lanesUnit, rowsUnit } from "./layout.ts";
import type { FragLayout } from "./layout.ts";

type Mma = Extract<Stmt, { op: "mma" }>;

/**
 * Gives every fragment its layout. Fragments that meet in a statement must agree on where their elements live, so they form classes; a class with
 * an mma takes the layout of a matrix unit that can compute all its products. Of the others rows lie across the lanes, or, where nothing but columns meet,
 * each lane has rows of its own.
 */
export function chooseLayouts(program: TileProgram, caps: Caps): ReadonlyMap<string, FragLayout> {
  const frags = program.tiles.filter((t) => t.scope === "frag");
  const parent = new Map(frags.map((t) => [t.name, t.name]));
  const find = (name: string): string => {
    const up = parent.get(name);
    if (up === undefined) throw new Error(`place ${program.name}: ${name} is not a declared fragment`);
    return up === name ? name : find(up);
  };
  const mmas: Mma[] = [];
  eachStatement(program.body, (s) => {
    if (s.op === "mma") mmas.push(s);
    const [head, ...rest] = fragmentsOf(s, parent);
    for (const name of rest) parent.set(find(name), find(head!));
  });

  const units = new Map<string, MatrixUnit>();
  for (const s of mmas) {
    const root = find(s.acc.name);
    if (!units.has(root)) {
      const products = mmas.filter((o) => find(o.acc.name) === root);
      units.set(root, unitFor(program, products, caps));
    }
  }
  const rows = new Map<string, MatrixUnit>();
  const acrossLanes = (root: string): MatrixUnit => {
    const unit =
      rows.get(root) ??
      (!caps.indexableRegisters && frags.every((t) => t.cols === 1 || find(t.name) !== root)
        ? rowsUnit(groupLanes(program, caps))
        : lanesUnit(groupLanes(program, caps), ...neighbours(program, (name) => find(name) === root, caps)));
    rows.set(root, unit);
    return unit;
  };
  const accs = new Set(mmas.map((s) => s.acc.name));
  return new Map(
    frags.map((t) => {
      const root = find(t.name);
      return [t.name, fragLayout(t, units.get(root) ?? acrossLanes(root), program.groups, accs.has(t.name))];
    }),
  );
}

/**
 * How many neighbours in a row a lane should own, of fragments of one class, and how many rows the lanes of a warp then take at a time: as many neighbours as
 * one load takes, where everything that the class reads or writes lies along its columns, and where its rows are whole multiples, or equal parts of what a
 * warp takes.
 */
function neighbours(program: TileProgram, inClass: (name: string) => boolean, caps: Caps): readonly [each: number, rows: number] {
  const tiles = program.tiles.filter((t) => t.scope === "frag" && t.cols > 1 && inClass(t.name));
  const found: { widest: number; fits: boolean } = { widest: 1, fits: true };
  const constant = new Set(program.params.filter((p) => p.constant === true).map((p) => p.name));
  const access = (tile: Tile, dtype: DType, index: Expr, isConstant: boolean): void => {
    const [, col] = coordinates(tile);
    if (!mentions(index, col)) return;
    const width = Math.max(1, Math.min(MOST_NEIGHBOURS, caps.vectorBytes / BYTES[dtype]));
    if (isVector(index, col, width)) found.widest = Math.max(found.widest, width);
    else if (!(isConstant && isClose(index, col, width))) found.fits = false;
  };
  const loads = (tile: Tile, e: Expr | null): void => {
    if (e)
      walk(e, (x) => {
        if (x.op === "load") access(tile, x.dtype, x.index, constant.has(x.buffer));
      });
  };
  eachStatement(program.body, (s) => {
    if (s.op === "map" && inClass(s.dst.name)) loads(s.dst, s.value);
    if (s.op === "store" && s.over.scope === "frag" && inClass(s.over.name)) {
      access(s.over, s.dtype, s.index, false);
      loads(s.over, s.value);
    }
  });
  const [down, across] = program.groups;
  for (let each = found.fits ? found.widest : 1; each > 1; each /= 2) {
    const whole = groupLanes(program, caps) * each;
    if (tiles.every((t) => t.cols % (whole * across) === 0)) return [each, 1];
    const rows = whole / tiles[0]!.cols;
    const short = Number.isInteger(Math.log2(rows)) && rows <= caps.lanes && across === 1;
    if (short && tiles.every((t) => t.cols * rows === whole && t.rows % (down * rows) === 0)) return [each, rows];
  }
  return [1, 1];
}

/**
 * Whether neighbours read a few elements apart, no more than a vector has: what lies between belongs to them too, as the taps of a convolution's channels do, and is read
 * with them or from a cache.
 */
function isClose(index: Expr, col: Expr, width: number): boolean {
  const { atoms } = affine(index);
  const apart = atoms.get(col);
  return apart !== undefined && apart > 1 && apart <= width && [...atoms.keys()].every((atom) => atom === col || !mentions(atom, col));
}

/** Of the smallest type that vectors are loaded of, 16 bits, as many as 16 bytes hold. */
const MOST_NEIGHBOURS = 8;

/** Lanes that share a part of a fragment: those of a warp, or of several. */
export const groupLanes = (program: TileProgram, caps: Caps): number => caps.lanes * (program.groupWarps ?? 1);

export function eachStatement(body: readonly Stmt[], f: (s: Stmt) => void): void {
  for (const s of body) {
    f(s);
    if (s.op === "for") eachStatement(s.body, f);
    if (s.op === "if") {
      eachStatement(s.body, f);
      eachStatement(s.otherwise, f);
    }
  }
}

function fragmentsOf(s: Stmt, frags: ReadonlyMap<string, string>): string[] {
  const tiles = (...ts: readonly Tile[]): string[] => ts.filter((t) => t.scope === "frag").map((t) => t.name);
  const inside = (...es: readonly (Expr | null)[]): string[] => {
    const names: string[] = [];
    for (const e of es)
      if (e)
        walk(e, (x) => {
          if (x.op === "elem" && frags.has(x.tile)) names.push(x.tile);
        });
    return names;
  };
  switch (s.op) {
    case "map":
      return [...tiles(s.dst), ...inside(s.value)];
    case "rowReduce":
      return tiles(s.dst, s.src);
    case "stage":
      return tiles(s.src);
    case "mma":
      return tiles(s.acc);
    case "store":
      return [...tiles(s.over), ...inside(s.index, s.value, s.guard)];
    default:
      return [];
  }
}

function unitFor(program: TileProgram, products: readonly Mma[], caps: Caps): MatrixUnit {
  const reasons: string[] = [];
  for (const unit of caps.units) {
    const why = products.map((s) => misfit(program, s, unit, caps)).find((r) => r !== null);
    if (why === undefined) return unit;
    reasons.push(`${unit.name}: ${why}`);
  }
  throw new Error(
    `place ${program.name}: no unit of ${caps.name} computes ${products.map((s) => s.acc.name).join(", ")}\n  ${reasons.join("\n  ")}`,
  );
}

function misfit(program: TileProgram, s: Mma, unit: MatrixUnit, caps: Caps): string | null {
  const [gr, gc] = program.groups;
  const lanes = groupLanes(program, caps);
  if (unit.lanes !== lanes) return `works with ${unit.lanes} lanes, a group has ${lanes}`;
  for (const v of [s.a, s.b]) {
    if (!unit.inputs.includes(v.dtype)) return `does not take ${v.dtype} (${v.name})`;
    if (v.source === "buffer" && !caps.directOperands) return `reads operands from shared memory only, ${v.name} is a global buffer`;
  }
  if (unit.k > 1 && s.a.dtype !== s.b.dtype) return `takes two operands of one type, not ${s.a.dtype} and ${s.b.dtype}`;
  if (unit.k > 1 && !isConst(mod(s.k, unit.k), 0))
    return `computes ${unit.k} products at a time, which need not divide the inner size of ${s.acc.name}`;
  if (s.acc.rows % (gr * unit.m) !== 0 || s.acc.cols % (gc * unit.n) !== 0)
    return `${s.acc.name} [${s.acc.rows}, ${s.acc.cols}] over ${gr} x ${gc} groups is not a multiple of ${unit.m} x ${unit.n}`;
  return unit.asynchronous ? misplaced(program, s, unit.asynchronous.rowBytes) : null;
}

/** Why an operand does not lie as a unit finds it that takes whole tiles of rows of so many bytes along k. */
function misplaced(program: TileProgram, s: Mma, rowBytes: number): string | null {
  const operands = [
    { v: s.a, line: s.a.rowStride, along: s.a.colStride },
    { v: s.b, line: s.b.colStride, along: s.b.rowStride },
  ];
  for (const { v, line, along } of operands) {
    const cols = rowBytes / BYTES[v.dtype];
    const tile = v.source === "tile" ? program.tiles.find((t) => t.name === v.name) : undefined;
    if (!tile || tile.cols !== cols || !isConst(v.base, 0) || !isConst(line, cols) || !isConst(along, 1) || !isConst(s.k, cols))
      return `takes whole tiles of rows of ${cols} elements along k, which ${v.name} is not`;
  }
  return null;
}
