import { readFileSync } from "node:fs";
import fc from "fast-check";
import type { Caps } from "../../compiler/backend.ts";
import { rows } from "../../compiler/generate/rows.ts";
import { printThread } from "../../compiler/ir/thread-text.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { lowerGraph, lowerKernel } from "../../compiler/pipeline.ts";
import type { Frame, Template } from "../../compiler/template.ts";
import { attentionDecode } from "../../compiler/templates/attention-decode.ts";
import { attentionStream } from "../../compiler/templates/attention-stream.ts";
import { attention } from "../../compiler/templates/attention.ts";
import { conv1d } from "../../compiler/templates/conv1d.ts";
import { gemmStream } from "../../compiler/templates/gemm-stream.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { gemvStream } from "../../compiler/templates/gemv-stream.ts";
import { gemv } from "../../compiler/templates/gemv.ts";
import { processLogits } from "../../compiler/templates/process-logits.ts";
import { sampleToken } from "../../compiler/templates/sample-token.ts";
import { ssdReplay } from "../../compiler/templates/ssd-replay.ts";
import { ssdScan } from "../../compiler/templates/ssd-scan.ts";
import { ssdStep } from "../../compiler/templates/ssd-step.ts";
import { planModel, traceModel } from "../../models/auto/plan.ts";
import type { PlanOptions } from "../../models/auto/plan.ts";
import { parseBambaConfig } from "../../models/bamba/config.ts";
import type { BambaConfig } from "../../models/bamba/config.ts";
import { placed } from "./placed.ts";
import { attentionCase, DECODE, PREFILL, streamCase as attentionStreamCase } from "./problems/attention.ts";
import type { Case } from "./problems/case.ts";
import { convCase } from "./problems/conv.ts";
import { gemmCase, longRows, streamCase } from "./problems/gemm.ts";
import { replayCases } from "./problems/replay.ts";
import { rowCase } from "./problems/rows.ts";
import { logitsCase, tokenCase } from "./problems/sampling.ts";
import { ssdCases } from "./problems/ssd.ts";

/** The kernels that every compiler must accept: all templates on random problems, and all programs of a small and of a large model. */

/** What a template makes of some problems that are the same at every run, with its configurations in turn. */
function sampled<P extends { readonly frame: Frame }>(
  template: Template<P>,
  cases: fc.Arbitrary<Case<P>>,
  caps: Caps,
  numRuns = 12,
): ThreadProgram[] {
  return fc.sample(cases, { numRuns, seed: 20 }).flatMap((c, i) => {
    const configs = template.configs(c.problem, caps);
    return "reject" in configs ? [] : [placed(template.build(c.problem, configs[i % configs.length]!, caps), caps)];
  });
}

export const templates: Readonly<Record<string, (caps: Caps) => ThreadProgram[]>> = {
  rows: (caps) => sampled(rows, rowCase(), caps),
  gemm: (caps) => sampled(gemm, gemmCase(caps), caps),
  "gemm-stream": (caps) => sampled(gemmStream, streamCase(), caps, 8),
  gemv: (caps) => sampled(gemv, gemmCase(caps, 5), caps),
  "gemv-stream": (caps) => sampled(gemvStream, gemmCase(caps, 4, longRows(caps)), caps, 5),
  conv1d: (caps) => sampled(conv1d, convCase(), caps),
  attention: (caps) => sampled(attention, attentionCase(PREFILL), caps),
  "attention-stream": (caps) => sampled(attentionStream, attentionStreamCase(DECODE), caps, 6),
  "attention-decode": (caps) => sampled(attentionDecode, attentionCase(DECODE), caps),
  "process-logits": (caps) => sampled(processLogits, logitsCase(6000), caps),
  "sample-token": (caps) => sampled(sampleToken, tokenCase(6000), caps),
  "ssd-step": (caps) => sampled(ssdStep, ssdCases({ steep: true, step: true }), caps),
  "ssd-replay": (caps) => sampled(ssdReplay, replayCases({ steep: true }), caps),
  "ssd-scan": (caps) => sampled(ssdScan, ssdCases({ steep: true }), caps),
};

const read = (file: string): unknown => JSON.parse(readFileSync(new URL(file, import.meta.url), "utf8"));

export const models = {
  tiny: parseBambaConfig(read("../../models/bamba-tiny/config.json"), "config.json"),
  "1B": parseBambaConfig(read("../bench/configs/bamba-1b.json"), "config.json"),
  // sizes as the configuration has them where a file says nothing
  "9B": parseBambaConfig({ model_type: "bamba", attn_layer_indices: [9, 18, 27], vocab_size: 128256 }, "config.json"),
} as const satisfies Readonly<Record<string, BambaConfig>>;

const plans: Readonly<Record<keyof typeof models, readonly PlanOptions[]>> = {
  tiny: [
    { batch: 1 },
    { batch: 8, dtype: "f32" },
    { batch: 2, dtype: "f16" },
    { batch: 9, dtype: "bf16", kvCache: "bf16", state: "bf16" },
    { batch: 9, dtype: "bf16", state: "bf16", replay: 16 },
    { batch: 9, dtype: "bf16", state: "bf16", activations: "bf16", replay: 16 },
    { strict: true, maxLength: 64, prefillChunk: 16 },
  ],
  "1B": [{ batch: 1 }, { batch: 8, maxLength: 1024, prefillChunk: 128 }],
  "9B": [{ batch: 1 }, { batch: 8, maxLength: 1024, replay: 32 }],
};

/** The distinct kernels of all programs of a model. */
export async function modelPrograms(model: keyof typeof models, caps: Caps): Promise<ThreadProgram[]> {
  const lowered = new Map<string, ThreadProgram>();
  for (const options of plans[model]) {
    // WebGPU binds too few buffers for a ring of inputs, and refuses one
    const asked = caps.maxBuffers < 10 ? { ...options, replay: 0 } : options;
    for (const { graph } of await traceModel(models[model], planModel(models[model], "bf16", asked)))
      for (const k of lowerGraph(graph, caps).fused.kernels) {
        const { thread } = lowerKernel(k, caps);
        lowered.set(printThread(thread), thread);
      }
  }
  return [...lowered.values()];
}
