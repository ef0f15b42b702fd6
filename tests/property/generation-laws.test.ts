import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openCausalLM } from "../../models/auto/index.ts";
import type { BambaForCausalLM, GenerateOptions, Session } from "../../models/auto/index.ts";
import { beamSearch } from "../../runtime/text/beam-search.ts";
import { Feed } from "../../runtime/text/feed.ts";
import { endingWith, plainSettings } from "../support/loop-settings.ts";
import { goldenFolder } from "../support/model-folder.ts";
import { farthest } from "../support/running.ts";

let model: BambaForCausalLM;
beforeAll(async () => {
  model = await openCausalLM(goldenFolder("base"), { maxLength: 40, batch: 12, dtype: "f32" });
});
afterAll(() => model.close());

/** The same runs each time: of two tokens that are equally likely but for the last bit, either may come out first. */
const runs = { numRuns: 12, seed: 20260101 };
const tokens = (minLength: number, maxLength: number): fc.Arbitrary<number[]> =>
  fc.array(fc.integer({ min: 3, max: 255 }), { minLength, maxLength });
const batches = fc
  .tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 12 }))
  .chain(([rows, length]) => fc.array(tokens(length, length), { minLength: rows, maxLength: rows }));
/** Enough of them that rows do end. */
const eosTokenId = Array.from({ length: 40 }, (_, i) => 6 * i + 5);
/** Each way to choose. */
const ways: fc.Arbitrary<GenerateOptions> = fc.constantFrom<GenerateOptions[]>(
  { numBeams: 1 },
  { repetitionPenalty: 1.6 },
  { doSample: true, temperature: 1.4 },
  { doSample: true, repetitionPenalty: 1.3, temperature: 1.2, topK: 40, topP: 0.95, minP: 0.001 },
  { numBeams: 2 },
  { numBeams: 2, doSample: true, topK: 20 },
);
const settings = (way: GenerateOptions, seed: readonly number[]): GenerateOptions => ({
  maxNewTokens: 6,
  eosTokenId: [7, 91],
  ...way,
  seed,
});
const seeds = [11, 12, 13];
const generate = async (inputIds: number[][], options: GenerateOptions, attentionMask?: number[][]): Promise<number[][]> => {
  const input = { inputIds, ...(attentionMask === undefined ? {} : { attentionMask }) };
  return (await model.generate(input, options)).newTokens.map((row) => [...row]);
};

// A repetition penalty is for every token of a row, and padding is such (spec bamba e.2).
const unpenalized = ways.map((way) => ({ ...way, repetitionPenalty: 1 }));
test("padding on the left changes nothing", () =>
  fc.assert(
    fc.asyncProperty(batches, unpenalized, fc.integer({ min: 1, max: 9 }), async (prompts, way, padding) => {
      const options = settings(way, seeds.slice(0, prompts.length));
      const plain = await generate(prompts, options);
      const padded = prompts.map((row) => [...new Array<number>(padding).fill(0), ...row]);
      const mask = padded.map((row) => row.map((_, i) => (i < padding ? 0 : 1)));
      expect(await generate(padded, options, mask)).toEqual(plain);
    }),
    runs,
  ));

test("a prompt becomes the same at any place of a batch, and alone", () =>
  fc.assert(
    fc.asyncProperty(batches, ways, async (prompts, way) => {
      const own = seeds.slice(0, prompts.length);
      const together = await generate(prompts, settings(way, own));
      const turned = await generate([...prompts].reverse(), settings(way, [...own].reverse()));
      expect(turned.reverse()).toEqual(together);
      for (const [i, prompt] of prompts.entries()) expect(await generate([prompt], settings(way, [own[i]!]))).toEqual([together[i]]);
    }),
    runs,
  ));

test("with states and without, in chunks of any size: the same tokens", () =>
  fc.assert(
    fc.asyncProperty(batches, ways, fc.integer({ min: 1, max: 13 }), async (prompts, way, prefillChunkSize) => {
      const options = settings(way, seeds.slice(0, prompts.length));
      const plain = await generate(prompts, options);
      expect(await generate(prompts, { ...options, prefillChunkSize })).toEqual(plain);
      expect(await generate(prompts, { ...options, useCache: false })).toEqual(plain);
    }),
    runs,
  ));

test("with states that are stored at each step, and once in five", async () => {
  const replaying = await openCausalLM(goldenFolder("base"), { maxLength: 40, batch: 12, dtype: "f32", replay: 5 });
  try {
    await fc.assert(
      fc.asyncProperty(batches, ways, async (inputIds, way) => {
        const options = { ...settings(way, seeds.slice(0, inputIds.length)), maxNewTokens: 13 };
        const { newTokens } = await replaying.generate({ inputIds }, options);
        expect(newTokens.map((row) => [...row])).toEqual(await generate(inputIds, options));
      }),
      runs,
    );
  } finally {
    await replaying.close();
  }
});

