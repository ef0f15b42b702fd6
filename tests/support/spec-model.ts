import type { Tensor } from "../../compiler/run/graph.ts";
import { tensor } from "../../compiler/run/graph.ts";
import { bambaTensors, parseBambaConfig } from "../../models/bamba/index.ts";

// The vectors of the specification, section (h): a model whose weights come from a formula, and what Transformers computed with it.
export const json = {
  model_type: "bamba",
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  attn_layer_indices: [1, 3],
  mamba_n_heads: 8,
  mamba_d_head: 8,
  mamba_n_groups: 1,
  mamba_d_state: 16,
  mamba_d_conv: 4,
  mamba_expand: 2,
  mamba_chunk_size: 4,
};
export const config = parseBambaConfig(json, "spec (h)");
export const prompt = [3, 17, 42, 8, 25, 61, 9, 30, 14, 55, 21];

/** Tensor number k of the names in byte order, by a linear congruential generator. */
function generated(name: string, shape: readonly number[], k: number): Tensor {
  let s = 12345 + 7919 * k;
  const value = (u: number, i: number): number => {
    if (name.endsWith("norm.weight")) return 1 + 0.2 * u;
    if (name.endsWith("A_log")) return Math.log(i + 1) + 0.5 * u;
    if (name.endsWith(".D")) return 1 + u;
    if (name.endsWith("dt_bias")) return u - 1;
    if (name.endsWith("conv1d.bias")) return 0.4 * u;
    if (name.endsWith("conv1d.weight") || name.endsWith("embed_tokens.weight")) return 2 * u;
    return 0.6 * u;
  };
  const count = shape.reduce((a, b) => a * b, 1);
  return tensor(
    "f32",
    shape,
    Array.from({ length: count }, (_, i) => {
      s = (Math.imul(1664525, s) + 1013904223) >>> 0;
      return value(s / 2 ** 32 - 0.5, i);
    }),
  );
}

/** All weights, in byte order of their names. */
export const weights = [...bambaTensors(config)]
  .sort((a, b) => (a.name < b.name ? -1 : 1))
  .map(({ name, shape }, k) => ({ name, shape, value: generated(name, shape, k) }));
