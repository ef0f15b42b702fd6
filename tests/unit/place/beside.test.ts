import { describe, expect, test } from "vitest";
import { nullBackend } from "../../../backends/null/index.ts";
import type { Caps } from "../../../compiler/backend.ts";
import { add, load, mul, rangeOf } from "../../../compiler/ir/expr.ts";
import { eachStmt } from "../../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { at, tileBuilder, viewOf } from "../../../compiler/ir/tile-builder.ts";
import type { TileProgram } from "../../../compiler/ir/tile.ts";
import { gemmStream } from "../../../compiler/templates/gemm-stream.ts";
import { differences, placed } from "../../support/placed.ts";
import { gemmOf } from "../../support/problems/gemm.ts";

/** Products by units of several warps that share their left operand. */
const caps: Caps = { ...nullBackend.caps("null-groups"), sharedBytes: 227 * 1024 };

type Of<Op extends Stmt["op"]> = Extract<Stmt, { op: Op }>;

const statements = <Op extends Stmt["op"]>(p: ThreadProgram, op: Op): readonly Of<Op>[] => {
  const found: Of<Op>[] = [];
  eachStmt(p.body, (s) => {
    if (s.op === op) found.push(s as Of<Op>);
  });
  return found;
};

/** The accumulators, the columns and the right operands of a program's products, and how many of them a turn leaves under way. */
const productsOf = (p: ThreadProgram): unknown => ({
  products: statements(p, "unit").map(({ acc, fn, b }) => [acc, fn * 8, b.name]),
  pending: statements(p, "unitWait")[0]!.pending,
});

const tile = { kc: 64, stages: 4, groupRows: 1, groupCols: 1, groupWarps: 4 };

describe("two weights of a product", () => {
  const placedWith = (config: typeof tile & { readonly bm: number; readonly bn: number }): ThreadProgram => {
    const c = gemmOf({ m: 100, n: 61, k: 320, weights: 2, a: "bf16", w: "bf16" }, caps);
    return placed(gemmStream.build(c.problem, config, caps), caps);
  };

  test("lie in shared memory slot by slot, one after the other, and so do their copies", () => {
    const thread = placedWith({ ...tile, bm: 64, bn: 16 });
    expect(productsOf(thread)).toEqual({ products: [["acc0", 32, "w0"]], pending: 1 });
    expect(thread.shared).toEqual([
      { name: "a", dtype: "bf16", count: 4 * 64 * 64, turned: 64 },
      { name: "w0", dtype: "bf16", count: 4 * 32 * 64, turned: 64 },
    ]);
    expect(thread.regs.filter(({ name }) => name.startsWith("acc")).map(({ count }) => count)).toEqual([32 / 2]);
    // copies of the two turns before the loop: of either weight into its part of the first slots
    const copies = statements(thread, "asyncCopy").filter(({ dst }) => dst === "w0");
    const targets = copies.map(({ src, dstAt }) => [src, rangeOf(dstAt)] as const);
    const first = targets.slice(0, 4).map(([src, { min, max }]) => [min, max + 8, src] as const);
    const part = 16 * 64;
    expect([...first].sort(([x], [y]) => x - y)).toEqual([0, 1, 2, 3].map((i) => [i * part, (i + 1) * part, `p${3 + (i % 2)}`]));
  });

  test("stay apart where an instruction does not take both, or where their columns are several groups'", () => {
    expect(productsOf(placedWith({ ...tile, bm: 64, bn: 128 }))).toEqual({ products: [["acc0", 256, "w0"]], pending: 1 });
    const two = (columns: number): unknown => ({ products: [["acc0", columns, "w0"], ["acc1", columns, "w1"]], pending: 2 }); // prettier-ignore
    expect(productsOf(placedWith({ ...tile, bm: 64, bn: 136, stages: 3 }))).toEqual(two(136));
    expect(productsOf(placedWith({ ...tile, bm: 64, bn: 32, groupCols: 2 }))).toEqual(two(16));
  });

  test.each([
    { m: 60, n: 13, bm: 64, bn: 16, turns: 0 },
    { m: 100, n: 13, bm: 128, bn: 8, turns: 0 },
    { m: 70, n: 32, bm: 64, bn: 24, turns: 8 },
  ])("come to the same sums, with $bm x $bn", ({ m, n, bm, bn, turns }) => {
    const c = gemmOf({ m, n, k: 320, weights: 2, turns, outs: 2, a: "bf16", w: "bf16" }, caps);
    const program = gemmStream.build(c.problem, { ...tile, bm, bn }, caps);
    const thread = placed(program, caps);
    expect(statements(thread, "unit").map(({ fm, fn }) => [fm * 64, fn * 8])).toEqual([[bm, 2 * bn]]);
    expect(differences(program, thread, caps, c.buffers, c.symbols)).toEqual([]);
  });
});

