import { describe, expect, test, vi } from "vitest";
import { architectureOf } from "../../../backends/cuda/caps.ts";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import { complaintOf } from "../../../backends/cuda/report.ts";
import { toolchainWith } from "../../../backends/cuda/toolchain.ts";
import type { Caps, Source } from "../../../compiler/backend.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import { readCubins } from "../../../ffi/cubins.ts";
import { lowerGraph, lowerKernel } from "../../../compiler/pipeline.ts";
import { gemmStream } from "../../../compiler/templates/gemm-stream.ts";
import { bambaGraph } from "../../../models/bamba/index.ts";
import { models, modelPrograms, templates } from "../../support/kernels.ts";
import { placed } from "../../support/placed.ts";
import { assemble, NO_NVCC, nvccAsNvrtc, nvccAvailable, ptxOf } from "../../support/nvcc.ts";

/**
 * The CUDA compiler accepts every kernel, and keeps all registers where they belong: all templates on random problems, and all programs of a small model, for an
 * architecture of each kind; those of a large one for the one that we measure on.
 */
vi.setConfig({ testTimeout: 120_000 });

const printed = (programs: readonly ThreadProgram[], caps: Caps): Source[] => [
  ...new Map(programs.map((p) => cudaBackend.print(cudaBackend.legalize!(p, caps), caps)).map((s) => [s.entry, s])).values(),
];

function accepted(programs: readonly ThreadProgram[], caps: Caps, wanted = ""): void {
  const sources = printed(programs, caps).filter(({ text }) => text.includes(wanted));
  expect(sources.length).toBeGreaterThan(20);
  const reports = assemble(sources, architectureOf(caps));
  const complaints = sources.flatMap((s) => {
    const report = reports.get(s.entry);
    return report ? (complaintOf(report) ?? []) : `${s.entry}: no report`;
  });
  expect(complaints).toEqual([]);
  for (const s of sources) expect(s.sharedBytes, s.entry).toBeLessThanOrEqual(caps.sharedBytes);
}

