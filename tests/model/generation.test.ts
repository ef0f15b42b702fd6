import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCausalLM } from "../../models/auto/index.ts";
import type { BambaForCausalLM } from "../../models/auto/index.ts";
import { goldenFolder } from "../support/model-folder.ts";
import { farthest, forwarded, openGoldenModel, openGoldenTensors } from "../support/running.ts";

/** What Transformers made of the padded prompts with beams (tests/reference/golden), token for token. */
describe.each(["base", "options", "all-attention", "rope-yarn", "rope-linear", "rope-llama3", "bf16"])("%s", (name) => {
  const golden = openGoldenTensors(name);
  const input = { inputIds: golden.rows("padded.input_ids"), attentionMask: golden.rows("padded.attention_mask") };
  let model: BambaForCausalLM;
  beforeAll(async () => {
    // In rows with padding and in single steps we differ from Transformers on purpose; only this model shows it.
    model = await openGoldenModel(name, { strict: name === "options" });
  });
  afterAll(() => model.close());

  test("three beams; and four with a length penalty, early stopping and two results", async () => {
    const three = await model.generate(input, { maxNewTokens: 12, numBeams: 3 });
    expect(three.sequences).toEqual(golden.rows("generate.beam3"));
    const four = { maxNewTokens: 12, numBeams: 4, numReturnSequences: 2, lengthPenalty: 0.6, earlyStopping: true };
    const { sequences } = await model.generate(input, four);
    expect(sequences).toEqual(golden.rows("generate.beam4_len"));
  });

  test("a repetition penalty; and no pair of tokens twice", async () => {
    const { sequences } = await model.generate(input, { maxNewTokens: 24, repetitionPenalty: 1.3 });
    expect(sequences).toEqual(golden.rows("generate.repetition_1_3"));
    const ngrams = await model.generate(input, { maxNewTokens: 24, noRepeatNgramSize: 2 });
    expect(ngrams.sequences).toEqual(golden.rows("generate.no_repeat_ngram_2"));
  });
});

