import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { rows } from "../../compiler/generate/rows.ts";
import { decomposeGraph } from "../../compiler/graph/decompose.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import type { Graph } from "../../compiler/ir/graph.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";
import type { Tensor } from "../../compiler/run/graph.ts";
import type { Frame, Template } from "../../compiler/template.ts";
import { attentionDecode } from "../../compiler/templates/attention-decode.ts";
import { attentionStream } from "../../compiler/templates/attention-stream.ts";
import { attention } from "../../compiler/templates/attention.ts";
import { conv1d } from "../../compiler/templates/conv1d.ts";
import { gemmStream } from "../../compiler/templates/gemm-stream.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { gemvStream } from "../../compiler/templates/gemv-stream.ts";
import { gemv } from "../../compiler/templates/gemv.ts";
import { processLogits as processLogitsTemplate } from "../../compiler/templates/process-logits.ts";
import { sampleToken as sampleTokenTemplate } from "../../compiler/templates/sample-token.ts";
import { ssdReplayStream } from "../../compiler/templates/ssd-replay-stream.ts";
import { ssdReplay } from "../../compiler/templates/ssd-replay.ts";
import { ssdScan } from "../../compiler/templates/ssd-scan.ts";
import { ssdStep } from "../../compiler/templates/ssd-step.ts";
import { add, input, model, mul, processLogits, sampleToken } from "../../dsl/index.ts";
import { compileFused } from "../support/execute.ts";
import type { FusedProgram } from "../support/execute.ts";
import { ssdLaws, ssdRunner } from "../support/laws.ts";
import type { Execute } from "../support/laws.ts";
import { attentionLaws, mixerLaws } from "../support/mixer-laws.ts";
import { placed } from "../support/placed.ts";
import { attentionCase, DECODE, PREFILL, streamCase as attentionStreamCase } from "../support/problems/attention.ts";
import { copyBuffers, differences } from "../support/problems/case.ts";
import type { Case } from "../support/problems/case.ts";
import { convCase } from "../support/problems/conv.ts";
import { gemmCase, longRows, streamCase } from "../support/problems/gemm.ts";
import { replayCases, replayStreamCases } from "../support/problems/replay.ts";
import { rowCase } from "../support/problems/rows.ts";
import { logitsCase, logitsInputs, tokenCase } from "../support/problems/sampling.ts";
import { ssdCases } from "../support/problems/ssd.ts";
import { convSteps, graphCases, headsSteps } from "../support/random-graph.ts";
import { difference } from "../support/values.ts";
import type { Target } from "./backends.ts";

/**
 * What every backend must do: each template on random problems, whole random graphs, and the laws of the scan, the mixer and attention. fast-check
 * prints the seed of a failure. A target that takes seconds for a kernel gets a few cases of each, and the first laws.
 */
