import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Caps } from "../../compiler/backend.ts";
import { printTile } from "../../compiler/ir/tile-text.ts";
import type { TileProgram } from "../../compiler/ir/tile.ts";
import { interpretTile } from "../../compiler/run/tile.ts";
import type { AttentionProblem, Config, Template } from "../../compiler/template.ts";
import { attentionDecode } from "../../compiler/templates/attention-decode.ts";
import { attention } from "../../compiler/templates/attention.ts";
import { vectorCaps, warpCaps } from "../support/caps.ts";
import { findings, placed } from "../support/placed.ts";
import { DECODE, PREFILL, attentionCase } from "../support/problems/attention.ts";
import type { AttentionSizes } from "../support/problems/attention.ts";
import { copyBuffers, differences } from "../support/problems/case.ts";
import type { Case } from "../support/problems/case.ts";

type AttentionCase = Case<AttentionProblem>;
type Run = (program: TileProgram, c: AttentionCase, caps: Caps) => readonly string[];

const interpreted: Run = (program, c) => {
  const buffers = copyBuffers(c);
  interpretTile(program, buffers, c.symbols);
  return differences(c, buffers);
};

/** On lanes: no race, no read of what nothing wrote, and the same results. */
const emulated: Run = (program, c, caps) => {
  const { text, memory } = findings(placed(program, caps), caps, c.buffers, c.symbols);
  return [...text, ...differences(c, memory)];
};

/**
 * Every configuration of every problem gives what the reference gives; `pick` chooses one. `small`: tiles that no real problem would ask for, so
 * that small problems have several blocks and steps too.
 */
function agrees(
  template: Template<AttentionProblem>,
  sizes: AttentionSizes,
  caps: Caps,
  run: Run,
  runs: number,
  small: (p: AttentionProblem) => readonly Config[],
): void {
  fc.assert(
    fc.property(attentionCase(sizes), fc.nat(11), (c, pick) => {
      const found = template.configs(c.problem, caps);
      if ("reject" in found) throw new Error(`rejected: ${found.reject}\n${c.about}`);
      const configs = [...small(c.problem).map((s) => ({ ...found[0]!, ...s })), ...found];
      const config = configs[pick % configs.length]!;
      const program = template.build(c.problem, config, caps);
      const about = `${c.about}\n${JSON.stringify(config)}\n`;
      try {
        expect(run(program, c, caps), about).toEqual([]);
      } catch (e) {
        throw new Error(`${about}${String(e)}\n${printTile(program)}`, { cause: e });
      }
    }),
    { numRuns: runs },
  );
}

const shared = (p: AttentionProblem): number => p.heads / p.kvHeads;

const smallPrefill =
  (caps: Caps) =>
  (p: AttentionProblem): Config[] =>
    caps === vectorCaps
      ? [
          { queries: 5, heads: shared(p), keys: 16 },
          { queries: 7, heads: 1, keys: 8 },
          { queries: 1, heads: 1, keys: 32 },
        ]
      : [
          { queries: 5, heads: shared(p), keys: 16, groupRows: 1 },
          { queries: 16, heads: 1, keys: 16, groupRows: 1 },
          { queries: 9, heads: shared(p), keys: 32, groupRows: 2 },
        ];

const smallDecode = (caps: Caps) => (): Config[] =>
  caps === vectorCaps ? [{ heads: 1, keys: 8 }, { keys: 8 }, { keys: 24 }] : [{ heads: 1, keys: 16, groupCols: 1 }];

describe.each([vectorCaps, warpCaps])("on $name", (caps) => {
  test("attention is its definition", () => {
    agrees(attention, PREFILL, caps, interpreted, 100, smallPrefill(caps));
  });
  test("attention-decode is its definition", () => {
    agrees(attentionDecode, DECODE, caps, interpreted, 100, smallDecode(caps));
  });
  test("attention on lanes", () => {
    agrees(attention, PREFILL, caps, emulated, 25, smallPrefill(caps));
  });
  test("attention-decode on lanes", () => {
    agrees(attentionDecode, DECODE, caps, emulated, 25, smallDecode(caps));
  });
});
