import type { Caps } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { TRUE, add, and, binary, ceilDiv, eq, i32, load, lt, mul, variable, walk } from "../ir/expr.ts";
import type { Expr, Load } from "../ir/expr.ts";
import { at, tileBuilder } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import { coordinates } from "../ir/tile.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import type { Config, Get, Reject, RowProblem, Template } from "../template.ts";
import {
  clamp,
  COMBINE,
  enoughBlocks,
  guarded,
  identity,
  isVector,
  L2,
  laneRegisters,
  largest,
  roundUp,
  shareOut,
} from "../templates/common.ts";
import { PROBE, asks, countUsers, needs, passes, reductionsOf, stepOf, tilesOf } from "./row-steps.ts";
import type { Consumer, Reduction } from "./row-steps.ts";

/**
 * Pointwise and reduction kernels. A block owns `rb` rows. Without reductions it owns `cb` of their columns; with reductions it sees all
 * columns: in one tile where they fit, otherwise tile by tile, as often as one reduction needs another's result.
 */
export const rows: Template<RowProblem> = { name: "rows", configs, build };

interface RowConfig extends Config {
  readonly rb: number;
  readonly cb: number;
  /** Warps of a block, each with rows of its own. */
  readonly groups: number;
  /** Warps that share a row. */
  readonly along: number;
}

type Store = RowProblem["stores"][number];

function configs(p: RowProblem, caps: Caps): readonly RowConfig[] | Reject {
  const vector = isVector(caps);
  const reduces = reductionsOf(p).length > 0;
  const wide = roundUp(p.cols, caps.lanes);
  const count = largest(p.rows, 1 << 20);
  // elements of one tile, when each step has one: in a part of a core's cache, or in the registers of a warp
  const roomFor = (registers: number): number =>
    Math.max(caps.lanes, Math.floor((vector ? L2 / 4 / 4 : registers * caps.lanes) / Math.max(1, tilesOf(p))));
  const room = roomFor(laneRegisters(caps, 64));
  const warps = vector ? 1 : Math.max(1, Math.floor(Math.min(256, caps.maxThreads) / caps.lanes));
  // where rows are fewer than blocks would be, of many columns (norms, the logits), warps take them side by side: what a row costs is waiting for it
  const along = reduces && !vector && count <= 2 * caps.workers ? Math.min(warps, Math.ceil(wide / (4 * caps.lanes))) : 1;
  const groups = along > 1 ? 1 : Math.min(4, warps, count);
  const whole = readsOtherColumns(p);
  if (whole && wide > roomFor(64))
    return { reject: `a row of ${p.cols} columns is replaced while other columns of it are read, and ${caps.name} cannot hold it` };
  const found: RowConfig[] = [];
  // elements of a block: enough to pay for handing it out, few enough to share the work evenly
  for (const work of vector ? [16384, 4096, 65536] : [1024, 2048, 512]) {
    // on a GPU a kernel of few elements takes as long as its longest lane: one element each, then
    const few = !vector && count * wide <= work * enoughBlocks(caps);
    const widest = reduces ? room : few ? caps.lanes : Math.min(room, Math.max(work / 4, caps.lanes));
    // whole vectors of 16 bytes for each lane of a block that walks over a long row
    const step = along * caps.lanes * (along > 1 ? 4 : 1);
    const cb = whole ? wide : step * shareOut(Math.ceil(p.cols / step), Math.max(1, (widest * along) / step));
    const tiles = reduces ? 1 : Math.ceil(p.cols / cb);
    const share = Math.ceil((count * tiles) / ((vector ? 1 : 4) * enoughBlocks(caps)) / groups);
    const each = Math.max(1, Math.min(Math.floor(room / cb), Math.ceil(work / cb), share));
    found.push({ rb: Math.min(each * groups, roundUp(count, groups)), cb, groups, along });
  }
  return found.filter((c, i) => found.findIndex((d) => d.rb === c.rb && d.cb === c.cb) === i);
}

