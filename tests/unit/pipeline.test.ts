import { describe, expect, test } from "vitest";
import type { GenerateInput, GenerateOptions } from "../../runtime/text/request.ts";
import { textGenerationPipeline } from "../../models/auto/text-generation.ts";
import type { PipelineModel, TextGenerationOptions } from "../../models/auto/text-generation-options.ts";
import { loadTokenizer } from "../../runtime/text/auto-tokenizer.ts";
import type { GenerationOptions } from "../../runtime/text/generation-config.ts";

/** What the pipeline asks of a model, which answers each prompt with `returned` sequences: token 50 and the number of the sequence. */
function asked(file: GenerationOptions = {}, returned = 1, config: { bosTokenId?: number | null; padTokenId?: number | null } = {}) {
  const calls: {
    input: { inputIds: readonly ArrayLike<number>[]; attentionMask: readonly ArrayLike<number>[] };
    options: GenerateOptions;
  }[] = [];
  const model = {
    config: { bosTokenId: 1, padTokenId: 0, ...config },
    plan: { capacity: 64 },
    generationConfig: { options: file, warnings: [] },
    generate: (input: GenerateInput, options: GenerateOptions) => {
      const rows = input as (typeof calls)[number]["input"];
      calls.push({ input: rows, options });
      return Promise.resolve({
        newTokens: rows.inputIds.flatMap(() => Array.from({ length: returned }, (_, i) => Int32Array.of(50, 60 + i))),
      });
    },
    close: () => Promise.resolve(),
  } as unknown as PipelineModel;
  const tokenizer = loadTokenizer("models/bamba-tiny");
  return { calls, tokenizer, pipe: (defaults: TextGenerationOptions = {}) => textGenerationPipeline(model, tokenizer, defaults) };
}

async function optionsOf(
  file: GenerationOptions,
  given: TextGenerationOptions,
  defaults: TextGenerationOptions = {},
): Promise<GenerateOptions> {
  const { calls, pipe } = asked(file);
  await pipe(defaults)("It was", given);
  return calls[0]!.options;
}

describe("generation defaults (spec e.7)", () => {
  test.each<[string, GenerationOptions, TextGenerationOptions, Partial<GenerateOptions>]>([
    ["256 new tokens, sampled at 0.7", {}, {}, { maxNewTokens: 256, doSample: true, temperature: 0.7 }],
    ["only where the file says nothing", { maxNewTokens: 9, doSample: true, temperature: 0.5 }, {}, { maxNewTokens: 9, temperature: 0.5 }],
    ["the file's greedy choice", { doSample: false }, {}, { doSample: false }],
    ["the file's length", { maxLength: 40 }, {}, { maxLength: 40, maxNewTokens: undefined }],
    ["a length of 20 in the file is no length", { maxLength: 20 }, {}, { maxNewTokens: 256 }],
    ["the caller's length", {}, { maxLength: 30 }, { maxLength: 30, maxNewTokens: undefined }],
    ["new tokens before length", { maxLength: 40 }, { maxNewTokens: 3 }, { maxNewTokens: 3 }],
    ["the caller before the file", { doSample: true, temperature: 0.5 }, { temperature: 2 }, { temperature: 2 }],
    ["a prefix adds to the length", {}, { maxLength: 30, prefix: "Once" }, { maxLength: 30 + 2 }],
    ["further options go through", {}, { topK: 5, seed: 3, bosTokenId: 7 }, { topK: 5, seed: 3, bosTokenId: 7 }],
  ])("%s", async (_, file, given, expected) => {
    expect(await optionsOf(file, given)).toMatchObject(expected);
    expect(await optionsOf(file, {}, given)).toMatchObject(expected);
  });

  test("no temperature without sampling; nothing of the pipeline's own reaches generate", async () => {
    const own: TextGenerationOptions = {
      returnFullText: true,
      batchSize: 1,
      prefix: "a",
      truncation: false,
      chatTemplate: "x",
      tools: [],
      skipSpecialTokens: true,
    };
    expect(Object.keys(await optionsOf({}, { ...own, doSample: false })).sort()).toEqual([
      "doSample",
      "maxLength",
      "maxNewTokens",
      "padTokenId",
    ]);
  });

  test("the tokenizer's pad token where the model has none", async () => {
    const { calls, pipe } = asked({}, 1, { padTokenId: null });
    await pipe()("a");
    await pipe({ padTokenId: 9 })("a");
    expect(calls.map(({ options }) => options.padTokenId)).toEqual([0, 9]);
  });

  test("a stop sequence ends with any of its tokens", async () => {
    const { calls, tokenizer, pipe } = asked();
    await pipe()("a", { stopSequence: "Bennet," });
    const ids = tokenizer.encode("Bennet,", { addSpecialTokens: false });
    expect(ids.length).toBeGreaterThan(1);
    expect(calls[0]!.options.eosTokenId).toEqual(ids);
    await expect(pipe()("a", { stopSequence: "" })).rejects.toThrow('stopSequence "" has no tokens');
  });
});

