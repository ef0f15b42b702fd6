import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AutoTokenizer, openCausalLM } from "../../models/auto/index.ts";
import type { BambaForCausalLM, GenerateOptions, Tokenizer } from "../../models/auto/index.ts";
import { logSoftmax } from "../../runtime/text/sampling.ts";
import { tinyFolder } from "../support/model-folder.ts";
import { openGoldenModel, openGoldenTensors } from "../support/running.ts";
import { argmax } from "../support/sampling.ts";

/** generate() with one option after the other, against Transformers (tests/reference/make/extra.py). */
interface Run {
  readonly model: string;
  readonly case: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly sequences: readonly (readonly number[])[];
  readonly sequences_scores?: readonly number[];
  readonly beam_indices?: readonly (readonly number[])[];
  /** Of the first three steps, by row; null is what was removed. */
  readonly scores?: readonly (readonly (readonly (number | null)[])[])[];
  readonly logits?: readonly (readonly (readonly number[])[])[];
}
interface TinyRun {
  readonly prompt: string;
  readonly case: string;
  readonly ids: readonly number[];
  readonly sequences: readonly (readonly number[])[];
  readonly texts: readonly string[];
}
const extra = JSON.parse(readFileSync("tests/reference/extra/extra.json", "utf8")) as { generate: Run[]; tiny: TinyRun[] };
const tolerance = 1e-4;

/** Python's names in camel case. No end token, which is None there, is an empty list here. */
const camel = (options: Run["options"]): GenerateOptions =>
  Object.fromEntries(
    Object.entries(options).map(([name, value]) => [
      name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
      name === "eos_token_id" ? (value ?? []) : value,
    ]),
  );
const lists = (rows: readonly Int32Array[]): number[][] => rows.map((row) => [...row]);

/**
 * Greedy guidance written out, on two sessions. Transformers' processor runs its unconditional text with a cache and without positions, which then start
 * anew with every token (spec bamba Q1, a difference that is documented); ours go on.
 */
async function guided(
  model: BambaForCausalLM,
  input: { readonly inputIds: readonly Int32Array[]; readonly attentionMask?: readonly Int32Array[] },
  { scale, steps, restart }: { readonly scale: number; readonly steps: number; readonly restart: boolean },
): Promise<number[][]> {
  const rows = input.inputIds.length;
  const { vocabSize } = model.config;
  // Different programs, so that each has states of its own.
  const conditional = await model.forwardSession({ rows });
  const unconditional = await model.forwardSession({ rows, hiddenStates: true });
  await conditional.session.reset();
  await unconditional.session.reset();
  const sequences = input.inputIds.map((row) => [...row]);
  const flat = (lists: readonly Int32Array[]): Int32Array => Int32Array.from(lists.flatMap((row) => [...row]));
  const mask = input.attentionMask === undefined ? {} : { mask: flat(input.attentionMask) };
  let { logits } = await conditional.forward({ ids: flat(input.inputIds), rows, logitsToKeep: 1, ...mask });
  for (let step = 0; step < steps; step += 1) {
    const ids = Int32Array.from(sequences, (row) => row.at(-1)!);
    const positions = new Int32Array(rows).fill(restart ? 0 : step);
    if (step > 0) ({ logits } = await conditional.forward({ ids, rows }));
    const other = (await unconditional.forward({ ids, rows, positions })).logits;
    for (const [row, sequence] of sequences.entries()) {
      const [c, u] = [logits, other].map((values) => {
        const own = values.slice(row * vocabSize, (row + 1) * vocabSize);
        logSoftmax(own);
        return own;
      }) as [Float32Array, Float32Array];
      sequence.push(argmax(c.map((value, i) => scale * (value - u[i]!) + u[i]!)));
    }
  }
  return sequences;
}

