import { UserError } from "../../../runtime/errors.ts";
import { BambaCache } from "../cache.ts";
import type { LayerStates, Values } from "../cache.ts";
import type { Computed, Inputs, Section } from "./section.ts";
import type { Golden } from "./tensors.ts";
import { rowsOf } from "./tensors.ts";

/** The tokens of the forward section with a cache: a prompt, single tokens and a chunk, with the states after each. Positions go on from call to call. */
export const cacheSection: Section = { name: "cache", needs: ["forward.input_ids"], compute: computeCache };

async function* computeCache({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  const ids = rowsOf(golden, "forward.input_ids");
  const length = ids[0]!.length;
  const { prompt, steps } = cutsOf(golden, length);
  const pastKeyValues = new BambaCache(model.config);
  const feed = async (from: number, to: number): Promise<Values> =>
    (await model.forward({ inputIds: ids.map((row) => row.subarray(from, to)), pastKeyValues })).logits;
  const oneByOne = async (from: number, to: number): Promise<Values> => {
    const each: Values[] = [];
    for (let at = from; at < to; at += 1) each.push(await feed(at, at + 1));
    return inRows(each);
  };
  const stages = [
    { after: "after_prefill", logits: "prefill_logits", run: () => feed(0, prompt) },
    { after: "after_steps", logits: "step_logits", run: () => oneByOne(prompt, prompt + steps) },
    { after: "after_chunk", logits: "chunk_logits", run: () => feed(prompt + steps, length) },
  ];
  for (const { after, logits, run } of stages) {
    const { shape, data: values } = await run();
    for (const state of statesOf(await pastKeyValues.layers(), after)) if (wants(state.name)) yield state;
    if (wants(`cache.${logits}`)) yield { name: `cache.${logits}`, shape, values };
  }
}

/**
 * Where the tokens are cut: as the file's logits are, and where there are none 20 + 5 + 12 of 37, which is how the reference models' are, and in
 * proportion for another length.
 */
function cutsOf(golden: Golden, length: number): { readonly prompt: number; readonly steps: number } {
  const steps = golden.get("cache.step_logits")?.shape[1] ?? 5;
  const prompt = golden.get("cache.prefill_logits")?.shape[1] ?? Math.ceil(((length - steps) * 20) / 32);
  if (prompt < 1 || steps < 1 || prompt + steps >= length)
    throw new UserError(`cache: a prompt of ${prompt} tokens, ${steps} steps and a chunk do not fit the ${length} tokens of forward.input_ids`);
  return { prompt, steps };
}

/** [rows, 1, vocab] of each step as [rows, steps, vocab]. */
function inRows(steps: readonly Values[]): Values {
  const [rows, , width] = steps[0]!.shape as readonly [number, number, number];
  const out = new Float32Array(rows * steps.length * width);
  for (const [step, { data }] of steps.entries())
    for (let row = 0; row < rows; row += 1) out.set(data.subarray(row * width, (row + 1) * width), (row * steps.length + step) * width);
  return { shape: [rows, steps.length, width], data: out };
}

/** The states of every layer, each layer's in the order in which it makes them. */
function statesOf(layers: readonly LayerStates[], after: string): readonly Computed[] {
  return layers.flatMap((states, layer) => {
    const of = (part: string, theirs: string, ours: string, { shape, data }: Values): Computed => ({
      name: `cache.${after}.${layer}.${theirs}`,
      shape,
      values: data,
      point: { name: `layers.${layer}.${part}.${theirs}`, layer, value: { state: `layers.${layer}.${ours}` } },
    });
    return states.kind === "mamba"
      ? [of("mamba", "conv_states", "conv", states.convStates), of("mamba", "recurrent_states", "ssm", states.recurrentStates)]
      : [of("self_attn", "keys", "keys", states.keys), of("self_attn", "values", "values", states.values)];
  });
}
