import type { Caps } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import { some } from "../ir/expr.ts";
import type { Expr, Load } from "../ir/expr.ts";
import { coordinates } from "../ir/tile.ts";
import type { Stmt, Tile, TileProgram } from "../ir/tile.ts";
import { isVector, isVectorCondition } from "./affine.ts";
import { besideOf } from "./beside.ts";
import type { Product } from "./beside.ts";
import { plainLoad } from "./copy.ts";
import { eachStatement } from "./fragments.ts";
import type { FragLayout } from "./layout.ts";

export type Loop = Extract<Stmt, { op: "for" }>;

/** A tile that a loop fills from memory at the start of each turn, in whole vectors. */
export interface RingCopy {
  readonly dst: Tile;
  /** The load that it is filled with, at [row, col]. */
  readonly from: Load;
  /** Of a fragment: each lane copies what it reads itself, and nothing else. */
  readonly layout: FragLayout | null;
}

/** Where a tile is in shared memory: in each slot, of `size` elements, of an array from an element on. */
export interface Home {
  readonly array: string;
  readonly size: number;
  readonly from: number;
}

/**
 * What a loop lets the hardware copy while it computes other turns: each of the tiles has a slot in shared memory for every one of `stages` turns. A loop
 * whose copies are all of fragments needs no barrier for them.
 */
export interface Ring {
  readonly stages: number;
  readonly copies: readonly RingCopy[];
  readonly homes: ReadonlyMap<string, Home>;
  readonly meets: boolean;
  /** Products that a turn leaves under way while the next one begins, those of a list computed as one; none where a turn waits for its own. */
  readonly lasting: readonly (readonly Product[])[];
}

export type Rings = ReadonlyMap<Loop, Ring>;

/** What an analysis needs besides the program. */
interface Placement {
  readonly caps: Caps;
  readonly threads: number;
  readonly layouts: ReadonlyMap<string, FragLayout>;
  readonly strides: ReadonlyMap<string, number>;
}

/**
 * The rings of a program: loops with `stages` > 1 that begin with plain copies of memory that the program, or other turns, do not write, into tiles that nothing else
 * touches. What else a loop begins with is done in its turn, before it waits if it stands before the first copy.
 */
export function ringsOf(program: TileProgram, placement: Placement): Rings {
  const found = new Map<Loop, Ring>();
  if (!placement.caps.asyncCopy) return found;
  eachStatement(program.body, (s) => {
    if (s.op !== "for" || s.stages < 2) return;
    const copies = copiesOf(s, program, placement);
    if (copies.length === 0) return;
    const meets = copies.some((c) => c.layout === null);
    const products = meets ? lastingProducts(s, copies, placement) : [];
    const lasting = besideOf(products, program, placement.layouts);
    found.set(s, { stages: s.stages, copies, homes: homesOf(copies, lasting, placement), meets, lasting });
  });
  return found;
}

/** An array for each tile that is copied; the right operands of products that are computed as one lie in one, one after the other. */
function homesOf(copies: readonly RingCopy[], lasting: Ring["lasting"], { threads, strides }: Placement): ReadonlyMap<string, Home> {
  const sizes = new Map(
    copies.map(({ dst, layout }) => [dst.name, layout ? layout.count * threads : dst.rows * strides.get(dst.name)!] as const),
  );
  const homes = new Map([...sizes].map(([name, size]): [string, Home] => [name, { array: name, size, from: 0 }]));
  for (const products of lasting) {
    const names = products.map(({ b }) => b.name);
    const size = sizes.get(names[0]!)!;
    for (const [i, name] of names.entries()) homes.set(name, { array: names[0]!, size: size * names.length, from: size * i });
  }
  return homes;
}

/** Products of a loop that need not be done when its turn is: of units that work by themselves, where turns do nothing but copy what those multiply. */
function lastingProducts(loop: Loop, copies: readonly RingCopy[], { layouts }: Placement): readonly Product[] {
  const copied = new Set(copies.map(({ dst }) => dst.name));
  const products: Product[] = [];
  for (const s of loop.body) {
    if (s.op === "load" && copied.has(s.dst.name)) continue;
    if (s.op !== "mma" || layouts.get(s.acc.name)?.unit.asynchronous === undefined) return [];
    if (products.some(({ acc }) => acc.name === s.acc.name)) return [];
    if (!copied.has(s.a.name) || !copied.has(s.b.name)) return [];
    products.push(s);
  }
  // a slot that is copied to, one that is multiplied, and one that was in the turn before
  return loop.stages >= 3 ? products : [];
}

