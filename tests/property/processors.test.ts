import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { resolveGeneration } from "../../runtime/text/generation-config.ts";
import type { GenerationOptions } from "../../runtime/text/generation-config.ts";
import { buildProcessors } from "../../runtime/text/processors/chain.ts";
import { buildStopping } from "../../runtime/text/stopping.ts";

const model = { bosTokenId: 1, eosTokenIds: [2], padTokenId: 0, maxPositionEmbeddings: 1000 };
const settle = (options: GenerationOptions, promptLength = 1) => resolveGeneration({ topK: 0, ...options }, undefined, model, promptLength);

function processed(options: GenerationOptions, scores: ArrayLike<number>, ids: readonly number[] = [0]): Float32Array {
  const out = Float32Array.from(scores);
  const { always, sampling } = buildProcessors(settle(options, ids.length), out.length);
  for (const step of [...always, ...sampling])
    step.process(out, { ids: Int32Array.from(ids), promptLength: ids.length, row: 0, prompt: 0 });
  return out;
}

const kept = (scores: Float32Array): number[] => [...scores.keys()].filter((i) => scores[i]! > -Infinity);

/** Few values, so that ties are common, some of them removed before; at least one is not. */
const someScores = fc
  .tuple(
    fc.array(fc.oneof(fc.integer({ min: -8, max: 8 }), fc.double({ min: -30, max: 30, noNaN: true }), fc.constant(-Infinity)), {
      maxLength: 40,
    }),
    fc.integer({ min: -8, max: 8 }),
    fc.nat(),
  )
  .map(([values, one, at]) =>
    Float32Array.from([...values.slice(0, at % (values.length + 1)), one, ...values.slice(at % (values.length + 1))]),
  );

const open01 = fc.double({ min: 0.001, max: 0.999, noNaN: true });
const truncation: fc.Arbitrary<GenerationOptions> = fc.oneof(
  fc.integer({ min: 1, max: 45 }).map((topK) => ({ topK })),
  open01.map((topP) => ({ topP })),
  open01.map((minP) => ({ minP })),
  open01.map((topH) => ({ topH })),
  open01.map((typicalP) => ({ typicalP })),
  open01.map((epsilonCutoff) => ({ epsilonCutoff })),
  open01.map((etaCutoff) => ({ etaCutoff })),
);
const beams = fc.record({ numBeams: fc.integer({ min: 1, max: 3 }), eosTokenId: fc.uniqueArray(fc.nat(50), { maxLength: 4 }) });

describe("a truncation", () => {
  test("keeps scores as they are, brings none back, and leaves one, with beams as many as asked", () => {
    fc.assert(
      fc.property(someScores, truncation, beams, (scores, option, beam) => {
        const after = processed({ doSample: true, ...option, ...beam }, scores);
        for (const i of kept(after)) expect(after[i]).toBe(scores[i]);
        const keep = beam.numBeams === 1 || "topH" in option ? 1 : Math.max(1, beam.eosTokenId.length) + 1;
        expect(kept(after).length).toBeGreaterThanOrEqual(Math.min(keep, kept(scores).length));
      }),
      { numRuns: 500 },
    );
  });

  test("keeps the best, and all that are above the worst it keeps; typical sampling alone may drop the best", () => {
    fc.assert(
      fc.property(someScores, truncation, (scores, option) => {
        fc.pre(!("typicalP" in option));
        const after = processed({ doSample: true, ...option }, scores);
        const worst = Math.min(...kept(after).map((i) => scores[i]!));
        for (const [i, score] of scores.entries()) if (score > worst) expect(after[i]).toBe(score);
      }),
      { numRuns: 500 },
    );
  });

  test("does not depend on the order of the vocabulary, also among equals; top-h takes the first of equals", () => {
    fc.assert(
      fc.property(someScores, truncation, (scores, option) => {
        fc.pre(!("topH" in option));
        const forwards = processed({ doSample: true, ...option }, scores);
        const backwards = processed({ doSample: true, ...option }, scores.toReversed());
        expect(kept(backwards.toReversed())).toEqual(kept(forwards));
      }),
      { numRuns: 500 },
    );
  });

  test("top-k, min-p and epsilon do nothing the second time", () => {
    const settled = fc.oneof(
      fc.integer({ min: 1, max: 45 }).map((topK) => ({ topK })),
      open01.map((minP) => ({ minP })),
      open01.map((epsilonCutoff) => ({ epsilonCutoff })),
    );
    fc.assert(
      fc.property(someScores, settled, (scores, option) => {
        const once = processed({ doSample: true, ...option }, scores);
        expect(processed({ doSample: true, ...option }, once)).toEqual(once);
      }),
    );
  });

  test("top-p keeps its probability, and no score that it does not need for that", () => {
    fc.assert(
      fc.property(someScores, open01, (scores, topP) => {
        const best = Math.max(...scores);
        const weights = Array.from(scores, (score) => Math.exp(score - best));
        const total = weights.reduce((a, b) => a + b);
        const share = (indices: number[]): number => indices.reduce((sum, i) => sum + weights[i]!, 0) / total;
        const left = kept(processed({ doSample: true, topP }, scores));
        expect(share(left)).toBeGreaterThan(topP - 1e-12);
        const worst = Math.min(...left.map((i) => scores[i]!));
        expect(share(left.filter((i) => scores[i]! > worst))).toBeLessThan(topP + 1e-12);
      }),
      { numRuns: 500 },
    );
  });

  test("typical keeps its probability", () => {
    fc.assert(
      fc.property(someScores, open01, (scores, typicalP) => {
        const total = scores.reduce((sum, score) => sum + Math.exp(score), 0);
        const left = kept(processed({ doSample: true, typicalP }, scores)).reduce((sum, i) => sum + Math.exp(scores[i]!), 0);
        expect(left / total).toBeGreaterThan(typicalP - 1e-9);
      }),
    );
  });

  test("a chain of all is one after the other in the order of the specification", () => {
    const options = fc.record({
      temperature: fc.double({ min: 0.2, max: 3, noNaN: true }),
      topK: fc.integer({ min: 1, max: 20 }),
      topP: open01,
      minP: open01,
      typicalP: open01,
    });
    fc.assert(
      fc.property(someScores, options, (scores, { temperature, topK, topP, minP, typicalP }) => {
        const steps: GenerationOptions[] = [{ temperature }, { topK }, { topP }, { minP }, { typicalP }];
        const expected = steps.reduce<Float32Array>((from, step) => processed({ doSample: true, ...step }, from), scores);
        expect(processed({ doSample: true, temperature, topK, topP, minP, typicalP }, scores)).toEqual(expected);
      }),
    );
  });
});

