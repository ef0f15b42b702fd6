import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BambaForCausalLM, GenerateOptions } from "../../models/auto/index.ts";
import { isUserError } from "../../runtime/errors.ts";
import { openGoldenModel, openGoldenTensors } from "../support/running.ts";

/** Bad settings, and what Transformers says to them (tests/reference/make/extra.py). */
const { messages } = JSON.parse(readFileSync("tests/reference/extra/extra.json", "utf8")) as {
  messages: { readonly options: Readonly<Record<string, unknown>>; readonly error: string | null }[];
};
const camel = (name: string): string => name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());

/** What ours says, by what of the options is wrong. */
const ours: Readonly<Record<string, string | null>> = {
  "temperature 0": "temperature: expected a number above 0, got 0; for the likeliest token at each step, set doSample to false",
  "top_p 2": "topP: expected a number above 0 and at most 1, got 2",
  "top_k -1": "topK: expected an integer from 0, got -1",
  "repetition_penalty -1": "repetitionPenalty: expected a number above 0, got -1",
  "num_return_sequences 3": "numReturnSequences: expected at most numBeams, 2, got 3; set numBeams to 3 or more",
  "num_return_sequences 2":
    "numReturnSequences: greedy generation gives one sequence, and 2 were asked for; set doSample to true, or numBeams to 2 or more",
  "no_such_option 1": "noSuchOption: there is no such generation option",
  "max_length 3": "the prompt has 37 tokens and maxLength is 3: there is no room for a new token; set maxNewTokens, or shorten the prompt",
  'stop_strings ["a"]':
    "stopStrings: there are stop strings, in the options or in the model's generation_config.json, and no tokenizer to find them with; give generate the model's tokenizer",
  // A list of nothing asks for nothing.
  "bad_words_ids []": null,
  "sequence_bias []": null,
  "no_repeat_ngram_size -1": "noRepeatNgramSize: expected an integer from 0, got -1",
  "typical_p 1.5": "typicalP: expected a number above 0 and at most 1, got 1.5",
  "epsilon_cutoff 2": "epsilonCutoff: expected a number from 0 and below 1, got 2",
  "min_p 2": "minP: expected a number from 0 to 1, got 2",
  "top_h 2": "topH: expected a number above 0 and at most 1, got 2",
  "exponential_decay_length_penalty [1,-2]": "exponentialDecayLengthPenalty[1]: expected a number above 0, got -2",
  'early_stopping "sometimes"': 'earlyStopping: expected true, false or "never", got "sometimes"',
  "max_new_tokens 0": "maxNewTokens: expected an integer from 1, got 0",
  'cache_implementation "quantized"': "cacheImplementation: a QuantizedCache is only supported for models with only full attention layers",
  "prompt_lookup_num_tokens 3":
    "promptLookupNumTokens: assisted generation is not supported with stateful models, such as BambaForCausalLM",
};

describe("bad settings", () => {
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel("base", { backend: "interpret" });
  });
  afterAll(() => model.close());
  const prompt = openGoldenTensors("base").rows("padded.input_ids")[1]!;

  /** The setting that is wrong: the last one; an end token is there for another's sake. */
  const wrong = (options: Readonly<Record<string, unknown>>): string => {
    const [name, value] = Object.entries(options).findLast(([key]) => key !== "eos_token_id")!;
    return `${name} ${JSON.stringify(value)}`;
  };

  test("all of the reference are here", () =>
    expect(messages.map(({ options }) => wrong(options)).sort()).toEqual(Object.keys(ours).sort()));

  test.each(messages.map(({ options, error }) => [wrong(options), options, error] as const))("%s", async (what, options, error) => {
    const length = "max_length" in options ? {} : { max_new_tokens: 3 };
    const asked = Object.fromEntries(Object.entries({ ...length, ...options }).map(([name, value]) => [camel(name), value]));
    const said = await model.generate(prompt, asked as GenerateOptions).then(
      () => null,
      (thrown: unknown) => {
        if (!isUserError(thrown)) throw thrown;
        return thrown.hint === undefined ? thrown.message : `${thrown.message}; ${thrown.hint}`;
      },
    );
    const expected = ours[what];
    if (expected === null) {
      expect(said).toBeNull();
      expect(error).toContain("has to be a non-empty");
      return;
    }
    expect(said).toContain(expected!);
    // Where Transformers lets a setting out of its range pass, nothing that it could mean is known.
    const lenient = ["top_p", "no_repeat_ngram_size", "typical_p", "epsilon_cutoff", "exponential_decay_length_penalty"];
    expect(error === null).toBe(lenient.includes(what.split(" ")[0]!));
  });
});
