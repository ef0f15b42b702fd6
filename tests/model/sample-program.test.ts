import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { applyMinP, applyTemperature, applyTopK, applyTopP } from "../../runtime/text/sampling.ts";
import { uniform } from "../../runtime/text/philox.ts";
import { openGoldenTensors } from "../support/running.ts";
import { openSampleProgram } from "../support/sample-program.ts";
import { applyAll, argmax, pick } from "../support/sampling.ts";
import { random } from "../support/values.ts";

/** The compiled program that chooses tokens, as the session runs it. */

const off = { penalty: 1, temperature: 1, topK: 0, topP: 1, minP: 0, draw: -1 };
type Settings = typeof off;
const row = (settings: Partial<Settings>): number[] => Object.values({ ...off, ...settings });

const small = await openSampleProgram(257, 64);
afterAll(() => small.close());

describe.each(["base", "options", "all-attention", "bf16", "rope-yarn"])("as Transformers on the scores of %s", (name) => {
  const file = openGoldenTensors(name);
  const vocab = file.shape("sampling.scores")[1]!;
  const rows = (tensor: string): Float32Array[] =>
    [0, 1].map((b) => file.floats(`sampling.${tensor}`).subarray(b * vocab, (b + 1) * vocab));
  const program = openSampleProgram(vocab, 2);
  afterAll(async () => (await program).close());
  const history = file.rows("sampling.history");
  test.each<[tensor: string, settings: Partial<Settings>]>([
    ["temperature_0_7", { temperature: 0.7 }],
    ["top_k_10", { topK: 10 }],
    ["top_p_0_8", { topP: 0.8 }],
    ["min_p_0_1", { minP: 0.1 }],
    ["repetition_1_2", { penalty: 1.2 }],
    ["chain_rep1.2_temp0.7_topk20_topp0.9", { penalty: 1.2, temperature: 0.7, topK: 20, topP: 0.9 }],
  ])("%s", async (tensor, settings) => {
    const { scores, tokens } = await (await program).run(rows("scores"), [row(settings), row(settings)], history);
    for (const [b, expected] of rows(tensor).entries()) {
      expected.forEach((x, i) => {
        if (x === -Infinity) expect(scores[b]![i]).toBe(-Infinity);
        else expect(Math.abs(scores[b]![i]! - x)).toBeLessThan(1e-4);
      });
      expect(tokens[b]).toBe(argmax(expected));
    }
  });
});

const options = fc.record({
  temperature: fc.constantFrom(0.5, 1, 0.7, 1.9),
  topK: fc.constantFrom(0, 1, 3, 40, 256, 257, 1000),
  topP: fc.constantFrom(0, 0.1, 0.55, 0.913, 1),
  minP: fc.constantFrom(0, 0.0137, 0.31, 1),
});

test("as the functions of the host", async () => {
  const property = fc.asyncProperty(
    fc.array(options, { minLength: 1, maxLength: 5 }),
    fc.nat(),
    fc.boolean(),
    async (chosen, seed, equal) => {
      const g = random(seed);
      const logits = chosen.map(() => Float32Array.from(g.values(257, -6, 6), (x) => (equal ? Math.round(2 * x) / 2 : x)));
      for (const values of logits) values[g.integer(0, 255)] = -Infinity;
      const draws = chosen.map((_, i) => (i % 2 === 0 ? Math.fround(g.uniform(0, 1)) : -1));
      const { scores, tokens } = await small.run(
        logits,
        chosen.map((o, i) => row({ ...o, draw: draws[i]! })),
      );
      chosen.forEach((o, i) => {
        const expected = logits[i]!.slice();
        applyAll(expected, o);
        // a sum in f32 may fall on the other side of an edge than one in f64: there the two may differ by the scores of one value
        const differ = [...expected.keys()].filter((at) => expected[at] !== scores[i]![at]);
        const values = new Set(differ.map((at) => logits[i]![at]));
        expect(values.size).toBeLessThanOrEqual(1);
        if (differ.length > 0) return;
        if (draws[i]! < 0) expect(tokens[i]).toBe(argmax(expected));
        else {
          const near = [draws[i]! - 1e-6, draws[i]!, draws[i]! + 1e-6].map((u) => pick(expected, Math.min(Math.max(u, 0), 1 - 2 ** -24)));
          expect(near).toContain(tokens[i]);
        }
      });
    },
  );
  await fc.assert(property, { numRuns: 100 });
});

