import { print } from "./expr.ts";
import type { Expr } from "./expr.ts";
import type { Stmt, ThreadProgram } from "./thread.ts";
import type { View } from "./tile.ts";

/** Stable text of a program: the same program always prints the same. */
export function printThread(p: ThreadProgram): string {
  const lines = [
    `thread ${p.name}`,
    ...p.params.map((q) => `  param ${q.name}: ${q.access} ${q.dtype}`),
    ...p.symbols.map((s) => `  symbol ${s.name} in [${s.min}, ${s.max}]`),
    `  grid [${p.grid.map(print).join(", ")}]`,
    `  threads ${p.threads} lanes ${p.lanes}`,
    ...p.shared.map((d) => `  shared ${d.name}: ${d.dtype}[${d.count}]`),
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
const view = (v: View): string => `${v.name}<${print(v.base)}; ${print(v.rowStride)}, ${print(v.colStride)}>`;
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
    case "unit":
      return (
        `${s.unit} ${s.acc}[${s.fm} x ${s.fn}] += ${view(s.a)} * ${view(s.b)}, at [${print(s.rowBase)}, ${print(s.colBase)}]` +
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
