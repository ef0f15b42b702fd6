import { describe, expect, test, vi } from "vitest";
import { metalBackend } from "../../../backends/metal/index.ts";
import { THREADGROUP_BYTES } from "../../../backends/metal/caps.ts";
import type { MetalSource } from "../../../backends/metal/print.ts";
import type { Caps } from "../../../compiler/backend.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import { modelPrograms, templates } from "../../support/kernels.ts";
import { faultsOf } from "../../support/metal/check.ts";
import { skipsClang } from "../../support/metal/clang.ts";
import { outsideSubset } from "../../support/metal/subset.ts";

/**
 * Every kernel keeps to the subset of the language, and clang takes it as C++14 with address spaces and as C++ for OpenCL without a generic one, with no warning:
 * all templates on random problems, and all programs of a small and of a large model.
 */
vi.setConfig({ testTimeout: 240_000 });

const printed = (programs: readonly ThreadProgram[], caps: Caps): MetalSource[] => [
  ...new Map(programs.map((p) => metalBackend.print(metalBackend.legalize(p, caps), caps)).map((s) => [s.entry, s])).values(),
];

describe.each(["m1", "m4"])("kernels for %s", (name) => {
  const caps = metalBackend.caps(name);
  const accepted = (programs: readonly ThreadProgram[], least: number): void => {
    const sources = printed(programs, caps);
    expect(sources.length).toBeGreaterThan(least);
    expect(sources.flatMap(outsideSubset)).toEqual([]);
    for (const s of sources) expect(s.sharedBytes, s.entry).toBeLessThanOrEqual(THREADGROUP_BYTES);
    if (!skipsClang) expect(faultsOf(sources)).toEqual([]);
  };

  test("templates", () => {
    accepted(
      Object.values(templates).flatMap((programs) => programs(caps)),
      70,
    );
  });
  test.each(["tiny", "9B"] as const)("Bamba %s", async (model) => {
    accepted(await modelPrograms(model, caps), 40);
  });
});

test.each([
  ["m1", ["simdgroup_float8x8", "simdgroup_half8x8"]],
  ["m4", ["simdgroup_bfloat8x8", "simdgroup_float8x8", "simdgroup_half8x8"]],
])("weights are read where they lie, by matrices of their type where %s has it", async (name, types) => {
  const caps = metalBackend.caps(name);
  const direct = printed(await modelPrograms("tiny", caps), caps).flatMap((s) => [
    ...s.text.matchAll(/(simdgroup_\w+8x8) x\d+;\n\s+simdgroup_load\(x\d+, p\d/g),
  ]);
  expect([...new Set(direct.map((m) => m[1]!))].sort()).toEqual(types);
});
