import fc from "fast-check";
import { test } from "vitest";
import { wgslBackend } from "../../backends/wgsl/index.ts";
import { rows } from "../../compiler/generate/rows.ts";
import { gemv } from "../../compiler/templates/gemv.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { nullGpu, lavapipe } from "../support/webgpu.ts";
import { faultsOf, openDevice, Runner } from "../support/wgsl-run.ts";
import { rowCase } from "../support/problems/rows.ts";
import { gemmCase } from "../support/problems/gemm.ts";
import { placed } from "../support/placed.ts";
import { copyBuffers, differences } from "../support/problems/case.ts";

test.each(["base", "base-sg8", "base-sg8-f16"])("%s", async (name) => {
  const caps = wgslBackend.caps(name);
  const device = await openDevice(nullGpu(), caps);
  const ld = await openDevice(lavapipe(), caps);
  const runner = new Runner(ld, caps);
  for (const [t, cases] of [[rows, rowCase()], [gemv, gemmCase(caps, 5)], [gemm, gemmCase(caps)]] as const) {
    let n = 0, ms = 0;
    for (const c of fc.sample(cases as fc.Arbitrary<never>, { numRuns: 15, seed: 7 }) as any[]) {
      const configs = (t as any).configs(c.problem, caps);
      if ("reject" in configs) { console.error(t.name, configs.reject); continue; }
      const thread = placed((t as any).build(c.problem, configs[n % configs.length], caps), caps);
      const source = wgslBackend.print(wgslBackend.legalize!(thread, caps), caps);
      const faults = await faultsOf(device, source);
      if (faults.length > 0) { console.error(source.text.slice(0, 6000)); throw new Error(faults.join("\n")); }
      const buffers = copyBuffers(c);
      const t0 = performance.now(); (await import("node:fs")).writeSync(2, `${t.name} ${source.text.length} ${c.about}\n`);
      await runner.run(thread, buffers, c.symbols);
      ms += performance.now() - t0;
      const wrong = differences(c, buffers);
      if (wrong.length) { console.error(source.text.slice(0, 10000)); throw new Error(c.about + "\n" + wrong.join("\n")); }
      n++;
    }
    console.error(name, t.name, n, ms / n);
  }
});
