import { beforeAll, describe, expect, test } from "vitest";
import { wgslBackend } from "../../../backends/wgsl/index.ts";
import type { Caps } from "../../../compiler/backend.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import { modelPrograms, templates } from "../../support/kernels.ts";
import { nullGpu } from "../../support/webgpu.ts";
import { faultsOf, manyBuffers, validator } from "../../support/wgsl-run.ts";

/**
 * Dawn without a device accepts every kernel: all templates on random problems, and all programs of a small and of a large model, with and without each
 * optional feature. What it refuses is shown with its line.
 */
const targets = ["base", "base-sg4", "base-sg8-f16", "base-sg16", "base-f16", "large", "large-sg32", "large-sg32-f16", "large-sg64"];

/** Targets whose bindings have room for the tables of the large model. */
const large = new Set(["large-sg32-f16", "large"]);

describe.each(targets)("%s", (name) => {
  const caps = wgslBackend.caps(name);
  let device: GPUDevice;
  beforeAll(async () => {
    device = await validator(nullGpu(), caps);
  });
  const accepted = async (programs: readonly ThreadProgram[], of: Caps): Promise<void> => {
    const sources = programs.map((p) => wgslBackend.print(wgslBackend.legalize!(p, of), of));
    const faults = await Promise.all(sources.map((s) => faultsOf(device, s, caps)));
    expect(faults.flat()).toEqual([]);
  };

  // no WebGPU copies by itself
  const fitting = Object.entries(templates).filter(([template]) => !template.endsWith("-stream"));
  test.each(fitting)("template %s", async (_, programs) => {
    const wide = manyBuffers(caps);
    const found = programs(wide);
    expect(found.length).toBeGreaterThan(5);
    await accepted(found, wide);
  });

  const sizes = [
    ...(name.endsWith("sg4") || name === "large-sg32" ? (["1B"] as const) : []),
    ...(large.has(name) ? (["9B"] as const) : []),
  ];
  test.each(["tiny", ...sizes] as const)("Bamba %s", async (model) => {
    const programs = await modelPrograms(model, caps);
    expect(programs.length).toBeGreaterThan(20);
    await accepted(programs, caps);
  });
});
