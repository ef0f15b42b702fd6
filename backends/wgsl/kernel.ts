import type { Caps } from "../../compiler/backend.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { children, isConst } from "../../compiler/ir/expr.ts";
import { eachStmt, expressionsOf } from "../../compiler/ir/thread-walk.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { Block } from "./block.ts";
import type { Target } from "./caps.ts";
import { parseTarget } from "./caps.ts";
import type { Helpers } from "./math.ts";
import { helpers } from "./math.ts";
import type { Place } from "./memory.ts";
import { placesOf } from "./memory.ts";

/** A kernel being printed: what is known of its program, and what its module needs beside the entry point. */
export interface Kernel {
  readonly program: ThreadProgram;
  readonly caps: Caps;
  readonly target: Target;
  readonly places: ReadonlyMap<string, Place>;
  readonly helpers: Helpers;
  /** Functions and variables of this kernel alone, by name: window accessors, sums over lanes, the memory that lanes exchange values through. */
  readonly declarations: Map<string, string>;
  /** How often an expression occurs, in statements and in other expressions. */
  readonly uses: ReadonlyMap<Expr, number>;
  /** Register arrays that some statement indexes by more than a constant; the others are a variable an element. */
  readonly indexed: ReadonlySet<string>;
  /** Words that each thread has to tell others at a time, of those that talk through workgroup memory; grows as statements are printed. */
  readonly exchange: { slots: number };
  /** Accumulators that are in matrices at the moment. */
  readonly open: Set<string>;
  /** Types of the subgroup matrices, by name. */
  readonly matrices: Map<string, string>;
  /** Words of workgroup memory that those are taken apart in. */
  readonly matrixWords: { count: number };
  fresh(hint: string): string;
  /** The text of an expression, for use at the end of block `b` (values.ts). */
  value(e: Expr, b: Block): string;
  /** The same, where the text is written more than once: a name. */
  once(e: Expr, b: Block): string;
}

export function kernelOf(program: ThreadProgram, caps: Caps, print: (e: Expr, b: Block, k: Kernel, once: boolean) => string): Kernel {
  let next = 0;
  const k: Kernel = {
    program,
    caps,
    target: parseTarget(caps.name),
    places: placesOf(program, caps),
    helpers: helpers(),
    declarations: new Map(),
    uses: countUses(program),
    indexed: indexedRegisters(program),
    exchange: { slots: 0 },
    open: new Set(),
    matrices: new Map(),
    matrixWords: { count: 0 },
    fresh: (hint) => `${hint}${next++}`,
    value: (e, b) => print(e, b, k, false),
    once: (e, b) => print(e, b, k, true),
  };
  return k;
}

function countUses(p: ThreadProgram): ReadonlyMap<Expr, number> {
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

function indexedRegisters(p: ThreadProgram): ReadonlySet<string> {
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
