import { describe, expect, test } from "vitest";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";
import { decodeFloats, decodeIntegers } from "../../../runtime/numeric.ts";
import { resolveGeneration } from "../../../runtime/text/generation-config.ts";
import type { GenerationOptions } from "../../../runtime/text/generation-config.ts";
import type { LogitsProcessor, ProcessorChain, RowContext } from "../../../runtime/text/processor.ts";
import { buildProcessors } from "../../../runtime/text/processors/chain.ts";
import { goldenModels } from "../../support/golden.ts";

const model = { bosTokenId: 1, eosTokenIds: [2], padTokenId: 0, maxPositionEmbeddings: 1000 };
const off: GenerationOptions = { topK: 0 };

const chainOf = (options: GenerationOptions, vocab: number, promptLength = 1): ProcessorChain =>
  buildProcessors(resolveGeneration({ ...off, ...options }, undefined, model, promptLength), vocab);
const all = ({ always, sampling }: ProcessorChain): readonly LogitsProcessor[] => [...always, ...sampling];

interface Row {
  readonly ids?: readonly number[];
  readonly promptLength?: number;
  readonly prompt?: number;
}

const contextOf = ({ ids = [3], promptLength = 1, prompt = 0 }: Row): RowContext => ({
  ids: Int32Array.from(ids),
  promptLength,
  row: prompt,
  prompt,
});

/** The scores after everything that the options turn on. */
function processed(options: GenerationOptions, scores: readonly number[] | Float32Array, row: Row = {}): Float32Array {
  const out = Float32Array.from(scores);
  const context = contextOf(row);
  for (const step of all(chainOf(options, out.length, context.promptLength))) step.process(out, context);
  return out;
}

const kept = (scores: Float32Array): number[] => [...scores.keys()].filter((i) => scores[i]! > -Infinity);
const removed = (scores: Float32Array): number[] => [...scores.keys()].filter((i) => scores[i] === -Infinity);
const logs = (...p: number[]): number[] => p.map(Math.log);

/** A model without attention layers was only run forward. */
const generating = goldenModels.filter((name) => name !== "all-mamba");

describe.each(generating)("as Transformers on the scores of %s", (name) => {
  const golden = openCheckpoint(`tests/reference/golden/${name}/golden.safetensors`);
  const shape = (tensor: string): readonly number[] => golden.tensors.get(`sampling.${tensor}`)?.shape ?? [];
  const split = <T extends Float32Array | Int32Array>(values: T, width: number): T[] =>
    Array.from({ length: values.length / width }, (_, b) => values.slice(b * width, (b + 1) * width) as T);
  const rows = (tensor: string): Float32Array[] => split(decodeFloats("F32", golden.read(`sampling.${tensor}`)), shape(tensor)[1]!);
  const history = (): Int32Array[] => {
    const range = { min: 0, max: 2 ** 31 - 1 };
    return split(Int32Array.from(decodeIntegers("I64", golden.read("sampling.history"), range, "history")), shape("history")[1]!);
  };
  test.each<[string, GenerationOptions]>([
    ["temperature_0_7", { doSample: true, temperature: 0.7 }],
    ["top_k_10", { doSample: true, topK: 10 }],
    ["top_p_0_8", { doSample: true, topP: 0.8 }],
    ["min_p_0_1", { doSample: true, minP: 0.1 }],
    ["typical_0_7", { doSample: true, typicalP: 0.7 }],
    ["repetition_1_2", { repetitionPenalty: 1.2 }],
    ["no_repeat_2", { noRepeatNgramSize: 2 }],
    ["chain_rep1.2_temp0.7_topk20_topp0.9", { doSample: true, repetitionPenalty: 1.2, temperature: 0.7, topK: 20, topP: 0.9 }],
  ])("%s", (tensor, options) => {
    const texts = history();
    const expected = rows(tensor);
    const before = rows("scores");
    expect(before).toHaveLength(2);
    before.forEach((scores, b) => {
      const ids = [...texts[b]!];
      const got = processed(options, scores, { ids, promptLength: ids.length });
      expect(removed(got)).toEqual(removed(expected[b]!));
      got.forEach((score, i) => {
        if (score > -Infinity) expect(Math.abs(score - expected[b]![i]!)).toBeLessThan(1e-4);
      });
    });
  });
});

