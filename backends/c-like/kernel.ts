import type { Caps, MatrixUnit } from "../../compiler/backend.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { eachStmt } from "../../compiler/ir/thread-walk.ts";
import type { RegDecl, Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";
import type { Block } from "../text/block.ts";
import { close, line } from "../text/block.ts";
import type { Helpers } from "../text/helpers.ts";
import { helpersOf } from "../text/helpers.ts";
import { writeValue } from "../text/names.ts";
import type { Writer } from "../text/writer.ts";
import { countUses } from "../text/writer.ts";
import type { Dialect, FunctionName, Space } from "./dialect.ts";
import { valueType } from "./dialect.ts";
import { carriersOf, unroundedRegisters } from "./registers.ts";

/** A buffer or shared array. */
export interface Place {
  readonly name: string;
  readonly dtype: DType;
  readonly space: Space;
  /** Too large for caches: a vector of it is loaded past them. */
  readonly streamed: boolean;
  /** Elements of a shared array. */
  readonly count: number;
  /** Elements of its rows, where their vectors are turned (SharedDecl); 0 where they lie in order. */
  readonly turned: number;
}

export type Unit = Extract<Stmt, { op: "unit" }>;
export type UnitWait = Extract<Stmt, { op: "unitWait" }>;

/** A kernel being printed in a dialect. */
export interface Kernel extends Writer {
  readonly dialect: Dialect;
  readonly places: ReadonlyMap<string, Place>;
  readonly registers: ReadonlyMap<string, RegDecl>;
  /** Counters of loops that are written out: numbers, when the assembler sees them. */
  readonly unrolled: ReadonlySet<Expr>;
  /** Register arrays that only carry vectors from memory to memory: they hold the bits as they are. */
  readonly carriers: ReadonlySet<string>;
  /** Register arrays of a 16-bit type whose elements go nowhere but to memory, which rounds them: they hold what is not rounded yet. */
  readonly unrounded: ReadonlySet<string>;
  /** The call of a function, whose text the kernel then brings along where the language lacks it. */
  call(name: FunctionName, ...operands: readonly string[]): string;
  /** The same, of a helper by its name. */
  help(name: string): string;
  readonly helpers: Helpers<string>;
  /** A matrix product by the hardware. */
  product(s: Unit, unit: MatrixUnit, b: Block): void;
  /** Waits for products that go on by themselves. */
  waitForProducts(s: UnitWait, b: Block): void;
  /** Writes a statement by `write`, and what has to be around it. */
  readonly around: Around;
}

/** `before`: the statements of the same body in front of `s`. */
type Around = (s: Stmt, before: readonly Stmt[], b: Block, write: () => void) => void;

/** How the values of a kernel and its accesses to memory are written; the functions are in files that know of kernels. */
export interface Spelling {
  readonly operation: (e: Expr, b: Block, k: Kernel) => string;
  readonly elements: (place: Place, at: Expr, width: number, b: Block, k: Kernel) => readonly string[];
  readonly product: (s: Unit, unit: MatrixUnit, b: Block, k: Kernel) => void;
  /** Of a target that has units which go on by themselves. */
  readonly waitForProducts?: (s: UnitWait, b: Block, k: Kernel) => void;
  /** What has to be written around a statement, of a target whose accumulators are not always in registers. */
  readonly around?: (...of: [...Parameters<Around>, k: Kernel]) => void;
}

/** More than caches next to lanes hold, on any GPU: weights of this size are read once by each block that needs them. */
const STREAMED_BYTES = 256 * 1024;

export function kernelOf(program: ThreadProgram, caps: Caps, dialect: Dialect, spelling: Spelling): Kernel {
  const places = placesOf(program);
  const registers = new Map(program.regs.map((d) => [d.name, d]));
  const taken = new Set([...places.values()].map(({ name }) => name));
  const changed = new Set([...program.params.filter((q) => q.access !== "read"), ...program.shared].map(({ name }) => name));
  const helpers = helpersOf(dialect.helpers);
  const help = (name: string): string => (name in dialect.helpers ? helpers.use(name) : name);
  let next = 0;
  const fresh = (hint: string): string => {
    const name = `${hint}${next++}`;
    return taken.has(name) ? fresh(hint) : name;
  };
  const k: Kernel = {
    program,
    caps,
    dialect,
    places,
    registers,
    unrolled: unrolledCounters(program),
    carriers: carriersOf(program),
    unrounded: unroundedRegisters(program),
    uses: countUses(program),
    indexed: new Set(registers.keys()),
    helpers,
    fresh,
    help,
    call: (name, ...operands) => `${help(dialect.functions[name])}(${operands.join(", ")})`,
    value: (e, b) => writeValue(e, b, k, false),
    once: (e, b) => writeValue(e, b, k, true),
    operation: (e, b) => spelling.operation(e, b, k),
    constant: (name, e, text) => `const ${valueType(e.dtype)} ${name} = ${text};`,
    changes: (buffer) => changed.has(buffer),
    register: (name, index, b) => `r_${name}[${k.value(index, b)}]`,
    elements: (array, at, width, b) => spelling.elements(places.get(array)!, at, width, b, k),
    multiplyAdd: (x, y, sum) => k.call("fma", x, y, sum),
    loop: (inner, counter, count, turns) => {
      const outer = inner.parent!;
      const end = k.value(count, outer);
      if (turns !== "any") line(outer, dialect.unroll[turns]);
      close(inner, `for (int ${counter} = 0; ${counter} < ${end}; ${counter}++)`);
    },
    product: (s, unit, b) => {
      spelling.product(s, unit, b, k);
    },
    waitForProducts: (s, b) => {
      spelling.waitForProducts?.(s, b, k);
    },
    around: (s, before, b, write) => {
      if (spelling.around) spelling.around(s, before, b, write, k);
      else write();
    },
  };
  return k;
}

function placesOf(p: ThreadProgram): ReadonlyMap<string, Place> {
  return new Map<string, Place>([
    ...p.params.map((q): [string, Place] => {
      const constant = q.constant === true && q.access === "read";
      const streamed = constant && (q.elements ?? 0) * BYTES[q.dtype] > STREAMED_BYTES;
      return [q.name, { name: q.name, dtype: q.dtype, space: constant ? "constant" : "device", streamed, count: 0, turned: 0 }];
    }),
    ...p.shared.map((d): [string, Place] => [
      d.name,
      { name: `s_${d.name}`, dtype: d.dtype, space: "shared", streamed: false, count: d.count, turned: d.turned ?? 0 },
    ]),
  ]);
}

function unrolledCounters(p: ThreadProgram): ReadonlySet<Expr> {
  const found = new Set<Expr>();
  eachStmt(p.body, (s) => {
    if (s.op === "for" && s.unroll) found.add(s.var);
  });
  return found;
}