describe("20 000 draws follow the softmax of the processed scores", () => {
  const logits = Float32Array.from({ length: 257 }, (_, i) => Math.sin(i * 12.9898) * 3);
  test.each<[what: string, settings: Partial<Settings>, host: (scores: Float32Array) => void]>([
    ["none", {}, () => undefined],
    ["temperature", { temperature: 0.7 }, (s) => applyTemperature(s, 0.7)],
    ["top-k", { topK: 12 }, (s) => applyTopK(s, 12)],
    ["top-p", { topP: 0.8 }, (s) => applyTopP(s, 0.8)],
    ["min-p", { minP: 0.2 }, (s) => applyMinP(s, 0.2)],
    [
      "chain",
      { temperature: 1.3, topK: 40, topP: 0.95, minP: 0.05 },
      (s) => applyAll(s, { temperature: 1.3, topK: 40, topP: 0.95, minP: 0.05 }),
    ],
  ])("%s", async (_, settings, host) => {
    const scores = logits.slice();
    host(scores);
    const weights = Array.from(scores, Math.exp);
    const total = weights.reduce((a, b) => a + b);
    const counts = new Float64Array(logits.length);
    const n = 20_000;
    for (let first = 0; first < n; first += 64) {
      const rows = Array.from({ length: Math.min(64, n - first) }, (_, i) => row({ ...settings, draw: uniform(2026, 0, first + i) }));
      const { tokens } = await small.run(
        rows.map(() => logits),
        rows,
      );
      for (const token of tokens) counts[token]! += 1;
    }
    // cells of few expected draws are put together, as the test asks for
    let [chi, freedom, expected, counted] = [0, -1, 0, 0];
    weights.forEach((w, i) => {
      if (w === 0) expect(counts[i]).toBe(0);
      expected += (w / total) * n;
      counted += counts[i]!;
      if (expected < 10) return;
      chi += (counted - expected) ** 2 / expected;
      freedom += 1;
      [expected, counted] = [0, 0];
    });
    expect(freedom).toBeGreaterThan(5);
    // Wilson and Hilferty: the cube root is nearly normal; 3.7 deviations are passed by chance once in 10 000 times.
    const z = (Math.cbrt(chi / freedom) - (1 - 2 / (9 * freedom))) / Math.sqrt(2 / (9 * freedom));
    expect(z).toBeLessThan(3.7);
  });
});

test("a row is the same alone, among others, and with any number of threads", async () => {
  const g = random(5);
  const logits = Array.from({ length: 13 }, () => g.values(257, -5, 5));
  const settings = logits.map((_, i) =>
    row({ penalty: 1.1, temperature: 0.9, topK: 50 + i, topP: 0.9, draw: i === 3 ? -1 : g.uniform(0, 1) }),
  );
  const seen = logits.map((_, i) => [i, 2 * i, 200 - i]);
  const all = await small.run(logits, settings, seen);
  const two = await openSampleProgram(257, 64, 2);
  expect(await two.run(logits, settings, seen)).toEqual(all);
  await two.close();
  const turned = await small.run(logits.toReversed(), settings.toReversed(), seen.toReversed());
  expect([...turned.tokens].reverse()).toEqual([...all.tokens]);
  expect(turned.scores.toReversed()).toEqual(all.scores);
  for (const i of [0, 3, 12]) {
    const alone = await small.run([logits[i]!], [settings[i]!], [seen[i]!]);
    expect([alone.tokens[0], alone.scores[0]]).toEqual([all.tokens[i], all.scores[i]]);
  }
});