/** What a turn multiplies: accumulators of so many columns, and the numbers of the operands, left and right. */
type Products = readonly (readonly [columns: number, left: number, right: number])[];

/** Tiles of 64 x `columns` of products by name, in a ring; each of the sums is stored. `rows` of a right operand are at least its columns. */
function streamed(products: Products, rows = 0, after: Products = []): TileProgram {
  const names = (count: number, first: number): { name: string; dtype: "bf16"; access: "read" }[] =>
    Array.from({ length: count }, (_, i) => ({ name: `p${first + i}`, dtype: "bf16", access: "read" }));
  const params = [...names(4, 0), { name: "p4", dtype: "f32", access: "write" } as const];
  const b = tileBuilder({ name: "t", symbols: [], params }, [1, 1, 1], [1, 1], 4);
  const lefts = [...new Set(products.map(([, left]) => left))].map((i) => [i, b.shared(`a${i}`, 64, 64, "bf16")] as const);
  const widest = (right: number): number => Math.max(rows, ...products.filter(([, , r]) => r === right).map(([columns]) => columns));
  const rights = [...new Set(products.map(([, , right]) => right))].map((i) => [i, b.shared(`w${i}`, widest(i), 64, "bf16")] as const);
  const sums = products.map(([columns], i) => b.frag(`acc${i}`, 64, columns));
  for (const acc of sums) b.fill(acc, 0);
  b.loop(
    "step",
    5,
    (step) => {
      for (const [i, t] of [...lefts, ...rights])
        b.load(t, (row, col) => load(`p${i}`, "bf16", add(add(mul(row, 320), mul(step, 64)), col)));
      for (const [i, [, left, right]] of products.entries())
        b.mma(sums[i]!, viewOf(new Map(lefts).get(left)!), viewOf(new Map(rights).get(right)!, { transposed: true }), 64);
    },
    3,
  );
  if (after.length > 0) {
    const [a, w] = [b.shared("more", 64, 64, "bf16"), b.shared("other", after[0]![0], 64, "bf16")];
    for (const t of [a, w]) b.load(t, (row, col) => load("p0", "bf16", add(mul(row, 320), col)));
    for (const i of after.keys()) b.mma(sums[i]!, viewOf(a), viewOf(w, { transposed: true }), 64);
  }
  for (const [i, acc] of sums.entries())
    b.store(acc, {
      buffer: "p4",
      dtype: "f32",
      index: (row, col) => add(add(mul(row, 256), col), i * 64 * 256),
      value: (row, col) => at(acc, row, col),
    });
  return b.build();
}

describe("products that a turn computes one after the other", () => {
  test.each<readonly [string, Products, number, Products, readonly (readonly [acc: string, columns: number])[]]>([
    ["are one as far as their columns are one instruction's", [[96, 0, 1], [96, 0, 2], [96, 0, 3]], 0, [], [["acc0", 192], ["acc2", 96]]],
    ["are one of any number", [[16, 0, 1], [16, 0, 2], [16, 0, 3]], 0, [], [["acc0", 48]]],
    ["are not one with different left operands", [[16, 0, 2], [16, 1, 3]], 0, [], [["acc0", 16], ["acc1", 16]]],
    ["are not one with different columns", [[16, 0, 2], [24, 0, 3]], 0, [], [["acc0", 16], ["acc1", 24]]],
    ["are not one with one right operand", [[16, 0, 2], [16, 0, 2]], 0, [], [["acc0", 16], ["acc1", 16]]],
    ["are not one where rows of the right operand are left out", [[16, 0, 2], [16, 0, 3]], 24, [], [["acc0", 16], ["acc1", 16]]],
    [
      "are not one where something else is added to one of the sums",
      [[16, 0, 2], [16, 0, 3]], 0, [[16, 0, 0]], [["acc0", 16], ["acc1", 16], ["acc0", 16]],
    ],
  ])("%s", (_, products, rows, after, expected) => {
    const program = streamed(products, rows, after);
    const thread = placed(program, caps);
    expect(statements(thread, "unit").map(({ acc, fn }) => [acc, fn * 8])).toEqual(expected);
    const bf16 = (seed: number): Uint16Array => Uint16Array.from({ length: 128 * 320 }, (_, i) => 0x3f00 + ((i * 37 + seed * 11) % 64));
    const buffers = { p0: bf16(0), p1: bf16(1), p2: bf16(2), p3: bf16(3), p4: new Float32Array(3 * 64 * 256) };
    expect(differences(program, thread, caps, buffers, {})).toEqual([]);
  }); // prettier-ignore
});