describe.each(["base", "options", "all-attention"])("%s", (name) => {
  const golden = openGoldenTensors(name);
  const input = { inputIds: golden.rows("padded.input_ids"), attentionMask: golden.rows("padded.attention_mask") };
  let model: BambaForCausalLM;
  beforeAll(async () => {
    model = await openGoldenModel(name, { strict: name === "options" });
  });
  afterAll(() => model.close());

  const runs = extra.generate.filter((run) => run.model === name);
  test("there are as many as were made", () => expect(runs).toHaveLength(18));
  test("guidance", async () => {
    const run = runs.find((entry) => entry.case === "guidance")!;
    const settings = { scale: run.options["guidance_scale"] as number, steps: 12 };
    expect(await guided(model, input, { ...settings, restart: true })).toEqual(run.sequences);
    // Ours pads the unconditional text beside the prompts, which only strict mode lets leak.
    const lenient = await openGoldenModel(name);
    const ours = await lenient.generate(input, camel(run.options));
    expect(lists(ours.sequences)).toEqual(await guided(lenient, input, { ...settings, restart: false }));
    await lenient.close();
  });
  test.each(runs.filter((run) => run.case !== "guidance").map((run) => [run.case, run] as const))("%s", async (_, run) => {
    const asked = { ...camel(run.options), returnDictInGenerate: true, outputScores: true, outputLogits: true };
    const result = await model.generate(input, asked);
    expect(lists(result.sequences)).toEqual(run.sequences);
    if (run.beam_indices !== undefined) expect(lists(result.beamIndices!)).toEqual(run.beam_indices);
    for (const [i, score] of (run.sequences_scores ?? []).entries())
      expect(Math.abs(result.sequencesScores![i]! - score), `score of row ${i}`).toBeLessThan(tolerance);
    const compare = (ours: readonly Float32Array[], theirs: NonNullable<Run["scores"]>): void => {
      for (const [step, rows] of theirs.entries()) {
        const flat = rows.flat();
        const values = ours[step]!;
        expect(values).toHaveLength(flat.length);
        for (const [i, value] of flat.entries()) {
          if (value === null) expect(values[i], `step ${step}, element ${i}`).toBe(-Infinity);
          else expect(Math.abs(values[i]! - value), `step ${step}, element ${i}`).toBeLessThan(tolerance);
        }
      }
    };
    if (run.scores !== undefined) compare(result.scores!, run.scores);
    if (run.logits !== undefined) compare(result.logits!, run.logits);
  });
});

describe("bamba-tiny", () => {
  let model: BambaForCausalLM;
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await AutoTokenizer.fromPretrained(tinyFolder);
    model = await openCausalLM(tinyFolder, { dtype: "f32", batch: 4, maxLength: 64 });
  });
  afterAll(() => model.close());

  const even = Array.from({ length: 2048 }, (_, i) => 2 * i);
  const options = (): Readonly<Record<string, GenerateOptions>> => ({
    greedy: {},
    beam4: { numBeams: 4, numReturnSequences: 2 },
    penalty: { repetitionPenalty: 1.2, noRepeatNgramSize: 3 },
    guidance: { guidanceScale: 1.5 },
    stop: { stopStrings: [" and", ". "], tokenizer },
    even: { prefixAllowedTokensFn: () => even },
  });
  test.each(extra.tiny.map((run) => [`${run.case}: ${run.prompt}`, run] as const))("%s", async (_, run) => {
    expect(tokenizer.encode(run.prompt)).toEqual(run.ids);
    const { sequences } = await model.generate(run.ids, { maxNewTokens: 24, doSample: false, ...options()[run.case]! });
    if (run.case === "guidance") {
      const input = { inputIds: [Int32Array.from(run.ids)] };
      expect(await guided(model, input, { scale: 1.5, steps: 24, restart: true })).toEqual(run.sequences);
      expect(lists(sequences)).toEqual(await guided(model, input, { scale: 1.5, steps: 24, restart: false }));
      return;
    }
    expect(lists(sequences)).toEqual(run.sequences);
    expect(sequences.map((row) => tokenizer.decode([...row], { skipSpecialTokens: true }))).toEqual(run.texts);
  });
});