function copiesOf(loop: Loop, program: TileProgram, placement: Placement): readonly RingCopy[] {
  const end = loop.body.findIndex((s) => !isFetch(s));
  return loop.body.slice(0, end < 0 ? loop.body.length : end).flatMap((s, i) => {
    if (s.op !== "load" && s.op !== "map") return [];
    const copy = copyOf(s, loop, program, placement);
    return copy && isOwn(s.dst.name, i, loop, program) ? [copy] : [];
  });
}

/** Of what a turn begins with: tiles are filled, some of them under conditions. */
const isFetch = (s: Stmt): boolean =>
  s.op === "load" || s.op === "map" || (s.op === "if" && s.body.every(isFetch) && s.otherwise.every(isFetch));

function copyOf(s: Extract<Stmt, { op: "load" | "map" }>, loop: Loop, program: TileProgram, placement: Placement): RingCopy | null {
  const { caps, strides, layouts } = placement;
  const { dst } = s;
  const width = caps.vectorBytes / BYTES[dst.dtype];
  const from = plainLoad(s.value, dst.dtype);
  if (!from || width <= 1 || !Number.isInteger(width) || !isConstantHere(from, loop, program)) return null;
  const [, col] = coordinates(dst);
  if (!isVector(from.index, col, width) || (from.guard && !isVectorCondition(from.guard, col, width))) return null;
  if (s.op === "load") return dst.cols % width === 0 && strides.get(dst.name)! % width === 0 ? { dst, from, layout: null } : null;
  const layout = layouts.get(dst.name)!;
  return isWhole(layout, width) ? { dst, from, layout } : null;
}

/** Whether a load, and all that its address takes, reads only what the program does not write, or what no other turn of its loop does; it reads no tile. */
function isConstantHere(from: Load, loop: Loop, program: TileProgram): boolean {
  const read = new Set(program.params.filter((p) => p.access === "read").map((p) => p.name));
  return !some(from, (e) => e.op === "elem" || (e.op === "load" && !read.has(e.buffer) && !(loop.apart && e === from)));
}

/** Whether lanes hold whole vectors of neighbours, all of them elements of the tile: so it is where a row lies across the lanes. */
const isWhole = ({ tile, unit, groups: [gr, gc], fm, fn }: FragLayout, width: number): boolean =>
  unit.m === 1 && unit.inputs.length === 0 && unit.elems % width === 0 && fm * gr === tile.rows && fn * gc * unit.n === tile.cols;

/** Whether the loop alone touches a tile: its `at`-th statement writes it, and statements after that read elements of it. */
function isOwn(name: string, at: number, loop: Loop, program: TileProgram): boolean {
  const count = (body: readonly Stmt[]): number => {
    let n = 0;
    eachStatement(body, (s) => (n += touches(s, name) === null ? 0 : 1));
    return n;
  };
  if (count(program.body) !== count(loop.body) || count(loop.body.slice(0, at)) > 0) return false;
  let onlyRead = true;
  eachStatement(loop.body.slice(at + 1), (s) => {
    if (touches(s, name) === "otherwise") onlyRead = false;
  });
  return onlyRead;
}

/** How a statement itself touches a tile: it reads single elements, or a view of a shared one; or it does anything else. */
function touches(s: Stmt, name: string): "reads" | "otherwise" | null {
  const isElement = (x: Expr): boolean => x.op === "elem" && x.tile === name;
  const reads = (...es: readonly (Expr | null)[]): "reads" | null => (es.some((e) => e && some(e, isElement)) ? "reads" : null);
  switch (s.op) {
    case "for":
      return reads(s.count);
    case "if":
      return reads(s.cond);
    case "fill":
    case "scan":
      return s.dst.name === name ? "otherwise" : null;
    case "load":
    case "map":
      return s.dst.name === name ? "otherwise" : reads(s.value);
    case "stage":
    case "rowReduce":
      return s.dst.name === name || s.src.name === name ? "otherwise" : null;
    case "mma":
      if (s.acc.name === name) return "otherwise";
      return [s.a, s.b].some((v) => v.source === "tile" && v.name === name) ? "reads" : null;
    case "store":
      return reads(s.index, s.value, s.guard);
  }
}
