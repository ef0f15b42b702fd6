import type { Caps } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import { add, cast, constant, i32, isConst, load, lt, mul, reg } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { Stmt, ThreadProgram } from "../ir/thread.ts";
import { coordinates } from "../ir/tile.ts";
import type { Tile, TileProgram, Stmt as TileStmt } from "../ir/tile.ts";
import { isVector, isVectorCondition, rowMajor } from "./affine.ts";
import { insertBarriers } from "./barriers.ts";
import type { Piece } from "./barriers.ts";
import { both, context, eachElement, layoutOf, lowerExpr, NOWHERE, strideOf, together, uniform, unrolled, when } from "./context.ts";
import type { Context, Point } from "./context.ts";
import { colBase, leads, registerAt, rowBase } from "./layout.ts";
import type { FragLayout } from "./layout.ts";
import { lowerLoad } from "./loads.ts";
import { lowerFor } from "./loops.ts";
import type { Lower } from "./loops.ts";
import { lowerReduce } from "./reduce.ts";

/**
 * Tile IR to Thread IR: the only pass that knows of lanes. Fragments become register arrays by their layouts, shared tiles become arrays that all
 * lanes fill together, reductions go over the lanes that share a row, and barriers are put where lanes would otherwise race.
 * Loops with `stages` > 1 have the hardware copy later turns' tiles (rings.ts), or fetch the next turn's into registers (prefetch.ts).
 */
export function place(program: TileProgram, caps: Caps): ThreadProgram {
  const ctx = context(program, caps);
  const pieces = lowerAll(program.body, ctx);
  const global = new Set(program.params.filter((p) => p.access === "readwrite").map((p) => p.name));
  // what a ring's loop copies, it orders itself
  const copied = new Set([...ctx.rings.values()].flatMap((r) => [...r.homes.keys()]));
  const shared = new Set(ctx.shared.map((d) => d.name).filter((name) => !copied.has(name)));
  const body = [...ctx.ahead, ...ctx.early, ...insertBarriers(pieces, { shared, global })];
  const bytes = ctx.shared.reduce((n, d) => n + d.count * BYTES[d.dtype], 0);
  if (bytes > caps.sharedBytes) throw ctx.error(`needs ${bytes} bytes of shared memory, ${caps.name} has ${caps.sharedBytes}`);
  return {
    name: program.name,
    params: program.params,
    symbols: program.symbols,
    grid: program.grid,
    threads: ctx.threads,
    lanes: caps.lanes,
    shared: ctx.shared,
    regs: ctx.regs,
    body,
  };
}

const lowerAll = (body: readonly TileStmt[], ctx: Context): readonly Piece[] => body.flatMap((s) => lower(s, ctx));

const piece = (body: readonly Stmt[]): readonly Piece[] => [{ op: "piece", body }];

function lower(s: TileStmt, ctx: Context): readonly Piece[] {
  switch (s.op) {
    case "for":
      return lowerFor(s, ctx, LOWER);
    case "if":
      return [{ op: "if", cond: uniform(s.cond, ctx), body: lowerAll(s.body, ctx), otherwise: lowerAll(s.otherwise, ctx) }];
    case "fill":
      return piece(lowerFill(s.dst, s.value, ctx));
    case "load":
      return piece(lowerLoad(s.dst, s.value, ctx));
    case "stage":
      return piece(lowerStage(s.dst, s.src, ctx));
    case "map":
      return piece(lowerMap(s.dst, s.value, ctx));
    case "rowReduce":
      return lowerReduce(s, ctx);
    case "scan":
      return piece(lowerScan(s.dst, ctx));
    case "mma":
      return piece(lowerMma(s, ctx));
    case "store":
      return piece(lowerStore(s, ctx));
  }
}

const LOWER: Lower = { all: lowerAll, load: (s, ctx) => lowerLoad(s.dst, s.value, ctx) };

// ---- statements -----------------------------------------------------------------------------------------------------

function lowerFill(dst: Tile, value: number, ctx: Context): readonly Stmt[] {
  const v = constant(value, dst.dtype);
  if (dst.scope === "shared")
    return together(dst, ctx, (row, col, inside) => [
      {
        op: "store",
        buffer: dst.name,
        dtype: dst.dtype,
        index: rowMajor(row, strideOf(dst, ctx), col),
        value: v,
        guard: both(inside, null),
      },
    ]);
  const l = layoutOf(dst, ctx);
  // one run of registers, unless between its rows there are other fragments'
  const runs = l.pitch === l.fn ? 1 : l.fm;
  return ctx.loop("r", runs, unrolled(l, ctx), (r) =>
    ctx.loop("i", l.count / runs, unrolled(l, ctx), (i) => [
      { op: "assign", reg: l.array, index: registerAt(l, [r, i32(0), i]), value: v },
    ]),
  );
}

