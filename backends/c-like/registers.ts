import type { DType } from "../../compiler/ir/dtype.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import { isConst, mod, walk } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { eachStmt, expressionsOf } from "../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";

/** What is known of register arrays, beyond how they are declared. */

const isMultiple = (e: Expr, n: number): boolean => isConst(mod(e, n), 0);

function readBy(es: readonly Expr[], found: Set<string>): void {
  const seen = new Set<Expr>();
  for (const e of es)
    walk(
      e,
      (x) => {
        if (x.op === "reg") found.add(x.name);
      },
      seen,
    );
}

/** Arrays of elements smaller than a word that are loaded and stored as whole words, from the first element of a word on, and in no other way. */
export function carriersOf(p: ThreadProgram): ReadonlySet<string> {
  const dtypes = new Map(p.regs.map((d) => [d.name, d.dtype]));
  const other = new Set<string>();
  eachStmt(p.body, (s) => {
    if (s.op === "unit") other.add(s.acc);
    if (s.op === "assign" || s.op === "laneReduce") other.add(s.reg);
    readBy(expressionsOf(s), other);
    if (s.op !== "loadVec" && s.op !== "storeVec") return;
    const per = 4 / BYTES[s.dtype];
    if (s.width % per !== 0 || !isMultiple(s.index, per) || dtypes.get(s.reg) !== s.dtype) other.add(s.reg);
  });
  return new Set(p.regs.filter((d) => BYTES[d.dtype] < 4 && !other.has(d.name)).map((d) => d.name));
}

/**
 * Arrays of a 16-bit type whose elements are only stored as such, or copied to other arrays like this: rounding them can wait for the store, and what is on its way
 * from memory then does not have to arrive earlier.
 */
export function unroundedRegisters(p: ThreadProgram): ReadonlySet<string> {
  const found = new Map<string, DType>(p.regs.filter((d) => d.dtype === "bf16" || d.dtype === "f16").map((d) => [d.name, d.dtype]));
  for (let before = -1; before !== found.size;) {
    before = found.size;
    const other = new Set<string>();
    eachStmt(p.body, (s) => {
      if (s.op === "unit") other.add(s.acc);
      else if (s.op === "storeVec" && found.get(s.reg) !== s.dtype) other.add(s.reg);
      readBy(
        expressionsOf(s).map((e) => (isCopy(e, s, found) ? e.index : e)),
        other,
      );
    });
    for (const name of other) found.delete(name);
  }
  return new Set(found.keys());
}

/** Whether an expression of a statement is a register that goes to memory, or to another array that does, as it is. */
const isCopy = (e: Expr, s: Stmt, found: ReadonlyMap<string, DType>): e is Extract<Expr, { op: "reg" }> =>
  e.op === "reg" &&
  ((s.op === "assign" && e === s.value && found.get(s.reg) === e.dtype) || (s.op === "store" && e === s.value && s.dtype === e.dtype));
