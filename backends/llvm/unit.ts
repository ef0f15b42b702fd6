import type { Expr } from "../../compiler/ir/expr.ts";
import { add, i32, isConst, min, mul, rangeOf, sub } from "../../compiler/ir/expr.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import { mustPack } from "./frame.ts";
import type { MicroKernel } from "./micro-kernel.ts";
import { memoryType, microKernel, remainderRows, rowSteps } from "./micro-kernel.ts";
import { packer } from "./pack.ts";
import type { Printer } from "./printer.ts";

type Unit = Extract<Stmt, { op: "unit" }>;

/**
 * A matrix product on the vector units: for each group of columns that the register tile takes at once, all rows, a register tile at a time. The
 * group's part of the right operand stays in the first-level cache while the rows pass over it.
 */
export function printUnit(s: Unit, p: Printer): void {
  const lanes = p.level.lanes;
  if (p.program.threads !== lanes)
    throw new Error(`unit ${s.acc}: a block of ${p.program.threads} threads, but a register has ${lanes} lanes`);
  const rows = limitOf(s);
  const { values, f } = p;
  const body = (): void => {
    for (let c = 0; c < s.fn; c += p.level.block[1]) columns(s, p, c, Math.min(p.level.block[1], s.fn - c), rows);
  };
  if (rangeOf(s.k).min > 0) return void body();
  f.when(f.ins(`icmp sgt i64 ${values.scalar(s.k)}, 0`), body);
}

/** How many unit rows of the fragment are wanted. */
const limitOf = (s: Unit): Expr => (s.rows === null ? i32(s.fm) : min(sub(s.rows, s.rowBase), s.fm));

function columns(s: Unit, p: Printer, c: number, vectors: number, limit: Expr): void {
  const { values, f, module } = p;
  const lanes = p.level.lanes;
  const k = values.scalar(s.k);
  const number = (e: Expr): number | null => (isConst(e) ? e.value : null);
  const firstColumn = add(s.colBase, c * lanes);

  let b = values.address(s.b.name, add(s.b.base, mul(firstColumn, s.b.colStride)));
  let bK = s.b.rowStride;
  let bType = s.b.dtype;
  if (mustPack(s)) {
    const packed = f.ins(`bitcast i8* ${f.ins(`getelementptr inbounds i8, i8* %scratch, i64 ${p.frame.packAt}`)} to float*`);
    const width = vectors * lanes;
    const pack = packer(module, s.b.dtype, width, isConst(s.b.rowStride, 1));
    f.effect(
      `call void ${pack}(float* ${packed}, ${memoryType(s.b.dtype)}* ${b}, i64 ${values.scalar(s.b.rowStride)}, i64 ${values.scalar(s.b.colStride)}, i64 ${k})`,
    );
    [b, bK, bType] = [packed, i32(width), "f32"];
  }

  const kernel = (rows: number): MicroKernel => ({
    rows,
    vectors,
    accStride: s.fn,
    a: s.a.dtype,
    aRow: number(s.a.rowStride),
    aK: number(s.a.colStride),
    b: bType,
    bK: number(bK),
    k: number(s.k),
  });
  const aType = memoryType(s.a.dtype);
  const wide = values.v.F;
  const aBase = values.address(s.a.name, add(s.a.base, mul(s.rowBase, s.a.rowStride)));
  const acc = f.ins(`bitcast float* ${values.address(s.acc, i32(c * lanes))} to ${wide}*`);
  const [aRow, aK, bStep] = [values.scalar(s.a.rowStride), values.scalar(s.a.colStride), values.scalar(bK)];
  const call = (rows: number, at: string): void => {
    const from =
      at === "0" ? aBase : f.ins(`getelementptr inbounds ${aType}, ${aType}* ${aBase}, i64 ${f.ins(`mul nsw i64 ${at}, ${aRow}`)}`);
    const to = at === "0" ? acc : f.ins(`getelementptr inbounds ${wide}, ${wide}* ${acc}, i64 ${f.ins(`mul nsw i64 ${at}, ${s.fn}`)}`);
    const name = microKernel(module, kernel(rows));
    f.effect(
      `call void ${name}(${wide}* ${to}, ${aType}* ${from}, ${memoryType(bType)}* ${b}, i64 ${aRow}, i64 ${aK}, i64 ${bStep}, i64 ${k})`,
    );
  };

  const block = p.level.block[0];
  if (isConst(limit)) {
    const steps = rowSteps(block, limit.value);
    const whole = steps.filter((r) => r === block).length;
    if (whole > 1) f.loop(String(whole * block), block, true, (at) => call(block, at));
    else if (whole === 1) call(block, "0");
    if (steps.length > whole) call(steps.at(-1)!, String(whole * block));
    return;
  }
  // The number of rows is known at run time: whole tiles in a loop, then halves of a tile, each at most once.
  const rows = values.scalar(limit);
  const most = rangeOf(limit).max;
  let at = "0";
  if (most >= block) {
    const whole = f.ins(`sub nsw i64 ${rows}, ${f.ins(`srem i64 ${rows}, ${block}`)}`);
    f.loop(whole, block, rangeOf(limit).min >= block, (i) => call(block, i));
    at = f.ins(`select i1 ${f.ins(`icmp sgt i64 ${whole}, 0`)}, i64 ${whole}, i64 0`);
  }
  for (const r of remainderRows(block)) {
    if (r > most) continue;
    const [then, end] = [f.label(), f.label()];
    const left = f.ins(`sub nsw i64 ${rows}, ${at}`);
    const before = f.block;
    f.branch(f.ins(`icmp sge i64 ${left}, ${r}`), then, end);
    f.start(then);
    call(r, at);
    const next = f.ins(`add nsw i64 ${at}, ${r}`);
    f.jump(end);
    f.start(end);
    at = f.ins(`phi i64 [ ${at}, %${before} ], [ ${next}, %${then} ]`);
  }
}