describe("what generate gives", () => {
  const golden = openGoldenTensors("base");
  const prompt = golden.rows("forward.input_ids")[0]!.subarray(0, 7);
  const other = golden.rows("forward.input_ids")[1]!.subarray(0, 7);
  let model: BambaForCausalLM;
  const loads: number[] = [];
  beforeAll(async () => {
    model = await openCausalLM(goldenFolder("base"), { maxLength: 40, dtype: "f32", onLoad: (bytes) => loads.push(bytes) });
    await model.session();
  });
  afterAll(() => model.close());
  const open = { eosTokenId: [], maxNewTokens: 6 } as const;
  /** The logits that follow a text, by a program of another kind. */
  const after = async (text: ArrayLike<number>): Promise<Float32Array> => {
    const { logits, vocabSize } = await forwarded(model, { inputIds: [text] });
    return logits.subarray(logits.length - vocabSize);
  };
  const logProbabilities = (scores: Float32Array): Float32Array => {
    const most = Math.max(...scores);
    const total = Math.log(scores.reduce((sum, score) => sum + Math.exp(score - most), 0));
    return scores.map((score) => score - most - total);
  };
  const best = (scores: Float32Array): number => scores.indexOf(Math.max(...scores));

  test("more rows than the model was compiled for take another session, on the same weights", async () => {
    const { length } = loads;
    const both = await model.generate([prompt, other], open);
    expect(loads).toHaveLength(length);
    expect(both.newTokens).toEqual([...(await model.generate(prompt, open)).newTokens, ...(await model.generate(other, open)).newTokens]);
    expect(await model.session(2)).toBe(await model.session(2));
    expect(await model.session(1)).not.toBe(await model.session(2));
  });

  test("an empty prompt begins with the token that begins a text", async () => {
    const { bosTokenId } = model.config;
    const { sequences } = await model.generate([], open);
    expect(sequences).toEqual((await model.generate([bosTokenId!], open)).sequences);
    expect(sequences[0]![0]).toBe(bosTokenId);
    expect((await model.generate([[], []], open)).rows).toBe(2);
  });

  test("scores and logits of each step, and only when asked for", async () => {
    const without = await model.generate(prompt, { ...open, outputScores: true, outputLogits: true });
    expect([without.scores, without.logits]).toEqual([undefined, undefined]);
    const asked = { ...open, returnDictInGenerate: true, outputScores: true, outputLogits: true };
    const greedy = await model.generate([prompt, other], asked);
    expect([greedy.scores!.length, greedy.logits!.length]).toEqual([6, 6]);
    const { vocabSize } = model.config;
    for (const [step, logits] of greedy.logits!.entries()) {
      expect(farthest(greedy.scores![step]!, logits)).toBe(0);
      for (const row of [0, 1]) {
        const own = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
        expect(farthest(own, await after(greedy.sequences[row]!.subarray(0, 7 + step)))).toBeLessThan(1e-4);
        expect(best(own)).toBe(greedy.newTokens[row]![step]);
      }
    }
    const drawn = await model.generate(prompt, { ...asked, doSample: true, topK: 3, temperature: 0.5, seed: 4 });
    for (const [step, scores] of drawn.scores!.entries()) {
      const kept = [...scores.keys()].filter((i) => scores[i]! > -Infinity);
      expect(kept).toHaveLength(3);
      for (const i of kept) expect(scores[i]! / 2).toBeCloseTo(drawn.logits![step]![i]!, 4);
    }
  });

  test("the scores of beams are sums of the log-probabilities along their indices", async () => {
    const asked = { ...open, numBeams: 3, numReturnSequences: 3, lengthPenalty: 0.5, returnDictInGenerate: true, outputScores: true };
    const result = await model.generate([prompt, other], asked);
    expect(result.rows).toBe(6);
    const { vocabSize } = model.config;
    for (const [row, tokens] of result.newTokens.entries()) {
      let sum = 0;
      for (const [step, token] of tokens.entries()) {
        const beam = result.beamIndices![row]![step]!;
        expect(Math.floor(beam / 3)).toBe(Math.floor(row / 3));
        sum += result.scores![step]![beam * vocabSize + token]!;
      }
      expect(result.sequencesScores![row]).toBeCloseTo(sum / tokens.length ** 0.5, 4);
      const text = result.sequences[row]!;
      let straight = 0;
      for (const [step, token] of tokens.entries()) straight += logProbabilities(await after(text.subarray(0, 7 + step)))[token]!;
      expect(straight).toBeCloseTo(sum, 3);
    }
    for (const first of [0, 3])
      expect([...result.sequencesScores!.subarray(first, first + 3)].sort((a, b) => b - a)).toEqual([
        ...result.sequencesScores!.subarray(first, first + 3),
      ]);
  });

  describe("guidance: the log-probabilities moved away from those of", () => {
    const negative = golden.rows("forward.input_ids")[1]!.subarray(3, 12);
    const scale = 2.5;
    test.each([
      ["the last token alone", {}, prompt.subarray(6)],
      ["a longer negative prompt", { negativePromptIds: [[...negative]] }, negative],
      [
        "a padded negative prompt",
        { negativePromptIds: [[0, ...negative.subarray(4)]], negativePromptAttentionMask: [[0, 1, 1, 1, 1, 1]] },
        negative.subarray(4),
      ],
    ] as const)("%s", async (_, extra, text) => {
      const { newTokens, scores } = await model.generate(prompt, {
        ...open,
        ...extra,
        guidanceScale: scale,
        returnDictInGenerate: true,
        outputScores: true,
      });
      for (const [step, token] of newTokens[0]!.entries()) {
        const made = newTokens[0]!.subarray(0, step);
        const conditional = logProbabilities(await after([...prompt, ...made]));
        const unconditional = logProbabilities(await after([...text, ...made]));
        const expected = conditional.map((c, i) => scale * (c - unconditional[i]!) + unconditional[i]!);
        expect(farthest(scores![step]!, expected)).toBeLessThan(2e-4);
        expect(token).toBe(best(expected));
      }
    });

    test("with beams, the unconditional rows follow theirs", async () => {
      const result = await model.generate(prompt, {
        ...open,
        numBeams: 3,
        guidanceScale: scale,
        returnDictInGenerate: true,
        outputScores: true,
      });
      let sum = 0;
      for (const [step, token] of result.newTokens[0]!.entries()) {
        const made = result.newTokens[0]!.subarray(0, step);
        const [c, u] = [logProbabilities(await after([...prompt, ...made])), logProbabilities(await after([prompt[6]!, ...made]))];
        sum += scale * (c[token]! - u[token]!) + u[token]!;
      }
      expect(result.sequencesScores![0]).toBeCloseTo(sum / 6, 3);
    });

    test("1 is none, and so costs no rows", async () => {
      const plain = await model.generate(prompt, open);
      expect((await model.generate(prompt, { ...open, guidanceScale: 1 })).newTokens).toEqual(plain.newTokens);
    });
  });

  test("several samples of a prompt differ, and each is what its seed, step and number say, wherever it lies", async () => {
    const sample = { ...open, doSample: true, temperature: 1.5 } as const;
    const three = await model.generate(prompt, { ...sample, numReturnSequences: 3, seed: 5 });
    expect(new Set(three.newTokens.map((tokens) => tokens.join())).size).toBe(3);
    const one = await model.generate(prompt, { ...sample, seed: 5 });
    expect(one.newTokens[0]).toEqual(three.newTokens[0]);
    const mixed = await model.generate([other, prompt], { ...sample, numReturnSequences: 3, seed: [8, 5] });
    expect(mixed.newTokens.slice(3)).toEqual(three.newTokens);
    expect(mixed.seed).toEqual([8, 5]);
    // Without seeds the same prompt twice is two draws.
    const { newTokens, seed } = await model.generate([prompt, prompt], sample);
    expect(newTokens[0]).not.toEqual(newTokens[1]);
    expect((await model.generate([prompt, prompt], { ...sample, seed })).newTokens).toEqual(newTokens);
  });

  test("beams that are drawn: without replacement, and the seed decides", async () => {
    const pairs = new Map<string, number>();
    const draws = 600;
    const settings = {
      eosTokenId: [],
      maxNewTokens: 1,
      numBeams: 2,
      numReturnSequences: 2,
      doSample: true,
      topK: 4,
      temperature: 2,
    } as const;
    for (let seed = 0; seed < draws; seed += 1) {
      const { newTokens } = await model.generate(prompt, { ...settings, seed });
      const key = newTokens
        .map((tokens) => tokens[0]!)
        .sort((a, b) => a - b)
        .join();
      pairs.set(key, (pairs.get(key) ?? 0) + 1);
    }
    // The pairs' probabilities: one first and then the other, either way round.
    const scores = (await after(prompt)).map((score) => score / 2);
    const kept = [...scores.keys()].sort((a, b) => scores[b]! - scores[a]!).slice(0, 4);
    const total = kept.reduce((sum, i) => sum + Math.exp(scores[i]!), 0);
    const p = (i: number): number => Math.exp(scores[i]!) / total;
    let chiSquare = 0;
    for (const a of kept)
      for (const b of kept) {
        if (a >= b) continue;
        const expected = draws * ((p(a) * p(b)) / (1 - p(a)) + (p(b) * p(a)) / (1 - p(b)));
        chiSquare += ((pairs.get(`${a},${b}`) ?? 0) - expected) ** 2 / expected;
      }
    expect([...pairs.values()].reduce((sum, n) => sum + n, 0)).toBe(draws);
    expect(pairs.size).toBe(6);
    // 5 degrees of freedom: above 20.5 once in a thousand.
    expect(chiSquare).toBeLessThan(20.5);
    const again = { ...settings, maxNewTokens: 6, seed: 3 };
    expect((await model.generate(prompt, again)).sequences).toEqual((await model.generate(prompt, again)).sequences);
  });

  test("early stopping: at the first full set, when nothing better is likely, or when nothing better is possible", async () => {
    const [first] = (await model.generate(prompt, { ...open, numBeams: 3, maxNewTokens: 12 })).newTokens;
    const base = { numBeams: 3, numReturnSequences: 3, maxNewTokens: 12, eosTokenId: [...new Set(first)].slice(0, 3), lengthPenalty: 1 };
    const scores = async (earlyStopping: boolean | "never"): Promise<number[]> => [
      ...(await model.generate(prompt, { ...base, earlyStopping })).sequencesScores!,
    ];
    const [hasty, likely, never] = [await scores(true), await scores(false), await scores("never")];
    // Whoever searches longer finds no worse.
    for (const i of [0, 1, 2]) {
      expect(likely[i]!).toBeGreaterThanOrEqual(hasty[i]! - 1e-6);
      expect(never[i]!).toBeGreaterThanOrEqual(likely[i]! - 1e-6);
    }
    const ended = await model.generate(prompt, { ...base, padTokenId: 0 });
    for (const [row, tokens] of ended.newTokens.entries()) {
      if (ended.finish[row] === "eos") expect(base.eosTokenId).toContain(tokens.at(-1));
      // A pad token of 0 counts as none: the first end token fills up.
      expect([...ended.sequences[row]!.subarray(7 + tokens.length)].every((id) => id === base.eosTokenId[0])).toBe(true);
      expect([...ended.beamIndices![row]!.subarray(tokens.length)].every((beam) => beam === -1)).toBe(true);
    }
  });

  test("the caller's signal ends beams with what there is", async () => {
    const abort = new AbortController();
    const fourth = {
      name: "fourth",
      stops: ({ ids }: { readonly ids: Int32Array }) => (ids.length === 11 ? (abort.abort(), false) : false),
    };
    const settings = { eosTokenId: [], maxNewTokens: 30, numBeams: 2, signal: abort.signal, stoppingCriteria: [fourth] };
    const { finish, newTokens } = await model.generate(prompt, settings);
    expect(finish).toEqual(["aborted"]);
    expect(newTokens[0]).toHaveLength(5);
  });

  test("refuses to stream beams, and a session that another generation has taken", async () => {
    const beams = { ...open, numBeams: 2 };
    await expect(model.stream(prompt, beams).next()).rejects.toThrow("stream: beam search knows its tokens only at the end");
    await expect(model.generate(prompt, { ...beams, onStep: () => undefined })).rejects.toThrow("onStep: beam search");
    const first = model.stream(prompt, open);
    await first.next();
    await model.generate(prompt, open);
    await expect(first.next()).rejects.toThrow("the session has begun another generation in the meantime");
  });

  test("refuses what does not fit: a negative prompt counts too", async () => {
    await expect(model.generate(prompt, { ...open, guidanceScale: 2, negativePromptIds: [new Array<number>(38).fill(5)] })).rejects.toThrow(
      "the prompt has 38 tokens and 6 more were asked for, but the model was compiled for at most 40 positions",
    );
    await expect(model.generate([prompt, other, prompt], { ...open, guidanceScale: 2, negativePromptIds: [[5], [6]] })).rejects.toThrow(
      "negativePromptIds: expected one row, or one for each of the 3 prompts, got 2",
    );
    await expect(model.generate({ inputIds: prompt, attentionMask: [1, 1] }, open)).rejects.toThrow(
      "attentionMask: has 2 elements, inputIds has 7",
    );
  });
});
