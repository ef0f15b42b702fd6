import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isConst } from "../../compiler/ir/expr.ts";
import { printTile } from "../../compiler/ir/tile-text.ts";
import { interpretTile } from "../../compiler/run/tile.ts";
import { ssdReplay } from "../../compiler/templates/ssd-replay.ts";
import { ssdScan } from "../../compiler/templates/ssd-scan.ts";
import { ssdStep } from "../../compiler/templates/ssd-step.ts";
import type { Caps } from "../../compiler/backend.ts";
import { fmaUnit, vectorCaps, warpCaps } from "../support/caps.ts";
import { copyBuffers, differences } from "../support/problems/case.ts";
import { replayCases } from "../support/problems/replay.ts";
import { ssdCase, ssdCases } from "../support/problems/ssd.ts";

/** So little shared memory that the state dimension is staged in slices. */
const small: Caps = { ...warpCaps, name: "test-small", sharedBytes: 4 * 1024, units: [fmaUnit] };

describe.each([vectorCaps, warpCaps])("ssd-step on $name", (caps) => {
  test("is one position of the recurrence, in every configuration, with a state of any type", () => {
    fc.assert(
      fc.property(ssdCases({ steep: true, step: true }), fc.nat(3), (c, pick) => {
        const configs = ssdStep.configs(c.problem, caps);
        if ("reject" in configs) throw new Error(`rejected: ${configs.reject}\n${c.about}`);
        const config = configs[pick % configs.length]!;
        const buffers = copyBuffers(c);
        interpretTile(ssdStep.build(c.problem, config, caps), buffers, c.symbols);
        expect(differences(c, buffers), `${c.about}\n${JSON.stringify(config)}`).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });

  test("leaves what is more than a step to the scan", () => {
    fc.assert(
      fc.property(ssdCase, (c) => {
        const why = ssdStep.configs(c.problem, caps);
        fc.pre(c.problem.ids !== null || !isConst(c.problem.seq, 1));
        expect(why).toHaveProperty("reject");
      }),
      { numRuns: 20 },
    );
  });
});

test.each([vectorCaps, warpCaps])("ssd-replay on $name is the recurrence over its ring and its input, in every configuration", (caps) => {
  fc.assert(
    fc.property(replayCases({ steep: true }), fc.nat(3), (c, pick) => {
      const configs = ssdReplay.configs(c.problem, caps);
      if ("reject" in configs) throw new Error(`rejected: ${configs.reject}\n${c.about}`);
      const config = configs[pick % configs.length]!;
      const buffers = copyBuffers(c);
      interpretTile(ssdReplay.build(c.problem, config, caps), buffers, c.symbols);
      expect(differences(c, buffers), `${c.about}\n${JSON.stringify(config)}`).toEqual([]);
    }),
    { numRuns: 80 },
  );
});

describe.each([vectorCaps, warpCaps, small])("ssd-scan on $name", (caps) => {
  test("is the recurrence, in every configuration", () => {
    let sliced = 0;
    fc.assert(
      fc.property(ssdCase, fc.nat(11), (c, pick) => {
        const found = ssdScan.configs(c.problem, caps);
        if ("reject" in found && caps === small) return;
        if ("reject" in found) throw new Error(`rejected: ${found.reject}\n${c.about}`);
        const quantum = caps === warpCaps ? 16 : 8;
        const configs = [...found, { ...found[0]!, q: quantum, groups: 1 }];
        sliced += configs.some(({ slices }) => slices! > 1) ? 1 : 0;
        const config = configs[pick % configs.length]!;
        const program = ssdScan.build(c.problem, config, caps);
        const buffers = copyBuffers(c);
        const about = `${c.about}\n${JSON.stringify(config)}\n`;
        try {
          interpretTile(program, buffers, c.symbols);
        } catch (e) {
          throw new Error(`${about}${String(e)}\n${printTile(program)}`, { cause: e });
        }
        expect(differences(c, buffers), about).toEqual([]);
      }),
      { numRuns: 60 },
    );
    expect(sliced > 0).toBe(caps === small);
  });
});