/** A block being written: its program, its rows, and what has been computed so far. */
interface Block {
  readonly b: TileBuilder;
  readonly p: RowProblem;
  readonly cb: number;
  readonly along: number;
  /** The row of the problem, which may lie past the last one. */
  readonly row: (row: Expr) => Expr;
  readonly tile: (name: string, dtype: DType, cols: number) => Tile;
  /** How many steps and stores ask for each step. */
  readonly users: ReadonlyMap<string, number>;
  /** Results of reductions, one value a row. */
  readonly results: Map<string, Tile>;
}

/** One tile of columns: its number, and the temps that are held for it. */
interface Pass {
  readonly j: Expr;
  readonly temps: Map<string, Tile>;
}

function build(p: RowProblem, config: Config, caps: Caps): TileProgram {
  const { rb, cb, groups, along } = config as RowConfig;
  const reductions = reductionsOf(p);
  const reduces = reductions.length > 0;
  const tiles = Math.ceil(p.cols / cb);
  const blocks = ceilDiv(p.rows, rb);
  const b = tileBuilder(p.frame, reduces ? [blocks, 1, 1] : [tiles, blocks, 1], [groups, along]);
  const made = new Map<string, Tile>();
  const k: Block = {
    b,
    p,
    cb,
    along,
    row: (row) => add(mul(reduces ? b.bx : b.by, rb), row),
    tile: (name, dtype, cols) => {
      const tile = made.get(name) ?? b.frag(name, rb, cols, dtype);
      made.set(name, tile);
      return tile;
    },
    users: countUsers(p),
    results: new Map(),
  };

  const whole: Pass = { j: reduces ? i32(0) : b.bx, temps: new Map() };
  if ((!reduces || (tiles === 1 && rb === groups)) && caps.asyncCopy) holdGiven(k, whole);
  if (reduces && tiles > 1) for (const group of passes(p)) reduceByTiles(k, group, tiles);
  else for (const step of reductions) reduceAtOnce(k, step, whole);

  const perRow = p.stores.filter((s) => s.per === "row").map((s, i) => prepareRowStore(k, s, i));
  if (reduces && tiles > 1)
    eachTile(k, tiles, (j) => {
      storeElements(k, { j, temps: new Map() });
    });
  else storeElements(k, whole);
  // where columns are shared out over blocks, the first of them stores what belongs to the row
  if (perRow.length > 0)
    b.when(reduces ? TRUE : eq(b.bx, 0), () => {
      for (const store of perRow) store();
    });
  return b.build();
}

// ---- values -----------------------------------------------------------------------------------------------------------

/** Values of steps at (row, col): a reduction's result, a held temp, or a temp's expression put in place. */
function getter(k: Block, row: Expr, at_row: Expr, col: Expr, column: Expr, temps: ReadonlyMap<string, Tile>): Get {
  const memo = new Map<string, Expr>();
  const get: Get = (name) => {
    const known = memo.get(name);
    if (known) return known;
    const result = k.results.get(name),
      temp = temps.get(name);
    const value = result ? at(result, row, 0) : temp ? at(temp, row, col) : stepOf(k.p, name).value(at_row, column, get);
    memo.set(name, value);
    return value;
  };
  return get;
}

const columnOf = (k: Block, pass: Pass, col: Expr): Expr => add(mul(pass.j, k.cb), col);

/** A step's or store's value for every element of a tile, and `outside` beyond the last column; the last row stands in for rows beyond it. */
const valueOf =
  (k: Block, consumer: Consumer, pass: Pass, outside = 0) =>
  (row: Expr, col: Expr): Expr => {
    const r = clamp(k.row(row), k.p.rows),
      c = columnOf(k, pass, col);
    return guarded(consumer.value(r, c, getter(k, row, r, col, c, pass.temps)), lt(c, k.p.cols), outside);
  };

/**
 * Holds the temps that constant memory alone gives (a norm's weight), and states that the kernel replaces, before anything else: they are on their way while kernels
 * in front still work, and while a row is reduced.
 */