describe.skipIf(!nvccAvailable)(nvccAvailable ? "kernels" : `kernels (skipped: ${NO_NVCC})`, () => {
  describe.each(["sm_80", "sm_90", "sm_100"])("%s", (name) => {
    const caps = cudaBackend.caps(name);
    test("templates", () => {
      accepted(
        Object.values(templates).flatMap((programs) => programs(caps)),
        caps,
      );
    });
    test.each(["tiny", ...(name === "sm_90" ? (["9B"] as const) : [])] as const)("Bamba %s", async (model) => {
      accepted(await modelPrograms(model, caps), caps);
    });
  });

  test("products of many rows are wgmma's on sm_90a, at the sizes of Bamba 9B: no register is in memory, and none waits for another", () => {
    const caps = cudaBackend.caps("sm_90a");
    const config = { ...models["9B"], numHiddenLayers: 10, layerKinds: models["9B"].layerKinds.slice(0, 10), attentionLayers: [9] };
    const graphs = [
      ...[96, 128, 256, 320].map((batch) =>
        bambaGraph(config, { phase: "decode", batch, capacity: 2048, weights: "bf16", kvCache: "bf16" }),
      ),
      bambaGraph(config, { phase: "prefill", batch: [1, 8], maxSeq: 256, capacity: 2048, weights: "bf16", kvCache: "bf16" }),
    ];
    const together = graphs
      .flatMap((graph) => lowerGraph(graph, caps).fused.kernels)
      .flatMap(({ label, problem }) => {
        if (problem.kind !== "gemm" || !/^(layers\.[89]\.|matmulT)/.test(label)) return [];
        const configs = gemmStream.configs(problem, caps);
        if ("reject" in configs) throw new Error(`${label}: ${configs.reject}`);
        return configs
          .slice(0, 2)
          .filter((c) => c["groupWarps"] === 4)
          .map((c) => placed(gemmStream.build(problem, c, caps), caps));
      });
    expect(together.length).toBeGreaterThan(40);
    const alone = { ...caps, units: caps.units.filter(({ lanes, inputs }) => lanes > 32 || inputs.includes("f32")) };
    together.push(...templates["gemm-stream"]!(alone));
    accepted(together, caps);
    for (const s of printed(together, caps)) {
      expect(s.text).toContain("wgmma.mma_async");
      expect(s.text).not.toContain("mma.sync");
    }
  });

  test.each(["sm_80-tf32", "sm_90a-tf32", "sm_100-tf32"])(
    "products of f32 are the hardware's where that is asked for: %s",
    async (name) => {
      const caps = cudaBackend.caps(name);
      const sizes = { batch: [1, 2], maxSeq: 256, capacity: 1024, weights: "f32" } as const;
      const layers = { ...models["9B"], numHiddenLayers: 2, layerKinds: models["9B"].layerKinds.slice(8, 10), attentionLayers: [1] };
      const large = lowerGraph(bambaGraph(layers, { phase: "prefill", ...sizes }), caps).fused.kernels;
      const sampled = ["gemm", "attention", "attention-decode", "ssd-scan"].flatMap((template) => templates[template]!(caps));
      accepted([...sampled, ...(await modelPrograms("tiny", caps)), ...large.map((k) => lowerKernel(k, caps).thread)], caps, "mma_tf32(");
    },
  );

  test("products of 16-bit weights are the hardware's, and what is read of weights comes before a kernel waits", async () => {
    const caps = cudaBackend.caps("sm_90");
    const sources = printed(await modelPrograms("1B", caps), caps);
    expect(sources.filter((s) => s.text.includes("mma.sync")).length).toBeGreaterThan(3);
    const early = printed(await modelPrograms("tiny", caps), caps).filter(
      (s) => s.text.indexOf("= streamed_uint4(") >= 0 && s.text.indexOf("= streamed_uint4(") < s.text.indexOf("wait;"),
    );
    expect(early.length).toBeGreaterThan(0);
    const ptx = ptxOf(early[0]!, "sm_90");
    expect(ptx.indexOf("L1::no_allocate")).toBeGreaterThan(ptx.indexOf("griddepcontrol.launch_dependents"));
    expect(ptx.indexOf("L1::no_allocate")).toBeLessThan(ptx.indexOf("griddepcontrol.wait"));

    // of a layer's four products each streams its weights, two tiles of them ahead of everything else
    const streams = sources.filter((s) =>
      /async_copy_16\([^;]*;[^]*commit_group[^]*async_copy_16\([^;]*;[^]*commit_group[^]*griddepcontrol\.wait/.test(s.text),
    );
    expect(streams.length).toBeGreaterThanOrEqual(4);
    const copied = ptxOf(streams[0]!, "sm_90");
    expect(copied.indexOf("cp.async.cg.shared.global")).toBeLessThan(copied.indexOf("griddepcontrol.wait"));
  });

  test("the toolchain makes an archive of cubins of them, and rejects what spills by its name", async () => {
    vi.stubEnv("CULM_CACHE", "off");
    const caps = cudaBackend.caps("sm_90");
    const toolchain = toolchainWith(() => nvccAsNvrtc);
    const sources = printed(templates["conv1d"]!(caps).slice(0, 2), caps);
    const { kernels, computeCapability } = readCubins(await toolchain.compile([...sources, sources[0]!], caps));
    expect(computeCapability).toBe(90);
    expect(kernels.map(({ entry, threads }) => [entry, threads])).toEqual(sources.map((s) => [s.entry, s.launch!.threads]));
    const spilling: Source = {
      ...sources[0]!,
      entry: "spilling",
      about: 'layers.0.mlp: gemm {"bm":512}',
      text: 'extern "C" __global__ void spilling(float* p, int i) { float r[40]; for (int j = 0; j < 40; j++) r[j ^ i] = p[j]; p[0] = r[i]; }',
    };
    await expect(toolchain.compile([spilling], caps)).rejects.toThrow(
      /^spilling \(layers\.0\.mlp: gemm \{"bm":512\}\): it keeps registers in memory: \d+ bytes of stack/,
    );
    vi.unstubAllEnvs();
  });
});
