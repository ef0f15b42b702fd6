import type { DType } from "../../compiler/ir/dtype.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { add, load, some } from "../../compiler/ir/expr.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import { loadElements, storeElement, storeElements } from "./access.ts";
import type { Block } from "../text/block.ts";
import { block, close, line, where } from "../text/block.ts";
import { aroundProducts } from "../text/matrices.ts";
import { forget } from "../text/names.ts";
import { variableName } from "../text/writer.ts";
import type { Kernel } from "./kernel.ts";
import type { LaneReduce } from "./lanes.ts";
import { reduceLanes } from "./lanes.ts";
import { exchangeIn } from "./matrix.ts";
import { printUnit } from "./unit.ts";
import { registerName } from "./values.ts";
import { zeroOf } from "./types.ts";

export function printBody(body: readonly Stmt[], b: Block, k: Kernel): void {
  for (let i = 0; i < body.length;) {
    const s = body[i]!;
    if (s.op === "laneReduce") {
      const run = independent(body, i);
      printReductions(run, b, k);
      i += run.length;
    } else {
      aroundProducts(s, body.slice(0, i), k, exchangeIn(b, k), () => {
        printStmt(s, b, k);
      });
      i++;
    }
    forget(b);
  }
}

const dtypeOf = (reg: string, k: Kernel): DType => k.program.regs.find((d) => d.name === reg)!.dtype;

/** The reductions from `first` on that do not read each other's results. */
function independent(body: readonly Stmt[], first: number): LaneReduce[] {
  const run: LaneReduce[] = [];
  const written = new Set<string>();
  for (let i = first; i < body.length; i++) {
    const s = body[i]!;
    if (s.op !== "laneReduce" || some(s.value, (e) => e.op === "reg" && written.has(e.name))) break;
    run.push(s);
    written.add(s.reg);
  }
  return run;
}

function printReductions(run: readonly LaneReduce[], b: Block, k: Kernel): void {
  const results = reduceLanes(
    run,
    run.map((s) => dtypeOf(s.reg, k)),
    b,
    k,
  );
  for (const [i, s] of run.entries()) line(b, `${registerName(s.reg, s.index, b, k)} = ${results[i]!};`);
}

const guarded = (guard: Expr | null, b: Block, k: Kernel, body: (inner: Block) => void): void => {
  if (guard === null) body(b);
  else where(b, k.value(guard, b), body);
};

function printStmt(s: Exclude<Stmt, LaneReduce>, b: Block, k: Kernel): void {
  switch (s.op) {
    case "assign":
      line(b, `${registerName(s.reg, s.index, b, k)} = ${k.value(s.value, b)};`);
      return;
    case "store": {
      const place = k.places.get(s.buffer)!;
      guarded(s.guard, b, k, (inner) => {
        // the value of a cast to the stored type is what `pack` makes of it
        const x = s.value.op === "cast" && place.per > 1 && place.dtype !== "bool" ? s.value.a : s.value;
        storeElement(place, s.index, k.value(x, inner), inner, k);
      });
      return;
    }
    case "loadVec":
      return void loadVector(s, b, k);
    case "storeVec":
      guarded(s.guard, b, k, (inner) => {
        const values = Array.from({ length: s.width }, (_, i) => registerName(s.reg, add(s.index, i), inner, k));
        storeElements(k.places.get(s.buffer)!, s.at, values, inner, k);
      });
      return;
    case "barrier":
      line(b, "workgroupBarrier();");
      if (readsBack(k)) line(b, "storageBarrier();");
      return;
    case "asyncCopy":
      // there is no hardware for it to reach: the copy is done when the statement is
      for (let i = 0; i < s.width; i++)
        storeElement(k.places.get(s.dst)!, add(s.dstAt, i), k.value(load(s.src, s.dtype, add(s.srcAt, i), s.guard), b), b, k);
      return;
    case "asyncWait":
    case "unitWait":
      return;
    case "unit":
      return void printUnit(s, b, k);
    case "for": {
      const inner = block(b, false, s.var);
      printBody(s.body, inner, k);
      k.loop(inner, variableName(s.var.name), s.count, "any");
      return;
    }
    case "if": {
      const condition = k.value(s.cond, b);
      const then = block(b),
        otherwise = block(b);
      printBody(s.body, then, k);
      printBody(s.otherwise, otherwise, k);
      if (s.otherwise.length === 0) close(then, `if (${condition})`);
      else {
        close(then, `if (${condition})`, "} else {");
        for (const text of otherwise.lines) b.lines.push(text);
        line(b, "}");
      }
      return;
    }
  }
}

function loadVector(s: Extract<Stmt, { op: "loadVec" }>, b: Block, k: Kernel): void {
  const place = k.places.get(s.buffer)!;
  const target = (i: number): string => registerName(s.reg, add(s.index, i), b, k);
  if (s.guard !== null) for (let i = 0; i < s.width; i++) line(b, `${target(i)} = ${zeroOf(s.dtype)};`);
  guarded(s.guard, b, k, (inner) => {
    for (const [i, x] of loadElements(place, s.at, s.width, inner, k).entries()) line(inner, `${target(i)} = ${x};`);
  });
}

/** Whether lanes see what other lanes wrote to a buffer: only then has a barrier to order that memory too. */
const readsBack = (k: Kernel): boolean => k.program.params.some((q) => q.access === "readwrite");
