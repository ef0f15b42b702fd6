import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";
import { decodeFloats, decodeIntegers } from "../../../runtime/numeric.ts";
import { resolveGeneration } from "../../../runtime/text/generation-config.ts";
import type { GenerationOptions } from "../../../runtime/text/generation-config.ts";
import { buildProcessors } from "../../../runtime/text/processors/chain.ts";

/** Each of Transformers' logits processors on the scores of golden/base (tests/reference/make/extra.py), by the options that turn it on. */
const extra = openCheckpoint("tests/reference/extra/processors.safetensors");
const golden = openCheckpoint("tests/reference/golden/base/golden.safetensors");
const { processors: used } = JSON.parse(readFileSync("tests/reference/extra/extra.json", "utf8")) as {
  processors: { bad_words: number[][]; sequence_bias: [number[], number][] };
};

const scores = decodeFloats("F32", golden.read("sampling.scores"));
const [rows, vocab] = golden.tensors.get("sampling.scores")!.shape as [number, number];
const history = decodeIntegers("I64", golden.read("sampling.history"), { min: 0, max: vocab - 1 }, "history");
const length = history.length / rows;

interface Case extends GenerationOptions {
  /** Tokens of the row that count as its prompt; 1 unless given. */
  readonly promptLength?: number;
  /** Tokens of the row so far; all of them unless given. */
  readonly held?: number;
  readonly before?: Float32Array;
}

const broken = scores.slice();
[broken[3], broken[5], broken[vocab + 7]] = [NaN, Infinity, -Infinity];
const draws = { doSample: true } as const;
/** Where beams are drawn, a processor leaves one more than there are end tokens: three. */
const keep3 = { doSample: true, numBeams: 2, eosTokenId: [2, 3] } as const;

const cases: Readonly<Record<string, Case>> = {
  ...Object.fromEntries([0.2, 0.4, 0.9].map((topH) => [`top_h_${topH}`, { ...draws, topH }])),
  ...Object.fromEntries([0.0003, 0.02].map((epsilonCutoff) => [`epsilon_${epsilonCutoff}`, { ...draws, epsilonCutoff }])),
  ...Object.fromEntries([0.0003, 0.02].map((etaCutoff) => [`eta_${etaCutoff}`, { ...draws, etaCutoff }])),
  ...Object.fromEntries<Case>(
    [0.2, 0.9].flatMap((share): [string, Case][] => [
      [`typical_${share}`, { ...draws, typicalP: share }],
      [`typical_${share}_keep3`, { ...keep3, typicalP: share }],
      [`top_p_${share}`, { ...draws, topP: share }],
      [`top_p_${share}_keep3`, { ...keep3, topP: share }],
      [`min_p_${share}_keep3`, { ...keep3, minP: share }],
    ]),
  ),
  top_k_1_keep3: { ...keep3, topK: 1 },
  bad_words: { badWordsIds: used.bad_words, eosTokenId: 2 },
  sequence_bias: { sequenceBias: used.sequence_bias },
  suppress: { suppressTokens: [1, 4, 9] },
  begin_suppress_on: { beginSuppressTokens: [1, 4], promptLength: length },
  begin_suppress_off: { beginSuppressTokens: [1, 4], promptLength: length - 1 },
  min_length_on: { minLength: length + 1, eosTokenId: [2, 3] },
  min_length_off: { minLength: length, eosTokenId: [2, 3] },
  min_new_tokens_on: { minNewTokens: 3, eosTokenId: 2, promptLength: length - 2 },
  min_new_tokens_off: { minNewTokens: 3, eosTokenId: 2, promptLength: length - 3 },
  exponential_decay_on: { exponentialDecayLengthPenalty: [2, 1.3], eosTokenId: 2, promptLength: length - 5 },
  exponential_decay_off: { exponentialDecayLengthPenalty: [8, 1.3], eosTokenId: 2, promptLength: length - 5 },
  // In spite of its name it is off: the row is longer than one token.
  forced_bos_on: { forcedBosTokenId: 3 },
  forced_bos_first: { forcedBosTokenId: 3, held: 1 },
  forced_eos_on: { forcedEosTokenId: [2, 5], maxNewTokens: length },
  forced_eos_off: { forcedEosTokenId: [2, 5], maxNewTokens: length + 1 },
  renormalize: { renormalizeLogits: true },
  remove_invalid: { removeInvalidValues: true, before: broken },
  no_repeat_1: { noRepeatNgramSize: 1 },
  no_repeat_3: { noRepeatNgramSize: 3 },
  prefix_allowed: { prefixAllowedTokensFn: (prompt) => Array.from({ length: vocab }, (_, id) => id).filter((id) => id % 3 === prompt) },
};

test("there is a case for every processor of the reference", () => {
  expect(Object.keys(cases).sort()).toEqual([...extra.tensors.keys()].sort());
});

test.each(Object.entries(cases))("%s", (name, { promptLength = 1, held = length, before = scores, ...options }) => {
  const model = { bosTokenId: 1, eosTokenIds: [2], padTokenId: 0, maxPositionEmbeddings: 512 };
  const settings = resolveGeneration({ topK: 0, maxNewTokens: 100, ...options }, undefined, model, promptLength);
  const { always, sampling } = buildProcessors(settings, vocab);
  const expected = decodeFloats("F32", extra.read(name));
  let changed = false;
  for (let row = 0; row < rows; row += 1) {
    const got = before.slice(row * vocab, (row + 1) * vocab);
    const ids = history.slice(row * length, row * length + held);
    for (const step of [...always, ...sampling]) step.process(got, { ids, promptLength, row, prompt: row });
    const wanted = expected.subarray(row * vocab, (row + 1) * vocab);
    const removed = (values: Float32Array): number[] => [...values.keys()].filter((i) => values[i] === -Infinity);
    expect(removed(got), `row ${row}`).toEqual(removed(wanted));
    for (const [i, score] of got.entries()) {
      if (wanted[i] === -Infinity) continue;
      // Nothing else is far from zero but what stands for infinity, which is the same number.
      expect(Math.abs(score - wanted[i]!), `row ${row}, token ${i}`).toBeLessThan(1e-4);
    }
    changed ||= got.some((score, i) => !Object.is(score, before[row * vocab + i]));
  }
  // No three tokens of the history occur twice.
  expect(changed).toBe(!/_off$|^forced_bos_on$|^no_repeat_3$/.test(name));
});
