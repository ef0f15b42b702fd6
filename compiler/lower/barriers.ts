import type { Expr, Var } from "../ir/expr.ts";
import { rangeOf, walk } from "../ir/expr.ts";
import { accessesOf, eachStmt, expressionsOf } from "../ir/thread-walk.ts";
import type { Stmt } from "../ir/thread.ts";

/** A lowered program on its way to Thread IR: its statements in pieces within which no lane depends on another. */
export type Piece =
  /** `apart`: what it reads of these, nobody writes before lanes meet for another reason. */
  | { readonly op: "piece"; readonly body: readonly Stmt[]; readonly apart?: ReadonlySet<string> }
  /** Lanes meet here for a reason that the tracked memory does not show. */
  | { readonly op: "barrier" }
  | { readonly op: "for"; readonly var: Var; readonly count: Expr; readonly body: readonly Piece[] }
  | { readonly op: "if"; readonly cond: Expr; readonly body: readonly Piece[]; readonly otherwise: readonly Piece[] };

/** What lanes of the block may have read and written since they last met. */
interface Pending {
  readonly reads: ReadonlySet<string>;
  readonly writes: ReadonlySet<string>;
}
const NOTHING: Pending = { reads: new Set(), writes: new Set() };

const union = (a: ReadonlySet<string>, b: ReadonlySet<string>): ReadonlySet<string> => (b.size === 0 ? a : new Set([...a, ...b]));
const join = (a: Pending, b: Pending): Pending => ({ reads: union(a.reads, b.reads), writes: union(a.writes, b.writes) });
const meets = (a: ReadonlySet<string>, b: ReadonlySet<string>): boolean => [...a].some((x) => b.has(x));

/** Memory that lanes share and that the program writes. Of a global buffer two writes in a row are not a hazard: no two lanes write one element. */
export interface Tracked {
  readonly shared: ReadonlySet<string>;
  readonly global: ReadonlySet<string>;
}

/**
 * Joins the pieces, with a barrier before every piece that reads what was written, or writes what was read or written, since the last one.
 * Whole arrays are tracked, not elements; a loop is entered with what its own end leaves pending as well, so a hazard carried round the back edge
 * gets its barrier inside.
 */
export function insertBarriers(pieces: readonly Piece[], tracked: Tracked): readonly Stmt[] {
  return flow(pieces, NOTHING, tracked).body;
}

function flow(pieces: readonly Piece[], start: Pending, tracked: Tracked): { body: Stmt[]; end: Pending } {
  const body: Stmt[] = [];
  let now = start;
  const meet = (touched: Pending): void => {
    const again = [...touched.writes].some((x) => tracked.shared.has(x) && now.writes.has(x));
    if (again || meets(touched.reads, now.writes) || meets(touched.writes, now.reads)) {
      body.push({ op: "barrier" });
      now = NOTHING;
    }
    now = join(now, touched);
  };
  for (const p of pieces) {
    switch (p.op) {
      case "piece":
        meet(touches(p.body, tracked, p.apart));
        body.push(...p.body);
        break;
      case "barrier":
        body.push({ op: "barrier" });
        now = NOTHING;
        break;
      case "for": {
        meet({ reads: readsOf(p.count, tracked), writes: new Set() });
        let entry = now;
        let inner = flow(p.body, entry, tracked);
        for (;;) {
          const wider = join(entry, inner.end);
          if (wider.reads.size === entry.reads.size && wider.writes.size === entry.writes.size) break;
          entry = wider;
          inner = flow(p.body, entry, tracked);
        }
        body.push({ op: "for", var: p.var, count: p.count, unroll: false, body: inner.body });
        now = rangeOf(p.count).min >= 1 ? inner.end : join(now, inner.end);
        break;
      }
      case "if": {
        meet({ reads: readsOf(p.cond, tracked), writes: new Set() });
        const yes = flow(p.body, now, tracked);
        const no = flow(p.otherwise, now, tracked);
        body.push({ op: "if", cond: p.cond, body: yes.body, otherwise: no.body });
        now = join(yes.end, no.end);
        break;
      }
    }
  }
  return { body, end: now };
}

const isTracked = (name: string, tracked: Tracked): boolean => tracked.shared.has(name) || tracked.global.has(name);

function readsOf(e: Expr, tracked: Tracked, into: Set<string> = new Set()): Set<string> {
  walk(e, (x) => {
    if (x.op === "load" && isTracked(x.buffer, tracked)) into.add(x.buffer);
  });
  return into;
}

/** The tracked memory that statements without barriers read and write, but for reads of what is `apart`. */
function touches(body: readonly Stmt[], tracked: Tracked, apart: ReadonlySet<string> = new Set()): Pending {
  const reads = new Set<string>();
  const writes = new Set<string>();
  eachStmt(body, (s) => {
    const named = accessesOf(s);
    for (const n of named.reads) if (isTracked(n, tracked) && !apart.has(n)) reads.add(n);
    for (const n of named.writes) if (isTracked(n, tracked)) writes.add(n);
    for (const e of expressionsOf(s)) readsOf(e, tracked, reads);
  });
  return { reads, writes };
}
