import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AutoTokenizer, pipeline, TextIteratorStreamer, TextStreamer } from "../../models/auto/index.ts";
import type { BambaForCausalLM, Chat, TextGenerationOptions, TextGenerationPipeline } from "../../models/auto/index.ts";
import { Tokenizer } from "../../runtime/text/tokenizer.ts";
import { tinyFolder } from "../support/model-folder.ts";

interface Run {
  readonly name: string;
  readonly input: string | Chat | readonly string[];
  readonly options: Readonly<Record<string, unknown>>;
  readonly output?: unknown;
  readonly error?: string;
}

const read = (file: string): unknown => JSON.parse(readFileSync(new URL(`../reference/${file}`, import.meta.url), "utf8"));
const extra = read("extra/extra.json") as { readonly pipeline: readonly Run[]; readonly pipeline_template: string };

/** A name of Python in camelCase; in results so is the key of the text. */
const camel = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
const camelOptions = (options: Readonly<Record<string, unknown>>): TextGenerationOptions =>
  // Options of calls that raised are written as text.
  Object.fromEntries(Object.entries(options).map(([name, value]) => [camel(name), value === "True" ? true : value]));
const camelResult = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(camelResult)
    : typeof value === "object" && value !== null
      ? Object.fromEntries(Object.entries(value).map(([name, part]) => [camel(name), camelResult(part)]))
      : value;

const once = { maxNewTokens: 12, doSample: false } as const;

let pipe: TextGenerationPipeline;
beforeAll(async () => {
  pipe = await pipeline("text-generation", tinyFolder, { dtype: "f32", batchSize: 1, modelOptions: { maxLength: 160, batch: 3 } });
});
afterAll(() => pipe.close());

describe("Transformers' results", () => {
  test.each(extra.pipeline.map((run) => [run.name, run] as const))("%s", async (name, { input, options, output, error }) => {
    const chat = JSON.stringify(input).includes('"role"') && name !== "chat without template";
    pipe.tokenizer.chatTemplate = chat ? extra.pipeline_template : null;
    if (name === "hole") {
      const [json, config] = ["tokenizer.json", "tokenizer_config.json"].map(
        (file) => JSON.parse(readFileSync(`${tinyFolder}/${file}`, "utf8")) as Record<string, unknown>,
      );
      const tokenizer = new Tokenizer(json!, { ...config, model_max_length: 16 }, "t");
      const short = await pipeline("text-generation", tinyFolder, { dtype: "f32", tokenizer, modelOptions: { maxLength: 160 } });
      expect(await short(input as string, { ...once, ...camelOptions(options) })).toEqual(camelResult(output));
      await short.close();
      return;
    }
    const run = pipe(input as string, { ...once, ...camelOptions(options) });
    if (error === undefined) expect(await run).toEqual(camelResult(output));
    else await expect(run).rejects.toThrow(error.split("! For information")[0]);
  });

  test("the pipeline section of the first references", async () => {
    const { generations } = read("bamba-tiny/reference_generations.json") as {
      generations: { pipeline?: string; result?: { generated_text: string }[]; result_new?: { generated_text: string }[] }[];
    };
    const { pipeline: prompt, result, result_new: added } = generations.find((run) => run.pipeline !== undefined)!;
    const options = { maxNewTokens: 20, doSample: false } as const;
    expect(await pipe(prompt!, options)).toEqual(camelResult(result));
    expect(await pipe(prompt!, { ...options, returnFullText: false })).toEqual(camelResult(added));
  });
});

describe("several prompts", () => {
  const prompts = ["It was the best of", "", "Call me", "The", "She said that the old man"];

  test("at once equal one by one", async () => {
    const alone = [];
    for (const prompt of prompts) alone.push(await pipe(prompt, once));
    for (const batchSize of [1, 2, 3]) expect(await pipe(prompts, { ...once, batchSize })).toEqual(alone);
    expect(await pipe([], once)).toEqual([]);
  });

  test("of an iterable come as they are asked for, and no further ones are read", async () => {
    const asked: string[] = [];
    const source = function* (): Generator<string> {
      for (const prompt of prompts) {
        asked.push(prompt);
        yield prompt;
      }
    };
    const results = pipe(source(), { ...once, batchSize: 2, returnTensors: true });
    expect(asked).toEqual([]);
    const first = await results.next();
    expect(asked).toEqual(prompts.slice(0, 2));
    expect(first.value).toEqual(await pipe(prompts[0]!, { ...once, returnTensors: true }));
    expect((await results.next()).value).toEqual(await pipe(prompts[1]!, { ...once, returnTensors: true }));
    expect(asked).toHaveLength(2);
    await results.return();

    const later = async function* (): AsyncGenerator<string> {
      for (const prompt of prompts) yield await Promise.resolve(prompt);
    };
    const all = [];
    for await (const result of pipe(later(), once)) all.push(result[0]!.generatedText);
    expect(all).toEqual((await pipe(prompts, once)).map(([result]) => result!.generatedText));
  });
});