describe("the chain", () => {
  const everything: GenerationOptions = {
    doSample: true,
    temperature: 0.5,
    topH: 0.9,
    topK: 5,
    topP: 0.9,
    minP: 0.1,
    typicalP: 0.9,
    epsilonCutoff: 0.01,
    etaCutoff: 0.01,
    repetitionPenalty: 1.1,
    noRepeatNgramSize: 2,
    badWordsIds: [[5]],
    sequenceBias: [[[6], 1]],
    suppressTokens: [7],
    beginSuppressTokens: [8],
    forcedBosTokenId: 9,
    forcedEosTokenId: 2,
    exponentialDecayLengthPenalty: [3, 1.5],
    renormalizeLogits: true,
    removeInvalidValues: true,
    minNewTokens: 2,
    prefixAllowedTokensFn: () => [4],
    logitsProcessor: [{ name: "mine", process: () => undefined }],
  };
  const names = (options: GenerationOptions): string[][] => {
    const { always, sampling } = chainOf(options, 10);
    return [always, sampling].map((steps) => steps.map((step) => step.name));
  };
  const always = [
    "sequenceBias",
    "repetitionPenalty",
    "noRepeatNgramSize",
    "badWordsIds",
    "minNewTokens",
    "prefixAllowedTokensFn",
    "forcedBosTokenId",
    "forcedEosTokenId",
    "removeInvalidValues",
    "exponentialDecayLengthPenalty",
    "suppressTokens",
    "beginSuppressTokens",
    "mine",
  ];
  const sampling = ["temperature", "topH", "topK", "topP", "minP", "typicalP", "epsilonCutoff", "etaCutoff"];

  test("is in the order of the specification, without what is off", () => {
    expect(names(everything)).toEqual([always, [...sampling, "renormalizeLogits"]]);
    expect(names({ ...everything, doSample: false })).toEqual([[...always, "renormalizeLogits"], []]);
    expect(names({})).toEqual([[], []]);
    expect(names({ doSample: true, topK: undefined })).toEqual([[], ["topK"]]);
  });

  test("what acts on end tokens is off without any", () => {
    const options: GenerationOptions = { eosTokenId: [], minNewTokens: 3, exponentialDecayLengthPenalty: [1, 2] };
    expect(names(options)).toEqual([[], []]);
  });

  test.each<[GenerationOptions, string]>([
    [{ badWordsIds: [[1], [2, 10, 12]] }, "badWordsIds: the model's vocabulary has 10 tokens, and these are none of them: 10, 12"],
    [{ sequenceBias: [[[11], 1]] }, "sequenceBias: the model's vocabulary has 10 tokens"],
    [{ suppressTokens: [10] }, "suppressTokens: "],
    [{ beginSuppressTokens: [10] }, "beginSuppressTokens: "],
    [{ forcedBosTokenId: 10 }, "forcedBosTokenId: "],
    [{ forcedEosTokenId: [2, 10] }, "forcedEosTokenId: "],
  ])("tokens outside the vocabulary are refused: %j", (options, message) => {
    expect(() => chainOf(options, 10)).toThrow(message);
  });

  test("an end token that the model does not have is passed over", () => {
    const scores = processed({ eosTokenId: [1, 99], minNewTokens: 2, exponentialDecayLengthPenalty: [0, 2] }, [1, 2, 3]);
    expect([...scores]).toEqual([1, -Infinity, 3]);
  });
});