test("guidance: with states and without", () =>
  fc.assert(
    fc.asyncProperty(batches, ways, tokens(1, 9), async (prompts, way, negative) => {
      const options = { ...settings(way, seeds.slice(0, prompts.length)), guidanceScale: 1.7, negativePromptIds: [negative] };
      expect(await generate(prompts, { ...options, useCache: false })).toEqual(await generate(prompts, options));
    }),
    { ...runs, numRuns: 6 },
  ));

test("a processor does on the host what it does compiled", () =>
  fc.assert(
    fc.asyncProperty(
      batches,
      fc.record({
        repetitionPenalty: fc.constantFrom(1, 0.8, 1.5),
        temperature: fc.constantFrom(1, 0.6, 1.7),
        topK: fc.constantFrom(0, 5, 60),
        topP: fc.constantFrom(1, 0.5, 0.9),
        minP: fc.constantFrom(0, 0.01, 0.2),
      }),
      async (prompts, numbers) => {
        const options = { ...settings({ doSample: true, ...numbers }, seeds.slice(0, prompts.length)) };
        const compiled = await generate(prompts, options);
        // Each stands behind some of the others in the chain, and so keeps those on the host; none changes anything.
        const none = { name: "none", process: () => undefined };
        expect(await generate(prompts, { ...options, logitsProcessor: [none] })).toEqual(compiled);
        expect(await generate(prompts, { ...options, renormalizeLogits: true })).toEqual(compiled);
        expect(await generate(prompts, { ...options, epsilonCutoff: 1e-30 })).toEqual(compiled);
      },
    ),
    runs,
  ));

test("one beam is greedy search", () =>
  fc.assert(
    fc.asyncProperty(batches, async (prompts) => {
      const greedy = await generate(prompts, { maxNewTokens: 6, eosTokenId });
      const session = await model.session();
      const beams = await beamSearch(
        session,
        { ids: Int32Array.from(prompts.flat()), rows: prompts.length },
        {
          ...plainSettings,
          ...endingWith(eosTokenId),
          padTokenId: 0,
          // Otherwise the search goes on behind an end token, for a text that is likelier as a whole.
          earlyStopping: true,
        },
        { logits: null, scores: null },
      );
      expect(beams.map(([best]) => [...best!.tokens])).toEqual(greedy);
    }),
    runs,
  ));

test("a prompt fed in pieces, with snapshots taken and restored between them, is the prompt at once", () =>
  fc.assert(
    fc.asyncProperty(tokens(4, 24), fc.array(fc.nat(), { maxLength: 4 }), fc.nat(), async (text, cuts, detour) => {
      const session: Session = await model.session();
      const ids = Int32Array.from(text);
      await session.reset();
      await session.prefill(ids);
      const expected = (await session.logits(0)).slice();
      const places = [...new Set([0, ...cuts.map((cut) => cut % text.length), text.length])].sort((a, b) => a - b);
      await session.reset();
      for (let i = 0; i + 1 < places.length; i += 1) {
        await session.prefill(ids.subarray(places[i], places[i + 1]));
        const at = await session.snapshot();
        await session.prefill(Int32Array.of(detour % 256, 5));
        await session.restore(at);
      }
      // A snapshot has no logits: the last token's come from a step behind all the others.
      await session.decode(Int32Array.of(9));
      const pieces = (await session.logits(0)).slice();
      await session.reset();
      await session.prefill(ids);
      expect(farthest(await session.logits(0), expected)).toBe(0);
      await session.decode(Int32Array.of(9));
      expect(farthest(await session.logits(0), pieces)).toBeLessThan(2e-5);
    }),
    runs,
  ));

test("a plain step allocates nothing that grows", async () => {
  const session = await model.session();
  const feed = new Feed(
    session,
    { ids: Int32Array.of(3, 4, 5), rows: 1 },
    { perPrompt: 2, maxNewTokens: 30, unconditional: null, chunk: null, useCache: true },
  );
  await feed.start();
  const next = new Int32Array(2);
  for (let i = 0; i < 5; i += 1) await feed.next(next);
  const { allocations } = session.executor;
  const { arrayBuffers } = process.memoryUsage();
  for (let i = 0; i < 20; i += 1) await feed.next(next);
  expect(session.executor.allocations).toBe(allocations);
  expect(process.memoryUsage().arrayBuffers).toBeLessThanOrEqual(arrayBuffers);
});
