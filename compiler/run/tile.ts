import type { allocate } from "../ir/dtype.ts";
import { read, round, write } from "../ir/dtype.ts";
import { evaluateInt } from "../ir/expr.ts";
import { applyBinary } from "../ir/operators.ts";
import type { Expr } from "../ir/expr.ts";
import { head } from "../ir/tile-text.ts";
import type { Param, ReduceFn, Stmt, Tile, TileProgram, View } from "../ir/tile.ts";
import { compileExpr } from "./eval.ts";
import type { Binder, Cell, Compiled } from "./eval.ts";

/** Memory of a global buffer, as `allocate` makes it. */
export type HostArray = ReturnType<typeof allocate>;

/**
 * Runs a program, block after block; it defines what Tile IR means. Values are rounded where they are stored (a tile, a buffer), and are in
 * double precision inside an expression and inside one `mma` or `rowReduce`. An error, naming the statement: reading a tile element that
 * nothing wrote, an index outside a buffer or tile, and an element of a buffer that one block (or one element of a statement) writes while
 * another reads or writes it, because the order of blocks and of elements is not defined.
 */
export function interpretTile(
  p: TileProgram,
  buffers: Readonly<Record<string, HostArray>>,
  symbols: Readonly<Record<string, number>> = {},
): void {
  const cells = new Map<string, Cell>();
  const cell = (name: string): Cell => {
    const c = cells.get(name) ?? { value: NaN };
    cells.set(name, c);
    return c;
  };
  for (const s of p.symbols) {
    const value = symbols[s.name];
    if (value === undefined) throw new Error(`tile program ${p.name}: the symbol ${s.name} has no value`);
    if (value < s.min || value > s.max) throw new Error(`tile program ${p.name}: ${s.name} = ${value} is outside [${s.min}, ${s.max}]`);
    cell(s.name).value = value;
  }
  const now: Moment = { text: "", block: 0, statement: 0, element: 0 };
  const stop = (message: string): never => {
    throw new Error(`tile program ${p.name}: ${message}\n    in: ${now.text}`);
  };
  const tiles = new Map(p.tiles.map((t) => [t.name, tileMemory(t, stop)]));
  const globals = new Map(p.params.map((q) => [q.name, globalMemory(q, buffers[q.name], now, stop)]));
  const program = compileBody(p.body, { cell, tiles, globals, now, stop });

  const [gx, gy, gz] = p.grid.map((g) => evaluateInt(g, symbols)) as [number, number, number];
  for (let z = 0; z < gz; z++)
    for (let y = 0; y < gy; y++)
      for (let x = 0; x < gx; x++) {
        cell("bx").value = x;
        cell("by").value = y;
        cell("bz").value = z;
        now.block++;
        for (const t of tiles.values()) t.written.fill(0);
        for (const run of program) run();
      }
}

/** What is being done at this moment: what an error names, and what tells conflicting accesses apart. */
interface Moment {
  text: string;
  block: number;
  statement: number;
  element: number;
}
type Stop = (message: string) => never;

interface TileMemory {
  readonly tile: Tile;
  readonly data: Float64Array;
  readonly written: Uint8Array;
  get(row: number, col: number): number;
  set(row: number, col: number, x: number): void;
}

function tileMemory(tile: Tile, stop: Stop): TileMemory {
  const data = new Float64Array(tile.rows * tile.cols);
  const written = new Uint8Array(tile.rows * tile.cols);
  return {
    tile,
    data,
    written,
    get(row, col) {
      if (!(row >= 0 && row < tile.rows && col >= 0 && col < tile.cols))
        stop(`${tile.name}(${row}, ${col}) is outside [${tile.rows}, ${tile.cols}]`);
      const i = row * tile.cols + col;
      if (!written[i]) stop(`${tile.name}(${row}, ${col}) is read and was never written`);
      return data[i]!;
    },
    set(row, col, x) {
      const i = row * tile.cols + col;
      data[i] = tile.dtype === "f32" ? Math.fround(x) : round(x, tile.dtype);
      written[i] = 1;
    },
  };
}

const MANY = -1;