export const conformance = (target: Target): unknown =>
  describe(target.caps.name, () => {
    const { caps } = target;
    const runs = (n: number): number => Math.max(target.share < 0.1 ? 1 : 5, Math.round(n * target.share));

    describe("templates", () => {
      const agrees = async <P extends { readonly frame: Frame }>(
        template: Template<P>,
        cases: fc.Arbitrary<Case<P>>,
        numRuns: number,
      ): Promise<void> => {
        const property = fc.asyncProperty(cases, fc.nat(63), async (c, pick) => {
          const configs = template.configs(c.problem, caps);
          if ("reject" in configs) return;
          const config = configs[pick % configs.length]!;
          const buffers = copyBuffers(c);
          await target.run(placed(template.build(c.problem, config, caps), caps), caps, buffers, c.symbols);
          expect(
            differences({ ...c, tolerance: Math.max(c.tolerance, target.coarse) }, buffers),
            `${c.about}\n${JSON.stringify(config)}`,
          ).toEqual([]);
        });
        await fc.assert(property, { numRuns: runs(numRuns) });
      };
      test("rows", () => agrees(rows, rowCase(), 40));
      test("gemm", () => agrees(gemm, gemmCase(caps), 40));
      test.skipIf(!caps.asyncCopy)("gemm-stream", () =>
        agrees(gemmStream, streamCase(target.products?.rows, target.products?.columns), 40),
      );
      test("gemv", () => agrees(gemv, gemmCase(caps, 5), 40));
      test.skipIf(!caps.asyncCopy)("gemv-stream", () => agrees(gemvStream, gemmCase(caps, 4, longRows(caps)), 20));
      test("conv1d", () => agrees(conv1d, convCase(), 30));
      test("attention", () => agrees(attention, attentionCase(PREFILL), 20));
      test("attention-decode", () => agrees(attentionDecode, attentionCase(DECODE), 20));
      test.skipIf(!caps.asyncCopy)("attention-stream", () => agrees(attentionStream, attentionStreamCase(DECODE), 20));
      // an emulated lane is slow, and a pass over the scores is repeated for every halving
      const vocab = target.share < 1 ? 300 : 6000;
      test("process-logits", () => agrees(processLogitsTemplate, logitsCase(vocab), 30));
      test("sample-token", () => agrees(sampleTokenTemplate, tokenCase(vocab), 40));
      test("ssd-step", () => agrees(ssdStep, ssdCases({ steep: target.coarse === 0, step: true }), 20));
      test("ssd-replay", () => agrees(ssdReplay, replayCases({ steep: target.coarse === 0 }), 20));
      test.skipIf(!caps.asyncCopy)("ssd-replay-stream", () =>
        agrees(ssdReplayStream, replayStreamCases({ steep: target.coarse === 0 }), 20),
      );
      test("ssd-scan", () => agrees(ssdScan, ssdCases({ steep: target.coarse === 0 }), 20));
    });

    test.each([
      ["random graphs", graphCases({ smooth: true }), 40],
      ["random decode steps", fc.oneof(convSteps, headsSteps), 30],
    ] as const)("%s", async (_, cases, numRuns) => {
      const property = fc.asyncProperty(cases, async (c) => {
        const expected = interpretGraph(c.graph, c.bindings);
        const got = await compileFused(c.graph, caps)(c.bindings, target.run);
        for (const kind of ["outputs", "states"] as const)
          for (const [name, t] of Object.entries(expected[kind]))
            expect(difference(got[kind][name]!.data, t.data), `${kind} ${name}\n${printGraph(c.graph)}`).toBeLessThan(
              Math.max(1e-3, target.coarse),
            );
      });
      await fc.assert(property, { numRuns: runs(numRuns) });
    });

    test("sampling: kernels and decomposition mean what the interpreter does", async () => {
      const draws = fc.array(fc.double({ min: -1, max: 0.999, noNaN: true }), { minLength: 3, maxLength: 3 });
      const property = fc.asyncProperty(logitsCase(30), draws, fc.boolean(), async (c, drawn, alone) => {
        const given = logitsInputs(c);
        const [batch, vocab] = given.logits.shape as [number, number];
        const graph = samplingGraph(batch, vocab, alone);
        const inputsAt = (shift: number): Record<string, Tensor> => ({
          ...given,
          draw: tensor(
            "f32",
            [batch],
            drawn.slice(0, batch).map((u) => (u < 0 ? u : Math.min(Math.max(u + shift, 0), 1 - 2 ** -24))),
          ),
        });
        const bindings = { symbols: {}, inputs: inputsAt(0) };
        const expected = interpretGraph(graph, bindings).outputs;
        // an f32 sum may fall on the other side of an edge
        const near = [-1e-4, 0, 1e-4].map((shift) => interpretGraph(graph, { symbols: {}, inputs: inputsAt(shift) }).outputs["next"]?.data);
        for (const g of [graph, decomposeGraph(graph)]) {
          const { outputs } = await compileFused(g, caps)(bindings, target.run);
          expect(difference(outputs["twice"]!.data, expected["twice"]!.data), c.about).toBeLessThan(1e-6);
          outputs["next"]?.data.forEach((token, row) => {
            expect(near.map((tokens) => tokens![row])).toContain(token);
          });
        }
      });
      await fc.assert(property, { numRuns: runs(10) });
    });

    const execute = executor(target);
    const options = { tolerance: Math.max(2e-4, target.coarse / 2), maxSeq: 20 };
    for (const [what, laws] of [
      ["scan", ssdLaws(ssdRunner(execute), options)],
      ["mixer", mixerLaws(execute, options)],
      ["attention", attentionLaws(execute, options)],
    ] as const)
      describe(`laws of the ${what}`, () => {
        for (const law of target.share < 0.1 ? laws.slice(0, 2) : laws) test(law.name, () => fc.assert(law.property, { numRuns: runs(4) }));
      });
  });

/** Both operations with something after them; `alone`: only the scores, whose reader then is all that asks for them. */
function samplingGraph(batch: number, vocab: number, alone: boolean): Graph {
  return model("sampling", { dims: { batch, vocab } }, () => {
    const logits = input("logits", ["batch", "vocab"]);
    const scores = processLogits(logits, input("seen", ["batch", "vocab"], "bool"), input("settings", ["batch", 5]));
    const twice = mul(scores, 2);
    return alone ? { twice } : { twice, next: add(sampleToken(scores, input("draw", ["batch"])), 1) };
  });
}

/** Graphs compiled for a target, each once. */
function executor(target: Target): Execute {
  const compiled = new WeakMap<Graph, FusedProgram>();
  return (graph, bindings) => {
    const program = compiled.get(graph) ?? compileFused(graph, target.caps);
    compiled.set(graph, program);
    return program(bindings, target.run);
  };
}
