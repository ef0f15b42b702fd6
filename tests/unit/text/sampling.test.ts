import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";
import { decodeFloats } from "../../../runtime/numeric.ts";
import { philox4x32, uniform } from "../../../runtime/text/philox.ts";
import { applyMinP, applyTemperature, applyTopK, applyTopP, softmaxOf } from "../../../runtime/text/sampling.ts";
import { applyAll, pick } from "../../support/sampling.ts";

const neutral = { temperature: 1, topK: 0, topP: 1, minP: 0 };

describe("Philox 4x32-10", () => {
  test.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [Array<number>(4).fill(0xffffffff), Array<number>(2).fill(0xffffffff), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ])("known answers of the authors", (counter, key, expected) => {
    const out = new Uint32Array(4);
    philox4x32(counter, key, out);
    expect([...out]).toEqual(expected);
  });

  test("draws are in [0, 1), even, and differ by seed, return index and step", () => {
    const draws = Array.from({ length: 10_000 }, (_, step) => uniform(7, 3, step));
    expect(Math.min(...draws)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...draws)).toBeLessThan(1);
    for (const draw of draws) expect(Math.fround(draw)).toBe(draw);
    expect(Math.abs(draws.reduce((a, b) => a + b) / 10_000 - 0.5)).toBeLessThan(0.015);
    const some = [
      uniform(7, 3, 0),
      uniform(8, 3, 0),
      uniform(7, 4, 0),
      uniform(7, 3, 1),
      uniform(7 + 2 ** 32, 3, 0),
      uniform(7, 3, 2 ** 32),
    ];
    expect(new Set(some).size).toBe(6);
  });
});

describe.each(["base", "options", "all-attention", "bf16", "rope-yarn"])("as Transformers on the scores of %s", (name) => {
  const golden = openCheckpoint(`tests/reference/golden/${name}/golden.safetensors`);
  const rows = (tensor: string): Float32Array[] => {
    const [batch, vocab] = golden.tensors.get(`sampling.${tensor}`)!.shape;
    const all = decodeFloats("F32", golden.read(`sampling.${tensor}`));
    return Array.from({ length: batch! }, (_, b) => all.slice(b * vocab!, (b + 1) * vocab!));
  };
  const check = (from: string, to: string, apply: (scores: Float32Array) => void): void => {
    const expected = rows(to);
    rows(from).forEach((scores, b) => {
      apply(scores);
      expect([...scores.keys()].filter((i) => scores[i] === -Infinity)).toEqual(
        [...scores.keys()].filter((i) => expected[b]![i] === -Infinity),
      );
      scores.forEach((score, i) => {
        if (score > -Infinity) expect(Math.abs(score - expected[b]![i]!)).toBeLessThan(1e-6);
      });
    });
  };
  test("temperature 0.7", () => check("scores", "temperature_0_7", (s) => applyTemperature(s, 0.7)));
  test("top-k 10", () => check("scores", "top_k_10", (s) => applyTopK(s, 10)));
  test("top-p 0.8", () => check("scores", "top_p_0_8", (s) => applyTopP(s, 0.8)));
  test("min-p 0.1", () => check("scores", "min_p_0_1", (s) => applyMinP(s, 0.1)));
  test("the chain of temperature 0.7, top-k 20 and top-p 0.9 after the repetition penalty", () => {
    check("repetition_1_2", "chain_rep1.2_temp0.7_topk20_topp0.9", (s) => applyAll(s, { temperature: 0.7, topK: 20, topP: 0.9, minP: 0 }));
  });
});