interface GlobalMemory {
  get(i: number): number;
  set(i: number, x: number): void;
}

function globalMemory(q: Param, data: HostArray | undefined, now: Moment, stop: Stop): GlobalMemory {
  if (!data) return stop(`there is no buffer for ${q.name}`);
  const inside = (i: number, what: string): void => {
    if (!(i >= 0 && i < data.length)) stop(`${what} element ${i} of ${q.name}, which has ${data.length}`);
  };
  if (q.access === "read")
    return {
      get(i) {
        inside(i, "reads");
        return read(data, q.dtype, i);
      },
      set: () => stop(`${q.name} is written and declared as read`),
    };
  // per element: the block, statement and element-of-the-statement that wrote it and that read it last
  const trace = (): Int32Array[] => [new Int32Array(data.length), new Int32Array(data.length), new Int32Array(data.length)];
  const writer = trace(),
    reader = trace();
  const clash = (i: number, [block, statement, element]: readonly Int32Array[], what: string): void => {
    const b = block![i]!;
    if (b === 0) return;
    if (b !== now.block) stop(`${q.name}[${i}] is ${what} by two blocks`);
    if (statement![i] === now.statement && element![i] !== now.element) stop(`${q.name}[${i}] is ${what} by two elements of one statement`);
  };
  // MANY stays: whoever writes what several blocks (or elements of a statement) read is in conflict with one of them
  const leave = (i: number, [block, statement, element]: readonly Int32Array[]): void => {
    block![i] = block![i] === 0 || block![i] === now.block ? now.block : MANY;
    element![i] = statement![i] !== now.statement || element![i] === now.element ? now.element : MANY;
    statement![i] = now.statement;
  };
  return {
    get(i) {
      inside(i, "reads");
      if (q.access === "write") stop(`${q.name} is read and declared as write`);
      clash(i, writer, "written and read");
      leave(i, reader);
      return read(data, q.dtype, i);
    },
    set(i, x) {
      inside(i, "writes");
      clash(i, writer, "written");
      clash(i, reader, "read and written");
      leave(i, writer);
      write(data, q.dtype, i, x);
    },
  };
}

interface Machine {
  readonly cell: (name: string) => Cell;
  readonly tiles: ReadonlyMap<string, TileMemory>;
  readonly globals: ReadonlyMap<string, GlobalMemory>;
  readonly now: Moment;
  readonly stop: Stop;
}

const compileBody = (body: readonly Stmt[], m: Machine): (() => void)[] =>
  body.map((s) => {
    const run = compileStmt(s, m);
    if (s.op === "for" || s.op === "if") return run;
    const text = head(s);
    return () => {
      m.now.text = text;
      m.now.statement++;
      m.now.element = 0;
      run();
    };
  });

const lookup = <T>(map: ReadonlyMap<string, T>, name: string): T => {
  const x = map.get(name);
  if (x === undefined) throw new Error(`${name} is not declared`);
  return x;
};

