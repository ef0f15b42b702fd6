import { walk } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { accessesOf, eachStmt, expressionsOf } from "../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";

/**
 * How many of a program's first statements depend on nothing that other kernels of a program do: they read constant parameters, states that are this kernel's
 * alone, registers and shared memory only, and write no more than the latter three. A kernel may run them while the kernels before it still work. Symbols are written by the driver's
 * own first step, so they count as memory that changes.
 */
export function independentStatements(p: ThreadProgram): number {
  const free = new Set(
    [...p.params.filter((q) => q.alone === true || (q.constant === true && q.access === "read")), ...p.shared].map(({ name }) => name),
  );
  const symbols = new Set<Expr>(p.symbols);
  const first = p.body.findIndex((s) => depends(s, free, symbols));
  return first < 0 ? p.body.length : first;
}

function depends(s: Stmt, free: ReadonlySet<string>, symbols: ReadonlySet<Expr>): boolean {
  let found = false;
  const seen = new Set<Expr>();
  eachStmt([s], (x) => {
    const { reads, writes } = accessesOf(x);
    found ||= [...reads, ...writes].some((name) => !free.has(name));
    for (const e of expressionsOf(x))
      walk(
        e,
        (y) => {
          found ||= symbols.has(y) || (y.op === "load" && !free.has(y.buffer));
        },
        seen,
      );
  });
  return found;
}
