import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BambaForCausalLM, GenerateOptions } from "../../models/auto/index.ts";
import { AutoModelForCausalLM, AutoTokenizer } from "../../models/auto/index.ts";
import { tinyFolder } from "../support/model-folder.ts";
import { openGoldenModel } from "../support/running.ts";

/** Sampling as a caller meets it: the whole of `generate`, with the compiled choice and whatever the host does before it. */

describe("20 000 tokens follow the softmax of the processed scores", () => {
  const draws = 20_000;
  const atOnce = 80;
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel("base", { batch: atOnce, maxLength: 16 });
  });
  afterAll(() => model.close());

  test.each<[string, GenerateOptions]>([
    ["no processor", { topK: 0 }],
    ["temperature", { topK: 0, temperature: 1.7 }],
    ["top-k", { topK: 20 }],
    ["top-p", { topK: 0, topP: 0.7 }],
    ["min-p", { topK: 0, minP: 0.1 }],
    ["top-h", { topK: 0, topH: 0.6 }],
    ["typical", { topK: 0, typicalP: 0.7 }],
    ["epsilon", { topK: 0, epsilonCutoff: 0.004 }],
    ["eta", { topK: 0, etaCutoff: 0.02 }],
    ["repetition penalty", { topK: 0, repetitionPenalty: 1.5 }],
    ["a chain", { topK: 60, topP: 0.95, minP: 0.02, temperature: 1.2, repetitionPenalty: 1.1 }],
    ["a chain with one from the host in it", { topK: 80, typicalP: 0.9, temperature: 1.2, topP: 0.97 }],
    ["guidance", { topK: 40, guidanceScale: 1.3 }],
  ])("%s", async (_, options) => {
    const settings = { ...options, doSample: true, maxNewTokens: 1, eosTokenId: [] };
    const prompt = [5, 17, 200, 31, 8];
    const { scores } = await model.generate(prompt, { ...settings, seed: 0, returnDictInGenerate: true, outputScores: true });
    const weights = Float64Array.from(scores![0]!.subarray(0, model.config.vocabSize), Math.exp);
    const total = weights.reduce((sum, w) => sum + w, 0);
    const counts = new Float64Array(weights.length);
    // With guidance every row has a second one.
    const numReturnSequences = options.guidanceScale === undefined ? atOnce : atOnce / 2;
    for (let seed = 1; seed <= draws / numReturnSequences; seed += 1)
      for (const [token] of (await model.generate(prompt, { ...settings, numReturnSequences, seed })).newTokens) counts[token!]! += 1;
    expect(counts.reduce((sum, n) => sum + n, 0)).toBe(draws);

    // Cells of few expected draws are put together, as the test asks for.
    let [chiSquare, freedom, expected, counted] = [0, -1, 0, 0];
    weights.forEach((weight, token) => {
      if (weight === 0) expect(counts[token]).toBe(0);
      expected += (weight / total) * draws;
      counted += counts[token]!;
      if (expected < 10) return;
      chiSquare += (counted - expected) ** 2 / expected;
      freedom += 1;
      [expected, counted] = [0, 0];
    });
    expect(freedom).toBeGreaterThan(3);
    // Wilson and Hilferty: the cube root is nearly normal; 3.7 deviations are passed by chance once in 10 000 times.
    const deviations = (Math.cbrt(chiSquare / freedom) - (1 - 2 / (9 * freedom))) / Math.sqrt(2 / (9 * freedom));
    expect(deviations).toBeLessThan(3.7);
  });
});

test("the same seed, the same text: on one thread and two, alone and in any batch", async () => {
  const tokenizer = await AutoTokenizer.fromPretrained(tinyFolder);
  const prompts = ["It was the best of", "Call me", "The old man said that", "A"];
  const seeds = [3, 3, 99, 2 ** 40];
  const settings: GenerateOptions = { doSample: true, temperature: 0.9, topP: 0.95, repetitionPenalty: 1.1, maxNewTokens: 24 };
  const texts: string[][] = [];
  for (const threads of [1, 2]) {
    const model = await AutoModelForCausalLM.fromPretrained(tinyFolder, { threads, maxLength: 64, batch: 4 });
    const run = async (order: readonly number[]): Promise<string[]> => {
      const { inputIds, attentionMask } = tokenizer.call(
        order.map((i) => prompts[i]!),
        { padding: true },
      );
      const { newTokens } = await model.generate({ inputIds, attentionMask }, { ...settings, seed: order.map((i) => seeds[i]!) });
      const made = newTokens.map((tokens) => tokenizer.decode(tokens));
      return order.map((_, i) => made[order.indexOf(i)]!);
    };
    texts.push(await run([0, 1, 2, 3]), await run([2, 0, 3, 1]));
    const alone: string[] = [];
    for (const [i, prompt] of prompts.entries()) {
      const { newTokens } = await model.generate(tokenizer.encode(prompt), { ...settings, seed: seeds[i]! });
      alone.push(tokenizer.decode(newTokens[0]!));
    }
    texts.push(alone);
    await model.close();
  }
  expect(new Set(texts[0]).size).toBe(4);
  for (const other of texts) expect(other).toEqual(texts[0]);
});
