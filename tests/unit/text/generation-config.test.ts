import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { UserError } from "../../../runtime/errors.ts";
import { parseGenerationConfig, randomSeed, resolveGeneration } from "../../../runtime/text/generation-config.ts";
import type { GenerationOptions, ModelDefaults, ResolvedGeneration } from "../../../runtime/text/generation-config.ts";

const model: ModelDefaults = { bosTokenId: 1, eosTokenIds: [2], padTokenId: 0, maxPositionEmbeddings: 100 };
const resolve = (
  call: GenerationOptions = {},
  json?: unknown,
  changes: Partial<ModelDefaults> = {},
  promptLength = 5,
): ResolvedGeneration =>
  resolveGeneration(call, json === undefined ? undefined : parseGenerationConfig(json, "g.json"), { ...model, ...changes }, promptLength);

describe("resolution (spec e.1)", () => {
  test("with nothing said: greedy, 20 new tokens, the model's special tokens", () => {
    expect(resolve()).toEqual({
      doSample: false,
      sampling: { temperature: 1, topK: 50, topP: 1, minP: 0 },
      maxNewTokens: 20,
      eosTokenIds: [2],
      padTokenId: 0,
      bosTokenId: 1,
      warnings: [],
    });
  });

  test("call before file before model before default; null in the file is not set", () => {
    const file = {
      do_sample: true,
      temperature: 0.6,
      top_k: 7,
      top_p: null,
      eos_token_id: [4, 5, 4],
      pad_token_id: null,
      bos_token_id: 9,
      min_p: 0.1,
    };
    expect(resolve({}, file)).toMatchObject({
      doSample: true,
      sampling: { temperature: 0.6, topK: 7, topP: 1, minP: 0.1 },
      eosTokenIds: [4, 5],
      padTokenId: 0,
      bosTokenId: 9,
    });
    expect(resolve({ doSample: false, topK: 0, topP: 0.9, minP: 0, eosTokenId: 8, padTokenId: 3, bosTokenId: 0 }, file)).toMatchObject({
      doSample: false,
      sampling: { temperature: 1, topK: 0, topP: 0.9, minP: 0 },
      eosTokenIds: [8],
      padTokenId: 3,
      bosTokenId: 0,
    });
    expect(resolve({ eosTokenId: [] }).eosTokenIds).toEqual([]);
    expect(resolve({ doSample: true, temperature: 0.5 }).sampling.temperature).toBe(0.5);
  });

  test("length: max_new_tokens wins, max_length counts the prompt, the default is 20 more up to the model's positions", () => {
    expect(resolve({ maxNewTokens: 3 }).maxNewTokens).toBe(3);
    expect(resolve({}, { max_new_tokens: 4 }).maxNewTokens).toBe(4);
    expect(resolve({ maxLength: 12 }).maxNewTokens).toBe(7);
    expect(resolve({}, { max_length: 12 }).maxNewTokens).toBe(7);
    expect(resolve({}, undefined, {}, 90).maxNewTokens).toBe(10);
    expect(resolve({ maxNewTokens: 500 }).maxNewTokens).toBe(500);
    const both = resolve({ maxNewTokens: 3, maxLength: 50 });
    expect(both.maxNewTokens).toBe(3);
    expect(both.warnings).toEqual(["both maxNewTokens 3 and maxLength 50 are set; maxNewTokens counts"]);
    expect(() => resolve({ maxLength: 5 })).toThrow("the prompt has 5 tokens and maxLength is 5: there is no room");
    expect(() => resolve({}, undefined, {}, 100)).toThrow("the model's max_position_embeddings is 100");
  });

  test("without a pad token the first eos pads; without either there is none", () => {
    expect(resolve({ eosTokenId: [6, 7] }, undefined, { padTokenId: null }).padTokenId).toBe(6);
    expect(resolve({}, undefined, { padTokenId: null, eosTokenIds: [], bosTokenId: null })).toMatchObject({
      padTokenId: null,
      bosTokenId: null,
    });
  });

  test("a temperature of 0 is greedy's business only", () => {
    expect(resolve({ temperature: 0 }).sampling.temperature).toBe(1);
    expect(resolve({}, { temperature: 0 }).doSample).toBe(false);
    expect(resolve({ doSample: true }, { temperature: 0 }).sampling.temperature).toBe(1);
    expect(() => resolve({ doSample: true, temperature: 0 })).toThrow("temperature: expected a number above 0, got 0");
  });

  test.each<[GenerationOptions, string]>([
    [{ maxNewTokens: 0 }, "maxNewTokens: expected an integer from 1, got 0"],
    [{ maxNewTokens: 1.5 }, "maxNewTokens: expected an integer from 1, got 1.5"],
    [{ maxLength: NaN }, "maxLength: expected an integer from 1"],
    [{ topK: -1 }, "topK: expected an integer from 0, got -1"],
    [{ topP: 1.1 }, "topP: expected a number from 0 to 1, got 1.1"],
    [{ minP: -0.1 }, "minP: expected a number from 0 to 1"],
    [{ eosTokenId: [1, -2] }, "eosTokenId: expected an integer from 0 to 2147483647, got -2"],
    [{ padTokenId: 0.5 }, "padTokenId: expected an integer from 0"],
    [{ doSample: true, temperature: Infinity }, "temperature: expected a number above 0"],
  ])("%j is refused", (call, message) => {
    expect(() => resolve(call)).toThrow(message);
    expect(() => resolve(call)).toThrow(UserError);
  });
});

describe("generation_config.json", () => {
  test("of the reference models", () => {
    for (const file of ["models/bamba-tiny", "tests/reference/golden/base"].map((folder) => `${folder}/generation_config.json`)) {
      const { options, warnings } = parseGenerationConfig(JSON.parse(readFileSync(file, "utf8")), file);
      expect(options).toMatchObject({ bosTokenId: 1, eosTokenId: [2], padTokenId: 0 });
      expect(warnings).toEqual([]);
    }
  });

  test("settings that would change the output and are not followed are said, neutral ones are not", () => {
    const json = {
      num_beams: 4,
      repetition_penalty: 1.2,
      typical_p: 1,
      min_length: 0,
      suppress_tokens: [3],
      use_cache: true,
      length_penalty: 2,
    };
    expect(parseGenerationConfig(json, "g.json").warnings).toEqual([
      "g.json: num_beams 4 is not supported yet and has no effect",
      "g.json: repetition_penalty 1.2 is not supported yet and has no effect",
      "g.json: suppress_tokens [3] is not supported yet and has no effect",
    ]);
  });

  test.each<[unknown, string]>([
    [[], "g.json: expected a JSON object, got []"],
    [{ do_sample: 1 }, "g.json: do_sample: expected true or false, got 1"],
    [{ max_new_tokens: "8" }, 'g.json: max_new_tokens: expected an integer from 1, got "8"'],
    [{ eos_token_id: ["2"] }, 'g.json: eos_token_id: expected an integer from 0 to 2147483647, got "2"'],
    [{ do_sample: true, temperature: 0 }, "g.json: temperature: expected a number above 0, got 0"],
    [{ top_p: 2 }, "g.json: top_p: expected a number from 0 to 1, got 2"],
  ])("%j is refused", (json, message) => {
    expect(() => parseGenerationConfig(json, "g.json")).toThrow(message);
  });
});

test("seeds are 32-bit integers", () => {
  expect(randomSeed()).toSatisfy((seed: number) => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32);
});
