import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compareWithGolden } from "../../models/auto/golden/compare.ts";
import { openGoldenFile } from "../../models/auto/golden/tensors.ts";
import { cudaTarget } from "../../models/auto/engine-cuda.ts";
import { openCausalLM } from "../../models/auto/index.ts";
import type { BambaForCausalLM } from "../../models/auto/index.ts";
import { goldenModels } from "../support/golden.ts";
import { goldenFolder, tinyFolder } from "../support/model-folder.ts";
import { openGoldenModel } from "../support/running.ts";

interface Generation {
  readonly prompt: string;
  readonly prompt_ids: readonly number[];
  readonly output_ids: readonly number[];
}
const { generations } = JSON.parse(
  readFileSync(new URL("../reference/bamba-tiny/reference_generations.json", import.meta.url), "utf8"),
) as { readonly generations: readonly Generation[] };
const singles = generations.filter((entry) => "prompt_ids" in entry);

/** Whole models on a device, against what Transformers gives. */
export function modelTests(backend: string): void {
  describe("golden", () => {
    for (const name of goldenModels)
      test(name, async () => {
        const model = await openGoldenModel(name, { backend, strict: name === "options" });
        const golden = openGoldenFile(join(goldenFolder(name), "golden.safetensors"), model.config);
        try {
          const { agrees, divergence, sections } = await compareWithGolden(model, golden);
          expect({ agrees, divergence }).toEqual({ agrees: true, divergence: null });
          expect(sections.flatMap(({ tensors }) => tensors).length).toBeGreaterThan(0);
        } finally {
          golden.close();
          await model.close();
        }
      });
  });

  const types = ["f32", "bf16", "f16", ...(backend === "cuda" ? (["tf32"] as const) : [])] as const;
  for (const type of types) describe(`bamba-tiny in ${type}`, () => tinyTests(backend, type));
}

/**
 * Logits closer than this may change places where a GPU rounds activations, keys and values to 8 or 11 bits, or operands to the 11 of tf32: the reference's are in f32, and the closest two of its
 * choices are 0.0002 apart.
 */
const NEIGHBOURS = { bf16: 0.02, f16: 0.002, tf32: 0.002 };

/** How far the logit of `token`, after the first `length` tokens of a text, is from that of the text's own next one. */
async function gap(model: BambaForCausalLM, text: readonly number[], length: number, token: number): Promise<number> {
  const { logits } = await model.forward({ inputIds: [text.slice(0, length)], logitsToKeep: 1 });
  const [all, vocabulary] = [logits.data, logits.shape.at(-1)!];
  const last = all.length - vocabulary;
  return Math.abs(all[last + token]! - all[last + text[length]!]!);
}

/** @param type of the weights; tf32: of f32, by the target that is asked for it. */
function tinyTests(backend: string, type: "f32" | keyof typeof NEIGHBOURS): void {
  let model: BambaForCausalLM;
  beforeAll(async () => {
    const how = type === "tf32" ? ({ dtype: "f32", target: `${cudaTarget()}-tf32` } as const) : { dtype: type };
    model = await openCausalLM(tinyFolder, { backend, ...how, batch: 2, maxLength: 160 });
  });
  afterAll(() => model.close());

  for (const { prompt, prompt_ids: ids, output_ids: expected } of singles)
    test(`continues "${prompt}" token for token`, async () => {
      const { sequences } = await model.generate([...ids], { maxNewTokens: expected.length - ids.length, eosTokenId: [] });
      const tokens = [...sequences[0]!];
      const parting = tokens.findIndex((token, at) => token !== expected[at]);
      if (parting >= 0 && type !== "f32") expect(await gap(model, expected, parting, tokens[parting]!)).toBeLessThan(NEIGHBOURS[type]);
      else expect(tokens).toEqual(expected);
    });

  test("a token makes nothing, and a prompt in chunks is the prompt", async () => {
    const session = await model.session();
    const { prompt_ids: ids, output_ids: expected } = singles[0]!;
    await session.reset();
    await session.prefill(Int32Array.from(ids), { chunk: 2 });
    const token = new Int32Array(1);
    const made: number[] = [];
    const tokens: number[] = [];
    for (let i = 0; i < 24; i += 1) {
      token[0] = session.next[0]!;
      tokens.push(token[0]);
      await session.decode(token);
      made.push(session.executor.allocations);
    }
    expect(tokens).toEqual(expected.slice(ids.length, ids.length + 24));
    expect(new Set(made.slice(3)).size).toBe(1);
  });

  test("draws are a function of the seed", async () => {
    const options = { maxNewTokens: 24, doSample: true, topK: 40, topP: 0.95, seed: 7, eosTokenId: [] };
    const draw = async (): Promise<number[]> => [...(await model.generate([...singles[0]!.prompt_ids], options)).sequences[0]!];
    expect(await draw()).toEqual(await draw());
  });

  test("a profile has the time of each kernel", async () => {
    const session = await model.session();
    const times = await session.executor.profile!("decode.2", { batch: 1, seq: 1, past: session.past, kept: 1, with_logits: 1 });
    expect(times.some(({ milliseconds }) => milliseconds > 0)).toBe(true);
  });
}
