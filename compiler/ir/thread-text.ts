import type { DType } from "./dtype.ts";
import { intVar, rangeOf, some, walk } from "./expr.ts";
import { print } from "./expr-text.ts";
import type { Expr } from "./expr.ts";
import type { ArrayDecl, RegDecl, Stmt, ThreadProgram } from "./thread.ts";
import type { Param, View } from "./tile.ts";

// ---- print ----------------------------------------------------------------------------------------------------------

/** Stable text of a program: the same program always prints the same. */
export function printThread(p: ThreadProgram): string {
  const lines = [
    `thread ${p.name}`,
    ...p.params.map((q) => `  param ${q.name}: ${q.access} ${q.dtype}${q.constant ? " constant" : ""}${q.alone ? " alone" : ""}`),
    ...p.symbols.map((s) => `  symbol ${s.name} in [${s.min}, ${s.max}]`),
    `  grid [${p.grid.map(print).join(", ")}]`,
    `  threads ${p.threads} lanes ${p.lanes}`,
    ...p.shared.map((d) => `  shared ${d.name}: ${d.dtype}[${d.count}]${d.turned === undefined ? "" : ` turned ${d.turned}`}`),
    ...p.regs.map((d) => `  reg ${d.name}: ${d.dtype}[${d.count}]${d.uniform ? " uniform" : ""}`),
  ];
  const block = (body: readonly Stmt[], indent: string): void => {
    for (const s of body) {
      lines.push(indent + threadHead(s));
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

const where = (guard: Expr | null): string => (guard ? ` if ${print(guard)}` : "");
const printView = (v: View): string => `${v.name}<${print(v.base)}; ${print(v.rowStride)}, ${print(v.colStride)}>`;
const from = (index: Expr, width: number): string => `${print(index)} .. +${width}`;

/** One statement without what is nested in it; also names a statement in errors. */
export function threadHead(s: Stmt): string {
  switch (s.op) {
    case "assign":
      return `${s.reg}.${print(s.index)} = ${print(s.value)}`;
    case "store":
      return `${s.buffer}[${print(s.index)}] = ${print(s.value)}${where(s.guard)}`;
    case "loadVec":
      return `${s.reg}.${from(s.index, s.width)} = ${s.buffer}[${from(s.at, s.width)}]${where(s.guard)}`;
    case "storeVec":
      return `${s.buffer}[${from(s.at, s.width)}] = ${s.reg}.${from(s.index, s.width)}${where(s.guard)}`;
    case "barrier":
      return "barrier";
    case "asyncCopy":
      return `async ${s.dst}[${from(s.dstAt, s.width)}] = ${s.src}[${from(s.srcAt, s.width)}]${where(s.guard)}`;
    case "asyncWait":
      return `wait ${s.pending}`;
    case "unitWait":
      return `wait for products ${s.pending}${s.done.length === 0 ? "" : `, done ${s.done.join(", ")}`}`;
    case "unit":
      return (
        `${s.unit} ${s.acc}[${s.fm} x ${s.fn}] += ${printView(s.a)} * ${printView(s.b)}, at [${print(s.rowBase)}, ${print(s.colBase)}]` +
        `, k ${print(s.k)}${s.rows ? `, rows ${print(s.rows)}` : ""}`
      );
    case "laneReduce":
      return `${s.reg}.${print(s.index)} = ${s.fn} over lanes ^[${s.masks.join(", ")}] of ${print(s.value)}`;
    case "for":
      return `for ${s.var.name} < ${print(s.count)}${s.unroll ? " unroll" : ""}`;
    case "if":
      return `if ${print(s.cond)}`;
  }
}

// ---- verify ---------------------------------------------------------------------------------------------------------

/** What the rules need to know of the program around a statement. */
interface Scope {
  readonly vars: ReadonlySet<Expr>;
  /** Inside an `if` that lanes may decide differently. */
  readonly divergent: boolean;
}

interface Names {
  readonly params: ReadonlyMap<string, Param>;
  readonly shared: ReadonlyMap<string, ArrayDecl>;
  readonly regs: ReadonlyMap<string, RegDecl>;
}

type Report = (where: string, message: string) => void;

/** Throws an error that lists every rule of the language that a program breaks (see thread.ts), each with its statement. */
export function verifyThread(p: ThreadProgram): void {
  const problems: string[] = [];
  const report: Report = (where, message) =>
    void problems.push(`${message}\n    in: ${where.length > 240 ? `${where.slice(0, 240)} ...` : where}`);
  const names: Names = {
    params: new Map(p.params.map((q) => [q.name, q])),
    shared: new Map(p.shared.map((d) => [d.name, d])),
    regs: new Map(p.regs.map((d) => [d.name, d])),
  };
  const all = [...p.params, ...p.symbols, ...p.shared, ...p.regs].map((x) => x.name);
  for (const name of new Set(all.filter((n, i) => all.indexOf(n) !== i || ["tid", "bx", "by", "bz"].includes(n))))
    report("the header", `the name ${name} is taken twice or reserved`);
  if (p.threads % p.lanes !== 0) report("the header", `${p.threads} threads are not whole warps of ${p.lanes}`);
  for (const d of [...p.shared, ...p.regs]) if (!(d.count > 0)) report("the header", `${d.name} has ${d.count} elements`);

  const blocks = ["bx", "by", "bz"].map((name, i) => intVar(name, 0, Math.max(0, rangeOf(p.grid[i]!).max - 1)));
  const symbols = new Set<Expr>(p.symbols);
  for (const g of p.grid)
    if (some(g, (x) => x.op === "load" || x.op === "reg" || x.op === "shuffle" || (x.op === "var" && !symbols.has(x))))
      report(`grid ${print(g)}`, "the grid depends on more than the symbols");
  const top: Scope = { vars: new Set<Expr>([...symbols, ...blocks, intVar("tid", 0, p.threads - 1)]), divergent: false };
  statements(p.body, top, p, names, report);
  if (problems.length > 0) throw new Error(`thread program ${p.name} is not valid:\n  ${problems.join("\n  ")}`);
}

/** Whether lanes may have different values of an expression. */
const varies = (e: Expr, names: Names): boolean =>
  some(e, (x) => (x.op === "var" && x.name === "tid") || x.op === "shuffle" || (x.op === "reg" && !names.regs.get(x.name)?.uniform));

function statements(body: readonly Stmt[], scope: Scope, p: ThreadProgram, names: Names, report: Report): void {
  for (const s of body) statement(s, scope, p, names, report);
}

function statement(s: Stmt, scope: Scope, p: ThreadProgram, names: Names, report: Report): void {
  const where = threadHead(s);
  const expressions = (...es: readonly (Expr | null)[]): void => {
    for (const e of es) if (e) expression(e, scope, names, where, report);
  };
  const typed = (e: Expr, dtype: DType, what: string): void => {
    if (e.dtype !== dtype) report(where, `${what} is ${e.dtype}, it should be ${dtype}`);
  };
  const conditions = (...es: readonly (Expr | null)[]): void => {
    for (const e of es) if (e) typed(e, "bool", "a condition");
  };
  const uniform = (e: Expr, what: string): void => {
    if (varies(e, names)) report(where, `${what} may differ between lanes`);
  };
  const together = (): void => {
    if (scope.divergent) report(where, `a ${s.op} under a condition that may differ between lanes`);
  };
  const register = (name: string, dtype: DType | null, index: Expr, width: number): RegDecl | undefined => {
    const d = names.regs.get(name);
    if (!d) report(where, `${name} is not a register array`);
    else {
      if (dtype && d.dtype !== dtype) report(where, `${name} holds ${d.dtype}, it is used as ${dtype}`);
      inRange(index, d.count, name, width, where, report);
    }
    return d;
  };
  const memory = (name: string, dtype: DType, use: "read" | "write"): void => {
    const d = names.shared.get(name) ?? names.params.get(name);
    if (!d) return void report(where, `${name} is neither a parameter nor a shared array`);
    if (d.dtype !== dtype) report(where, `${name} holds ${d.dtype}, it is used as ${dtype}`);
    if ("access" in d && d.access !== "readwrite" && d.access !== use)
      report(where, `${name} is ${use === "read" ? "read" : "written"}, it is declared as ${d.access}`);
  };
  switch (s.op) {
    case "assign": {
      expressions(s.index, s.value);
      const d = register(s.reg, s.value.dtype, s.index, 1);
      if (d?.uniform) {
        uniform(s.value, "the value of a uniform register");
        uniform(s.index, "the index of a uniform register");
        together();
      }
      return;
    }
    case "store":
      expressions(s.index, s.value, s.guard);
      conditions(s.guard);
      memory(s.buffer, s.dtype, "write");
      typed(s.value, s.dtype, "the value");
      typed(s.index, "i32", "the index");
      inShared(s.buffer, s.index, 1, names, where, report);
      return;
    case "loadVec":
    case "storeVec":
      expressions(s.index, s.at, s.guard);
      conditions(s.guard);
      memory(s.buffer, s.dtype, s.op === "loadVec" ? "read" : "write");
      register(s.reg, s.dtype, s.index, s.width);
      inShared(s.buffer, s.at, s.width, names, where, report);
      return;
    case "barrier":
      together();
      return;
    case "asyncCopy":
      expressions(s.dstAt, s.srcAt, s.guard);
      conditions(s.guard);
      memory(s.src, s.dtype, "read");
      memory(s.dst, s.dtype, "write");
      if (!names.shared.has(s.dst)) report(where, `${s.dst} is not a shared array`);
      inShared(s.dst, s.dstAt, s.width, names, where, report);
      return;
    case "asyncWait":
      together();
      return;
    case "unitWait":
      together();
      for (const name of s.done) if (names.regs.get(name)?.dtype !== "f32") report(where, `${name} is not a register array of f32`);
      return;
    case "unit": {
      together();
      const d = names.regs.get(s.acc);
      if (d?.dtype !== "f32") report(where, `${s.acc} is not a register array of f32`);
      expressions(s.rowBase, s.colBase, s.k, s.rows);
      for (const e of s.rows ? [s.k, s.rows] : [s.k]) uniform(e, "the size of a matrix product");
      for (const v of [s.a, s.b]) view(v, scope, names, where, memory, uniform, report);
      return;
    }
    case "laneReduce": {
      together();
      expressions(s.index, s.value);
      const d = register(s.reg, s.value.dtype, s.index, 1);
      if (s.masks.some((m) => !(m > 0 && m < p.lanes))) report(where, `lanes are reached by xor with 1 .. ${p.lanes - 1}`);
      if (d?.uniform && (p.threads !== p.lanes || 2 ** s.masks.length !== p.lanes))
        report(where, `${s.reg} is uniform, the reduction is not over all threads`);
      return;
    }
    case "for":
      expressions(s.count);
      typed(s.count, "i32", "the count");
      uniform(s.count, "the count of a loop");
      if (scope.vars.has(s.var)) report(where, `${s.var.name} is already the variable of an outer loop`);
      if (s.var.min > 0 || s.var.max < rangeOf(s.count).max - 1)
        report(where, `${s.var.name} in [${s.var.min}, ${s.var.max}] is too narrow`);
      statements(s.body, { ...scope, vars: new Set([...scope.vars, s.var]) }, p, names, report);
      return;
    case "if": {
      expressions(s.cond);
      conditions(s.cond);
      const inner: Scope = { ...scope, divergent: scope.divergent || varies(s.cond, names) };
      statements(s.body, inner, p, names, report);
      statements(s.otherwise, inner, p, names, report);
      return;
    }
  }
}

function expression(e: Expr, scope: Scope, names: Names, where: string, report: Report): void {
  walk(e, (x) => {
    if (x.op === "var" && !scope.vars.has(x)) report(where, `the variable ${x.name} in [${x.min}, ${x.max}] is not in scope`);
    if (x.op === "elem") report(where, `${print(x)}: tiles belong to Tile IR`);
    if (x.op === "shuffle" && scope.divergent) report(where, "a shuffle under a condition that may differ between lanes");
    if (x.op === "reg") {
      const d = names.regs.get(x.name);
      if (!d) report(where, `${x.name} is not a register array`);
      else {
        if (d.dtype !== x.dtype) report(where, `${x.name} holds ${d.dtype}, it is read as ${x.dtype}`);
        inRange(x.index, d.count, x.name, 1, where, report);
      }
    }
    if (x.op === "load") {
      const d = names.shared.get(x.buffer) ?? names.params.get(x.buffer);
      if (!d) report(where, `${x.buffer} is neither a parameter nor a shared array`);
      else if (d.dtype !== x.dtype) report(where, `${x.buffer} holds ${d.dtype}, it is read as ${x.dtype}`);
      else if ("access" in d && d.access === "write") report(where, `${x.buffer} is read, it is declared as write`);
      inShared(x.buffer, x.index, 1, names, where, report);
    }
  });
}

function view(
  v: View,
  scope: Scope,
  names: Names,
  where: string,
  memory: (name: string, dtype: DType, use: "read") => void,
  uniform: (e: Expr, what: string) => void,
  report: Report,
): void {
  memory(v.name, v.dtype, "read");
  if (v.source === "tile" && !names.shared.has(v.name)) report(where, `${v.name} is not a shared array`);
  for (const e of [v.base, v.rowStride, v.colStride]) {
    expression(e, scope, names, where, report);
    uniform(e, `where the view of ${v.name} lies`);
  }
}

/** Register arrays are indexed only by what is sure to be inside. */
function inRange(index: Expr, count: number, name: string, width: number, where: string, report: Report): void {
  const r = rangeOf(index);
  if (r.min < 0 || r.max + width > count) report(where, `${name}.${print(index)} covers ${r.min} .. ${r.max + width - 1} of ${count}`);
}

/** Guards and conditions may hold back some lanes, but not all of them always. */
function inShared(buffer: string, index: Expr, width: number, names: Names, where: string, report: Report): void {
  const d = names.shared.get(buffer);
  if (!d) return;
  const r = rangeOf(index);
  if (r.max < 0 || r.min + width > d.count) report(where, `${buffer}[${print(index)}] is always outside of ${d.count} elements`);
}
