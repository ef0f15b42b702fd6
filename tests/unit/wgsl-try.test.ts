import { writeSync } from "node:fs";
import fc from "fast-check";
import { test } from "vitest";
import { wgslBackend } from "../../backends/wgsl/index.ts";
import { rows } from "../../compiler/generate/rows.ts";

import { gemv } from "../../compiler/templates/gemv.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { attention } from "../../compiler/templates/attention.ts";
import { attentionDecode } from "../../compiler/templates/attention-decode.ts";
import { ssdScan } from "../../compiler/templates/ssd-scan.ts";
import { conv1d } from "../../compiler/templates/conv1d.ts";
import { processLogits } from "../../compiler/templates/process-logits.ts";
import { sampleToken } from "../../compiler/templates/sample-token.ts";
import { nullGpu, lavapipe } from "../support/webgpu.ts";
import { faultsOf, openDevice, Runner } from "../support/wgsl-run.ts";
import { rowCase } from "../support/problems/rows.ts";
import { gemmCase } from "../support/problems/gemm.ts";
import { attentionCase, DECODE, PREFILL } from "../support/problems/attention.ts";
import { convCase } from "../support/problems/conv.ts";
import { logitsCase, tokenCase } from "../support/problems/sampling.ts";
import { ssdCases } from "../support/problems/ssd.ts";
import { placed } from "../support/placed.ts";
import { copyBuffers, differences } from "../support/problems/case.ts";

const log = (s: string) => writeSync(2, s + "\n");
const only = (process.env["ONLY"] ?? "").split(",").filter(Boolean);
const run = process.env["RUN"] !== "0";
test.each((process.env["CAPS"] ?? "base").split(","))("%s", async (name) => {
  const caps = wgslBackend.caps(name);
  const device = await openDevice(nullGpu(), caps);
  const runner = run ? new Runner(await openDevice(lavapipe(), caps), caps) : null;
  for (const [t, cases] of [[rows, rowCase()], [gemv, gemmCase(caps, 5)], [gemm, gemmCase(caps)], [conv1d, convCase()], [attention, attentionCase(PREFILL)], [attentionDecode, attentionCase(DECODE)], [processLogits, logitsCase(300)], [sampleToken, tokenCase(300)], [ssdScan, ssdCases({ steep: true })]] as const) {
    if (only.length && !only.includes(t.name)) continue;
    let n = 0;
    for (const c of fc.sample(cases as fc.Arbitrary<never>, { numRuns: Number(process.env["N"] ?? 8), seed: Number(process.env["SEED"] ?? 7) }) as any[]) {
      const configs = (t as any).configs(c.problem, caps);
      if ("reject" in configs) { log(`${t.name} ${configs.reject}`); continue; }
      const chosen = configs[process.env["PICK"] ? 0 : (n * 3) % configs.length]!;
      const thread = placed((t as any).build(c.problem, chosen, caps), caps);
      const source = wgslBackend.print(wgslBackend.legalize!(thread, caps), caps);
      if (process.env["SHOW"]) log(source.text);
      const faults = await faultsOf(device, source);
      if (faults.length > 0) { log(source.text.slice(0, 6000)); throw new Error(faults.join("\n")); }
      const buffers = copyBuffers(c);
      const t0 = performance.now();
      if (runner) {
        await runner.run(thread, buffers, c.symbols);
        log(`${name} ${t.name} ${source.text.length} chars ${(performance.now() - t0).toFixed(0)} ms ${JSON.stringify(chosen.config)}`);
        const wrong = differences(c, buffers);
        if (wrong.length) { log(source.text.slice(0, 20000)); throw new Error(c.about + "\n" + wrong.join("\n")); }
      } else log(`${name} ${t.name} ${source.text.length} chars ${JSON.stringify(chosen.config)}`);
      n++;
    }
  }
});
