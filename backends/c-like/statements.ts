import type { DType } from "../../compiler/ir/dtype.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import { add, load } from "../../compiler/ir/expr.ts";
import { eachStmt } from "../../compiler/ir/thread-walk.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import type { ReduceFn } from "../../compiler/ir/tile.ts";
import type { Block } from "../text/block.ts";
import { block, close, line } from "../text/block.ts";
import { writeFma } from "../text/fma.ts";
import { forget } from "../text/names.ts";
import { variableName } from "../text/writer.ts";
import { assigned, guarded, loadVector, pointerTo, storeElement, storeVector } from "./access.ts";
import { valueType } from "./dialect.ts";
import type { Kernel, Unit } from "./kernel.ts";

export function printBody(body: readonly Stmt[], b: Block, k: Kernel): void {
  for (const [i, s] of body.entries()) {
    k.around(s, body.slice(0, i), b, () => {
      printStmt(s, b, k);
    });
    forget(b);
  }
}

function printStmt(s: Stmt, b: Block, k: Kernel): void {
  switch (s.op) {
    case "assign": {
      const value = k.value(assigned(s.reg, s.value, k), b);
      line(b, `${k.register(s.reg, s.index, b)} = ${value};`);
      return;
    }
    case "store":
      guarded(s.guard, b, k, (inner) => {
        storeElement(k.places.get(s.buffer)!, s.index, s.value, inner, k);
      });
      return;
    case "loadVec":
      return void loadVector(s, b, k);
    case "storeVec":
      return void storeVector(s, b, k);
    case "barrier":
      return void line(b, k.dialect.barrier);
    case "asyncCopy":
      return void startCopy(s, b, k);
    case "asyncWait":
      for (const text of k.dialect.copies?.wait(s.pending) ?? []) line(b, text);
      return;
    case "unit":
      return void printUnit(s, b, k);
    case "unitWait":
      return void k.waitForProducts(s, b);
    case "laneReduce":
      return void reduceLanes(s, b, k);
    case "for": {
      const inner = block(b, false, s.var);
      printBody(s.body, inner, k);
      k.loop(inner, variableName(s.var.name), s.count, s.unroll ? "out" : multiplies(s) ? "loop" : "any");
      return;
    }
    case "if":
      return void printIf(s, b, k);
  }
}

/** Whether tiles are multiplied in it: written out, a few such turns would keep the operands of all of them in registers, more than there are. */
function multiplies(s: Stmt): boolean {
  let found = false;
  eachStmt([s], (x) => {
    found ||= x.op === "unit";
  });
  return found;
}

function printIf(s: Extract<Stmt, { op: "if" }>, b: Block, k: Kernel): void {
  const head = `if (${k.value(s.cond, b)})`;
  const then = block(b),
    otherwise = block(b);
  printBody(s.body, then, k);
  printBody(s.otherwise, otherwise, k);
  if (s.otherwise.length === 0) return void close(then, head);
  close(then, head, "} else {");
  for (const text of otherwise.lines) b.lines.push(text);
  line(b, "}");
}

/** Where lanes multiply, a tile of each is a block of registers; anything else is for the hardware. */
function printUnit(s: Unit, b: Block, k: Kernel): void {
  const unit = k.caps.units.find((u) => u.name === s.unit);
  if (!unit) throw new Error(`${k.dialect.language}: ${k.caps.name} has no unit ${s.unit}`);
  if (unit.name.startsWith("fma")) writeFma(s, unit, b, k);
  else k.product(s, unit, b);
}

/** Where nothing copies by itself, the copy is done when the statement is. */
function startCopy(s: Extract<Stmt, { op: "asyncCopy" }>, b: Block, k: Kernel): void {
  const { copies } = k.dialect;
  const [to, from] = [k.places.get(s.dst)!, k.places.get(s.src)!];
  if (copies === null) {
    for (let i = 0; i < s.width; i++) storeElement(to, add(s.dstAt, i), load(s.src, s.dtype, add(s.srcAt, i), s.guard), b, k);
    return;
  }
  const bytes = s.width * BYTES[s.dtype];
  const ends = `${pointerTo(to, s.dstAt, b, k)}, ${pointerTo(from, s.srcAt, b, k)}`;
  if (s.guard === null) line(b, `${k.help(copies.start(bytes))}(${ends});`);
  else line(b, `${k.help(copies.startWhere(bytes))}(${ends}, ${k.value(s.guard, b)});`);
}

function combine(fn: ReduceFn, dtype: DType, a: string, b: string, k: Kernel): string {
  if (fn === "sum") return `${a} + ${b}`;
  return k.call(dtype === "i32" ? `${fn}_i32` : fn, a, b);
}

function reduceLanes(s: Extract<Stmt, { op: "laneReduce" }>, b: Block, k: Kernel): void {
  const { dtype } = k.registers.get(s.reg)!;
  const type = valueType(dtype);
  let x = k.fresh("x");
  line(b, `const ${type} ${x} = ${k.value(s.value, b)};`);
  for (const mask of s.masks) {
    const next = k.fresh("x");
    line(b, `const ${type} ${next} = ${combine(s.fn, dtype, x, k.dialect.shuffle(x, mask), k)};`);
    x = next;
  }
  line(b, `${k.register(s.reg, s.index, b)} = ${x};`);
}
