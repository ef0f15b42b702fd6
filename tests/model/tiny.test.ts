import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AutoModelForCausalLM, AutoTokenizer } from "../../models/auto/index.ts";
import type { BambaForCausalLM, Tokenizer } from "../../models/auto/index.ts";
import { tinyFolder } from "../support/model-folder.ts";
import { farthest, lastLogits } from "../support/running.ts";

interface Single {
  readonly prompt: string;
  readonly prompt_ids: number[];
  readonly output_ids: number[];
  readonly text: string;
}
interface Batch {
  readonly prompts: string[];
  readonly input_ids: number[][];
  readonly attention_mask: number[][];
  readonly output_ids: number[][];
  readonly texts: string[];
}

const read = (name: string): unknown => JSON.parse(readFileSync(new URL(`../reference/bamba-tiny/${name}`, import.meta.url), "utf8"));
const { generations } = read("reference_generations.json") as { generations: (Single | Batch | { readonly pipeline: string })[] };
const singles = generations.filter((g): g is Single => "prompt_ids" in g);
const [batch] = generations.filter((g): g is Batch => "prompts" in g) as [Batch];
const made = 64;

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await AutoTokenizer.fromPretrained(tinyFolder);
});

test("the tokenizer's ids and texts are Transformers'", () => {
  const cases = read("reference_tokens.json") as {
    text: string;
    ids: number[];
    ids_plain: number[];
    decoded: string;
    decoded_skip: string;
  }[];
  for (const { text, ids, ids_plain: plain, decoded, decoded_skip: skipped } of cases) {
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(plain);
    expect(tokenizer.decode(ids)).toBe(decoded);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(skipped);
  }
});

describe.each([
  ["bf16, 2 threads", { dtype: "auto", threads: 2 }],
  ["bf16, 1 thread, prompts in chunks of 5", { dtype: "bf16", threads: 1, prefillChunk: 5 }],
  ["bf16, caches and states too", { dtype: "bf16", kvCache: "bf16", state: "bf16" }],
  ["f32", { dtype: "f32" }],
  ["f16", { dtype: "f16" }],
] as const)("bamba-tiny, %s", (_, options) => {
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await AutoModelForCausalLM.fromPretrained(tinyFolder, { ...options, batch: 2, maxLength: 160 });
  });
  afterAll(() => model.close());

  test.each(singles.map((single) => [single.prompt, single] as const))("continues %j token for token", async (_prompt, single) => {
    const ids = tokenizer.encode(single.prompt);
    expect(ids).toEqual(single.prompt_ids);
    const { sequences, newTokens } = await model.generate(ids, { maxNewTokens: made });
    expect(sequences.map((row) => [...row])).toEqual([single.output_ids]);
    expect(single.prompt + tokenizer.decode(newTokens[0]!, { skipSpecialTokens: true })).toBe(single.text);
  });

  test("continues a batch padded on the left, with the mask given and without", async () => {
    const encoded = tokenizer.encodeBatch(batch.prompts);
    expect([...encoded.ids]).toEqual(batch.input_ids.flat());
    expect([...encoded.attentionMask]).toEqual(batch.attention_mask.flat());
    for (const input of [{ inputIds: batch.input_ids, attentionMask: batch.attention_mask }, batch.input_ids]) {
      const { sequences } = await model.generate(input, { maxNewTokens: batch.output_ids[0]!.length - batch.input_ids[0]!.length });
      expect(sequences.map((row) => [...row])).toEqual(batch.output_ids);
    }
  });
});

