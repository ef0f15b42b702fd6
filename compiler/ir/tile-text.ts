import type { Expr, Var } from "./expr.ts";
import { intVar, isConst, rangeOf, walk } from "./expr.ts";
import { print } from "./expr-text.ts";
import { coordinates } from "./tile.ts";
import type { Stmt, Tile, TileProgram, View } from "./tile.ts";

// ---- print ----------------------------------------------------------------------------------------------------------

/** Stable text of a program: the same program always prints the same. */
export function printTile(p: TileProgram): string {
  const lines = [
    `tile ${p.name}`,
    ...p.params.map((q) => `  param ${q.name}: ${q.access} ${q.dtype}${q.constant ? " constant" : ""}${q.alone ? " alone" : ""}`),
    ...p.symbols.map((s) => `  symbol ${s.name} in [${s.min}, ${s.max}]`),
    `  grid [${p.grid.map(print).join(", ")}]`,
    `  groups [${p.groups.join(", ")}]${p.groupWarps === undefined ? "" : ` of ${p.groupWarps} warps`}`,
    ...p.tiles.map((t) => `  ${t.scope} ${t.name}: ${t.dtype}[${t.rows}, ${t.cols}]`),
  ];
  const block = (body: readonly Stmt[], indent: string): void => {
    for (const s of body) {
      lines.push(indent + head(s));
      if (s.op === "for" || s.op === "if") block(s.body, indent + "  ");
      if (s.op === "if" && s.otherwise.length > 0) {
        lines.push(`${indent}else`);
        block(s.otherwise, indent + "  ");
      }
    }
  };
  block(p.body, "  ");
  return lines.join("\n") + "\n";
}

/** One statement without what is nested in it; also names a statement in errors. */
export function head(s: Stmt): string {
  switch (s.op) {
    case "for":
      return `for ${s.var.name} < ${print(s.count)}${s.stages > 1 ? ` stages ${s.stages}` : ""}${s.apart ? " apart" : ""}`;
    case "if":
      return `if ${print(s.cond)}`;
    case "fill":
      return `fill ${s.dst.name} = ${s.value}`;
    case "load":
      return `load ${s.dst.name}(row, col) = ${print(s.value)}`;
    case "stage":
      return `stage ${s.dst.name} = ${s.src.name}`;
    case "map":
      return `map ${s.dst.name}(row, col) = ${print(s.value)}`;
    case "rowReduce":
      return `rowReduce ${s.dst.name} ${s.accumulate ? `${s.fn}=` : `= ${s.fn}`} ${s.src.name}${s.rows === null ? "" : `, rows ${s.rows}`}`;
    case "scan":
      return `scan ${s.dst.name}`;
    case "mma":
      return `mma ${s.acc.name} += ${printView(s.a)} * ${printView(s.b)}, k ${print(s.k)}${s.rows ? `, rows ${print(s.rows)}` : ""}`;
    case "store":
      return `store ${s.buffer}[${print(s.index)}] = ${print(s.value)} over ${s.over.name}${s.guard ? ` if ${print(s.guard)}` : ""}`;
  }
}

const printView = (v: View): string => `${v.name}<${print(v.base)}; ${print(v.rowStride)}, ${print(v.colStride)}>`;

// ---- verify ---------------------------------------------------------------------------------------------------------

/** Which tiles an expression may read, and over which domain its `row` and `col` run (null: neither is there). */
interface Place {
  readonly domain: Tile | null;
  readonly frags: boolean;
  readonly shared: boolean;
}
const UNIFORM: Place = { domain: null, frags: false, shared: false };
const RESERVED = new Set(["row", "col", "bx", "by", "bz", "tid", "lane", "warp"]);

