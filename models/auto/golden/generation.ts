import { UserError } from "../../../runtime/errors.ts";
import { resolveGeneration } from "../../../runtime/text/generation-config.ts";
import type { GenerationOptions } from "../../../runtime/text/generation-config.ts";
import { buildProcessors } from "../../../runtime/text/processors/chain.ts";
import type { BambaForCausalLM } from "../model.ts";
import type { Computed, Inputs, Section } from "./section.ts";
import { floatsOf, newTokens, rowsOf } from "./tensors.ts";

/** Continuations of the padded prompts, as token lists. */
export const generateSection: Section = {
  name: "generate",
  needs: ["padded.input_ids", "padded.attention_mask"],
  compute: computeGenerate,
};

/** New tokens of a search with beams. */
const short = 12;

/** Greedy, with the end tokens of the model unless they are given. */
const continuations: Readonly<Record<string, GenerationOptions>> = {
  greedy: { maxNewTokens: newTokens },
  greedy_eos: { maxNewTokens: newTokens },
  beam3: { maxNewTokens: short, numBeams: 3 },
  beam4_len: { maxNewTokens: short, numBeams: 4, numReturnSequences: 2, lengthPenalty: 0.6, earlyStopping: true },
  repetition_1_3: { maxNewTokens: newTokens, repetitionPenalty: 1.3 },
  no_repeat_ngram_2: { maxNewTokens: newTokens, noRepeatNgramSize: 2 },
};

async function* computeGenerate({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  const inputIds = rowsOf(golden, "padded.input_ids");
  const input = { inputIds, attentionMask: rowsOf(golden, "padded.attention_mask") };
  const length = inputIds[0]!.length;
  const run = async (options: GenerationOptions): Promise<readonly Int32Array[]> =>
    (await model.generate(input, { doSample: false, ...options })).sequences;
  let greedy: readonly Int32Array[] | undefined = golden.names.includes("generate.greedy") ? rowsOf(golden, "generate.greedy") : undefined;
  for (const [what, options] of Object.entries(continuations)) {
    const name = `generate.${what}`;
    if (!wants(name)) continue;
    if (what === "greedy_eos") greedy ??= await run(continuations["greedy"]!);
    const sequences = await run(what === "greedy_eos" ? { ...options, eosTokenId: endTokens(greedy!, length) } : options);
    if (what === "greedy") greedy ??= sequences;
    const width = sequences[0]!.length;
    const values = new Int32Array(sequences.length * width);
    sequences.forEach((row, i) => values.set(row, i * width));
    yield { name, shape: [sequences.length, width], values };
  }
}

/** How the reference's list was chosen: the first row's tenth new token and the second one's fifteenth, or the last one where a row is shorter. */
function endTokens(greedy: readonly Int32Array[], promptLength: number): readonly number[] {
  return [9, 14].flatMap((at, row) => {
    const tokens = greedy[row]?.subarray(promptLength) ?? [];
    return tokens.length === 0 ? [] : [tokens[Math.min(at, tokens.length - 1)]!];
  });
}

/** Scores after each processor that runs in every step, by the compiled program, and after others, on the host. */
export const samplingSection: Section = { name: "sampling", needs: ["sampling.scores", "sampling.history"], compute: computeSampling };

const off = { penalty: 1, temperature: 1, topK: 0, topP: 1, minP: 0 };

const compiled: Readonly<Record<string, Partial<typeof off>>> = {
  temperature_0_7: { temperature: 0.7 },
  top_k_10: { topK: 10 },
  top_p_0_8: { topP: 0.8 },
  min_p_0_1: { minP: 0.1 },
  repetition_1_2: { penalty: 1.2 },
  "chain_rep1.2_temp0.7_topk20_topp0.9": { penalty: 1.2, temperature: 0.7, topK: 20, topP: 0.9 },
};

const onHost: Readonly<Record<string, GenerationOptions>> = {
  typical_0_7: { doSample: true, topK: 0, typicalP: 0.7 },
  no_repeat_2: { doSample: false, noRepeatNgramSize: 2 },
};

async function* computeSampling({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  const history = rowsOf(golden, "sampling.history");
  const { vocabSize } = model.config;
  const { values, shape } = floatsOf(golden, "sampling.scores", 2, vocabSize);
  if (shape[0] !== history.length)
    throw new UserError(`sampling: ${shape[0]!} rows of scores and ${history.length} of tokens in sampling.history`);
  const scores = history.map((_, row) => values.subarray(row * vocabSize, (row + 1) * vocabSize));
  const asked = Object.entries(compiled).filter(([what]) => wants(`sampling.${what}`));
  for (const [what, settings] of asked)
    yield { name: `sampling.${what}`, shape, values: await choose(model, history, scores, { ...off, ...settings }) };
  for (const [what, options] of Object.entries(onHost)) {
    if (!wants(`sampling.${what}`)) continue;
    const promptLength = history[0]!.length;
    const { always, sampling } = buildProcessors(
      resolveGeneration({ maxNewTokens: 1, ...options }, undefined, model.config, promptLength),
      vocabSize,
    );
    const out = values.slice();
    for (const [row, ids] of history.entries())
      for (const step of [...always, ...sampling])
        step.process(out.subarray(row * vocabSize, (row + 1) * vocabSize), { ids, promptLength, row, prompt: row });
    yield { name: `sampling.${what}`, shape, values: out };
  }
}

/** The scores that the model's own program takes the likeliest token from. */
async function choose(
  model: BambaForCausalLM,
  history: readonly Int32Array[],
  scores: readonly Float32Array[],
  { penalty, temperature, topK, topP, minP }: typeof off,
): Promise<Float32Array> {
  const rows = history.length;
  const session = await model.session(rows);
  await session.reset();
  // A session has rows from a prompt on; whose logits these would be does not matter, because they are replaced.
  await session.prefill(Int32Array.from(history, (ids) => ids[0]!), { rows });
  for (const [row, ids] of history.entries()) {
    session.setLogits(row, scores[row]!);
    session.markSeen(row, ids);
  }
  const likeliest = -1;
  await session.choose(Float32Array.from(history.flatMap(() => [penalty, temperature, topK, topP, minP, likeliest])));
  const { vocabSize } = session;
  const out = new Float32Array(rows * vocabSize);
  for (let row = 0; row < rows; row += 1) out.set(await session.scores(row), row * vocabSize);
  return out;
}
