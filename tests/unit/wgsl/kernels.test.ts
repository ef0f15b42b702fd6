import { readFileSync } from "node:fs";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { wgslBackend } from "../../../backends/wgsl/index.ts";
import type { Caps, Source } from "../../../compiler/backend.ts";
import { rows } from "../../../compiler/generate/rows.ts";
import { printThread } from "../../../compiler/ir/thread-text.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import { lowerGraph, lowerKernel } from "../../../compiler/pipeline.ts";
import type { Frame, Template } from "../../../compiler/template.ts";
import { attentionDecode } from "../../../compiler/templates/attention-decode.ts";
import { attention } from "../../../compiler/templates/attention.ts";
import { conv1d } from "../../../compiler/templates/conv1d.ts";
import { gemm } from "../../../compiler/templates/gemm.ts";
import { gemv } from "../../../compiler/templates/gemv.ts";
import { processLogits } from "../../../compiler/templates/process-logits.ts";
import { sampleToken } from "../../../compiler/templates/sample-token.ts";
import { ssdScan } from "../../../compiler/templates/ssd-scan.ts";
import { planModel, traceModel } from "../../../models/auto/plan.ts";
import type { PlanOptions } from "../../../models/auto/plan.ts";
import { parseBambaConfig } from "../../../models/bamba/config.ts";
import type { BambaConfig } from "../../../models/bamba/config.ts";
import { placed } from "../../support/placed.ts";
import { attentionCase, DECODE, PREFILL } from "../../support/problems/attention.ts";
import type { Case } from "../../support/problems/case.ts";
import { convCase } from "../../support/problems/conv.ts";
import { gemmCase } from "../../support/problems/gemm.ts";
import { rowCase } from "../../support/problems/rows.ts";
import { logitsCase, tokenCase } from "../../support/problems/sampling.ts";
import { ssdCases } from "../../support/problems/ssd.ts";
import { nullGpu } from "../../support/webgpu.ts";
import { faultsOf, manyBuffers, validator } from "../../support/wgsl-run.ts";

/**
 * Dawn without a device accepts every kernel: all templates on random problems, and all programs of a small and of a large model, with and without each
 * optional feature. What it refuses is shown with its line.
 */
const targets = ["base", "base-sg4", "base-sg8-f16", "base-sg16", "base-f16", "large", "large-sg32", "large-sg32-f16", "large-sg64"];

const legal = (caps: Caps, thread: ThreadProgram): Source => wgslBackend.print(wgslBackend.legalize!(thread, caps), caps);

describe.each(targets)("%s", (name) => {
  const caps = wgslBackend.caps(name);
  let device: GPUDevice;
  beforeAll(async () => {
    device = await validator(nullGpu(), caps);
  });
  const accepted = async (sources: readonly Source[]): Promise<void> => {
    const faults = await Promise.all(sources.map((s) => faultsOf(device, s, caps)));
    expect(faults.flat()).toEqual([]);
  };

  describe("templates", () => {
    const wide = manyBuffers(caps);
    const accepts = async <P extends { readonly frame: Frame }>(template: Template<P>, cases: fc.Arbitrary<Case<P>>): Promise<void> => {
      const sources: Source[] = [];
      for (const [i, c] of fc.sample(cases, { numRuns: 12, seed: 20 }).entries()) {
        const configs = template.configs(c.problem, wide);
        if ("reject" in configs) continue;
        sources.push(legal(wide, placed(template.build(c.problem, configs[i % configs.length]!, wide), wide)));
      }
      expect(sources.length).toBeGreaterThan(5);
      await accepted(sources);
    };
    test("rows", () => accepts(rows, rowCase()));
    test("gemm", () => accepts(gemm, gemmCase(caps)));
    test("gemv", () => accepts(gemv, gemmCase(caps, 5)));
    test("conv1d", () => accepts(conv1d, convCase()));
    test("attention", () => accepts(attention, attentionCase(PREFILL)));
    test("attention-decode", () => accepts(attentionDecode, attentionCase(DECODE)));
    test("process-logits", () => accepts(processLogits, logitsCase(6000)));
    test("sample-token", () => accepts(sampleToken, tokenCase(6000)));
    test("ssd-scan", () => accepts(ssdScan, ssdCases({ steep: true })));
  });

  const models = [
    ...(name.endsWith("sg4") || name === "large-sg32" ? (["1B"] as const) : []),
    ...(large.has(name) ? (["9B"] as const) : []),
  ];
  test.each(["tiny", ...models] as const)("Bamba %s", async (model) => {
    const config = configs[model];
    const lowered = new Map<string, ThreadProgram>();
    for (const options of plans[model])
      for (const { graph } of await traceModel(config, planModel(config, "bf16", options)))
        for (const k of lowerGraph(graph, caps).fused.kernels) {
          const { thread } = lowerKernel(k, caps);
          lowered.set(printThread(thread), thread);
        }
    const sources = [...lowered.values()].map((thread) => legal(caps, thread));
    expect(sources.length).toBeGreaterThan(20);
    await accepted(sources);
  });
});

/** Targets whose bindings have room for the tables of the large model. */
const large = new Set(["large-sg32-f16", "large"]);

const read = (file: string): unknown => JSON.parse(readFileSync(new URL(file, import.meta.url), "utf8"));
const configs: Readonly<Record<"tiny" | "1B" | "9B", BambaConfig>> = {
  tiny: parseBambaConfig(read("../../../models/bamba-tiny/config.json"), "config.json"),
  "1B": parseBambaConfig(read("../../bench/configs/bamba-1b.json"), "config.json"),
  // sizes as the configuration has them where a file says nothing
  "9B": parseBambaConfig({ model_type: "bamba", attn_layer_indices: [9, 18, 27], vocab_size: 128256 }, "config.json"),
};
const plans: Readonly<Record<keyof typeof configs, readonly PlanOptions[]>> = {
  tiny: [{ batch: 1 }, { batch: 8, dtype: "f32" }, { batch: 2, dtype: "f16" }, { strict: true, maxLength: 64, prefillChunk: 16 }],
  "1B": [{ batch: 1 }, { batch: 8, maxLength: 1024, prefillChunk: 128 }],
  "9B": [{ batch: 1 }, { batch: 8, maxLength: 1024 }],
};