function holdGiven(k: Block, pass: Pass): void {
  const given = new Set(k.p.frame.params.filter((q) => q.constant === true || q.access === "readwrite").map(({ name }) => name));
  for (const step of k.p.steps) {
    const { names, dtype } = asks(k.p, step);
    if (step.kind !== "temp" || ![...names].every((name) => pass.temps.has(name))) continue;
    const loads = loadsIn(step.value(...PROBE, (name) => variable(name, asks(k.p, stepOf(k.p, name)).dtype)));
    if (loads.length === 0 || !loads.every(({ buffer }) => given.has(buffer))) continue;
    const tile = k.tile(`t_${step.name}`, dtype, k.cb);
    k.b.map(tile, valueOf(k, step, pass));
    pass.temps.set(step.name, tile);
  }
}

/** Holds in tiles the temps that `consumers` need and more than one step or store asks for; the others are put in place. */
function holdTemps(k: Block, consumers: readonly Consumer[], pass: Pass): void {
  const wanted = new Set(consumers.flatMap((c) => needs(k.p, c)));
  for (const step of k.p.steps) {
    if (step.kind !== "temp" || !wanted.has(step) || pass.temps.has(step.name) || (k.users.get(step.name) ?? 0) < 2) continue;
    const { dtype } = asks(k.p, step);
    if (dtype !== "f32" && dtype !== "i32") continue;
    const tile = k.tile(`t_${step.name}`, dtype, k.cb);
    k.b.map(tile, valueOf(k, step, pass));
    pass.temps.set(step.name, tile);
  }
}

// ---- reductions -------------------------------------------------------------------------------------------------------

function reduceAtOnce(k: Block, step: Reduction, pass: Pass): void {
  const { dtype } = asks(k.p, step);
  holdTemps(k, [step], pass);
  const value = valueOf(k, step, pass, identity(step.kind, dtype));
  const held = [...pass.temps.values()].find((t) => value(...coordinates(t)) === at(t, ...coordinates(t)));
  const source = held ?? k.tile(`v_${step.name}`, dtype, k.cb);
  if (!held) k.b.map(source, value);
  const result = k.tile(`r_${step.name}`, dtype, 1);
  k.b.rowReduce(result, step.kind, source);
  k.results.set(step.name, result);
}

/** Every column of the tile keeps a partial result while the tile walks over the row; then the tile is reduced. */
/** The last tile of a long row stands by itself if it runs past the end, so that the lanes of the others load without conditions. */
function eachTile({ b, p, cb, along }: Block, tiles: number, body: (j: Expr) => void): void {
  const whole = along > 1 ? Math.floor(p.cols / cb) : tiles;
  b.loop("j", whole, body);
  if (whole < tiles) body(i32(whole));
}

function reduceByTiles(k: Block, group: readonly Reduction[], tiles: number): void {
  const parts = group.map((step) => {
    const { dtype } = asks(k.p, step);
    const none = identity(step.kind, dtype);
    const tile = k.tile(`v_${step.name}`, dtype, k.cb);
    k.b.fill(tile, none);
    return { step, tile, none, dtype };
  });
  eachTile(k, tiles, (j) => {
    const pass: Pass = { j, temps: new Map() };
    holdTemps(k, group, pass);
    for (const { step, tile, none } of parts) {
      const value = valueOf(k, step, pass, none);
      k.b.map(tile, (row, col) => binary(COMBINE[step.kind], at(tile, row, col), value(row, col)));
    }
  });
  for (const { step, tile, dtype } of parts) {
    const result = k.tile(`r_${step.name}`, dtype, 1);
    k.b.rowReduce(result, step.kind, tile);
    k.results.set(step.name, result);
  }
}

// ---- stores -----------------------------------------------------------------------------------------------------------

function loadsIn(value: Expr): Load[] {
  const found: Load[] = [];
  walk(value, (e) => {
    if (e.op === "load") found.push(e);
  });
  return found;
}