describe("forbidding and forcing", () => {
  test("no repeated n-gram: what followed the same n - 1 tokens, nothing while the row is shorter", () => {
    const banned = (size: number, ids: number[]): number[] => removed(processed({ noRepeatNgramSize: size }, Array(8).fill(1), { ids }));
    expect(banned(2, [1, 2, 3, 1, 4, 1])).toEqual([2, 4]);
    expect(banned(3, [1, 2, 3, 1, 2])).toEqual([3]);
    expect(banned(3, [5, 5, 5])).toEqual([5]);
    expect(banned(1, [1, 6, 1])).toEqual([1, 6]);
    for (const size of [2, 3, 4]) expect(banned(size, [7])).toEqual([]);
    expect(banned(3, [7, 7])).toEqual([]);
  });

  test("bad words: single tokens always, longer ones when all but the last end the row; a lone end token is passed over", () => {
    const banned = (badWordsIds: number[][], ids: number[]): number[] => removed(processed({ badWordsIds }, Array(8).fill(1), { ids }));
    expect(banned([[4], [5, 6]], [3, 3])).toEqual([4]);
    expect(banned([[4], [5, 6]], [3, 5])).toEqual([4, 6]);
    expect(banned([[5, 5, 6]], [3, 5, 5])).toEqual([6]);
    expect(banned([[5, 5, 6]], [5, 3, 5])).toEqual([]);
    expect(banned([[2]], [3])).toEqual([]);
    expect(banned([[3, 2]], [1, 3])).toEqual([2]);
    // Transformers asks for a row of at least the sequence's whole length.
    expect(banned([[3, 4]], [3])).toEqual([]);
  });

  test("sequence bias: summed where several sequences end in one token; the last of two equal sequences counts", () => {
    const sequenceBias: GenerationOptions["sequenceBias"] = [
      [[4], 1],
      [[5, 4], 0.5],
      [[6, 7], -3],
      [[1], 9],
      [[1], -Infinity],
    ];
    const scores = (ids: number[]): number[] => [...processed({ sequenceBias }, Array(8).fill(1), { ids })];
    expect(scores([3, 5])).toEqual([1, -Infinity, 1, 1, 2.5, 1, 1, 1]);
    expect(scores([5, 6])).toEqual([1, -Infinity, 1, 1, 2, 1, 1, -2]);
  });

  test("least lengths hold back every end token, counted over new tokens or the whole row", () => {
    const banned = (options: GenerationOptions, ids: number[]): number[] =>
      removed(processed({ eosTokenId: [2, 4], ...options }, Array(6).fill(1), { ids, promptLength: 2 }));
    expect(banned({ minNewTokens: 2 }, [3, 3])).toEqual([2, 4]);
    expect(banned({ minNewTokens: 2 }, [3, 3, 3])).toEqual([2, 4]);
    expect(banned({ minNewTokens: 2 }, [3, 3, 3, 3])).toEqual([]);
    expect(banned({ minLength: 4 }, [3, 3, 3])).toEqual([2, 4]);
    expect(banned({ minLength: 4 }, [3, 3, 3, 3])).toEqual([]);
    expect(banned({ minLength: 2 }, [3, 3])).toEqual([]);
  });

  test("allowed tokens are asked for with the number of the prompt and the row", () => {
    const asked: [number, number[]][] = [];
    const prefixAllowedTokensFn = (prompt: number, ids: Int32Array): number[] => {
      asked.push([prompt, [...ids]]);
      return [1, 3, 1];
    };
    expect([...processed({ prefixAllowedTokensFn }, [5, 6, 7, 8], { ids: [1, 2], prompt: 4 })]).toEqual([-Infinity, 6, -Infinity, 8]);
    expect(asked).toEqual([[4, [1, 2]]]);
    const wrong = (ids: number[]) => (): unknown => processed({ prefixAllowedTokensFn: () => ids }, [1, 2], { prompt: 3 });
    expect(wrong([])).toThrow("no token is allowed for prompt 3");
    expect(wrong([2])).toThrow("expected token ids from 0 to 1, got 2 for prompt 3");
    expect(wrong([0.5])).toThrow("expected token ids from 0 to 1, got 0.5");
  });

  test("forced tokens: the second of a text, and the last that there is room for", () => {
    const bos = (ids: number[]): number[] => [...processed({ forcedBosTokenId: 1 }, [5, 6, 7], { ids })];
    expect(bos([0])).toEqual([-Infinity, 0, -Infinity]);
    expect(bos([0, 1])).toEqual([5, 6, 7]);
    const options: GenerationOptions = { forcedEosTokenId: [0, 2], maxNewTokens: 3 };
    const eos = (ids: number[]): number[] => [...processed(options, [5, 6, 7], { ids, promptLength: 2 })];
    expect(eos([1, 1, 1])).toEqual([5, 6, 7]);
    expect(eos([1, 1, 1, 1])).toEqual([0, -Infinity, 0]);
  });

  test("suppressed tokens, always or as the first one", () => {
    expect(removed(processed({ suppressTokens: [0, 2] }, [5, 6, 7], { ids: [1, 1, 1] }))).toEqual([0, 2]);
    const begin = (ids: number[], promptLength: number, options: GenerationOptions = {}): number[] =>
      removed(processed({ beginSuppressTokens: [0], ...options }, [5, 6, 7], { ids, promptLength }));
    expect(begin([1, 1], 2)).toEqual([0]);
    expect(begin([1, 1, 1], 2)).toEqual([]);
    // A forced token takes the first place after a prompt of one token.
    expect(begin([1, 2], 1, { forcedBosTokenId: 2 })).toEqual([0]);
  });
});