describe("prompts", () => {
  const prompts = ["It was the best of times", "Call me", ""];

  test("are padded on the left, in batches", async () => {
    const { calls, tokenizer, pipe } = asked();
    tokenizer.paddingSide = "right";
    await pipe()(prompts, { batchSize: 2 });
    const [first, second] = calls.map(({ input }) => input);
    const [long, short] = prompts.map((prompt) => tokenizer.encode(prompt)) as [number[], number[]];
    const pads = new Array<number>(long.length - short.length).fill(0);
    expect(first!.inputIds.map((row) => [...(row as Int32Array)])).toEqual([long, [...pads, ...short]]);
    expect(first!.attentionMask.map((row) => [...(row as Int32Array)])).toEqual([long.map(() => 1), [...pads, ...short.map(() => 1)]]);
    expect(second!.inputIds.map((row) => [...(row as Int32Array)])).toEqual([[1]]);
  });

  test("give as many results as sequences are returned", async () => {
    const { tokenizer, pipe } = asked({}, 2);
    const results = await pipe()(prompts.slice(0, 2), { batchSize: 2, returnTensors: true });
    expect(results.map((each) => each.map(({ generatedTokenIds }) => generatedTokenIds.slice(-2)))).toEqual([
      [
        [50, 60],
        [50, 61],
      ],
      [
        [50, 60],
        [50, 61],
      ],
    ]);
    expect(results[1]![0]!.generatedTokenIds.slice(0, -2)).toEqual(tokenizer.encode("Call me"));
  });

  test("without tokens begin with the beginning of a text, if there is one", async () => {
    const { calls, pipe } = asked();
    await pipe()("", { addSpecialTokens: false });
    expect([...(calls[0]!.input.inputIds[0] as Int32Array)]).toEqual([1]);
    const none = asked({}, 1, { bosTokenId: null });
    await expect(none.pipe()("", { addSpecialTokens: false })).rejects.toThrow(
      "`bos_token_id` has to be defined when no `input_ids` are provided",
    );
    await none.pipe()("", { addSpecialTokens: false, bosTokenId: 5 });
    expect([...(none.calls[0]!.input.inputIds[0] as Int32Array)]).toEqual([5]);
  });

  test("that are too long are cut: on their right to a length, on their left to leave a hole", async () => {
    const { calls, tokenizer, pipe } = asked();
    const text = "It was the best of times, ".repeat(30);
    const ids = tokenizer.encode(text);
    await pipe()(text, { truncation: true, tokenizerEncodeOptions: { maxLength: 10 } });
    await pipe()(text, { handleLongGeneration: "hole", maxNewTokens: 60 });
    expect(calls.map(({ input }) => [...(input.inputIds[0] as Int32Array)])).toEqual([ids.slice(0, 10), ids.slice(-4)]);
    await expect(pipe()(text, { handleLongGeneration: "hole", maxNewTokens: 64 })).rejects.toThrow("We cannot use `hole`");
    await expect(pipe()(text, { handleLongGeneration: "hole", maxLength: 8 })).rejects.toThrow(
      "We cannot infer how many new tokens are expected",
    );
    await expect(pipe()(text, { handleLongGeneration: "cut" as "hole" })).rejects.toThrow(
      /"cut" is not a valid value for `handle_long_generation`/,
    );
  });

  test("are not begun once the signal is aborted", async () => {
    const { calls, pipe } = asked();
    const controller = new AbortController();
    const source = function* (): Generator<string> {
      yield "a";
      controller.abort();
      yield "b";
    };
    const results = pipe()(source(), { signal: controller.signal });
    expect((await results.next()).value).toHaveLength(1);
    await expect(results.next()).rejects.toThrow("aborted");
    expect(calls).toHaveLength(1);
  });

  test("of a wrong kind are refused before any is run", async () => {
    const { calls, tokenizer, pipe } = asked();
    tokenizer.chatTemplate = "{{ messages[0].content }}";
    await expect(pipe()(3 as never)).rejects.toThrow("pipeline: expected a text, a chat, a list or an iterable of them, got 3");
    await expect(pipe()(["a", 3 as never])).rejects.toThrow("expected a text or a chat");
    await expect(pipe()([{ role: "user" }] as never)).rejects.toThrow("each dict must have a 'role' and 'content' key");
    await expect(pipe()(["a"], { batchSize: 0 })).rejects.toThrow("batchSize: expected a whole number from 1, got 0");
    expect(calls).toEqual([]);
  });
});

describe("results", () => {
  test("what is returned may not be said twice; a call's word on it is before the pipeline's", async () => {
    const { pipe } = asked();
    expect(() => pipe({ returnFullText: false, returnTensors: true })).toThrow(
      "`return_full_text` is mutually exclusive with `return_tensors`",
    );
    await expect(pipe()("a", { returnText: true, returnTensors: true })).rejects.toThrow(
      "`return_text` is mutually exclusive with `return_tensors`",
    );
    expect(await pipe({ returnFullText: false })("a", { returnTensors: true })).toMatchObject([
      { generatedTokenIds: expect.any(Array) as unknown },
    ]);
    expect(await pipe({ returnTensors: true })("a", { returnFullText: true })).toMatchObject([
      { generatedText: expect.stringMatching(/^a/) as unknown },
    ]);
  });

  test("a continued message keeps its other parts", async () => {
    const { tokenizer, pipe } = asked();
    tokenizer.chatTemplate = "{% for p in messages[-1].content %}{{ p.text }}{% endfor %}";
    const chat = [{ role: "assistant", name: "x", content: [{ type: "text", text: "I" }, { type: "image" }] }];
    const added = tokenizer.decode([50, 60]);
    expect(await pipe()(chat)).toEqual([
      { generatedText: [{ role: "assistant", name: "x", content: [{ type: "text", text: `I${added}` }, { type: "image" }] }] },
    ]);
  });
});
