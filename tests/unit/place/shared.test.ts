import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import { allocate, write } from "../../../compiler/ir/dtype.ts";
import { add, i32, load, mul } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import { at, tileBuilder, viewOf } from "../../../compiler/ir/tile-builder.ts";
import type { Param, TileProgram } from "../../../compiler/ir/tile.ts";
import { sharedRows } from "../../../compiler/lower/shared.ts";
import { differences, placed } from "../../support/placed.ts";
import type { Buffers } from "../../support/placed.ts";

const caps = cudaBackend.caps("sm_90");
const read = (name: string): Param => ({ name, dtype: "bf16", access: "read" });

/** c[16, 16] = a[16, 16] * b[16, from .. from+16], of a `b` in shared memory of so many columns; stored by way of shared memory, `pitch` elements from row to row. */
function product(columns: number, from: number, pitch = 16): TileProgram {
  const b = tileBuilder({ name: "product", symbols: [], params: [read("p0"), read("p1"), { name: "p2", dtype: "bf16", access: "write" }] }, [1, 1, 1]); // prettier-ignore
  const [left, right, out] = [b.shared("left", 16, 16, "bf16"), b.shared("right", 16, columns, "bf16"), b.shared("out", 16, 16, "bf16")];
  const acc = b.frag("acc", 16, 16);
  b.load(left, (r, c) => load("p0", "bf16", add(mul(r, 16), c)));
  b.load(right, (r, c) => load("p1", "bf16", add(mul(r, columns), c)));
  b.fill(acc, 0);
  b.mma(acc, viewOf(left), viewOf(right, { col: i32(from) }), 16);
  b.stage(out, acc);
  const place = (r: Expr, c: Expr): Expr => add(mul(r, pitch), c);
  b.store(out, { buffer: "p2", dtype: "bf16", index: place, value: (r, c) => at(out, r, c) });
  return b.build();
}

function buffers(columns: number): Buffers {
  const numbers = (count: number): Buffers[string] => {
    const data = allocate("bf16", count);
    for (let i = 0; i < count; i++) write(data, "bf16", i, Math.sin(i));
    return data;
  };
  return { p0: numbers(256), p1: numbers(16 * columns), p2: allocate("bf16", 512) };
}

describe("rows of shared memory", () => {
  test.each([
    ["whole lines are turned, wherever a view of them begins", 64, 32, { stride: 64, turned: true }],
    ["others are padded where the view is the whole tile", 16, 0, { stride: 24, turned: false }],
    ["others stay where a view begins elsewhere", 32, 16, { stride: 32, turned: false }],
  ])("%s", (_, columns, from, expected) => {
    const program = product(columns, from);
    expect(sharedRows(program, caps).get("right")).toEqual(expected);
    expect(differences(program, placed(program, caps), caps, buffers(columns), {})).toEqual([]);
  });

  test("what lanes of a unit write, row below row, is padded", () => {
    expect(sharedRows(product(16, 0), caps).get("out")).toEqual({ stride: 24, turned: false });
  });

  test.each([
    ["in vectors where rows of memory begin with one", 24, 1],
    ["element by element elsewhere", 17, 0],
  ])("lanes store a tile %s", (_, pitch, vectors) => {
    const program = product(16, 0, pitch);
    const thread = placed(program, caps);
    expect(differences(program, thread, caps, buffers(16), {})).toEqual([]);
    const { text } = cudaBackend.print(cudaBackend.legalize!(thread, caps), caps);
    expect(text.match(/reinterpret_cast<uint4\*>\(p2/g) ?? []).toHaveLength(vectors);
  });
});