function compileStmt(s: Stmt, m: Machine): () => void {
  const binder: Binder = {
    variable: (v) => m.cell(v.name),
    load: (buffer) => {
      const memory = lookup(m.globals, buffer);
      return (i) => memory.get(i);
    },
    elem: (tile) => {
      const memory = lookup(m.tiles, tile);
      return (row, col) => memory.get(row, col);
    },
  };
  const compile = (e: Expr): Compiled => compileExpr(e, binder);
  switch (s.op) {
    case "for": {
      const v = m.cell(s.var.name);
      const count = compile(s.count);
      const body = compileBody(s.body, m);
      return () => {
        const n = count();
        for (let i = 0; i < n; i++) {
          v.value = i;
          for (const run of body) run();
        }
      };
    }
    case "if": {
      const cond = compile(s.cond);
      const then = compileBody(s.body, m),
        otherwise = compileBody(s.otherwise, m);
      return () => {
        for (const run of cond() ? then : otherwise) run();
      };
    }
    case "fill": {
      const { data, written } = lookup(m.tiles, s.dst.name);
      const value = round(s.value, s.dst.dtype);
      return () => {
        data.fill(value);
        written.fill(1);
      };
    }
    case "load":
    case "map": {
      const dst = lookup(m.tiles, s.dst.name);
      const value = compile(s.value);
      return overDomain(s.dst, m, (row, col) => {
        dst.set(row, col, value());
      });
    }
    case "stage": {
      const dst = lookup(m.tiles, s.dst.name),
        src = lookup(m.tiles, s.src.name);
      return overDomain(s.dst, m, (row, col) => {
        dst.set(row, col, src.get(row, col));
      });
    }
    case "rowReduce": {
      const dst = lookup(m.tiles, s.dst.name),
        src = lookup(m.tiles, s.src.name);
      const fn = COMBINE[s.fn];
      return () => {
        const run = s.src.cols / s.dst.cols;
        for (let row = 0; row < (s.rows ?? s.src.rows); row++)
          for (let part = 0; part < s.dst.cols; part++) {
            const first = src.get(row, part * run);
            let x = s.accumulate ? applyBinary(fn, dst.get(row, 0), first) : first;
            for (let i = 1; i < run; i++) x = applyBinary(fn, x, src.get(row, part * run + i));
            dst.set(row, part, x);
          }
      };
    }
    case "scan": {
      const dst = lookup(m.tiles, s.dst.name);
      return () => {
        for (let row = 1; row < s.dst.rows; row++) dst.set(row, 0, dst.get(row - 1, 0) + dst.get(row, 0));
      };
    }
    case "mma":
      return compileMma(s, m, compile);
    case "store": {
      const memory = lookup(m.globals, s.buffer);
      const index = compile(s.index),
        value = compile(s.value),
        guard = s.guard && compile(s.guard);
      return overDomain(s.over, m, () => {
        if (!guard || guard()) memory.set(index(), value());
      });
    }
  }
}

const COMBINE = { sum: "add", max: "max", min: "min" } as const satisfies Record<ReduceFn, string>;

function overDomain(tile: Tile, m: Machine, f: (row: number, col: number) => void): () => void {
  const row = m.cell("row"),
    col = m.cell("col");
  return () => {
    for (let r = 0; r < tile.rows; r++)
      for (let c = 0; c < tile.cols; c++) {
        row.value = r;
        col.value = c;
        m.now.element++;
        f(r, c);
      }
  };
}

function compileMma(s: Extract<Stmt, { op: "mma" }>, m: Machine, compile: (e: Expr) => Compiled): () => void {
  const acc = lookup(m.tiles, s.acc.name);
  const a = compileView(s.a, m, compile),
    b = compileView(s.b, m, compile);
  const k = compile(s.k);
  const rows = s.rows ? compile(s.rows) : () => s.acc.rows;
  return () => {
    const count = Math.min(rows(), s.acc.rows),
      depth = k();
    const left = a(),
      right = b();
    for (let row = 0; row < count; row++)
      for (let col = 0; col < s.acc.cols; col++) {
        let x = acc.get(row, col);
        for (let i = 0; i < depth; i++) x += left(row, i) * right(i, col);
        acc.set(row, col, x);
      }
  };
}

/** Fixes the view's base and strides, then reads its elements. */
function compileView(v: View, m: Machine, compile: (e: Expr) => Compiled): () => (row: number, col: number) => number {
  const base = compile(v.base),
    rowStride = compile(v.rowStride),
    colStride = compile(v.colStride);
  if (v.source === "buffer") {
    const memory = lookup(m.globals, v.name);
    return () => {
      const from = base(),
        down = rowStride(),
        right = colStride();
      return (row, col) => memory.get(from + row * down + col * right);
    };
  }
  const { data, written, tile } = lookup(m.tiles, v.name);
  return () => {
    const from = base(),
      down = rowStride(),
      right = colStride();
    return (row, col) => {
      const i = from + row * down + col * right;
      if (!written[i])
        m.stop(
          i >= 0 && i < data.length
            ? `element ${i} of ${tile.name} is read and was never written`
            : `element ${i} is outside ${tile.name}, which has ${data.length}`,
        );
      return data[i]!;
    };
  };
}
