import { UserError } from "../../../runtime/errors.ts";
import type { Session } from "../../../runtime/session.ts";
import type { BambaConfig } from "../../bamba/config.ts";
import type { Computed, Inputs, Section } from "./section.ts";
import type { Golden } from "./tensors.ts";
import { rowsOf } from "./tensors.ts";

/** The tokens of the forward section with a cache: a prompt, single tokens and a chunk, with the states after each. Positions go on from call to call. */
export const cacheSection: Section = { name: "cache", needs: ["forward.input_ids"], compute: computeCache };

async function* computeCache({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  const ids = rowsOf(golden, "forward.input_ids");
  const rows = ids.length;
  const length = ids[0]!.length;
  const { config } = model;
  const { prompt, steps } = cutsOf(golden, length);
  const stages = ["prefill", "steps", "chunk"] as const;
  const wantsStates = (stage: string): boolean =>
    config.layerKinds.some((_, layer) => statesOf(config, layer).some(({ theirs }) => wants(`cache.after_${stage}.${layer}.${theirs}`)));
  const asked = stages.map((stage) => wantsStates(stage));
  const logitsOf = { prefill: "cache.prefill_logits", steps: "cache.step_logits", chunk: "cache.chunk_logits" } as const;
  if (!asked.includes(true) && !stages.map((stage) => wants(logitsOf[stage])).includes(true)) return;

  const { session, forward } = await model.forwardSession({ rows });
  await session.reset();
  const feed = async (from: number, to: number): Promise<Float32Array> =>
    (await forward({ ids: Int32Array.from(ids.flatMap((row) => [...row.subarray(from, to)])), rows })).logits;
  const made: Record<(typeof stages)[number], { readonly count: number; run(): Promise<Float32Array> }> = {
    prefill: { count: prompt, run: () => feed(0, prompt) },
    steps: {
      count: steps,
      run: async () => {
        const each: Float32Array[] = [];
        for (let at = prompt; at < prompt + steps; at += 1) each.push(await feed(at, at + 1));
        return inRows(each, rows, config.vocabSize);
      },
    },
    chunk: { count: length - prompt - steps, run: () => feed(prompt + steps, length) },
  };
  for (const stage of stages) {
    const values = await made[stage].run();
    for await (const state of statesAfter(session, config, stage)) if (wants(state.name)) yield state;
    if (wants(logitsOf[stage])) yield { name: logitsOf[stage], shape: [rows, made[stage].count, config.vocabSize], values };
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

/** [rows, vocab] of each step as [rows, steps, vocab]. */
function inRows(steps: readonly Float32Array[], rows: number, width: number): Float32Array {
  const out = new Float32Array(rows * steps.length * width);
  steps.forEach((values, step) => {
    for (let row = 0; row < rows; row += 1)
      out.set(values.subarray(row * width, (row + 1) * width), (row * steps.length + step) * width);
  });
  return out;
}

/** A layer's states in Transformers' cache, in the order in which the layer makes them, and what ours are called. */
function statesOf({ layerKinds }: BambaConfig, layer: number): readonly { readonly theirs: string; readonly ours: string }[] {
  if (layerKinds[layer] === "mamba")
    return [
      { theirs: "conv_states", ours: "conv" },
      { theirs: "recurrent_states", ours: "ssm" },
    ];
  return ["keys", "values"].map((name) => ({ theirs: name, ours: name }));
}

async function* statesAfter(session: Session, config: BambaConfig, stage: string): AsyncGenerator<Computed, void, void> {
  const { states } = await session.snapshot();
  for (const [layer, kind] of config.layerKinds.entries())
    for (const { theirs, ours } of statesOf(config, layer)) {
      const { shape, data } = states.get(`layers.${layer}.${ours}`)!;
      if (!(data instanceof Float32Array)) throw new Error(`the state layers.${layer}.${ours} is not in f32`);
      yield {
        name: `cache.after_${stage}.${layer}.${theirs}`,
        ...(ours === "conv" ? channelsFirst(shape, data) : { shape, values: data }),
        point: {
          name: `layers.${layer}.${kind === "mamba" ? "mamba" : "self_attn"}.${theirs}`,
          layer,
          value: { state: `layers.${layer}.${ours}` },
        },
      };
    }
}

/** Our convolution states are [rows, width, channels], Transformers' [rows, channels, width]. */
function channelsFirst(
  shape: readonly number[],
  data: Float32Array,
): { readonly shape: readonly number[]; readonly values: Float32Array } {
  const [rows, width, channels] = shape as readonly [number, number, number];
  const values = new Float32Array(data.length);
  for (let row = 0; row < rows; row += 1)
    for (let k = 0; k < width; k += 1)
      for (let c = 0; c < channels; c += 1) values[(row * channels + c) * width + k] = data[(row * width + k) * channels + c]!;
  return { shape: [rows, channels, width], values };
}