describe("moving scores", () => {
  test("repetition penalty: every token of the row once, padding included, in float32", () => {
    const options: GenerationOptions = { repetitionPenalty: 1.3 };
    const chain = chainOf(options, 5);
    const run = (): number[] => {
      const scores = Float32Array.of(2, -2, 0, 1, 1);
      all(chain)[0]!.process(scores, contextOf({ ids: [0, 0, 1, 3, 1, 3] }));
      return [...scores];
    };
    const penalty = Math.fround(1.3);
    const expected = [Math.fround(2 / penalty), Math.fround(-2 * penalty), 0, Math.fround(1 / penalty), 1];
    expect(run()).toEqual(expected);
    expect(run()).toEqual(expected);
    expect([...processed(options, [-Infinity, 1], { ids: [0] })]).toEqual([-Infinity, 1]);
  });

  test("exponential decay begins after its start and raises negative scores too; what was removed stays removed", () => {
    const options: GenerationOptions = { eosTokenId: [0, 1], exponentialDecayLengthPenalty: [1, 2] };
    const scores = (length: number, first = 3): number[] => [
      ...processed(options, [first, -4, 5], { ids: Array<number>(length).fill(2), promptLength: 2 }),
    ];
    expect(scores(3)).toEqual([3, -4, 5]);
    expect(scores(4)).toEqual([6, 0, 5]);
    expect(scores(5)).toEqual([12, 8, 5]);
    expect(scores(5, -Infinity)).toEqual([-Infinity, 8, 5]);
  });

  test("invalid values become finite", () => {
    const most = 3.4028234663852886e38;
    expect([...processed({ removeInvalidValues: true }, [NaN, Infinity, -Infinity, 1.5])]).toEqual([0, most, -most, 1.5]);
  });

  test("renormalised scores are log-probabilities, greedy or not", () => {
    for (const doSample of [false, true]) {
      const scores = processed({ renormalizeLogits: true, doSample }, [1, 2, -Infinity, 3]);
      const total = Math.exp(1) + Math.exp(2) + Math.exp(3);
      [1, 2, -Infinity, 3].forEach((s, i) => expect(scores[i]).toBeCloseTo(s - Math.log(total), 6));
      expect(processed({ renormalizeLogits: true, doSample }, scores)[3]).toBeCloseTo(scores[3]!, 6);
    }
  });

  test("custom processors see the row, after the built-in ones and before those of sampling", () => {
    const seen: unknown[] = [];
    const process = (scores: Float32Array, row: RowContext): void => {
      seen.push([...scores], row);
      scores[1] = 8;
    };
    const options: GenerationOptions = {
      doSample: true,
      temperature: 2,
      suppressTokens: [0],
      logitsProcessor: [{ name: "mine", process }],
    };
    expect([...processed(options, [1, 2, 3], { ids: [4, 5], promptLength: 2 })]).toEqual([-Infinity, 4, 1.5]);
    expect(seen).toEqual([[-Infinity, 2, 3], { ids: Int32Array.of(4, 5), promptLength: 2, row: 0, prompt: 0 }]);
  });
});