describe("bamba-tiny, what a token costs and what a session holds", () => {
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await AutoModelForCausalLM.fromPretrained(tinyFolder, { maxLength: 160 });
  });
  afterAll(() => model.close());
  const prompt = Int32Array.from(singles[1]!.prompt_ids);

  test("kernels per token: at most 6 for a Mamba layer with its MLP, 7 for an attention layer with its MLP, and 3 more", () => {
    const { programs } = model.compiled!.artifact.manifest;
    const { layerKinds, attentionLayers } = model.config;
    const most = 6 * (layerKinds.length - attentionLayers.length) + 7 * attentionLayers.length + 3;
    expect(programs.find(({ name }) => name === "decode.1")!.steps.length).toBeLessThanOrEqual(most);
  });

  test("layers of one shape share their kernels", () => {
    const { kernels, programs } = model.compiled!.artifact.manifest;
    const launches = programs.reduce((sum, { steps }) => sum + steps.length, 0);
    expect(kernels.length).toBeLessThan(launches / 2);
  });

  test("decoding allocates no buffer, of the device or of the host", async () => {
    const session = await model.session();
    await session.reset();
    await session.prefill(prompt);
    const token = new Int32Array(1);
    const decode = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i += 1) {
        token[0] = session.next[0]!;
        await session.decode(token);
      }
    };
    await decode(5);
    const allocations = session.executor.allocations;
    const { arrayBuffers } = process.memoryUsage();
    await decode(40);
    expect(session.executor.allocations).toBe(allocations);
    // A collection in between may free what earlier tests left.
    expect(process.memoryUsage().arrayBuffers).toBeLessThanOrEqual(arrayBuffers);
  });

  test("a snapshot brings back the same logits, to the bit", async () => {
    const session = await model.session();
    await session.reset();
    await session.prefill(prompt);
    const at = await session.snapshot();
    const follow = async (): Promise<Float32Array> => {
      await session.decode(Int32Array.of(300));
      await session.prefill(Int32Array.of(400, 500, 600));
      return (await lastLogits(session))[0]!;
    };
    const first = await follow();
    await session.restore(at);
    expect(farthest(await follow(), first)).toBe(0);
  });

  test("a prompt token by token gives the logits of the prompt at once", async () => {
    const session = await model.session();
    await session.reset();
    await session.prefill(prompt);
    const [whole] = await lastLogits(session);
    await session.reset();
    await session.prefill(prompt.subarray(0, 1));
    for (let i = 1; i < prompt.length; i += 1) await session.decode(prompt.subarray(i, i + 1));
    expect(farthest((await lastLogits(session))[0]!, whole!)).toBeLessThan(1e-3);
  });

  test("streams its tokens, and stops when nobody listens or the signal says so", async () => {
    const expected = [...(await model.generate(prompt, { maxNewTokens: 12 })).newTokens[0]!];
    const streamed: number[] = [];
    for await (const { tokens, index } of model.stream(prompt, { maxNewTokens: 12 })) {
      expect(index).toBe(streamed.length);
      streamed.push(tokens[0]!);
      if (streamed.length === 5) break;
    }
    expect(streamed).toEqual(expected.slice(0, 5));
    const abort = new AbortController();
    const stopped = await model.generate(prompt, {
      maxNewTokens: 100,
      signal: abort.signal,
      onStep: ({ index }) => (index === 3 ? abort.abort() : undefined),
    });
    expect([...stopped.newTokens[0]!]).toEqual(expected.slice(0, 4));
    expect(stopped.finish).toEqual(["aborted"]);
  });

  test("sampling: the seed decides, and a distribution of one token is greedy", async () => {
    const draw = async (seed: number, topK: number): Promise<number[]> => [
      ...(await model.generate(prompt, { maxNewTokens: 10, doSample: true, temperature: 1.2, topK, seed })).newTokens[0]!,
    ];
    expect(await draw(1, 50)).toEqual(await draw(1, 50));
    expect(await draw(1, 50)).not.toEqual(await draw(2, 50));
    expect(await draw(3, 1)).toEqual([...(await model.generate(prompt, { maxNewTokens: 10 })).newTokens[0]!]);
  });

  test("ends at an end token, which is the last one it gives", async () => {
    const [greedy] = (await model.generate(prompt, { maxNewTokens: 20 })).newTokens;
    const end = greedy![7]!;
    const { newTokens, finish } = await model.generate(prompt, { maxNewTokens: 20, eosTokenId: end });
    expect([...newTokens[0]!]).toEqual([...greedy!.subarray(0, greedy!.indexOf(end) + 1)]);
    expect(finish).toEqual(["eos"]);
  });

  test("ends at a stop string, which stays in the text, and needs the tokenizer for that", async () => {
    const [greedy] = (await model.generate(prompt, { maxNewTokens: 20 })).newTokens;
    const third = tokenizer.decode([greedy![2]!]);
    const { newTokens, finish } = await model.generate(prompt, { maxNewTokens: 20, stopStrings: third, tokenizer });
    expect([...newTokens[0]!]).toEqual([...greedy!.subarray(0, newTokens[0]!.length)]);
    expect(newTokens[0]!.length).toBeLessThanOrEqual(3);
    expect(tokenizer.decode([...newTokens[0]!])).toContain(third);
    expect(finish).toEqual(["stop"]);
    await expect(model.generate(prompt, { stopStrings: third })).rejects.toThrow("no tokenizer to find them with");
  });

  test("more than the compiled limit is refused with the limit and what raises it", async () => {
    await expect(model.generate(new Int32Array(161).fill(9))).rejects.toThrow(
      "the prompt has 161 tokens, but the model was compiled for at most 160 positions",
    );
    await expect(model.generate(prompt, { maxNewTokens: 150 })).rejects.toThrow(
      "150 more were asked for, but the model was compiled for at most 160",
    );
    await expect(model.generate(prompt, { maxNewTokens: 150 })).rejects.toMatchObject({
      hint: expect.stringContaining("maxLength") as string,
    });
  });
});
