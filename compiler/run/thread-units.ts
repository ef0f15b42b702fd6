import type { MatrixUnit } from "../backend.ts";
import { roundFraction } from "../ir/dtype.ts";
import { i32, isConst } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import type { Stmt } from "../ir/thread.ts";
import type { View } from "../ir/tile.ts";
import type { Compiled } from "./eval.ts";
import { find, missing } from "./thread-machine.ts";
import type { Machine, Product, Run } from "./thread-machine.ts";
import type { Memory } from "./thread-memory.ts";

/** coord of every lane and element, as numbers. */
function unitTable(unit: MatrixUnit): readonly (readonly (readonly [row: number, col: number])[])[] {
  const number = (e: Expr): number => {
    if (!isConst(e)) throw new Error(`${unit.name}: a coordinate is not a number`);
    return e.value;
  };
  return Array.from({ length: unit.lanes }, (_, lane) =>
    Array.from({ length: unit.elems }, (_, i) => {
      const [row, col] = unit.coord(i32(lane), i32(i));
      return [number(row), number(col)] as const;
    }),
  );
}

/** As far as races are concerned, a product has read its operands until the moment that it was waited for. */
function finish({ acc, reads }: Product, m: Machine): void {
  acc.products--;
  for (const { lane, memory, at } of reads) {
    m.now.lane = lane;
    memory.hold(at, -1);
    memory.get(at);
  }
}

export function compileUnitWait(s: Extract<Stmt, { op: "unitWait" }>, m: Machine): Run {
  const done = s.done.map((name) => find(m.regs, name));
  return (lanes) => {
    if (lanes.length !== m.p.threads)
      m.report("divergence", "", missing(lanes, m.p.threads), "these threads do not wait for a product that others wait for");
    while (m.products.length > s.pending) finish(m.products.shift()!, m);
    for (const { products, decl } of done)
      if (products > 0) m.report("race", decl.name, [], "a product that was not waited for still adds to it");
  };
}

/** Each lane reads the operands of the results it owns, as far as races are concerned. */
export function compileUnit(s: Extract<Stmt, { op: "unit" }>, m: Machine, compile: (e: Expr) => Compiled): Run {
  const unit = m.caps.units.find((u) => u.name === s.unit);
  if (!unit) throw new Error(`thread program ${m.p.name}: ${m.caps.name} has no unit ${s.unit}`);
  const table = unitTable(unit);
  const { fraction } = unit;
  const operand = (x: number): number => (fraction === undefined ? x : roundFraction(x, fraction));
  const acc = find(m.regs, s.acc);
  const a = compileView(s.a, m, compile),
    b = compileView(s.b, m, compile);
  const k = compile(s.k),
    rows = s.rows ? compile(s.rows) : () => Infinity,
    rowBase = compile(s.rowBase),
    colBase = compile(s.colBase);
  const warp = (first: number, reads: Product["reads"][number][]): void => {
    const read = (memory: Memory, at: number): void => {
      memory.get(at);
      if (unit.asynchronous) reads.push({ lane: m.now.lane, memory, at });
    };
    const parts: { lane: number; row: number; col: number; index: number }[] = [];
    let depth = 0;
    table.forEach((elements, l) => {
      const lane = first + l;
      m.tid.value = lane;
      m.now.lane = lane;
      depth = k();
      const limit = rows(),
        top = rowBase(),
        left = colBase();
      for (let r = 0; r < s.fm; r++)
        for (let c = 0; c < s.fn; c++)
          elements.forEach(([er, ec], i) => {
            const row = top + r * unit.m + er;
            if (row < limit) parts.push({ lane, row, col: left + c * unit.n + ec, index: (r * s.fn + c) * unit.elems + i });
          });
    });
    const at = a(),
      bt = b();
    for (const key of new Set(parts.map((x) => x.row * m.p.threads + x.lane))) {
      m.now.lane = key % m.p.threads;
      const row = Math.floor(key / m.p.threads);
      for (let i = 0; i < depth; i++) read(at.memory, at.address(row, i));
    }
    for (const key of new Set(parts.map((x) => x.col * m.p.threads + x.lane))) {
      m.now.lane = key % m.p.threads;
      const col = Math.floor(key / m.p.threads);
      for (let i = 0; i < depth; i++) read(bt.memory, bt.address(i, col));
    }
    for (const { lane, row, col, index } of parts) {
      let x = acc.get(lane, index);
      for (let i = 0; i < depth; i++) x += operand(at.memory.peek(at.address(row, i))) * operand(bt.memory.peek(bt.address(i, col)));
      acc.set(lane, index, x);
    }
  };
  return (lanes) => {
    if (lanes.length !== m.p.threads)
      m.report("divergence", "", missing(lanes, m.p.threads), "these threads do not take part in a matrix product");
    const before = acc.products;
    acc.products = 0;
    const reads: Product["reads"][number][] = [];
    for (let first = 0; first < m.p.threads; first += unit.lanes) warp(first, reads);
    if (!unit.asynchronous) return;
    acc.products = before + 1;
    for (const { memory, at } of reads) memory.hold(at, 1);
    m.products.push({ acc, reads });
  };
}

/** Fixes the view's base and strides, then gives addresses of its elements. */
function compileView(
  v: View,
  m: Machine,
  compile: (e: Expr) => Compiled,
): () => { readonly memory: Memory; readonly address: (row: number, col: number) => number } {
  const memory = find(m.memory, v.name);
  const base = compile(v.base),
    rowStride = compile(v.rowStride),
    colStride = compile(v.colStride);
  return () => {
    const from = base(),
      down = rowStride(),
      right = colStride();
    return { memory, address: (row, col) => from + row * down + col * right };
  };
}
