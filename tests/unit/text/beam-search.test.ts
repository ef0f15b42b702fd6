import fc from "fast-check";
import { expect, test } from "vitest";
import { beamSearch } from "../../../runtime/text/beam-search.ts";
import type { LoopSettings } from "../../../runtime/text/settings.ts";
import { fakeSession } from "../../support/fake-session.ts";
import { endingWith, plainSettings } from "../../support/loop-settings.ts";

const vocab = 7;

/** Any function of the text will do, if it tells texts apart. */
function logitsOf(salt: number, text: readonly number[]): Float32Array {
  let s = salt + 1;
  for (const id of text) s = (Math.imul(s, 31) + id + 7) >>> 0;
  return Float32Array.from({ length: vocab }, () => {
    s = (Math.imul(1664525, s) + 1013904223) >>> 0;
    return 4 * (s / 2 ** 32);
  });
}

function logSoftmax(logits: Float32Array): Float32Array {
  const total = logits.reduce((sum, x) => sum + Math.exp(x), 0);
  return logits.map((x) => x - Math.log(total));
}

interface Slot {
  readonly text: readonly number[];
  readonly score: number;
  readonly done: boolean;
}
type Rules = Pick<LoopSettings, "numBeams" | "maxNewTokens" | "lengthPenalty" | "earlyStopping" | "eosTokenIds" | "numReturnSequences">;

/** Spec bamba e.3 as it stands there: fixed numbers of slots, and -1e9 added to whatever may not be chosen. */
function reference(salt: number, prompts: readonly (readonly number[])[], rules: Rules): readonly (readonly Slot[])[] {
  const { numBeams: b, maxNewTokens, lengthPenalty, earlyStopping, eosTokenIds } = rules;
  const f = Math.fround;
  const best = <T extends { readonly score: number }>(list: readonly T[], count: number): T[] =>
    [...list].sort((x, y) => y.score - x.score).slice(0, count);
  const promptLength = prompts[0]!.length;
  const all = prompts.map((text) => ({
    running: Array.from({ length: b }, (_, i): Slot => ({ text, score: i === 0 ? 0 : -1e9, done: false })),
    slots: Array.from({ length: b }, (): Slot => ({ text, score: -1e9, done: false })),
    hope: true,
  }));
  for (let length = promptLength; ;) {
    let goesOn = false;
    for (const one of all) {
      const candidates = best(
        one.running.flatMap(({ text, score }) =>
          [...logSoftmax(logitsOf(salt, text))].map((logp, token) => ({ text: [...text, token], score: f(logp + score) })),
        ),
        Math.max(2, 1 + eosTokenIds.length) * b,
      ).map((x) => ({ ...x, done: eosTokenIds.includes(x.text.at(-1)!) || length + 1 === promptLength + maxNewTokens }));
      if (!candidates.every(({ done }) => done)) goesOn = true;
      one.running = best(
        candidates.map((x) => ({ ...x, score: f(x.score + (x.done ? -1e9 : 0)) })),
        b,
      );
      const closed = earlyStopping === true && one.slots.every(({ done }) => done);
      const ended = candidates.map((x, i): Slot => {
        const counts = x.done && i < b;
        const score = f(x.score / f((length + 1 - promptLength) ** lengthPenalty));
        return { text: x.text, done: counts, score: score + (closed ? -1e9 : 0) + (one.hope ? 0 : -1e9) + (counts ? 0 : -1e9) };
      });
      one.slots = best([...one.slots, ...ended], b);
    }
    length += 1;
    for (const one of all) {
      const over = earlyStopping === "never" && lengthPenalty > 0 ? maxNewTokens : length - promptLength;
      const possible = f(one.running[0]!.score / f(over ** lengthPenalty));
      const worst = Math.min(...one.slots.map(({ score }) => score));
      one.hope &&= one.slots.some(({ done }) => possible > (done ? worst : -1e9));
    }
    const openSlots = !(earlyStopping === true && all.every(({ slots }) => slots.every(({ done }) => done)));
    if (!(all.some(({ hope }) => hope) && openSlots && goesOn)) return all.map(({ slots }) => slots.slice(0, rules.numReturnSequences));
  }
}

test("beam search does what the specification says, for any settings", () =>
  fc.assert(
    fc.asyncProperty(
      fc.nat(1_000_000),
      fc
        .integer({ min: 1, max: 3 })
        .chain((rows) => fc.array(fc.array(fc.nat(6), { minLength: 2, maxLength: 2 }), { minLength: rows, maxLength: rows })),
      fc.record({
        numBeams: fc.integer({ min: 1, max: 4 }),
        maxNewTokens: fc.integer({ min: 1, max: 9 }),
        lengthPenalty: fc.constantFrom(-1, 0, 0.6, 1, 2),
        earlyStopping: fc.constantFrom(true, false, "never" as const),
        eosTokenIds: fc.uniqueArray(fc.nat(6), { maxLength: 2 }),
      }),
      async (salt, prompts, rules) => {
        const numReturnSequences = rules.numBeams;
        const found = await beamSearch(
          fakeSession(vocab, (text) => logitsOf(salt, text)),
          { ids: Int32Array.from(prompts.flat()), rows: prompts.length },
          {
            ...plainSettings,
            ...rules,
            ...endingWith(rules.eosTokenIds),
            numReturnSequences,
          },
          { logits: null, scores: null },
        );
        const expected = reference(salt, prompts, { ...rules, numReturnSequences });
        expect(found.map((list) => list.map(({ tokens }) => [...tokens]))).toEqual(
          expected.map((list) => list.map(({ text }) => text.slice(2))),
        );
        for (const [prompt, list] of found.entries())
          for (const [i, { score, beams, tokens }] of list.entries()) {
            expect(score).toBeCloseTo(expected[prompt]![i]!.score, 4);
            expect(beams).toHaveLength(tokens.length);
            expect(beams.every((beam) => Math.floor(beam / rules.numBeams) === prompt)).toBe(true);
          }
      },
    ),
    { numRuns: 600 },
  ));
