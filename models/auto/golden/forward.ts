import type { ForwardResult } from "../forward.ts";
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
  const { config } = model;
  const inputIds = rowsOf(golden, "forward.input_ids");
  const rows = inputIds.length;
  const length = inputIds[0]!.length;
  const { attentionLayers, numAttentionHeads: heads, numHiddenLayers: layers, hiddenSize, vocabSize } = config;
  // One program gives the loss, the logits and the hidden states; the attention weights come from another one, whose attention is written out.
  const all = await model.forward({ inputIds, labels: inputIds, hiddenStates: true });
  const attended = attentionLayers.map((_, k) => wants(`forward.attentions.${k}`)).some((wanted) => wanted);
  const attentions = attended ? (await model.forward({ inputIds, attentions: true })).attentions : [];
  for (const [i, values] of all.hiddenStates.entries()) {
    const k = attentionLayers.indexOf(i - 1);
    const weights = k < 0 ? undefined : attentions[k];
    const name = `forward.attentions.${k}`;
    if (weights !== undefined && wants(name))
      yield {
        name,
        shape: [rows, heads, length, length],
        values: weights,
        point: { name: `layers.${i - 1}.self_attn`, layer: i - 1, value: { output: `attentions.${k}` } },
      };
    const hidden = `forward.hidden_states.${i}`;
    if (wants(hidden)) yield { name: hidden, shape: [rows, length, hiddenSize], values, point: hiddenPoint(i, layers) };
  }
  if (wants("forward.logits"))
    yield { name: "forward.logits", shape: [rows, length, vocabSize], values: all.logits, point: logitsPoint };
  if (wants("forward.logits_to_keep_3")) {
    const { logits, kept } = await model.forward({ inputIds, logitsToKeep: 3 });
    yield { name: "forward.logits_to_keep_3", shape: [rows, kept, vocabSize], values: logits, point: logitsPoint };
  }
  if (wants("forward.loss")) yield { name: "forward.loss", shape: [1], values: lossOf(all) };
  if (golden.names.includes("forward.masked_labels") && wants("forward.masked_loss")) {
    const masked = await model.forward({ inputIds, labels: rowsOf(golden, "forward.masked_labels"), hiddenStates: true });
    yield { name: "forward.masked_loss", shape: [1], values: lossOf(masked) };
  }
}

const lossOf = ({ loss }: ForwardResult): Float32Array => Float32Array.of(loss ?? NaN);

/** Rows padded on the left; positions as generate() makes them. */
export const paddedSection: Section = {
  name: "padded",
  needs: ["padded.input_ids", "padded.attention_mask", "padded.position_ids"],
  compute: computePadded,
};

async function* computePadded({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  if (!wants("padded.logits")) return;
  const attentionMask = rowsOf(golden, "padded.attention_mask");
  const { rows, length, vocabSize, logits } = await model.forward({
    inputIds: rowsOf(golden, "padded.input_ids"),
    attentionMask,
    positionIds: rowsOf(golden, "padded.position_ids"),
  });
  const real = Int32Array.from(attentionMask.flatMap((row) => [...row]));
  yield { name: "padded.logits", shape: [rows, length, vocabSize], values: logits, real };
}

/** Embeddings in place of tokens. */
export const embedsSection: Section = { name: "embeds", needs: ["embeds.inputs_embeds"], compute: computeEmbeds };

async function* computeEmbeds({ model, golden, wants }: Inputs): AsyncGenerator<Computed, void, void> {
  if (!wants("embeds.logits")) return;
  const { values: data, shape } = floatsOf(golden, "embeds.inputs_embeds", 3, model.config.hiddenSize);
  const { rows, length, vocabSize, logits } = await model.forward({ inputsEmbeds: { rows: shape[0]!, length: shape[1]!, data } });
  yield { name: "embeds.logits", shape: [rows, length, vocabSize], values: logits };
}
