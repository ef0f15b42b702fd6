import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Caps } from "../../compiler/backend.ts";
import { printTile } from "../../compiler/ir/tile-text.ts";
import { interpretTile } from "../../compiler/run/tile.ts";
import type { Config, Frame, GemmProblem, RowProblem, Template } from "../../compiler/template.ts";
import { rows } from "../../compiler/generate/rows.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { vectorCaps, warpCaps } from "../support/caps.ts";
import { copyBuffers, differences } from "../support/problems/case.ts";
import type { Case } from "../support/problems/case.ts";
import { gemv } from "../../compiler/templates/gemv.ts";
import { conv1d } from "../../compiler/templates/conv1d.ts";
import { convCase } from "../support/problems/conv.ts";
import { gemmCase } from "../support/problems/gemm.ts";
import { processLogits } from "../../compiler/templates/process-logits.ts";
import { sampleToken } from "../../compiler/templates/sample-token.ts";
import { logitsCase, tokenCase } from "../support/problems/sampling.ts";
import { rowCase } from "../support/problems/rows.ts";

/**
 * Every configuration of every problem gives what the reference gives; `pick` chooses one, so that all are met over many runs. `small`: tiles
 * that no problem of a real size would ask for, so that small problems have several blocks and steps too.
 */
function agrees<P extends { readonly frame: Frame }>(
  template: Template<P>,
  cases: fc.Arbitrary<Case<P>>,
  caps: Caps,
  runs: number,
  small: (problem: P) => readonly Config[],
): void {
  fc.assert(
    fc.property(cases, fc.nat(11), (c, pick) => {
      const found = template.configs(c.problem, caps);
      if ("reject" in found) throw new Error(`rejected: ${found.reject}\n${c.about}`);
      const configs = [...found, ...small(c.problem).map((s) => ({ ...found[0]!, ...s }))];
      const config = configs[pick % configs.length]!;
      const program = template.build(c.problem, config, caps);
      const buffers = copyBuffers(c);
      const about = `${c.about}\n${JSON.stringify(config)}\n`;
      try {
        interpretTile(program, buffers, c.symbols);
      } catch (e) {
        throw new Error(`${about}${String(e)}\n${printTile(program)}`, { cause: e });
      }
      expect(differences(c, buffers), about).toEqual([]);
    }),
    { numRuns: runs },
  );
}

describe.each([vectorCaps, warpCaps])("on $name", (caps) => {
  test("gemm", () => {
    const vector = caps === vectorCaps;
    const small = vector
      ? [
          { bm: 7, bn: 16, kc: 8 },
          { bm: 6, bn: 48, kc: 16, direct: 0 },
          { bm: 5, bn: 32, kc: 24 },
        ]
      : [
          { bm: 16, bn: 8, kc: 16, groupRows: 1, groupCols: 1 },
          { bm: 32, bn: 16, kc: 32, groupRows: 2, groupCols: 1, stages: 1 },
        ];
    agrees(gemm, gemmCase(caps), caps, 200, () => small);
  });

  test("gemv", () => {
    const dot = { dot: 1, kc: caps.lanes, groups: 1 };
    const small = (p: GemmProblem): Config[] =>
      caps === vectorCaps && p.weights[0]!.panel > 0
        ? [{ per: 1 }, { per: 3 }]
        : [
            { ...dot, per: 3, hold: 0 },
            { ...dot, per: 2 },
          ];
    agrees(gemv, gemmCase(caps, 4), caps, 200, small);
  });

  test("conv1d", () => {
    const small = caps === vectorCaps ? [{ tt: 4, cb: 8 }] : [{ tt: 4, cb: 32, groups: 1 }];
    agrees(conv1d, convCase(), caps, 200, () => small);
  });

  test("process-logits", () => {
    agrees(processLogits, logitsCase(150), caps, 60, () => []);
  });

  test("sample-token", () => {
    agrees(sampleToken, tokenCase(300), caps, 100, () => [{ fan: 2 }, { fan: 3 }]);
  });

  test("rows", () => {
    const small =
      caps === vectorCaps
        ? [
            { rb: 3, cb: 8 },
            { rb: 1, cb: 64 },
          ]
        : [
            { rb: 4, cb: 32, groups: 2 },
            { rb: 1, cb: 64, groups: 1 },
          ];
    // a row that is replaced while its other columns are read must be one tile
    const legal = (p: RowProblem): Config[] => small.filter((c) => p.frame.name !== "rows_shift" || c.cb >= p.cols);
    agrees(rows, rowCase(), caps, 300, legal);
  });
});