describe("definitions", () => {
  const f = (...values: number[]): Float32Array => Float32Array.from(values);
  const kept = (scores: Float32Array): number[] => [...scores.keys()].filter((i) => scores[i]! > -Infinity);

  test("top-k keeps ties with the k-th and does nothing for 0 or more than there are", () => {
    const after = (k: number): number[] => {
      const scores = f(1, 3, 2, 3, 2);
      applyTopK(scores, k);
      return kept(scores);
    };
    expect([1, 2, 3, 4, 0, 9].map(after)).toEqual([
      [1, 3],
      [1, 3],
      [1, 2, 3, 4],
      [1, 2, 3, 4],
      [0, 1, 2, 3, 4],
      [0, 1, 2, 3, 4],
    ]);
  });

  test("top-k against sorting", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -20, max: 20 }), { minLength: 1 }), fc.nat(30), (values, k) => {
        const scores = Float32Array.from(values);
        applyTopK(scores, k);
        const threshold = k === 0 || k >= values.length ? -Infinity : values.toSorted((a, b) => b - a)[k - 1]!;
        expect(kept(scores)).toEqual([...values.keys()].filter((i) => values[i]! >= threshold));
      }),
    );
  });

  test("top-p keeps the best even for 0, the whole for 1, and the smallest set that reaches p", () => {
    const scores = (): Float32Array => f(Math.log(0.1), Math.log(0.4), Math.log(0.2), Math.log(0.3));
    const after = (p: number): number[] => {
      const s = scores();
      applyTopP(s, p);
      return kept(s);
    };
    expect([0, 0.39, 0.41, 0.69, 0.71, 0.95, 1].map(after)).toEqual([[1], [1], [1, 3], [1, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]);
    const removed = f(-Infinity, 1, 1, -Infinity);
    applyTopP(removed, 0.5);
    expect(kept(removed)).toEqual([1, 2]);
  });

  test("top-p keeps or removes equal scores together", () => {
    const after = (p: number): number[] => {
      const scores = f(Math.log(0.2), Math.log(0.4), Math.log(0.2), Math.log(0.2));
      applyTopP(scores, p);
      return kept(scores);
    };
    expect([0.3, 0.39, 0.41, 0.7].map(after)).toEqual([[1], [1], [0, 1, 2, 3], [0, 1, 2, 3]]);
  });

  test("top-p keeps or removes equal scores together, the best of them too", () => {
    const after = (p: number): number[] => {
      const scores = f(2, 1, 2, -Infinity, 1);
      applyTopP(scores, p);
      return kept(scores);
    };
    const two = Math.exp(2) / (Math.exp(2) + Math.exp(1));
    expect([0.01, two - 0.01, two + 0.01, 0.999].map(after)).toEqual([
      [0, 2],
      [0, 2],
      [0, 1, 2, 4],
      [0, 1, 2, 4],
    ]);
  });

  test("with beams top-k, top-p and min-p leave at least as many as asked, and those equal to the last of them", () => {
    const after = (apply: (scores: Float32Array) => void): number[] => {
      const scores = f(9, 1, 3, 2, 2, -Infinity);
      apply(scores);
      return kept(scores);
    };
    expect(after((s) => applyTopK(s, 1, 2))).toEqual([0, 2]);
    expect(after((s) => applyTopK(s, 4, 2))).toEqual([0, 2, 3, 4]);
    for (const apply of [applyTopP, applyMinP]) {
      const strict = apply === applyTopP ? 0.1 : 0.9;
      expect(after((s) => apply(s, strict))).toEqual([0]);
      expect(after((s) => apply(s, strict, 2))).toEqual([0, 2]);
      expect(after((s) => apply(s, strict, 3))).toEqual([0, 2, 3, 4]);
      expect(after((s) => apply(s, strict, 99))).toEqual([0, 1, 2, 3, 4]);
    }
  });

  test("min-p compares with the best", () => {
    const scores = f(Math.log(0.5), Math.log(0.049), Math.log(0.051), Math.log(0.4));
    applyMinP(scores, 0.1);
    expect(kept(scores)).toEqual([0, 2, 3]);
    applyMinP(scores, 0);
    expect(kept(scores)).toEqual([0, 2, 3]);
  });

  test("pick: by cumulative probability in order of index, never what was removed", () => {
    const scores = f(Math.log(0.25), -Infinity, Math.log(0.5), Math.log(0.25), -Infinity);
    expect([0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2 ** -53].map((u) => pick(scores, u))).toEqual([0, 0, 2, 2, 3, 3]);
  });

  test("scores that no distribution can be made of are an error", () => {
    for (const wrong of [f(), f(NaN, 1), f(1, NaN), f(Infinity, 1), f(-Infinity, -Infinity)])
      expect(() => softmaxOf(wrong)).toThrow("the logits hold NaN or infinity, or allow no token");
  });
});

describe("draws", () => {
  /** Chi-square of 20 000 draws against the probabilities after the processors. */
  test.each([
    [neutral, 20],
    [{ ...neutral, temperature: 0.7 }, 20],
    [{ temperature: 1.3, topK: 12, topP: 0.95, minP: 0.02 }, 20],
  ])("%j follow the distribution", (options, vocab) => {
    const logits = Float32Array.from({ length: vocab }, (_, i) => Math.sin(i * 12.9898) * 2);
    const scores = logits.slice();
    applyAll(scores, options);
    const weights = [...scores].map((s) => Math.exp(s));
    const total = weights.reduce((a, b) => a + b);
    const counts = new Float64Array(vocab);
    const n = 20_000;
    for (let step = 0; step < n; step += 1) counts[pick(scores, uniform(2026, 0, step))]! += 1;
    let chi = 0;
    let freedom = -1;
    weights.forEach((w, i) => {
      const expected = (w / total) * n;
      if (expected === 0) {
        expect(counts[i]).toBe(0);
        return;
      }
      freedom += 1;
      chi += (counts[i]! - expected) ** 2 / expected;
    });
    expect(freedom).toBeGreaterThan(5);
    // Wilson and Hilferty: the cube root is nearly normal; 3.7 deviations are passed by chance once in 10 000 times.
    const z = (Math.cbrt(chi / freedom) - (1 - 2 / (9 * freedom))) / Math.sqrt(2 / (9 * freedom));
    expect(z).toBeLessThan(3.7);
  });

  test("a vocabulary of 128 256 takes no noticeable time", () => {
    const logits = Float32Array.from({ length: 128_256 }, (_, i) => Math.sin(i * 78.233) * 5);
    const options = { temperature: 0.8, topK: 0, topP: 0.9, minP: 0.05 };
    const started = performance.now();
    for (let step = 0; step < 5; step += 1) applyAll(logits.slice(), options);
    expect((performance.now() - started) / 5).toBeLessThan(1500);
  });
});
