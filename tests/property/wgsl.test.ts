import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { wgslBackend } from "../../backends/wgsl/index.ts";
import { rows } from "../../compiler/generate/rows.ts";
import { printThread, verifyThread } from "../../compiler/ir/thread-text.ts";
import { eachStmt } from "../../compiler/ir/thread-walk.ts";
import type { Template } from "../../compiler/template.ts";
import { attentionDecode } from "../../compiler/templates/attention-decode.ts";
import { attention } from "../../compiler/templates/attention.ts";
import { conv1d } from "../../compiler/templates/conv1d.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { gemv } from "../../compiler/templates/gemv.ts";
import { ssdScan } from "../../compiler/templates/ssd-scan.ts";
import { differences, placed } from "../support/placed.ts";
import { attentionCase, DECODE, PREFILL } from "../support/problems/attention.ts";
import type { Case } from "../support/problems/case.ts";
import { convCase } from "../support/problems/conv.ts";
import { gemmCase } from "../support/problems/gemm.ts";
import { rowCase } from "../support/problems/rows.ts";
import { ssdCase } from "../support/problems/ssd.ts";

/** What the WGSL printer is given means what the template wrote, on the emulator: fetching ahead, vectors and written-out loops change nothing and race nowhere. */
describe.each(["base", "base-sg8", "large-sg32", "large-sg32-f16-mat"])("legalised for %s", (target) => {
  const caps = wgslBackend.caps(target);
  const agrees = <P>(template: Template<P>, cases: fc.Arbitrary<Case<P>>, runs: number): number => {
    let vectors = 0;
    fc.assert(
      fc.property(cases, fc.nat(63), (c, pick) => {
        const configs = template.configs(c.problem, caps);
        if ("reject" in configs) return;
        const config = configs[pick % configs.length]!;
        const program = template.build(c.problem, config, caps);
        const thread = wgslBackend.legalize!(placed(program, caps), caps);
        verifyThread(thread);
        eachStmt(thread.body, (s) => {
          if (s.op === "loadVec" || s.op === "storeVec") vectors++;
        });
        const wrong = differences(program, thread, caps, c.buffers, c.symbols);
        expect(wrong, `${c.about}\n${JSON.stringify(config)}\n${wrong.length > 0 ? printThread(thread) : ""}`).toEqual([]);
      }),
      { numRuns: runs },
    );
    return vectors;
  };
  test("rows", () => {
    agrees(rows, rowCase(), 30);
  });
  test("gemm", () => {
    expect(agrees(gemm, gemmCase(caps), 30)).toBeGreaterThan(0);
  });
  test("gemv", () => {
    expect(agrees(gemv, gemmCase(caps, 5), 25)).toBeGreaterThan(0);
  });
  test("conv1d", () => {
    agrees(conv1d, convCase(), 15);
  });
  test("attention", () => {
    expect(agrees(attention, attentionCase(PREFILL), 12)).toBeGreaterThan(0);
  });
  test("attention-decode", () => {
    agrees(attentionDecode, attentionCase(DECODE), 12);
  });
  test("ssd-scan", () => {
    agrees(ssdScan, ssdCase, 8);
  });
});