describe("streaming", () => {
  test("the pieces of a prompt and of a chat join to the new text", async () => {
    pipe.tokenizer.chatTemplate = extra.pipeline_template;
    const chat = [{ role: "user", content: "Where is he?" }];
    for (const [streamed, [whole]] of [
      [pipe.stream("It was the best of", once), await pipe("It was the best of", { ...once, returnFullText: false })],
      [pipe.stream(chat, once), await pipe(chat, { ...once, returnFullText: false })],
    ] as const) {
      const pieces = [];
      for await (const piece of streamed) pieces.push(piece);
      expect(pieces.length).toBeGreaterThan(3);
      expect(pieces).not.toContain("");
      expect(pieces.join("")).toBe(whole!.generatedText);
    }
  });

  test("a TextStreamer is told of prompt and tokens; skipPrompt leaves the prompt out", async () => {
    const whole = (await pipe("Call me", once))[0]!.generatedText;
    for (const skipPrompt of [false, true]) {
      let text = "";
      let ends = 0;
      const onFinalizedText = (piece: string, end: boolean): void => {
        text += piece;
        ends += end ? 1 : 0;
      };
      await pipe("Call me", { ...once, streamer: new TextStreamer(pipe.tokenizer, { skipPrompt, onFinalizedText }) });
      expect(text).toBe(skipPrompt ? whole.slice("Call me".length) : whole);
      expect(ends).toBe(1);
    }
  });

  test("a TextIteratorStreamer is read while the text is made, and ends when that fails", async () => {
    const streamer = new TextIteratorStreamer(pipe.tokenizer, { skipPrompt: true });
    for (let round = 0; round < 2; round += 1) {
      const done = pipe("Call me", { ...once, streamer });
      let text = "";
      for await (const piece of streamer) text += piece;
      expect(`Call me${text}`).toBe((await done)[0]!.generatedText);
    }
    const failed = expect(pipe(["a", "b"], { ...once, batchSize: 2, streamer })).rejects.toThrow("TextStreamer only supports batch size 1");
    for await (const piece of streamer) expect(piece).toBe("");
    await failed;
  });
});

test("a tokenizer without pad token cannot batch until it is given one", async () => {
  const json = JSON.parse(readFileSync(`${tinyFolder}/tokenizer.json`, "utf8")) as Record<string, unknown>;
  const tokenizer = new Tokenizer(json, { eos_token: "<|end_of_text|>", bos_token: "<|begin_of_text|>" }, "t");
  const bare = await pipeline("text-generation", tinyFolder, { dtype: "f32", tokenizer, batchSize: 2, modelOptions: { maxLength: 160 } });
  const prompts = ["It was the best of", "Call me"];
  await expect(bare(prompts, once)).rejects.toThrow("Pipeline with tokenizer without pad_token cannot do batching");
  tokenizer.pad = tokenizer.eos;
  expect(await bare(prompts, once)).toEqual(await pipe(prompts, once));
  await bare.close();
});

test("the same seed samples the same text; another task is refused", async () => {
  const options = { maxNewTokens: 12, seed: 7 } as const;
  const [a] = await pipe("The", options);
  const [b] = await pipe("The", options);
  expect(a).toEqual(b);
  await expect(pipeline("fill-mask" as "text-generation", tinyFolder)).rejects.toThrow('Unknown task "fill-mask"');
});

test("the tokenizer of another folder may be given by its name", async () => {
  const other = await pipeline("text-generation", pipe.model as BambaForCausalLM, { tokenizer: tinyFolder });
  expect(other.tokenizer.vocabSize).toBe((await AutoTokenizer.fromPretrained(tinyFolder)).vocabSize);
});
