import type { Caps } from "../backend.ts";
import { add, and, i32, intVar, isConst, load, reg, rewrite, substitute, walk } from "../ir/expr.ts";
import type { Expr, Var } from "../ir/expr.ts";
import type { SharedDecl, RegDecl, Stmt } from "../ir/thread.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import { rowMajor } from "./affine.ts";
import { sharedRows } from "./shared.ts";
import { layoutsBeside } from "./beside.ts";
import { cooperate } from "./copy.ts";
import type { Loop } from "./copy.ts";
import { chooseLayouts, eachStatement, groupLanes } from "./fragments.ts";
import { laneOf, placeOf, registerAt, rowPlaceOf } from "./layout.ts";
import type { FragLayout, Lane, Place } from "./layout.ts";
import { ownElement } from "./own-element.ts";
import { ringsOf } from "./rings.ts";
import type { Rings } from "./rings.ts";

/** What placing one program needs everywhere: the target, the lane's place, the layouts, and the declarations made on the way. */
export interface Context {
  readonly program: TileProgram;
  readonly caps: Caps;
  readonly threads: number;
  readonly tid: Var;
  readonly lane: Lane;
  readonly tiles: ReadonlyMap<string, Tile>;
  readonly layouts: ReadonlyMap<string, FragLayout>;
  /** Elements from one row of a shared tile to the next. */
  readonly strides: ReadonlyMap<string, number>;
  /** Loops whose tiles the hardware copies ahead of their turns, and in such a loop where in its array each of those tiles begins. */
  readonly rings: Rings;
  readonly slots: ReadonlyMap<string, Expr>;
  /** In a loop that leaves its products under way: nobody waits for one right after it. */
  readonly lasting: boolean;
  /** What comes before all other statements: first what need not wait for other kernels. */
  readonly ahead: Stmt[];
  readonly early: Stmt[];
  readonly shared: SharedDecl[];
  readonly regs: RegDecl[];
  readonly loop: Loop;
  fresh(hint: string): string;
  error(message: string): Error;
}

export function context(program: TileProgram, caps: Caps): Context {
  const error = (message: string): Error => new Error(`place ${program.name}: ${message}`);
  const [gr, gc] = program.groups;
  const group = groupLanes(program, caps);
  const threads = gr * gc * group;
  if (threads > caps.maxThreads)
    throw error(`${gr} x ${gc} groups of ${group} lanes are ${threads} threads, ${caps.name} has at most ${caps.maxThreads}`);
  const tid = intVar("tid", 0, threads - 1);
  const names = new Set(["tid", "bx", "by", "bz", ...[...program.params, ...program.symbols, ...program.tiles].map((x) => x.name)]);
  eachStatement(program.body, (s) => {
    if (s.op === "for") names.add(s.var.name);
  });
  const next = new Map<string, number>();
  const fresh = (hint: string): string => {
    for (let n = next.get(hint) ?? 0; ; n++) {
      const name = `${hint}${n}`;
      if (names.has(name)) continue;
      next.set(hint, n + 1);
      return name;
    }
  };
  const chosen = chooseLayouts(program, caps);
  const rows = sharedRows(program, caps);
  const strides = new Map([...rows].map(([name, { stride }]) => [name, stride]));
  const rings = ringsOf(program, { caps, threads, layouts: chosen, strides });
  const found = [...rings.values()];
  const layouts = layoutsBeside(found.flatMap((r) => r.lasting), chosen); // prettier-ignore
  const homes = new Map(
    found.flatMap((r) => [...r.homes].map(([tile, home]) => [tile, { array: home.array, count: r.stages * home.size }])),
  );
  return {
    program,
    caps,
    threads,
    tid,
    lane: laneOf(tid, group, program.groups),
    tiles: new Map(program.tiles.map((t) => [t.name, t])),
    layouts,
    strides,
    rings,
    slots: new Map(),
    lasting: false,
    ahead: [],
    early: [],
    shared: program.tiles
      .filter((t) => (homes.has(t.name) ? homes.get(t.name)!.array === t.name : t.scope === "shared"))
      .map((t) => {
        // a fragment that hardware copies has slots and no rows
        const { stride, turned } = rows.get(t.name) ?? { stride: t.cols, turned: false };
        return { name: t.name, dtype: t.dtype, count: homes.get(t.name)?.count ?? t.rows * stride, ...(turned ? { turned: stride } : {}) };
      }),
    regs: [...layouts.values()]
      .filter((l) => !homes.has(l.tile.name) && l.array === l.tile.name)
      .map((l) => ({
        name: l.array,
        dtype: l.tile.dtype,
        count: (l.count / l.fn) * l.pitch,
        uniform: l.tile.cols === 1 && sharedByAll(l),
      })),
    loop: (hint, count, unroll, body) => {
      if (count < 1) return [];
      if (count === 1) return body(i32(0));
      const v = intVar(fresh(hint), 0, count - 1);
      return [{ op: "for", var: v, count: i32(count), unroll, body: body(v) }];
    },
    fresh,
    error,
  };
}

// ---- expressions ----------------------------------------------------------------------------------------------------

/** An expression that is the same for the whole block: no tile coordinates, no fragments. */
export function uniform(e: Expr, ctx: Context): Expr {
  return lowerExpr(e, null, null, ctx);
}

export type Point = Pick<Place, "row" | "col" | "element" | "rowIndex" | "colIndex">;

/** A place where no fragment is. */
export const NOWHERE: Point = { row: i32(0), col: i32(0), element: [i32(0), i32(0), i32(0)], rowIndex: i32(0), colIndex: i32(0) };

/**
 * Puts this lane's place in: `row` and `col` become coordinates of the element, fragment elements become registers, elements of shared tiles
 * become loads. `over` is the layout that the place is of, null where fragments cannot be read.
 */
