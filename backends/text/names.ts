import type { Expr } from "../../compiler/ir/expr.ts";
import { children, isConst } from "../../compiler/ir/expr.ts";
import type { Block } from "./block.ts";
import { line } from "./block.ts";
import type { Writer } from "./writer.ts";

/**
 * The text of an expression, for use at the end of block `b`; `once`: a name, since it is written more than once. Parts that occur several times, in this or another statement, get a name the first time:
 * arithmetic on variables in the outermost block that has them, what loads memory that the kernel does not write in this one, and what reads
 * memory or registers that change for the present statement only.
 */
export function writeValue(e: Expr, b: Block, w: Writer, once: boolean): string {
  const known = nameOf(e, b);
  if (known !== null) return known;
  const text = w.operation(e, b);
  return !isTrivial(e) && (once || (w.uses.get(e) ?? 0) > 1) ? named(e, text, b, w) : text;
}

const isTrivial = (e: Expr): boolean => e.op === "const" || e.op === "var" || (e.op === "reg" && isConst(e.index));

/** Forgets what the statement that was just written may have changed. */
export const forget = (b: Block): void => {
  b.momentary.clear();
};

function nameOf(e: Expr, b: Block): string | null {
  let inStatement = true;
  for (let at: Block | null = b; at !== null; at = at.parent) {
    const name = at.known.get(e) ?? (inStatement ? at.momentary.get(e) : undefined);
    if (name !== undefined) return name;
    if (!at.partial) inStatement = false;
  }
  return null;
}

/** Writes the value down where it holds, and remembers the name. A guarded load has a name already. */
function named(e: Expr, text: string, b: Block, w: Writer): string {
  const facts = factsOf(e, w);
  if (e.op === "load" && e.guard) {
    (facts.steady ? b.known : b.momentary).set(e, text);
    return text;
  }
  const at = facts.loads || !facts.steady ? b : home(facts.counters, b);
  const name = w.fresh("x");
  line(at, w.constant(name, e, text));
  (facts.steady ? at.known : at.momentary).set(e, name);
  return name;
}

/** The outermost block in which all of `counters` exist. */
function home(counters: ReadonlySet<Expr>, b: Block): Block {
  let at = b;
  while (at.parent !== null && !(at.counter !== null && counters.has(at.counter))) at = at.parent;
  return at;
}

interface Facts {
  /** Nothing that the kernel does changes the value. */
  readonly steady: boolean;
  readonly loads: boolean;
  readonly counters: ReadonlySet<Expr>;
}
const facts = new WeakMap<Writer, Map<Expr, Facts>>();
const NONE: ReadonlySet<Expr> = new Set();

function factsOf(e: Expr, w: Writer): Facts {
  const memo = facts.get(w) ?? new Map<Expr, Facts>();
  facts.set(w, memo);
  const hit = memo.get(e);
  if (hit) return hit;
  let steady = !(e.op === "reg" || e.op === "shuffle" || (e.op === "load" && w.changes(e.buffer)));
  let loads = e.op === "load";
  let counters: ReadonlySet<Expr> = e.op === "var" ? new Set([e]) : NONE;
  for (const c of children(e)) {
    const f = factsOf(c, w);
    steady &&= f.steady;
    loads ||= f.loads;
    if (f.counters.size > 0) counters = counters.size === 0 ? f.counters : new Set([...counters, ...f.counters]);
  }
  const found = { steady, loads, counters };
  memo.set(e, found);
  return found;
}
