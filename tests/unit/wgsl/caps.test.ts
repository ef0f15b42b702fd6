import { describe, expect, test } from "vitest";
import { capsFor, wgslBackend } from "../../../backends/wgsl/index.ts";
import type { AdapterFacts } from "../../../backends/wgsl/index.ts";
import { unitRows } from "../../../compiler/lower/layout.ts";

const names = ["base", "base-f16", "base-sg4", "base-sg8-f16", "base-sg16", "large", "large-sg32", "large-sg64-f16"];

describe("targets", () => {
  test.each(names)("%s is called what it was asked for, and says what it needs", (name) => {
    const { name: called, requires, lanes, maxThreads } = wgslBackend.caps(name);
    expect(called).toBe(name);
    expect(requires.features.includes("subgroups")).toBe(name.includes("sg"));
    expect(requires.features.includes("shader-f16")).toBe(name.includes("f16"));
    expect(requires.subgroup).toBe(name.includes("sg") ? lanes : null);
    expect(lanes).toBe(Number(/sg(\d+)/.exec(name)?.[1] ?? 32));
    expect(maxThreads % lanes).toBe(0);
  });

  test("the one for a host that nobody has asked is the base", () => {
    expect(wgslBackend.caps("host").name).toBe("base");
  });

  test.each(["", "small", "base-sg12", "base-f16-sg8", "large-sg32-f32", "base-mat"])("%j is none", (name) => {
    expect(() => wgslBackend.caps(name)).toThrow(/wgsl backend: (there is no target|target)/);
  });

  test.each(names)("every unit of %s gives each element of its tile to one lane", (name) => {
    for (const unit of wgslBackend.caps(name).units) {
      expect(unit.m * unit.n).toBe(unit.lanes * unit.elems);
      expect(2 ** unitRows(unit).masks.length * unit.m).toBe(unit.lanes * unitRows(unit).slots);
    }
  });
});

const defaults = {
  maxStorageBufferBindingSize: 2 ** 27,
  maxBufferSize: 2 ** 28,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupStorageSize: 2 ** 14,
};
const roomy = { ...defaults, maxStorageBufferBindingSize: 2 ** 31 - 4, maxBufferSize: 2 ** 40, maxComputeWorkgroupStorageSize: 49152 };
const adapter = (facts: Partial<AdapterFacts>): AdapterFacts => ({ features: [], limits: defaults, ...facts });

describe("what an adapter can run", () => {
  test.each<[string, AdapterFacts, string[]]>([
    ["nothing but the defaults", adapter({}), ["base"]],
    ["less than the defaults", adapter({ limits: { ...defaults, maxStorageBuffersPerShaderStage: 4 } }), []],
    [
      "a CPU with subgroups of eight and half precision",
      adapter({ features: ["shader-f16", "subgroups"], subgroupMinSize: 8, subgroupMaxSize: 8 }),
      ["base-sg8-f16", "base-sg8", "base-f16", "base"],
    ],
    [
      "a large GPU",
      adapter({ features: ["subgroups"], limits: roomy, subgroupMinSize: 32, subgroupMaxSize: 32 }),
      ["large-sg32", "large", "base-sg32", "base"],
    ],
    // a kernel may not be run by subgroups of another size than it was made for
    [
      "subgroups of no certain size",
      adapter({ features: ["subgroups"], limits: roomy, subgroupMinSize: 8, subgroupMaxSize: 32 }),
      ["large", "base"],
    ],
  ])("with %s", (_, facts, expected) => {
    expect(capsFor(facts)).toEqual(expected);
  });

  test("is named by names of targets", () => {
    for (const name of capsFor(adapter({ features: ["subgroups", "shader-f16"], limits: roomy, subgroupMinSize: 64, subgroupMaxSize: 64 })))
      expect(wgslBackend.caps(name).name).toBe(name);
  });
});
