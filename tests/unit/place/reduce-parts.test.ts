import { describe, expect, test } from "vitest";
import { nullBackend } from "../../../backends/null/index.ts";
import { allocate, write } from "../../../compiler/ir/dtype.ts";
import { add, load, mul, some } from "../../../compiler/ir/expr.ts";
import { eachStmt, expressionsOf } from "../../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { at, tileBuilder } from "../../../compiler/ir/tile-builder.ts";
import type { ReduceFn, TileProgram } from "../../../compiler/ir/tile.ts";
import { differences, placed } from "../../support/placed.ts";
import type { Buffers } from "../../support/placed.ts";
import { random } from "../../support/problems/case.ts";

/** out[row, part] = fn over a part of a row's `cols` columns, for as many parts as warps lie along the row; a second time over the doubled values. */
function reduced(rows: number, cols: number, parts: number, fn: ReduceFn, groups: readonly [number, number] = [1, parts]): TileProgram {
  const header = { name: "reduced", symbols: [], params: [{ name: "p0", dtype: "f32", access: "read" }, { name: "p1", dtype: "f32", access: "write" }] } as const; // prettier-ignore
  const b = tileBuilder(header, [1, 1, 1], [1, parts]);
  const x = b.frag("x", rows, cols),
    found = b.shared("found", rows, parts);
  b.map(x, (r, c) => load("p0", "f32", add(mul(r, cols), c)));
  b.loop("time", 2, (time) => {
    b.rowReduce(found, fn, x);
    b.store(found, {
      buffer: "p1",
      dtype: "f32",
      index: (r, c) => add(mul(add(mul(time, rows), r), parts), c),
      value: (r, c) => at(found, r, c),
    });
    b.map(x, (r, c) => mul(at(x, r, c), 2));
  });
  return { ...b.build(), groups };
}

function buffers(rows: number, cols: number, parts: number): Buffers {
  const data = allocate("f32", rows * cols);
  const next = random(rows);
  for (let i = 0; i < rows * cols; i++) write(data, "f32", i, 2 * next() - 1);
  return { p0: data, p1: allocate("f32", 2 * rows * parts) };
}

/** How often lanes exchange values. */
function exchanges(p: ThreadProgram): number {
  let n = 0;
  eachStmt(p.body, (s: Stmt) => {
    if (s.op === "laneReduce") n += s.masks.length;
    else if (expressionsOf(s).some((e) => some(e, (x) => x.op === "shuffle"))) n++;
  });
  return n;
}

describe("rows reduced into a column for each warp", () => {
  const warp32 = nullBackend.caps("null-32");

  test.each([
    [1, "sum", 5],
    [2, "sum", 1 + 4],
    [3, "max", 3 * 5],
    [4, "min", 2 + 1 + 3],
    [6, "sum", 3 + 3 * 4],
    [8, "sum", 4 + 2 + 1 + 2],
    [16, "max", 8 + 4 + 2 + 1 + 1],
    [32, "sum", 16 + 8 + 4 + 2 + 1],
    [64, "sum", 32 + 16 + 8 + 4 + 2],
  ] as const)("%i rows, %s, in %i exchanges", (rows, fn, count) => {
    const program = reduced(rows, 128, 4, fn);
    const thread = placed(program, warp32);
    expect(differences(program, thread, warp32, buffers(rows, 128, 4), {})).toEqual([]);
    expect(exchanges(thread)).toBe(count);
  });

  test("in one warp, on a CPU too", () => {
    for (const device of ["null-32", "null-cpu8"]) {
      const caps = nullBackend.caps(device);
      const program = reduced(4, 96, 1, "sum");
      expect(differences(program, placed(program, caps), caps, buffers(4, 96, 1), {})).toEqual([]);
    }
  });

  test("other warps than columns, and rows that warps do not share evenly, are errors", () => {
    expect(() => placed(reduced(2, 128, 2, "sum", [1, 4]), warp32)).toThrow(/its columns are not what 4 warps side by side find/);
    expect(() => placed(reduced(3, 128, 2, "sum", [2, 2]), warp32)).toThrow(/do not lie across the lanes, all of them/);
  });
});