/** The loads in `value` of buffers that this kernel writes. */
function loadsOfWritten(p: RowProblem, value: Expr): Load[] {
  const written = new Set(p.stores.map((s) => s.buffer));
  return loadsIn(value).filter((e) => written.has(e.buffer));
}

/** Whether some element is computed from an element of a written buffer that is not replaced at the same place: then a row is one tile. */
function readsOtherColumns(p: RowProblem): boolean {
  const elements = p.stores.filter((s) => s.per === "element");
  const places = elements.map((s) => load(s.buffer, s.dtype, s.index(...PROBE)));
  const memo = new Map<string, Expr>();
  const get: Get = (name) => {
    const step = stepOf(p, name);
    const value = memo.get(name) ?? (step.kind === "temp" ? step.value(...PROBE, get) : variable(name, asks(p, step).dtype));
    memo.set(name, value);
    return value;
  };
  return elements.some((s) => loadsOfWritten(p, s.value(...PROBE, get)).some((e) => !places.includes(load(e.buffer, e.dtype, e.index))));
}

/** Whether a store's value must be computed before anything is stored: it reads what this kernel writes, other than the element it replaces first. */
function readsWhatIsWritten(p: RowProblem, store: Store, value: Expr, index: Expr): boolean {
  const first = p.stores.find((s) => s.buffer === store.buffer) === store;
  return loadsOfWritten(p, value).some((e) => !(first && e.buffer === store.buffer && e.index === index));
}

function storeElements(k: Block, pass: Pass): void {
  const stores = k.p.stores.filter((s) => s.per === "element");
  if (stores.length === 0) return;
  holdTemps(k, stores, pass);
  const column = (col: Expr): Expr => columnOf(k, pass, col);
  const ready = stores.map((store, i) => {
    const value = valueOf(k, store, pass);
    const [row, col] = PROBE;
    if (!readsWhatIsWritten(k.p, store, value(row, col), store.index(clamp(k.row(row), k.p.rows), column(col)))) return null;
    const tile = k.tile(`s_${i}`, value(row, col).dtype, k.cb);
    k.b.map(tile, value);
    return tile;
  });
  const over = ready.find((t) => t !== null) ?? [...pass.temps.values()][0] ?? k.tile("elements", "f32", k.cb);
  for (const [i, store] of stores.entries()) {
    const held = ready[i];
    k.b.store(over, {
      buffer: store.buffer,
      dtype: store.dtype,
      index: (row, col) => store.index(k.row(row), column(col)),
      value: (row, col) =>
        held ? at(held, row, col) : store.value(k.row(row), column(col), getter(k, row, k.row(row), col, column(col), pass.temps)),
      guard: (row, col) => and(lt(k.row(row), k.p.rows), lt(column(col), k.p.cols), store.guard?.(k.row(row), column(col)) ?? TRUE),
    });
  }
}

/** A store of one value a row; gives what emits it, after all elements are stored. */
function prepareRowStore(k: Block, store: Store, i: number): () => void {
  const zero = i32(0);
  const value = (row: Expr, at_row: Expr): Expr => store.value(at_row, zero, getter(k, row, at_row, zero, zero, new Map()));
  const over = k.tile("rows_only", "f32", 1);
  const clamped = (row: Expr): Expr => clamp(k.row(row), k.p.rows);
  let held: Tile | null = null;
  const probe = value(PROBE[0], clamped(PROBE[0]));
  if (readsWhatIsWritten(k.p, store, probe, store.index(clamped(PROBE[0]), zero))) {
    held = k.tile(`s_row_${i}`, probe.dtype, 1);
    k.b.map(held, (row) => value(row, clamped(row)));
  }
  return () => {
    k.b.store(over, {
      buffer: store.buffer,
      dtype: store.dtype,
      index: (row) => store.index(k.row(row), zero),
      value: (row) => (held ? at(held, row, 0) : value(row, k.row(row))),
      guard: (row) => and(lt(k.row(row), k.p.rows), store.guard?.(k.row(row), zero) ?? TRUE),
    });
  };
}
