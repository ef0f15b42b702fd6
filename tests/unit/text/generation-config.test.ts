import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { UserError } from "../../../runtime/errors.ts";
import { parseGenerationConfig, randomSeed, resolveGeneration, resolveSeeds } from "../../../runtime/text/generation-config.ts";
import type { GenerationOptions, ModelDefaults, ResolvedGeneration } from "../../../runtime/text/generation-config.ts";

const model: ModelDefaults = { bosTokenId: 1, eosTokenIds: [2], padTokenId: 0, maxPositionEmbeddings: 100 };
const resolve = (
  call: GenerationOptions = {},
  json?: unknown,
  changes: Partial<ModelDefaults> = {},
  promptLength = 5,
): ResolvedGeneration =>
  resolveGeneration(call, json === undefined ? undefined : parseGenerationConfig(json, "g.json"), { ...model, ...changes }, promptLength);

function errorOf(action: () => unknown): UserError {
  try {
    action();
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("resolution (spec e.1)", () => {
  test("with nothing said: greedy, 20 new tokens, the model's special tokens, everything else off", () => {
    expect(resolve()).toEqual({
      doSample: false,
      sampling: { temperature: 1, topK: 50, topP: 1, minP: 0 },
      topH: null,
      typicalP: 1,
      epsilonCutoff: 0,
      etaCutoff: 0,
      numBeams: 1,
      numReturnSequences: 1,
      lengthPenalty: 1,
      earlyStopping: false,
      maxNewTokens: 20,
      minNewTokens: 0,
      maxTime: null,
      stopStrings: [],
      stoppingCriteria: [],
      repetitionPenalty: 1,
      noRepeatNgramSize: 0,
      badWordsIds: [],
      sequenceBias: [],
      suppressTokens: [],
      beginSuppressTokens: [],
      forcedBosTokenId: null,
      forcedEosTokenIds: [],
      exponentialDecayLengthPenalty: null,
      renormalizeLogits: false,
      removeInvalidValues: false,
      prefixAllowedTokensFn: null,
      logitsProcessor: [],
      guidanceScale: null,
      negativePromptIds: null,
      negativePromptAttentionMask: null,
      useCache: true,
      prefillChunkSize: null,
      returnDictInGenerate: false,
      outputScores: false,
      outputLogits: false,
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
    expect(resolve({ topK: undefined }, file).sampling.topK).toBe(7);
  });

  test("every setting of the file is read by its Python name", () => {
    const file = {
      do_sample: true,
      num_beams: 4,
      num_return_sequences: 2,
      length_penalty: -0.5,
      early_stopping: "never",
      max_new_tokens: 9,
      min_new_tokens: 3,
      max_time: 1.5,
      stop_strings: "end",
      top_h: 0.4,
      typical_p: 0.9,
      epsilon_cutoff: 0.01,
      eta_cutoff: 0.02,
      repetition_penalty: 1.2,
      no_repeat_ngram_size: 3,
      bad_words_ids: [[4], [5, 6]],
      sequence_bias: [
        [[7], 1.5],
        [[8, 9], -2],
      ],
      suppress_tokens: [10],
      begin_suppress_tokens: [11, 12],
      forced_bos_token_id: 13,
      forced_eos_token_id: 14,
      exponential_decay_length_penalty: [5, 1.1],
      renormalize_logits: true,
      remove_invalid_values: true,
      guidance_scale: 1.5,
      use_cache: false,
      prefill_chunk_size: 8,
      return_dict_in_generate: true,
      output_scores: true,
      output_logits: true,
    };
    expect(resolve({}, file)).toMatchObject({
      doSample: true,
      numBeams: 4,
      numReturnSequences: 2,
      lengthPenalty: -0.5,
      earlyStopping: "never",
      maxNewTokens: 9,
      minNewTokens: 3,
      maxTime: 1.5,
      stopStrings: ["end"],
      topH: 0.4,
      typicalP: 0.9,
      epsilonCutoff: 0.01,
      etaCutoff: 0.02,
      repetitionPenalty: 1.2,
      noRepeatNgramSize: 3,
      badWordsIds: [[4], [5, 6]],
      sequenceBias: [
        [[7], 1.5],
        [[8, 9], -2],
      ],
      suppressTokens: [10],
      beginSuppressTokens: [11, 12],
      forcedBosTokenId: 13,
      forcedEosTokenIds: [14],
      exponentialDecayLengthPenalty: [5, 1.1],
      renormalizeLogits: true,
      removeInvalidValues: true,
      guidanceScale: 1.5,
      useCache: false,
      prefillChunkSize: 8,
      returnDictInGenerate: true,
      outputScores: true,
      outputLogits: true,
      warnings: [],
    });
  });

  test("functions, custom processors and the negative prompt belong to the call", () => {
    const processor = { name: "mine", process: (): void => undefined };
    const criterion = { name: "mine", stops: (): boolean => true };
    const allowed = (): number[] => [1];
    const negativePromptIds = [Int32Array.of(1, 2), [3, 4]];
    const resolved = resolve({
      logitsProcessor: [processor],
      stoppingCriteria: [criterion],
      prefixAllowedTokensFn: allowed,
      guidanceScale: 3,
      negativePromptIds,
      negativePromptAttentionMask: [
        [0, 1],
        [1, 1],
      ],
    });
    expect(resolved).toMatchObject({
      negativePromptIds: [
        [1, 2],
        [3, 4],
      ],
      guidanceScale: 3,
    });
    expect(resolved.logitsProcessor[0]).toBe(processor);
    expect(resolved.stoppingCriteria[0]).toBe(criterion);
    expect(resolved.prefixAllowedTokensFn).toBe(allowed);
    expect(resolve({ guidanceScale: 2, negativePromptIds: Int32Array.of(5, 6) }).negativePromptIds).toEqual([[5, 6]]);
    expect(resolve({ guidanceScale: 1 }).guidanceScale).toBeNull();
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

  test("least length: min_new_tokens wins, min_length counts the prompt, what cannot be reached is said", () => {
    expect(resolve({ minLength: 12 }).minNewTokens).toBe(7);
    expect(resolve({ minLength: 3 }).minNewTokens).toBe(0);
    const both = resolve({ minNewTokens: 4, minLength: 50 });
    expect(both.minNewTokens).toBe(4);
    expect(both.warnings).toEqual(["both minNewTokens 4 and minLength 50 are set; minNewTokens counts"]);
    expect(resolve({ minNewTokens: 4, maxNewTokens: 3 }).warnings).toEqual([
      "minNewTokens 4 cannot be reached: there is room for 3 new tokens, and generation stops there",
    ]);
    expect(resolve({ minLength: 30 }).warnings).toEqual([
      "minLength 30 cannot be reached: there is room for 20 new tokens, and generation stops there",
    ]);
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
    const error = errorOf(() => resolve({ doSample: true, temperature: 0 }));
    expect(error.message).toBe("temperature: expected a number above 0, got 0");
    expect(error.hint).toContain("set doSample to false");
  });

  test("what only sampling, beams, a result object or guidance look at is said to do nothing without them", () => {
    expect(resolve({ temperature: 0.7, topK: 5, minP: 0.1, topP: 1 }).warnings).toEqual([
      "temperature 0.7 has no effect: it is used when doSample is true",
      "topK 5 has no effect: it is used when doSample is true",
      "minP 0.1 has no effect: it is used when doSample is true",
    ]);
    expect(resolve({ lengthPenalty: 2, earlyStopping: true, outputScores: true, negativePromptIds: [1] }).warnings).toEqual([
      "lengthPenalty 2 has no effect: it is used when numBeams is above 1",
      "earlyStopping true has no effect: it is used when numBeams is above 1",
      "outputScores true has no effect: it is used when returnDictInGenerate is true",
      "negativePromptIds [[1]] has no effect: it is used when guidanceScale is set",
    ]);
    expect(resolve({ doSample: true, temperature: 0.7, topH: 0.5 }).warnings).toEqual([]);
    const file = { do_sample: true, temperature: 0.6, top_p: 0.9 };
    expect(resolve({ doSample: false }, file).warnings).toEqual([]);
    expect(resolve({ doSample: false, topP: 0.9 }, file).warnings).toEqual(["topP 0.9 has no effect: it is used when doSample is true"]);
    expect(resolve({}, { temperature: 0.6 }).warnings).toEqual(["temperature 0.6 has no effect: it is used when doSample is true"]);
  });

  test("several results need draws, or as many beams", () => {
    const greedy = errorOf(() => resolve({ numReturnSequences: 3 }));
    expect(greedy.message).toBe("numReturnSequences: greedy generation gives one sequence, and 3 were asked for");
    expect(greedy.hint).toBe("set doSample to true, or numBeams to 3 or more");
    const few = errorOf(() => resolve({ numReturnSequences: 3, numBeams: 2, doSample: true }));
    expect(few.message).toBe("numReturnSequences: expected at most numBeams, 2, got 3");
    expect(resolve({ numReturnSequences: 3, doSample: true }).numReturnSequences).toBe(3);
    expect(resolve({ numReturnSequences: 3, numBeams: 3 }).numReturnSequences).toBe(3);
  });

  test.each<[GenerationOptions, string]>([
    [{ maxNewTokens: 0 }, "maxNewTokens: expected an integer from 1, got 0"],
    [{ maxNewTokens: 1.5 }, "maxNewTokens: expected an integer from 1, got 1.5"],
    [{ maxLength: NaN }, "maxLength: expected an integer from 1, got NaN"],
    [{ minLength: -1 }, "minLength: expected an integer from 0, got -1"],
    [{ topK: -1 }, "topK: expected an integer from 0, got -1"],
    [{ topP: 2 }, "topP: expected a number above 0 and at most 1, got 2"],
    [{ topP: 0 }, "topP: expected a number above 0 and at most 1, got 0"],
    [{ minP: -0.1 }, "minP: expected a number from 0 to 1, got -0.1"],
    [{ topH: 0 }, "topH: expected a number above 0 and at most 1, got 0"],
    [{ typicalP: 1.5 }, "typicalP: expected a number above 0 and at most 1, got 1.5"],
    [{ epsilonCutoff: 1 }, "epsilonCutoff: expected a number from 0 and below 1, got 1"],
    [{ etaCutoff: -1 }, "etaCutoff: expected a number from 0 and below 1, got -1"],
    [{ repetitionPenalty: 0 }, "repetitionPenalty: expected a number above 0, got 0"],
    [{ repetitionPenalty: -1.2 }, "repetitionPenalty: expected a number above 0, got -1.2"],
    [{ noRepeatNgramSize: 1.5 }, "noRepeatNgramSize: expected an integer from 0, got 1.5"],
    [{ numBeams: 0 }, "numBeams: expected an integer from 1, got 0"],
    [{ lengthPenalty: NaN }, "lengthPenalty: expected a number, got NaN"],
    [{ earlyStopping: "always" as "never" }, 'earlyStopping: expected true, false or "never", got "always"'],
    [{ stopStrings: [""] }, 'stopStrings[0]: expected a text, got ""'],
    [{ maxTime: 0 }, "maxTime: expected a number above 0, got 0"],
    [{ badWordsIds: [[]] }, "badWordsIds[0]: expected at least one element, got none"],
    [{ badWordsIds: [[1, -2]] }, "badWordsIds[0][1]: expected an integer from 0 to 2147483647, got -2"],
    [{ sequenceBias: [[[1], NaN]] }, "sequenceBias[0][1]: expected a number, got NaN"],
    [{ sequenceBias: [[[1]]] as unknown as [] }, "sequenceBias[0]: expected a pair, got [[1]]"],
    [{ forcedEosTokenId: [] }, "forcedEosTokenId: expected at least one element, got none"],
    [{ exponentialDecayLengthPenalty: [3, 0] }, "exponentialDecayLengthPenalty[1]: expected a number above 0, got 0"],
    [{ suppressTokens: 3 as unknown as [] }, "suppressTokens: expected a list, got 3"],
    [{ logitsProcessor: [(() => undefined) as never] }, "logitsProcessor[0]: expected an object with a method process, got function"],
    [{ stoppingCriteria: [{} as never] }, "stoppingCriteria[0]: expected an object with a method stops, got {}"],
    [{ prefixAllowedTokensFn: [1] as never }, "prefixAllowedTokensFn: expected a function, got [1]"],
    [{ negativePromptIds: [[1], [2, 3]], guidanceScale: 2 }, "negativePromptIds: the rows have different lengths (1, 2)"],
    [{ negativePromptIds: [1, 2], negativePromptAttentionMask: [1], guidanceScale: 2 }, "expected the shape of negativePromptIds"],
    [{ negativePromptAttentionMask: [1], guidanceScale: 2 }, "expected the shape of negativePromptIds"],
    [{ prefillChunkSize: 0 }, "prefillChunkSize: expected an integer from 1, got 0"],
    [{ useCache: "no" as never }, 'useCache: expected true or false, got "no"'],
    [{ eosTokenId: [1, -2] }, "eosTokenId[1]: expected an integer from 0 to 2147483647, got -2"],
    [{ padTokenId: 0.5 }, "padTokenId: expected an integer from 0"],
    [{ doSample: true, temperature: Infinity }, "temperature: expected a number, got Infinity"],
    [{ doSample: true, temperature: -1 }, "temperature: expected a number above 0, got -1"],
  ])("%j is refused", (call, message) => {
    expect(errorOf(() => resolve(call)).message).toContain(message);
  });

  test.each([
    ["max_new_tokens", "maxNewTokens"],
    ["maxNewTokns", "maxNewTokens"],
    ["topk", "topK"],
    ["repetition_penalty", "repetitionPenalty"],
    ["beams", "numBeams"],
  ])("%s is no option; %s is meant", (name, meant) => {
    const error = errorOf(() => resolve({ [name]: 1 }));
    expect(error.message).toBe(`${name}: there is no such generation option`);
    expect(error.hint).toBe(`did you mean ${meant}?`);
  });

  test("what a call takes besides settings is no unknown option", () => {
    const call = { maxNewTokens: 3, signal: new AbortController().signal, onStep: (): void => undefined, tokenizer: {}, streamer: {} };
    expect(resolve(call).maxNewTokens).toBe(3);
  });

  test.each<[object, string]>([
    [{ assistantModel: {} }, "assistantModel: assisted generation is not supported with stateful models, such as BambaForCausalLM"],
    [{ promptLookupNumTokens: 3 }, "assisted generation is not supported with stateful models"],
    [{ numBeamGroups: 2 }, "group beam search is not supported"],
    [{ penaltyAlpha: 0.6 }, "contrastive search is not supported"],
    [{ dolaLayers: "high" }, "DoLa decoding is not supported"],
    [{ constraints: [] }, "constrained beam search is not supported"],
    [{ watermarkingConfig: {} }, "watermarking is not supported"],
    [{ customGenerate: "someone/code" }, "it would run the code of a stranger"],
    [{ cacheImplementation: "quantized" }, "QuantizedCache is only supported for models with only full attention layers"],
    [{ encoderRepetitionPenalty: 1.2 }, "it is for encoder-decoder models"],
  ])("%j is refused with the reason", (call, message) => {
    expect(errorOf(() => resolve(call)).message).toContain(message);
  });

  test("unsupported options that ask for nothing are accepted", () => {
    const call: object = { cacheImplementation: "static", numBeamGroups: 1, assistantModel: null, watermarkingConfig: undefined };
    expect(resolve(call).warnings).toEqual([]);
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

  test("settings that would change the output and are not followed are said, neutral ones and unknown ones are not", () => {
    const json = {
      num_beam_groups: 4,
      penalty_alpha: 0.6,
      diversity_penalty: 0,
      cache_implementation: "quantized",
      prompt_lookup_num_tokens: 2,
      watermarking_config: null,
      seed: 3,
      logits_processor: [],
      transformers_version: "5.18.0",
      something_else: 1,
    };
    expect(parseGenerationConfig(json, "g.json").warnings).toEqual([
      "g.json: num_beam_groups 4 has no effect: group beam search is not supported",
      "g.json: penalty_alpha 0.6 has no effect: contrastive search is not supported",
      'g.json: cache_implementation "quantized" has no effect: a QuantizedCache is only supported for models with only full attention layers, and others are not known',
      "g.json: prompt_lookup_num_tokens 2 has no effect: assisted generation is not supported with stateful models, such as BambaForCausalLM",
      "g.json: seed 3 has no effect: it is an argument of generate",
      "g.json: logits_processor [] has no effect: it is an argument of generate",
    ]);
    expect(parseGenerationConfig(json, "g.json").options).toEqual({});
  });

  test("fields named like what every object has are left alone", () => {
    const json = JSON.parse('{"__proto__": {"top_k": 3}, "constructor": 1, "toString": 2}') as unknown;
    expect(parseGenerationConfig(json, "g.json")).toEqual({ options: {}, warnings: [] });
  });

  test.each<[unknown, string]>([
    [[], "g.json: expected a JSON object, got []"],
    [{ do_sample: 1 }, "g.json: do_sample: expected true or false, got 1"],
    [{ max_new_tokens: "8" }, 'g.json: max_new_tokens: expected an integer from 1, got "8"'],
    [{ eos_token_id: ["2"] }, 'g.json: eos_token_id[0]: expected an integer from 0 to 2147483647, got "2"'],
    [{ do_sample: true, temperature: 0 }, "g.json: temperature: expected a number above 0, got 0"],
    [{ top_p: 2 }, "g.json: top_p: expected a number above 0 and at most 1, got 2"],
    [{ sequence_bias: { "(1, 2)": 3 } }, "g.json: sequence_bias: expected a list, got"],
    [{ bad_words_ids: [["word"]] }, 'g.json: bad_words_ids[0][0]: expected an integer from 0 to 2147483647, got "word"'],
  ])("%j is refused", (json, message) => {
    expect(() => parseGenerationConfig(json, "g.json")).toThrow(message);
  });
});

describe("seeds", () => {
  test("a random one is a 32-bit integer", () => {
    expect(randomSeed()).toSatisfy((seed: number) => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32);
  });

  test("one for all prompts, one for each, or random ones", () => {
    expect(resolveSeeds(7, 3)).toEqual([7, 7, 7]);
    expect(resolveSeeds([1, 2 ** 53 - 1], 2)).toEqual([1, 2 ** 53 - 1]);
    expect(new Set(resolveSeeds(undefined, 8)).size).toBeGreaterThan(1);
  });

  test.each([
    [-1, "seed: expected an integer from 0, got -1"],
    [2 ** 53, "seed: expected an integer from 0"],
    [[1, 0.5], "seed[1]: expected an integer from 0, got 0.5"],
    [[1, 2, 3], "seed: expected one seed, or one for each of the 2 prompts, got 3"],
    [[], "seed: expected one seed, or one for each of the 2 prompts, got 0"],
  ])("%j is refused", (seed, message) => {
    expect(errorOf(() => resolveSeeds(seed, 2)).message).toContain(message);
  });
});
