import { expect, test } from "vitest";
import { metalBackend } from "../../../backends/metal/index.ts";
import { parseTarget } from "../../../backends/metal/caps.ts";

test.each([
  ["m1", "Apple7", false, 8],
  ["m3", "Apple9", true, 10],
  ["m4", "Apple9", true, 10],
  ["m5", "Apple10", true, 10],
  ["m4x40", "Apple9", true, 40],
  ["host", "Apple7", false, 8],
])("%s is of family %s", (name, family, bfloat, cores) => {
  const caps = metalBackend.caps(name);
  expect(parseTarget(name)).toMatchObject({ family, bfloat, cores });
  expect(caps.requires).toEqual({ features: [family, `MSL ${bfloat ? "3.1" : "3.0"}`], limits: {}, subgroup: 32 });
  expect(caps.workers).toBe(cores);
  expect(caps.units.map((u) => u.name)).toEqual([
    "simdgroup_float8x8",
    "simdgroup_half8x8",
    ...(bfloat ? ["simdgroup_bfloat8x8"] : []),
    "fma.1x1",
  ]);
});

test("a chip with the usual number of cores has a short name", () => {
  expect(metalBackend.caps("m4x10").name).toBe("m4");
  expect(metalBackend.caps("m4x40").name).toBe("m4x40");
});

test.each(["m2", "m0", "apple7", "m4x0", "m4x", ""])("there is no target %j", (name) => {
  expect(() => metalBackend.caps(name)).toThrow(
    `metal backend: there is no target "${name}"; the targets are m1, m3, m4, m5, each with xN after it for a chip of N cores (m4x40)`,
  );
});

test("a matrix's lanes have each of its elements once", () => {
  for (const unit of metalBackend.caps("m4").units.filter((u) => u.name.startsWith("simdgroup")))
    expect([unit.m, unit.n, unit.k, unit.lanes * unit.elems]).toEqual([8, 8, 8, 64]);
});