export function lowerExpr(e: Expr, at: Point | null, over: FragLayout | null, ctx: Context): Expr {
  const env = new Map<Expr, Expr>();
  walk(e, (x) => {
    if (x.op !== "var" || (x.name !== "row" && x.name !== "col")) return;
    if (!at) throw ctx.error(`an expression that is to be the same for the whole block depends on ${x.name}`);
    env.set(x, x.name === "row" ? at.row : at.col);
  });
  const isVar = (x: Expr, name: string): boolean => x.op === "var" && x.name === name;
  const plain = rewrite(e, (x) => {
    if (x.op !== "elem") return undefined;
    const tile = ctx.tiles.get(x.tile);
    if (!tile) throw ctx.error(`an expression reads the tile ${x.tile}, which is not declared`);
    const slot = ctx.slots.get(tile.name) ?? i32(0);
    if (tile.scope === "shared") return load(tile.name, x.dtype, add(slot, rowMajor(x.row, ctx.strides.get(tile.name)!, x.col)));
    const layout = ctx.layouts.get(tile.name)!;
    if (!at || !over) throw ctx.error(`the fragment ${tile.name} is read where no fragment is computed`);
    const columnOk =
      tile.cols === 1
        ? isConst(x.col, 0) || (isVar(x.col, "col") && over.tile.cols === 1)
        : isVar(x.col, "col") && tile.cols === over.tile.cols;
    // lanes of every row hold the only row of such a fragment
    const everyRow = isConst(x.row, 0) && tile.rows === 1 && tile.cols > 1 && layout.unit.m === 1 && layout.groups[0] === 1;
    const rowOk = (isVar(x.row, "row") && tile.rows === over.tile.rows) || everyRow;
    if (!rowOk || !columnOk || layout.unit !== over.unit)
      throw ctx.error(
        `the fragment ${tile.name} [${tile.rows}, ${tile.cols}] is read at another element than the one of ${over.tile.name} [${over.tile.rows}, ${over.tile.cols}] being computed`,
      );
    const index = tile.cols === 1 ? at.rowIndex : everyRow ? at.colIndex : registerAt(layout, at.element);
    return ctx.slots.has(tile.name) ? load(tile.name, x.dtype, ownElement(index, x.dtype, slot, ctx)) : reg(layout.array, x.dtype, index);
  });
  return env.size === 0 ? plain : substitute(plain, env);
}

export const when = (cond: Expr, body: readonly Stmt[]): readonly Stmt[] =>
  isConst(cond, 1) ? body : [{ op: "if", cond, body, otherwise: [] }];

export const both = (a: Expr, b: Expr | null): Expr | null => {
  const c = b ? and(a, b) : a;
  return isConst(c, 1) ? null : c;
};

export const strideOf = (tile: Tile, ctx: Context): number => ctx.strides.get(tile.name)!;

export const layoutOf = (tile: Tile, ctx: Context): FragLayout => {
  const l = ctx.layouts.get(tile.name);
  if (!l) throw ctx.error(`${tile.name} is not a fragment`);
  return l;
};

/** Whether every lane of the block holds every row of a row vector. */
const sharedByAll = (l: FragLayout): boolean => l.groups[0] === 1 && 2 ** l.rows.masks.length === l.unit.lanes;

/** Whether a reduction over lanes gives every lane of the block the same value. */
export const spansWarp = (l: FragLayout, ctx: Context): boolean => ctx.threads === ctx.caps.lanes && sharedByAll(l);

// ---- walking a fragment ---------------------------------------------------------------------------------------------

/** Splits 0 .. count-1 into the part whose unit tiles lie wholly inside the tile and the rest, so that only the rest is guarded. */
export function segments(count: number, size: number, step: number, groups: number): readonly (readonly [start: number, count: number])[] {
  const whole = Math.floor(size / step);
  return groups > 1 || whole >= count
    ? [[0, count]]
    : [
        [0, whole],
        [whole, count - whole],
      ];
}

/** Loops over registers are unrolled where registers cannot be indexed, and anywhere if they are few. */
export const unrolled = (l: FragLayout, ctx: Context): boolean => !ctx.caps.indexableRegisters || l.count <= 16;

export const eachUnitRow = (l: FragLayout, ctx: Context, body: (r: Expr) => readonly Stmt[]): readonly Stmt[] =>
  segments(l.fm, l.tile.rows, l.unit.m, l.groups[0]).flatMap(([start, count]) =>
    ctx.loop("r", count, unrolled(l, ctx), (r) => body(add(r, start))),
  );

/** The elements of a fragment that this lane holds. Registers past the tile's edge have a place with `inside` not constant true. */
export function eachElement(l: FragLayout, ctx: Context, body: (at: Place) => readonly Stmt[]): readonly Stmt[] {
  if (l.tile.cols === 1) return eachUnitRow(l, ctx, (r) => l.rows.first.flatMap((_, slot) => body(rowPlaceOf(l, ctx.lane, r, slot))));
  return eachUnitRow(l, ctx, (r) =>
    segments(l.fn, l.tile.cols, l.unit.n, l.groups[1]).flatMap(([start, count]) =>
      ctx.loop("c", count, unrolled(l, ctx), (c) => l.rows.slotOf.flatMap((_, i) => body(placeOf(l, ctx.lane, r, add(c, start), i)))),
    ),
  );
}

export function together(tile: Tile, ctx: Context, body: (row: Expr, col: Expr, inside: Expr) => readonly Stmt[]): readonly Stmt[] {
  const { tid, threads, loop } = ctx;
  return cooperate(tile.rows, tile.cols, { tid, threads, vector: ctx.caps.indexableRegisters && threads === ctx.caps.lanes, loop }, body);
}
