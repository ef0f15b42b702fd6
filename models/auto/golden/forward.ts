import type { CausalLMOutput } from "../forward-pass.ts";
import type { Computed, Inputs, Point, Section } from "./section.ts";
import { floatsOf, rowsOf } from "./tensors.ts";

const logitsPoint: Point = { name: "lm_head", layer: null, value: { output: "logits" } };

/** Of hidden state i: the embeddings, then the output of layer i - 1, of the last one after the final norm. */
function hiddenPoint(i: number, layers: number): Point {
  const value = { output: `hidden.${i}` };
  if (i === 0) return { name: "embed_tokens", layer: null, value };
  return { name: i < layers ? `layers.${i - 1}` : `layers.${i - 1}, final_layernorm`, layer: i - 1, value };
}

/** A batch without padding: hidden states, attention weights, logits, losses. */
export const forwardSection: Section = { name: "forward", needs: ["forward.input_ids"], compute: computeForward };

async function* computeForward({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  const { attentionLayers, numHiddenLayers: layers } = model.config;
  const inputIds = rowsOf(golden, "forward.input_ids");
  // One program gives the loss, the logits and the hidden states; the attention weights come from another one, whose attention is written out.
  const all = await model.forward({ inputIds, labels: inputIds, outputHiddenStates: true });
  const attended = attentionLayers.filter((_, k) => wants(`forward.attentions.${k}`)).length > 0;
  const { attentions } = attended ? await model.forward({ inputIds, outputAttentions: true }) : { attentions: null };
  for (const [i, hidden] of all.hiddenStates!.entries()) {
    const k = attentionLayers.indexOf(i - 1);
    const weights = attentions?.[k];
    if (weights !== undefined && wants(`forward.attentions.${k}`)) {
      const point = { name: `layers.${i - 1}.self_attn`, layer: i - 1, value: { output: `attentions.${k}` } };
      yield { name: `forward.attentions.${k}`, shape: weights.shape, values: weights.data, point };
    }
    const name = `forward.hidden_states.${i}`;
    if (wants(name)) yield { name, shape: hidden.shape, values: hidden.data, point: hiddenPoint(i, layers) };
  }
  if (wants("forward.logits")) yield { name: "forward.logits", shape: all.logits.shape, values: all.logits.data, point: logitsPoint };
  if (wants("forward.logits_to_keep_3")) {
    const { logits } = await model.forward({ inputIds, logitsToKeep: 3 });
    yield { name: "forward.logits_to_keep_3", shape: logits.shape, values: logits.data, point: logitsPoint };
  }
  if (wants("forward.loss")) yield { name: "forward.loss", shape: [1], values: lossOf(all) };
  if (golden.names.includes("forward.masked_labels") && wants("forward.masked_loss")) {
    const labels = rowsOf(golden, "forward.masked_labels");
    const masked = await model.forward({ inputIds, labels, outputHiddenStates: true });
    yield { name: "forward.masked_loss", shape: [1], values: lossOf(masked) };
  }
}

const lossOf = ({ loss }: CausalLMOutput): Float32Array => Float32Array.of(loss ?? NaN);

/** Rows padded on the left; positions as generate() makes them. */
export const paddedSection: Section = {
  name: "padded",
  needs: ["padded.input_ids", "padded.attention_mask", "padded.position_ids"],
  compute: computePadded,
};

async function* computePadded({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  if (!wants("padded.logits")) return;
  const attentionMask = rowsOf(golden, "padded.attention_mask");
  const { logits } = await model.forward({
    inputIds: rowsOf(golden, "padded.input_ids"),
    attentionMask,
    positionIds: rowsOf(golden, "padded.position_ids"),
  });
  const real = Int32Array.from(attentionMask.flatMap((row) => [...row]));
  yield { name: "padded.logits", shape: logits.shape, values: logits.data, real };
}

/** Embeddings in place of tokens. */
export const embedsSection: Section = { name: "embeds", needs: ["embeds.inputs_embeds"], compute: computeEmbeds };

async function* computeEmbeds({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  if (!wants("embeds.logits")) return;
  const { values: data, shape } = floatsOf(golden, "embeds.inputs_embeds", 3, model.config.hiddenSize);
  const { logits } = await model.forward({ inputsEmbeds: { shape, data } });
  yield { name: "embeds.logits", shape: logits.shape, values: logits.data };
}
