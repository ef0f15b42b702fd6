import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../backends/cuda/index.ts";
import { llvmBackend } from "../../backends/llvm/index.ts";
import { metalBackend } from "../../backends/metal/index.ts";
import { nullBackend } from "../../backends/null/index.ts";
import { wgslBackend } from "../../backends/wgsl/index.ts";
import type { Backend, Caps } from "../../compiler/backend.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import { printThread } from "../../compiler/ir/thread-text.ts";
import { printTile } from "../../compiler/ir/tile-text.ts";
import { lowerGraph, lowerKernel } from "../../compiler/pipeline.ts";
import { parseBambaConfig } from "../../models/bamba/config.ts";
import { bambaGraph } from "../../models/bamba/model.ts";

/**
 * What the compiler makes of one Mamba and one attention layer, as text. A refactoring must not change a character; a change that means to is
 * accepted with UPDATE=1 and read in the diff. Native text is for a named target, so that it is the same on every machine.
 */
const file = new URL("../reference/golden/base/config.json", import.meta.url);
const config = parseBambaConfig(JSON.parse(readFileSync(file, "utf8")), "config.json");
const graphs = {
  prefill: bambaGraph(config, { phase: "prefill", batch: [1, 2], maxSeq: 64, capacity: 128, weights: "bf16" }),
  decode: bambaGraph(config, { phase: "decode", batch: 1, capacity: 128, weights: "bf16" }),
};
const targets: readonly (readonly [string, Backend, Caps])[] = [
  // tiles depend on how many cores there are to keep busy
  ["x86-64-avx2", llvmBackend, { ...llvmBackend.caps("x86-64-avx2"), workers: 2 }],
  ["null-32", nullBackend, nullBackend.caps("null-32")],
  ["wgsl-base", wgslBackend, wgslBackend.caps("base")],
  ["wgsl-large-sg32", wgslBackend, wgslBackend.caps("large-sg32")],
  ["cuda-sm_90", cudaBackend, cudaBackend.caps("sm_90")],
  ["metal-m4", metalBackend, metalBackend.caps("m4")],
];

/** Native text in full where a person could read it; otherwise its fingerprint, which is enough to notice a change. */
const shortened = (text: string): string =>
  text.length <= 24_000 ? text : `native text: ${text.split("\n").length} lines, sha256 ${createHash("sha256").update(text).digest("hex")}`;

const golden = (name: string): string => `./text/${name}`;

describe.each(Object.keys(graphs) as (keyof typeof graphs)[])("%s", (phase) => {
  test("graph", async () => {
    await expect(`${printGraph(graphs[phase])}\n`).toMatchFileSnapshot(golden(`${phase}.graph.txt`));
  });

  test.each(targets)("kernels for %s", async (target, backend, caps) => {
    const { kernels } = lowerGraph(graphs[phase], caps).fused;
    const seen = new Set<string>();
    for (const k of kernels) {
      // layers 1 (Mamba) and 2 (attention), then the head: every kind of kernel once
      const kind = `${k.label.includes("self_attn") || k.label.includes(".attention") ? "attention" : "mamba"}.${k.problem.frame.name}.${k.label.split(".").at(-1)!}`;
      if (/^layers\.[03]\./.test(k.label) || seen.has(kind)) continue;
      seen.add(kind);
      const { choice, thread } = lowerKernel(k, caps);
      const text = [
        `# ${k.label}: ${choice.template} ${JSON.stringify(choice.config)}`,
        `# arguments: ${k.args.map((a, i) => `p${i} = ${a.buffer.kind} ${a.buffer.name}${a.access === "read" ? "" : ` (${a.access})`}`).join(", ")}`,
        printTile(choice.program),
        printThread(thread),
        ...(backend === nullBackend ? [] : [shortened(backend.print(backend.legalize?.(thread, caps) ?? thread, caps).text)]),
      ].join("\n\n");
      await expect(`${text}\n`).toMatchFileSnapshot(golden(`${phase}/${target}/${kind}.txt`));
    }
    expect(seen.size).toBeGreaterThan(10);
  });
});
