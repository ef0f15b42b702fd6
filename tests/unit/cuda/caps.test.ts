import { describe, expect, test } from "vitest";
import { architectureOf } from "../../../backends/cuda/caps.ts";
import { mma1688 } from "../../../backends/units.ts";
import { capsFor, cudaBackend } from "../../../backends/cuda/index.ts";
import { unitRows } from "../../../compiler/lower/layout.ts";

describe("targets", () => {
  test.each([
    ["sm_80", 108, "compute-8", 80],
    ["sm_86", 84, "compute-8", 86],
    ["sm_89", 128, "compute-8", 89],
    ["sm_90", 132, "compute-9", 90],
    ["sm_100", 148, "compute-10", 100],
    ["sm_120", 170, "compute-12", 120],
    ["sm_90x78", 78, "compute-9", 90],
  ])("%s fills %i multiprocessors and needs %s", (name, workers, feature, computeCapability) => {
    const caps = cudaBackend.caps(name);
    expect(caps.name).toBe(name);
    expect(caps.workers).toBe(workers);
    expect(caps.requires).toEqual({ features: [feature], limits: { computeCapability }, subgroup: null });
    expect(caps.maxThreads % caps.lanes).toBe(0);
  });

  test("a number of multiprocessors that is the usual one is not part of the name", () => {
    expect(cudaBackend.caps("sm_90x132").name).toBe("sm_90");
  });

  test("what one architecture alone has is for devices of that one", () => {
    const [own, all] = [cudaBackend.caps("sm_90ax78"), cudaBackend.caps("sm_90x78")];
    expect(own.requires).toEqual({ ...all.requires, features: ["compute-9", "sm_90a"] });
    expect(own.units.slice(0, -1).map(({ name }) => name)).toEqual(all.units.map(({ name }) => name));
    expect(own.units.at(-1)).toMatchObject({ lanes: 128, asynchronous: { rowBytes: 128 } });
    expect({ ...own, name: all.name, requires: all.requires, units: all.units }).toEqual(all);
    expect(all.units.every(({ lanes, asynchronous }) => lanes === 32 && asynchronous === undefined)).toBe(true);
    expect(["sm_90ax78", "sm_90a", "sm_100x8"].map((name) => architectureOf({ name }))).toEqual(["sm_90a", "sm_90a", "sm_100"]);
  });

  test.each([
    ["sm_80", "sm_80-tf32", "sm_80"],
    ["sm_90x132", "sm_90-tf32", "sm_90"],
    ["sm_90ax78", "sm_90ax78-tf32", "sm_90a"],
    ["sm_100", "sm_100-tf32", "sm_100"],
  ])(
    "%s with tf32 is %s: the same devices and compiler, and one unit more, in front of those that keep all digits",
    (plain, name, architecture) => {
      const [exact, rounding] = [cudaBackend.caps(plain), cudaBackend.caps(`${plain}-tf32`)];
      expect(rounding.units[0]).toBe(mma1688);
      expect(rounding.units.slice(1).map((unit) => unit.name)).toEqual(exact.units.map((unit) => unit.name));
      expect({ ...rounding, units: [] }).toEqual({ ...exact, name, units: [], accumulators: 128 });
      expect(exact.units.every(({ fraction }) => fraction === undefined)).toBe(true);
      expect(architectureOf(rounding)).toBe(architecture);
      expect(cudaBackend.caps(name).name).toBe(name);
    },
  );

  test.each([
    "sm_80-tf32x78",
    "sm_80-tf",
    "sm_80-tf32-tf32",
    "",
    "sm_75",
    "sm_80a",
    "sm_100a",
    "sm_90x0",
    "sm_90x",
    "compute_90",
    "sm_900",
  ])("%j is none, and the known ones are listed", (name) => {
    expect(() => cudaBackend.caps(name)).toThrow(
      /there is no target ".*"; the targets are sm_80, sm_86, sm_89, sm_90, sm_90a, sm_100, sm_120,/,
    );
  });

  test("nobody can tell the host's device without its driver", () => {
    expect(() => cudaBackend.caps("host")).toThrow(/only the driver knows .* name one of sm_80/);
  });

  test("every unit gives each element of its tile to one lane", () => {
    for (const unit of cudaBackend.caps("sm_90a-tf32").units) {
      expect(unit.m * unit.n).toBe(unit.lanes * unit.elems);
      expect(2 ** unitRows(unit).masks.length * unit.m).toBe(unit.lanes * unitRows(unit).slots);
    }
  });
});

describe("the targets of a device", () => {
  test.each([
    [80, 108, ["sm_80"]],
    [86, 46, ["sm_86x46", "sm_80x46"]],
    [87, 16, ["sm_86x16", "sm_80x16"]],
    [90, 132, ["sm_90a", "sm_90"]],
    [90, 78, ["sm_90ax78", "sm_90x78"]],
    [103, 148, ["sm_100"]],
    [121, 48, ["sm_120x48"]],
    [75, 40, []],
    [70, 80, []],
    [110, 20, []],
  ])("compute capability %i with %i multiprocessors", (computeCapability, multiprocessors, names) => {
    expect(capsFor({ computeCapability, multiprocessors })).toEqual(names);
    for (const name of names) expect(cudaBackend.caps(name).workers).toBe(multiprocessors);
  });
});
