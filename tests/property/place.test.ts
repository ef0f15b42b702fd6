import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { nullBackend } from "../../backends/null/index.ts";
import type { Caps } from "../../compiler/backend.ts";
import { rows } from "../../compiler/generate/rows.ts";
import { printThread } from "../../compiler/ir/thread-text.ts";
import { unrollThread } from "../../compiler/lower/unroll.ts";
import type { Template } from "../../compiler/template.ts";
import { attentionDecode } from "../../compiler/templates/attention-decode.ts";
import { attention } from "../../compiler/templates/attention.ts";
import { conv1d } from "../../compiler/templates/conv1d.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { gemvStream } from "../../compiler/templates/gemv-stream.ts";
import { gemv } from "../../compiler/templates/gemv.ts";
import { ssdScan } from "../../compiler/templates/ssd-scan.ts";
import { differences, placed } from "../support/placed.ts";
import { attentionCase, DECODE, PREFILL } from "../support/problems/attention.ts";
import type { Case } from "../support/problems/case.ts";
import { convCase } from "../support/problems/conv.ts";
import { gemmCase, longRows } from "../support/problems/gemm.ts";
import { rowCase } from "../support/problems/rows.ts";
import { ssdCase } from "../support/problems/ssd.ts";

/**
 * Every template, placed on lanes: the emulator gives what the Tile interpreter gives and finds nothing wrong, for any configuration. Writing the
 * unrolled loops out changes nothing.
 */
function agrees<P>(template: Template<P>, cases: fc.Arbitrary<Case<P>>, caps: Caps, runs: number): void {
  let placedAny = 0;
  fc.assert(
    fc.property(cases, fc.nat(63), fc.boolean(), (c, pick, unroll) => {
      const configs = template.configs(c.problem, caps);
      if ("reject" in configs) return;
      placedAny++;
      const config = configs[pick % configs.length]!;
      const program = template.build(c.problem, config, caps);
      const thread = placed(program, caps);
      const wrong = differences(program, unroll ? unrollThread(thread) : thread, caps, c.buffers, c.symbols);
      expect(wrong, `${c.about}\n${JSON.stringify(config)}\n${wrong.length > 0 ? printThread(thread) : ""}`).toEqual([]);
    }),
    { numRuns: runs },
  );
  // a template may turn some problems down, but a test of nothing is none
  expect(placedAny).toBeGreaterThan(runs / 2);
}

describe.each(["null-cpu8", "null-32", "null-simd8"])("on %s", (device) => {
  const caps = nullBackend.caps(device);
  test("rows", () => {
    agrees(rows, rowCase(), caps, 60);
  });
  test("gemm", () => {
    agrees(gemm, gemmCase(caps), caps, 60);
  });
  test("gemv", () => {
    agrees(gemv, gemmCase(caps, 5), caps, 40);
  });
  test.skipIf(!caps.asyncCopy)("gemv-stream", () => {
    agrees(gemvStream, gemmCase(caps, 4, longRows(caps)), caps, 30);
  });
  test("conv1d", () => {
    agrees(conv1d, convCase(), caps, 40);
  });
  test("attention", () => {
    agrees(attention, attentionCase(PREFILL), caps, 20);
  });
  test("attention-decode", () => {
    agrees(attentionDecode, attentionCase(DECODE), caps, 20);
  });
  test("ssd-scan", () => {
    agrees(ssdScan, ssdCase, caps, 15);
  });
});
