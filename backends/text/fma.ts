import type { MatrixUnit } from "../../compiler/backend.ts";
import { add, constant, i32, idiv, intVar, isConst, load, lt, mod, mul } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import type { View } from "../../compiler/ir/tile.ts";
import { laneGrid } from "../units.ts";
import type { Block } from "./block.ts";
import { block, close, line } from "./block.ts";
import type { Writer } from "./writer.ts";
import { variableName } from "./writer.ts";

type Unit = Extract<Stmt, { op: "unit" }>;

/**
 * A product on registers (fmaTile): four k at a time, a lane reads its rows of `a`, then one of its columns of `b` after the other, and adds their products
 * up. Where an operand lies along k it reads vectors.
 */
export function writeFma(s: Unit, unit: MatrixUnit, b: Block, w: Writer): void {
  const [down, across] = unit.block;
  const [rows, cols] = laneGrid(unit.lanes);
  const lane = mod(intVar("tid", 0, w.program.threads - 1), unit.lanes);
  const left = operand(s.a, add(s.rowBase, idiv(lane, cols)), "rows");
  const right = operand(s.b, add(s.colBase, mod(lane, cols)), "cols");
  const steps = idiv(s.k, unit.k);
  const loops = w.indexed.has(s.acc);
  each(s.fm, "r", loops, b, w, (r, outer) => {
    const wanted = s.rows === null ? constant(1, "bool") : lt(add(s.rowBase, mul(r, unit.m)), s.rows);
    const within = isConst(wanted) ? outer : block(outer, true);
    const step = intVar(w.fresh("k"), 0, 2 ** 24);
    const turn = block(within, false, step);
    const lines = Array.from({ length: down }, (_, i) => readLine(left, add(mul(r, unit.m), i * rows), step, unit, turn, w));
    each(s.fn, "c", loops, turn, w, (c, inner) => {
      for (let j = 0; j < across; j++) {
        const column = readLine(right, add(mul(c, unit.n), j * cols), step, unit, inner, w);
        for (let i = 0; i < down; i++) {
          const acc = w.register(s.acc, add(mul(add(mul(r, s.fn), c), unit.elems), i * across + j), inner);
          line(inner, `${acc} = ${column.reduce((sum, y, x) => w.multiplyAdd(lines[i]![x]!, y, sum), acc)};`);
        }
      }
    });
    w.loop(turn, variableName(step.name), steps, "product");
    if (within !== outer) close(within, `if (${w.value(wanted, outer)})`);
  });
}

/** Unit tiles one after the other, written out or in a loop. */
function each(count: number, hint: string, loop: boolean, b: Block, w: Writer, body: (i: Expr, inner: Block) => void): void {
  if (!loop || count === 1) {
    for (let i = 0; i < count; i++) body(i32(i), b);
    return;
  }
  const counter = intVar(w.fresh(hint), 0, count - 1);
  const inner = block(b, false, counter);
  body(counter, inner);
  w.loop(inner, variableName(counter.name), i32(count), "out");
}

/** One operand: its lines are rows of `a`, or columns of `b`. */
interface Operand {
  readonly view: View;
  /** Where this lane's first line begins. */
  readonly base: Expr;
  readonly line: Expr;
  readonly k: Expr;
}

function operand(view: View, first: Expr, lines: "rows" | "cols"): Operand {
  const [line, k] = lines === "rows" ? [view.rowStride, view.colStride] : [view.colStride, view.rowStride];
  return { view, base: add(view.base, mul(first, line)), line, k };
}

/** Names of the unit.k elements of one of this lane's lines that begin at step `step`. */
function readLine(o: Operand, index: Expr, step: Expr, unit: MatrixUnit, b: Block, w: Writer): readonly string[] {
  const at = add(add(o.base, mul(o.line, index)), mul(mul(o.k, unit.k), step));
  const along = isConst(o.k, 1) && isConst(mod(o.base, unit.k), 0) && isConst(mod(o.line, unit.k), 0);
  if (along) return w.elements(o.view.name, at, unit.k, b);
  return Array.from({ length: unit.k }, (_, i) => {
    const name = w.fresh("x");
    const index = add(at, mul(o.k, i));
    line(b, w.constant(name, load(o.view.name, "f32", index), w.elements(o.view.name, index, 1, b)[0]!));
    return name;
  });
}
