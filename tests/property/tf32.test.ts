import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { nullBackend } from "../../backends/null/index.ts";
import type { Caps } from "../../compiler/backend.ts";
import { roundFraction } from "../../compiler/ir/dtype.ts";
import { emulateThread } from "../../compiler/run/thread.ts";
import type { HostArray } from "../../compiler/run/tile.ts";
import type { Config } from "../../compiler/template.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { placed } from "../support/placed.ts";
import { gemmOf } from "../support/problems/gemm.ts";

const FRACTION = 10;
const caps = nullBackend.caps("null-tf32");
/** The same unit, of operands as they are. */
const exact: Caps = {
  ...caps,
  units: caps.units.map(({ fraction: _, ...unit }) => unit),
};

const round = (x: number): number => roundFraction(x, FRACTION);
const normal = fc.float({ noNaN: true, noDefaultInfinity: true }).filter((x) => Math.abs(x) >= 2 ** -126);
/** Of a number that is no power of two, the distance from it to its neighbours of so many bits. */
const spacing = (x: number): number => 2 ** (Math.floor(Math.log2(Math.abs(x))) - FRACTION);

describe("rounding to tf32", () => {
  test("gives the nearest number, and from the middle the one away from zero", () => {
    fc.assert(
      fc.property(normal, (x) => {
        const y = round(x);
        if (Number.isFinite(y)) {
          expect(Number.isInteger(y / spacing(x))).toBe(true);
          expect(Math.abs(y - x)).toBeLessThanOrEqual(spacing(x) / 2);
          if (Math.abs(y - x) === spacing(x) / 2) expect(Math.abs(y)).toBeGreaterThan(Math.abs(x));
        } else expect(Math.abs(x)).toBeGreaterThanOrEqual((2 - 2 ** -11) * 2 ** 127);
        expect(round(y)).toBe(y);
        expect(round(-x)).toBe(-y);
      }),
    );
    expect([1 + 2 ** -11, -1 - 2 ** -11, 1 + 2 ** -11 - 2 ** -23, 1 + 3 * 2 ** -11].map(round)).toEqual([1 + 2 ** -10, -1 - 2 ** -10, 1, 1 + 2 ** -9]); // prettier-ignore
  });

  test("leaves zero, infinities and NaN, and what has no more digits", () => {
    for (const x of [0, -0, Infinity, -Infinity, NaN, 1.5, -(2 ** -126), 1 + 2 ** -10]) expect(round(x)).toBe(x);
  });
});

test("a product by a unit that rounds is the exact one of rounded operands, to the last bit", () => {
  let changed = 0;
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 1, max: 70 }),
      fc.nat(7),
      (m, n, k, pick) => {
        const { problem, buffers } = gemmOf({ m, n, k }, caps);
        const configs = gemm.configs(problem, caps) as readonly Config[];
        const thread = placed(gemm.build(problem, configs[pick % configs.length]!, caps), caps);
        const inputs = new Set(problem.frame.params.filter(({ access }) => access === "read").map(({ name }) => name));
        const run = (on: Caps, given: (x: number) => number): Readonly<Record<string, HostArray>> => {
          const memory = Object.fromEntries(
            Object.entries(buffers).map(([name, data]) => [
              name,
              inputs.has(name) && data instanceof Float32Array ? data.map(given) : data.slice(),
            ]),
          );
          expect(emulateThread(thread, on, memory, {})).toEqual([]);
          return Object.fromEntries(Object.entries(memory).filter(([name]) => !inputs.has(name)));
        };
        const rounded = run(caps, (x) => x);
        expect(rounded).toEqual(run(exact, round));
        if (JSON.stringify(rounded) !== JSON.stringify(run(exact, (x) => x))) changed++;
      },
    ),
    { numRuns: 15 },
  );
  expect(changed).toBeGreaterThan(10);
});