function lowerStage(dst: Tile, src: Tile, ctx: Context): readonly Stmt[] {
  const l = layoutOf(src, ctx);
  if (dst.rows !== src.rows || dst.cols !== src.cols) throw ctx.error(`stage of ${src.name} to ${dst.name}: the shapes differ`);
  const owner = src.cols === 1 ? leads(l, ctx.tid, ctx.lane) : null;
  return eachElement(l, ctx, (at) => [
    {
      op: "store",
      buffer: dst.name,
      dtype: dst.dtype,
      index: rowMajor(at.row, strideOf(dst, ctx), at.col),
      value: cast(reg(l.array, src.dtype, at.index), dst.dtype),
      guard: both(at.inside, owner),
    },
  ]);
}

function lowerMap(dst: Tile, value: Expr, ctx: Context): readonly Stmt[] {
  const l = layoutOf(dst, ctx);
  return eachElement(l, ctx, (at) =>
    when(at.inside, [{ op: "assign", reg: l.array, index: at.index, value: cast(lowerExpr(value, at, l, ctx), dst.dtype) }]),
  );
}

function lowerStore(s: Extract<TileStmt, { op: "store" }>, ctx: Context): readonly Stmt[] {
  const { over, buffer, dtype } = s;
  const make = (at: Point, inside: Expr, l: FragLayout | null): Stmt => ({
    op: "store",
    buffer,
    dtype,
    index: lowerExpr(s.index, at, l, ctx),
    value: cast(lowerExpr(s.value, at, l, ctx), dtype),
    guard: both(inside, s.guard && lowerExpr(s.guard, at, l, ctx)),
  });
  if (over.scope === "shared") {
    const width = storedRun(s, ctx);
    return together({ ...over, cols: over.cols / width }, ctx, (row, group, inside) =>
      Array.from({ length: width }, (_, i) => make({ ...NOWHERE, row, col: add(mul(group, width), i) }, inside, null)),
    );
  }
  const l = layoutOf(over, ctx);
  const owner = over.cols === 1 ? leads(l, ctx.tid, ctx.lane) : null;
  return eachElement(l, ctx, (at) => [make(at, both(at.inside, owner) ?? at.inside, l)]);
}

/** Neighbours of a shared tile that one lane stores: as many as a vector of memory holds, where they lie there one after the other, under one condition. */
function storedRun({ over, dtype, index, guard }: Extract<TileStmt, { op: "store" }>, ctx: Context): number {
  const width = Math.floor(ctx.caps.vectorBytes / BYTES[dtype]);
  const [, col] = coordinates(over);
  const fits = width > 1 && over.cols % width === 0 && strideOf(over, ctx) % width === 0;
  return fits && isVector(index, col, width) && (!guard || isVectorCondition(guard, col, width)) ? width : 1;
}

function lowerMma(s: Extract<TileStmt, { op: "mma" }>, ctx: Context): readonly Stmt[] {
  const l = layoutOf(s.acc, ctx);
  // it is computed with the product that it lies beside
  if (l.from > 0) return [];
  const view = (v: typeof s.a): typeof s.a => {
    const tile = v.source === "tile" ? ctx.tiles.get(v.name)! : null;
    const stride = (e: Expr): Expr => (tile && isConst(e, tile.cols) ? i32(strideOf(tile, ctx)) : uniform(e, ctx));
    const base = add(ctx.slots.get(v.name) ?? i32(0), uniform(v.base, ctx));
    return { ...v, base, rowStride: stride(v.rowStride), colStride: stride(v.colStride) };
  };
  const product: Stmt[] = [
    {
      op: "unit",
      unit: l.unit.name,
      acc: l.array,
      fm: l.fm,
      fn: l.pitch,
      rowBase: rowBase(l, ctx.lane),
      colBase: colBase(l, ctx.lane),
      a: view(s.a),
      b: view(s.b),
      k: uniform(s.k, ctx),
      rows: s.rows && uniform(s.rows, ctx),
    },
  ];
  return l.unit.asynchronous && !ctx.lasting ? [...product, { op: "unitWait", pending: 0, done: [l.array] }] : product;
}

/** By lane 0 alone: the sums are few, and their order is part of the meaning. */
function lowerScan(dst: Tile, ctx: Context): readonly Stmt[] {
  if (dst.cols !== 1 || dst.scope !== "shared") throw ctx.error(`scan of ${dst.name}: only a shared tile of one column can be scanned`);
  const steps = ctx.loop("r", dst.rows - 1, false, (r) => [
    {
      op: "store",
      buffer: dst.name,
      dtype: dst.dtype,
      index: add(r, 1),
      value: cast(add(cast(load(dst.name, dst.dtype, r), "f32"), cast(load(dst.name, dst.dtype, add(r, 1)), "f32")), dst.dtype),
      guard: null,
    },
  ]);
  return steps.length === 0 ? [] : when(lt(ctx.tid, 1), steps);
}