describe("a ban", () => {
  const text = fc.array(fc.nat(3), { minLength: 1, maxLength: 25 });
  const zeros = Array<number>(4).fill(0);
  const banned = (scores: Float32Array): number[] => [...scores.keys()].filter((i) => scores[i] === -Infinity);
  const ends = (ids: readonly number[], tail: readonly number[]): boolean =>
    tail.length <= ids.length && ids.slice(ids.length - tail.length).join() === tail.join();

  test("of repeated n-grams: exactly the tokens with which the row would hold some n-gram twice that ends there", () => {
    fc.assert(
      fc.property(text, fc.integer({ min: 1, max: 4 }), (ids, n) => {
        const grams = new Set(
          ids
            .map((_, i) => ids.slice(i, i + n))
            .filter((gram) => gram.length === n)
            .map(String),
        );
        const expected = [0, 1, 2, 3].filter((id) => ids.length + 1 >= n && grams.has(String([...ids, id].slice(-n))));
        expect(banned(processed({ noRepeatNgramSize: n }, zeros, ids))).toEqual(expected);
      }),
      { numRuns: 500 },
    );
  });

  test("of bad words, and a bias: exactly where the row with the token ends with the sequence", () => {
    fc.assert(
      fc.property(text, fc.array(fc.array(fc.nat(3), { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 6 }), (ids, words) => {
        fc.pre(ids.length >= 3);
        const completed = (id: number): number[][] => words.filter((word) => ends([...ids, id], word) && word.join() !== "2");
        const expected = [0, 1, 2, 3].filter((id) => completed(id).length > 0);
        expect(banned(processed({ badWordsIds: words }, zeros, ids))).toEqual(expected);
        const sums = [0, 1, 2, 3].map((id) => new Set(words.filter((word) => ends([...ids, id], word)).map(String)).size);
        expect([...processed({ sequenceBias: words.map((word) => [word, 1]) }, zeros, ids)]).toEqual(sums);
      }),
      { numRuns: 500 },
    );
  });
});

test("the repetition penalty does not depend on how often or where a token occurs", () => {
  const ids = fc.array(fc.nat(9), { minLength: 1, maxLength: 30 });
  const scores = fc.array(fc.double({ min: -9, max: 9, noNaN: true }), { minLength: 10, maxLength: 10 });
  fc.assert(
    fc.property(scores, ids, open01, (values, row, share) => {
      const options = { repetitionPenalty: 0.5 + share };
      const once = [...new Set(row)].toSorted((a, b) => a - b);
      expect(processed(options, values, row)).toEqual(processed(options, values, once));
    }),
  );
});

test("a stop string ends a row with the first token after which the text holds it", () => {
  // Bytes of a, b and of two characters of several bytes, cut anywhere.
  const bytes = fc.constantFrom("a", "b", "ab", "é", "日").map((piece) => [...new TextEncoder().encode(piece)]);
  const all = fc.array(bytes, { maxLength: 20 }).map((pieces) => pieces.flat());
  const stop = fc.array(fc.constantFrom("a", "b", "é", "日"), { minLength: 1, maxLength: 4 }).map((pieces) => pieces.join(""));
  fc.assert(
    fc.property(all, fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 20, maxLength: 20 }), stop, (text, sizes, string) => {
      const tokens: number[][] = [];
      for (let at = 0; at < text.length;) {
        const size = sizes[tokens.length % sizes.length]!;
        tokens.push(text.slice(at, at + size));
        at += size;
      }
      const decode = (ids: readonly number[]): string => new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => tokens[id]!)));
      const [criterion] = buildStopping(settle({ eosTokenId: [], stopStrings: string }), { decode });
      const rows = tokens.map((_, i) => Int32Array.from({ length: i + 1 }, (_, id) => id));
      const first = rows.findIndex((ids) => criterion!.stops({ ids, promptLength: 1, row: 0, prompt: 0 }));
      expect(first).toBe(rows.findIndex((ids) => decode([...ids]).includes(string)));
    }),
    { numRuns: 1000 },
  );
});
