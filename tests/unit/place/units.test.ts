import { describe, expect, test } from "vitest";
import { nullBackend } from "../../../backends/null/index.ts";
import type { MatrixUnit } from "../../../compiler/backend.ts";
import { add, i32, idiv, isConst, mod } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import { lanesUnit, unitRows } from "../../../compiler/lower/layout.ts";

const value = (e: Expr): number => (isConst(e) ? e.value : NaN);
const devices = ["null-32", "null-tf32", "null-simd8", "null-groups", "null-cpu8"];
const units = [...new Set(devices.flatMap((d) => nullBackend.caps(d).units)), lanesUnit(16)];

describe("lane maps", () => {
  test.each(units.map((u) => [u.name, u] as const))("of %s give every element of the tile to one lane", (_, u) => {
    const owners = new Map<string, number>();
    for (let lane = 0; lane < u.lanes; lane++)
      for (let i = 0; i < u.elems; i++) {
        const [row, col] = u.coord(i32(lane), i32(i)).map(value) as [number, number];
        expect(row).toBeGreaterThanOrEqual(0);
        expect(row).toBeLessThan(u.m);
        expect(col).toBeGreaterThanOrEqual(0);
        expect(col).toBeLessThan(u.n);
        owners.set(`${row} ${col}`, lane);
      }
    expect(owners.size).toBe(u.m * u.n);
  });

  test("give the rows of a lane and the lanes that share them", () => {
    const rows = Object.fromEntries(units.map((u) => [u.name, [unitRows(u).slots, unitRows(u).masks]]));
    expect(rows).toEqual({
      "mma.m16n8k16": [2, [1, 2]],
      "mma.m16n8k8.tf32": [2, [1, 2]],
      "wgmma.m64k16": [2, [1, 2]],
      fma4x8: [1, [1, 2, 4]],
      simdgroup8x8: [1, [1, 8]],
      fma8: [1, [1, 2, 4]],
      lanes16: [1, [1, 2, 4, 8]],
    });
  });

  test("of four warps give each of them sixteen rows, as the instruction of one warp has them", () => {
    const [group, warp] = ["wgmma.m64k16", "mma.m16n8k16"].map((name) => units.find((u) => u.name === name)!) as [MatrixUnit, MatrixUnit];
    for (let lane = 0; lane < 128; lane++)
      for (let i = 0; i < 4; i++) {
        const [row, col] = warp.coord(i32(lane % 32), i32(i)).map(value) as [number, number];
        expect(group.coord(i32(lane), i32(i)).map(value)).toEqual([16 * Math.floor(lane / 32) + row, col]);
      }
  });

  const unit = (name: string, m: number, n: number, elems: number, coord: MatrixUnit["coord"]): MatrixUnit => ({
    ...lanesUnit(4),
    name,
    m,
    n,
    elems,
    coord,
  });
  test.each<[string, MatrixUnit, string]>([
    ["outside", unit("wide", 1, 4, 1, (lane) => [i32(0), add(lane, 1)]), "wide: element 0 of lane 3 is at [0, 4] of 1 x 4"],
    ["twice", unit("twice", 1, 4, 1, (lane) => [i32(0), idiv(lane, 2)]), "twice: element 0 of lane 1 is at [0, 0], which has an owner"],
    ["with holes", unit("holes", 2, 4, 1, (lane) => [i32(0), lane]), "holes: 4 elements have no lane"],
    // a lane's two elements are on neighbouring rows, so lanes share one row but not the other
    [
      "on a diagonal",
      unit("diagonal", 4, 2, 2, (lane, i) => [mod(add(lane, i), 4), i]),
      "diagonal: lanes 0 and 1 share some of their rows but not all",
    ],
    // lanes 0 to 2 have row 0, lane 3 has row 1 and the last element of row 0
    [
      "that no xor joins",
      unit("lopsided", 2, 2, 1, (lane) => [mod(idiv(add(lane, 1), 2), 2), mod(lane, 2)]),
      "lopsided: 2 lanes share the rows of lane 0, which xor with [] does not reach",
    ],
  ])("%s are refused", (_, u, message) => {
    expect(() => unitRows(u)).toThrow(message);
  });
});

test("the null backend lists its devices", () => {
  expect(nullBackend.caps("host").name).toBe("null-32");
  expect(() => nullBackend.caps("null-64")).toThrow(
    "there is no device null-64; the devices are null-32, null-tf32, null-simd8, null-groups, null-cpu8",
  );
  expect(nullBackend.toolchain).toBeNull();
});
