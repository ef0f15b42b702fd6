import type { Caps } from "../../compiler/backend.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { children, isConst } from "../../compiler/ir/expr.ts";
import { eachStmt, expressionsOf } from "../../compiler/ir/thread-walk.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { Block } from "./block.ts";

/**
 * How a compiler is to treat a loop. "out": write it out (registers are numbered by its counter, or it is short and loads in it are to be on their way at
 * once); "any": as it likes; "loop": leave it as it is; "product": what is fastest for a step of a product on registers.
 */
export type Turns = "out" | "any" | "loop" | "product";

/** A kernel being written as text: what is known of its program, and how its language spells things. */
export interface Writer {
  readonly program: ThreadProgram;
  readonly caps: Caps;
  /** How often an expression occurs, in statements and in other expressions. */
  readonly uses: ReadonlyMap<Expr, number>;
  /** Register arrays that have numbered elements at run time; of the others each element is a variable. */
  readonly indexed: ReadonlySet<string>;
  fresh(hint: string): string;
  /** The text of an expression, for use at the end of block `b`. */
  value(e: Expr, b: Block): string;
  /** The same, where the text is written more than once: a name. */
  once(e: Expr, b: Block): string;
  /** The text of an operation, its operands written by `value`. */
  operation(e: Expr, b: Block): string;
  /** A statement that gives a value a name. */
  constant(name: string, e: Expr, text: string): string;
  /** Whether the kernel changes a buffer or shared array. */
  changes(buffer: string): boolean;
  register(name: string, index: Expr, b: Block): string;
  /** Texts of `width` f32 elements of a shared array from `at` on, which is a multiple of `width`. */
  elements(array: string, at: Expr, width: number, b: Block): readonly string[];
  /** x * y + sum, rounded once. */
  multiplyAdd(x: string, y: string, sum: string): string;
  /** Writes a loop around what was written in `inner`. */
  loop(inner: Block, counter: string, count: Expr, turns: Turns): void;
}

/** Names of variables that a program's own cannot clash with. */
export const variableName = (name: string): string => (["tid", "bx", "by", "bz", "warp"].includes(name) ? name : `v_${name}`);

export function countUses(p: ThreadProgram): ReadonlyMap<Expr, number> {
  const uses = new Map<Expr, number>();
  const visit = (e: Expr): void => {
    const n = uses.get(e) ?? 0;
    uses.set(e, n + 1);
    if (n === 0) for (const c of children(e)) visit(c);
  };
  eachStmt(p.body, (s) => {
    for (const e of expressionsOf(s)) visit(e);
  });
  return uses;
}

/** Register arrays that some statement indexes by more than a constant. */
export function indexedRegisters(p: ThreadProgram): ReadonlySet<string> {
  const found = new Set<string>();
  const seen = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.op === "reg" && !isConst(e.index)) found.add(e.name);
    for (const c of children(e)) visit(c);
  };
  eachStmt(p.body, (s) => {
    if ((s.op === "assign" || s.op === "laneReduce" || s.op === "loadVec" || s.op === "storeVec") && !isConst(s.index)) found.add(s.reg);
    for (const e of expressionsOf(s)) visit(e);
  });
  return found;
}