/** Throws an error that lists every rule of the language that a program breaks (see tile.ts), each with its statement. */
export function verifyTile(p: TileProgram): void {
  const problems: string[] = [];
  const report = (where: string, message: string): void =>
    void problems.push(`${message}\n    in: ${where.length > 240 ? where.slice(0, 240) + " ..." : where}`);
  const tiles = new Map(p.tiles.map((t) => [t.name, t]));
  const params = new Map(p.params.map((q) => [q.name, q]));
  const symbols = new Set<Expr>(p.symbols);
  const blocks = new Set<Expr>(["bx", "by", "bz"].map((name, i) => intVar(name, 0, Math.max(0, rangeOf(p.grid[i]!).max - 1))));

  const names = [...p.tiles.map((t) => t.name), ...p.params.map((q) => q.name), ...p.symbols.map((s) => s.name)];
  for (const name of new Set(names.filter((n, i) => names.indexOf(n) !== i || RESERVED.has(n))))
    report("the header", `the name ${name} is taken twice or reserved`);
  if (![...p.groups, p.groupWarps ?? 1].every((g) => Number.isInteger(g) && g > 0))
    report("the header", `groups are [${p.groups.join(", ")}] of ${p.groupWarps ?? 1} warps`);

  const expression = (e: Expr, place: Place, vars: ReadonlySet<Expr>, where: string): void =>
    walk(e, (x) => {
      if (x.op === "var" && !vars.has(x) && !(place.domain && coordinates(place.domain).includes(x)))
        report(where, `the variable ${rangeText(x)} is not in scope`);
      if (x.op === "load") {
        const q = params.get(x.buffer);
        if (!q) report(where, `the buffer ${x.buffer} is not a parameter`);
        else if (q.dtype !== x.dtype) report(where, `${x.buffer} holds ${q.dtype}, it is read as ${x.dtype}`);
        else if (q.access === "write") report(where, `${x.buffer} is read, it is declared as write`);
        const r = rangeOf(x.index);
        if (!x.guard && r.max < 0) report(where, `${x.buffer} is always read below 0`);
      }
      if (x.op === "elem") element(x, place, where);
      if (x.op === "reg" || x.op === "shuffle") report(where, `${x.op} belongs to Thread IR`);
    });

  const element = (x: Extract<Expr, { op: "elem" }>, place: Place, where: string): void => {
    const t = tiles.get(x.tile);
    if (!t) return void report(where, `the tile ${x.tile} is not declared`);
    if (t.dtype !== x.dtype) report(where, `${t.name} holds ${t.dtype}, it is read as ${x.dtype}`);
    if (!place.domain) return void report(where, `${print(x)}: a tile is read where the value must be the same for the whole block`);
    if (t.scope === "frag") {
      const [row, col] = coordinates(place.domain);
      const ownRow = (t.rows === place.domain.rows && x.row === row) || (t.rows === 1 && t.cols > 1 && isConst(x.row, 0));
      const own = ownRow && (t.cols === 1 ? isConst(x.col, 0) || x.col === col : t.cols === place.domain.cols && x.col === col);
      if (!place.frags) report(where, `${print(x)}: a fragment cannot be read here`);
      else if (!own)
        report(
          where,
          `${print(x)}: a fragment is read only at [row, col], or at [row, 0] when it has one column, or at [0, col] when it has one row`,
        );
    } else if (!place.shared) report(where, `${print(x)}: a shared tile cannot be read here`);
    else {
      const r = rangeOf(x.row),
        c = rangeOf(x.col);
      if (r.min < 0 || r.max >= t.rows || c.min < 0 || c.max >= t.cols)
        report(where, `${print(x)}: rows ${r.min}..${r.max} and columns ${c.min}..${c.max} are not inside ${t.name}[${t.rows}, ${t.cols}]`);
    }
  };

  const view = (v: View, rows: number, cols: number, vars: ReadonlySet<Expr>, where: string): void => {
    for (const e of [v.base, v.rowStride, v.colStride]) expression(e, UNIFORM, vars, where);
    if (v.source === "buffer") {
      const q = params.get(v.name);
      if (!q || q.access === "write") report(where, `${v.name} is not a buffer that can be read`);
      else if (q.dtype !== v.dtype) report(where, `${v.name} holds ${q.dtype}, it is viewed as ${v.dtype}`);
      return;
    }
    const t = tiles.get(v.name);
    if (t?.scope !== "shared") return void report(where, `${v.name} is not a shared tile`);
    if (t.dtype !== v.dtype) report(where, `${v.name} holds ${t.dtype}, it is viewed as ${v.dtype}`);
    const b = rangeOf(v.base),
      r = rangeOf(v.rowStride),
      c = rangeOf(v.colStride);
    const last = b.max + (rows - 1) * r.max + (cols - 1) * c.max;
    if (b.min < 0 || last >= t.rows * t.cols) report(where, `a view of ${v.name} covers elements ${b.min}..${last} of ${t.rows * t.cols}`);
  };

  const declared = (t: Tile, where: string): void => {
    if (tiles.get(t.name) !== t) report(where, `the tile ${t.name} is not declared`);
  };

  const statement = (s: Stmt, vars: ReadonlySet<Expr>, loops: ReadonlySet<string>): void => {
    const where = head(s);
    const typed = (e: Expr, dtype: string, what: string): void => {
      if (e.dtype !== dtype) report(where, `${what} is ${e.dtype}, not ${dtype}`);
    };
    const scope = (t: Tile, wanted: Tile["scope"]): void => {
      declared(t, where);
      if (t.scope !== wanted) report(where, `${t.name} is ${t.scope}, not ${wanted}`);
    };
    switch (s.op) {
      case "for": {
        if (RESERVED.has(s.var.name) || loops.has(s.var.name) || names.includes(s.var.name))
          report(where, `the name ${s.var.name} is taken`);
        typed(s.count, "i32", "the count");
        expression(s.count, UNIFORM, vars, where);
        if (s.var.min > 0 || s.var.max < rangeOf(s.count).max - 1)
          report(where, `${rangeText(s.var)} does not cover the count ${print(s.count)}`);
        const inner = new Set([...vars, s.var]);
        for (const x of s.body) statement(x, inner, new Set([...loops, s.var.name]));
        return;
      }
      case "if":
        typed(s.cond, "bool", "the condition");
        expression(s.cond, UNIFORM, vars, where);
        for (const x of [...s.body, ...s.otherwise]) statement(x, vars, loops);
        return;
      case "fill":
        return void declared(s.dst, where);
      case "load":
        scope(s.dst, "shared");
        typed(s.value, s.dst.dtype, "the value");
        walk(s.value, (x) => {
          if (x.op === "elem" && x.tile === s.dst.name) report(where, `load reads the tile that it writes`);
        });
        return void expression(s.value, { domain: s.dst, frags: false, shared: true }, vars, where);
      case "stage":
        scope(s.dst, "shared");
        scope(s.src, "frag");
        if (s.dst.rows !== s.src.rows || s.dst.cols !== s.src.cols) report(where, "the shapes differ");
        return;
      case "map":
        scope(s.dst, "frag");
        typed(s.value, s.dst.dtype, "the value");
        return void expression(s.value, { domain: s.dst, frags: true, shared: true }, vars, where);
      case "rowReduce":
        declared(s.dst, where);
        scope(s.src, "frag");
        if (s.dst.scope === "shared" ? s.src.cols % s.dst.cols !== 0 || s.accumulate : s.dst.cols !== 1)
          report(where, "the result is not one column, or in shared memory one for each of equal runs of columns");
        if (s.dst.rows !== s.src.rows || s.dst.dtype !== s.src.dtype) report(where, "the result is not of the source's rows and dtype");
        if (s.rows !== null && (s.dst.scope === "shared" || s.rows < 1 || s.rows > s.src.rows))
          report(where, `the first ${s.rows} rows are none of a fragment of ${s.dst.rows}`);
        return;
      case "scan":
        scope(s.dst, "shared");
        if (s.dst.cols !== 1 || s.dst.dtype !== "f32") report(where, "scan takes f32 [rows, 1]");
        return;
      case "mma": {
        scope(s.acc, "frag");
        if (s.acc.dtype !== "f32") report(where, "mma accumulates in f32");
        for (const e of s.rows ? [s.k, s.rows] : [s.k]) expression(e, UNIFORM, vars, where);
        const k = rangeOf(s.k).max;
        view(s.a, Math.min(s.acc.rows, s.rows ? rangeOf(s.rows).max : Infinity), k, vars, where);
        view(s.b, k, s.acc.cols, vars, where);
        return;
      }
      case "store": {
        declared(s.over, where);
        const q = params.get(s.buffer);
        if (!q || q.access === "read") report(where, `${s.buffer} is not a buffer that can be written`);
        else if (q.dtype !== s.dtype) report(where, `${s.buffer} holds ${q.dtype}, it is written as ${s.dtype}`);
        typed(s.value, s.dtype, "the value");
        typed(s.index, "i32", "the index");
        const place: Place = { domain: s.over, frags: s.over.scope === "frag", shared: true };
        for (const e of s.guard ? [s.index, s.value, s.guard] : [s.index, s.value]) expression(e, place, vars, where);
        return;
      }
    }
  };

  for (const g of p.grid) expression(g, UNIFORM, symbols, `grid ${print(g)}`);
  const top = new Set<Expr>([...symbols, ...blocks]);
  for (const s of p.body) statement(s, top, new Set());
  if (problems.length > 0) throw new Error(`tile program ${p.name} is not valid:\n  ${problems.join("\n  ")}`);
}

const rangeText = (v: Var): string => `${v.name} in [${v.min}, ${v.max}]`;