describe("truncation", () => {
  const sample = (options: GenerationOptions, scores: number[]): number[] => kept(processed({ doSample: true, ...options }, scores));

  test("typical: the nearest to the expected surprise until their probability is reached, not the likeliest", () => {
    // Entropy 1.1678; surprises 0.69, 1.61, 1.90, 1.90; distances 0.47, 0.44, 0.73, 0.73.
    const scores = logs(0.5, 0.2, 0.15, 0.15);
    expect(sample({ typicalP: 0.15 }, scores)).toEqual([1]);
    expect(sample({ typicalP: 0.25 }, scores)).toEqual([0, 1]);
    // Equal distances go together.
    expect(sample({ typicalP: 0.75 }, scores)).toEqual([0, 1, 2, 3]);
    expect(sample({ typicalP: 0.15 }, [...scores, -Infinity])).toEqual([1]);
  });

  test("top-h: the best within a share of the entropy, always the first", () => {
    // Terms of the entropy: 0.3466, 0.3612, 0.3219, 0.1498; together 1.1795... of which the shares are cumulative.
    const p = [0.5, 0.3, 0.15, 0.05];
    const terms = p.map((x) => -x * Math.log(x));
    const total = terms.reduce((a, b) => a + b);
    const share = (n: number): number => terms.slice(0, n).reduce((a, b) => a + b) / total;
    const scores = logs(0.05, 0.5, 0.15, 0.3);
    expect(sample({ topH: 0.01 }, scores)).toEqual([1]);
    expect(sample({ topH: share(2) - 0.01 }, scores)).toEqual([1]);
    expect(sample({ topH: share(2) + 0.01 }, scores)).toEqual([1, 3]);
    expect(sample({ topH: share(3) + 0.01 }, scores)).toEqual([1, 2, 3]);
    expect(sample({ topH: 1 }, scores)).toEqual([0, 1, 2, 3]);
    expect(sample({ topH: 1 }, [...scores, -Infinity])).toEqual([0, 1, 2, 3]);
  });

  test("top-h looks at the 100 best", () => {
    expect(
      sample(
        { topH: 1 },
        Array.from({ length: 150 }, (_, i) => i / 100),
      ),
    ).toEqual(Array.from({ length: 100 }, (_, i) => 50 + i));
  });

  test("epsilon: below a probability, never the best", () => {
    expect(sample({ epsilonCutoff: 0.2 }, logs(0.5, 0.3, 0.15, 0.05))).toEqual([0, 1]);
    expect(sample({ epsilonCutoff: 0.9 }, logs(0.3, 0.5, 0.2))).toEqual([1]);
  });

  test("eta: the threshold falls with the entropy", () => {
    const p = [0.5, 0.3, 0.15, 0.05];
    const entropy = -p.reduce((sum, x) => sum + x * Math.log(x), 0);
    const eta = 0.2;
    const least = Math.min(eta, Math.sqrt(eta) * Math.exp(-entropy));
    expect(least).toBeGreaterThan(0.05);
    expect(least).toBeLessThan(0.15);
    expect(sample({ etaCutoff: eta }, logs(...p))).toEqual([0, 1, 2]);
    expect(sample({ etaCutoff: 0.04 }, logs(...p))).toEqual([0, 1, 2, 3]);
  });

  test("with beams one more than the end tokens stay, and two without any", () => {
    const scores = logs(0.9, 0.04, 0.03, 0.02, 0.01);
    const strict: [GenerationOptions, number[]][] = [
      [{ topK: 1 }, [0]],
      [{ topP: 0.1 }, [0]],
      [{ minP: 0.9 }, [0]],
      [{ epsilonCutoff: 0.5 }, [0]],
      [{ etaCutoff: 0.9 }, [0]],
      [{ typicalP: 0.1 }, [0]],
    ];
    for (const [options, alone] of strict) {
      expect(sample(options, scores)).toEqual(alone);
      expect(sample({ ...options, numBeams: 3 }, scores)).toEqual([0, 1]);
      expect(sample({ ...options, numBeams: 3, eosTokenId: [] }, scores)).toEqual([0, 1]);
      expect(sample({ ...options, numBeams: 3, eosTokenId: [2, 3] }, scores)).toEqual([0, 1, 2]);
    }
  });

  test.each<[string, GenerationOptions]>([
    ["topP", { topP: 0.5 }],
    ["minP", { minP: 0.5 }],
    ["topH", { topH: 0.5 }],
    ["typicalP", { typicalP: 0.5 }],
    ["epsilonCutoff", { epsilonCutoff: 0.5 }],
    ["etaCutoff", { etaCutoff: 0.5 }],
    ["renormalizeLogits", { renormalizeLogits: true }],
  ])("%s: scores without a distribution are an error", (_, options) => {
    for (const scores of [
      [NaN, 1],
      [Infinity, 1],
      [-Infinity, -Infinity],
    ])
      expect(() => sample(options, scores)).toThrow("the logits hold NaN or infinity, or allow no token");
  });

  test("a vocabulary of 128 256 takes no noticeable time", () => {
    const scores = Float32Array.from({ length: 128_256 }, (_, i) => Math.sin(i * 78.233) * 5);
    const chain = chainOf(
      { doSample: true, topH: 0.9, topP: 0.9, minP: 0.01, typicalP: 0.9, epsilonCutoff: 1e-6, etaCutoff: 1e-6 },
      scores.length,
    );
    const started = performance.now();
    for (const step of all(chain)) step.process(scores, contextOf({}));
    expect(performance.now() - started).toBeLessThan(2000);
  });
});
