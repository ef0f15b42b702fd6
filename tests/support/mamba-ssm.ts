import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { writeSafetensors } from "../../runtime/node/write-safetensors.ts";
import type { TensorToWrite } from "../../runtime/node/write-safetensors.ts";
import { storageBytes } from "../../runtime/safetensors.ts";

/** mamba_ssm makes the MLP's inner width a multiple of this; what is added here is zero and changes no output. */
const multiple = 128;

type Json = Record<string, unknown>;

/** The configuration of mamba_ssm for a config.json of Bamba, as its training code would have written it. */
export function mambaSsmConfig(bamba: Json): Json {
  const number = (name: string): number => bamba[name] as number;
  const headDim = number("hidden_size") / number("num_attention_heads");
  const { rope_theta, partial_rotary_factor } = bamba["rope_parameters"] as { rope_theta: number; partial_rotary_factor: number };
  return {
    d_model: number("hidden_size"),
    d_intermediate: number("intermediate_size"),
    n_layer: number("num_hidden_layers"),
    // The padding to a multiple gives the vocabulary's size back.
    vocab_size: number("vocab_size") - 3,
    ssm_cfg: {
      layer: "Mamba2",
      d_state: number("mamba_d_state"),
      headdim: number("mamba_d_head"),
      chunk_size: number("mamba_chunk_size"),
    },
    attn_layer_idx: bamba["attn_layer_indices"] ?? [],
    attn_cfg: {
      causal: true,
      d_conv: 0,
      head_dim: headDim,
      num_heads: number("num_attention_heads"),
      num_heads_kv: number("num_key_value_heads"),
      out_proj_bias: false,
      qkv_proj_bias: false,
      rotary_emb_dim: headDim * partial_rotary_factor,
      rotary_emb_base: rope_theta,
    },
    rms_norm: true,
    residual_in_fp32: true,
    fused_add_norm: true,
    pad_vocab_size_multiple: 16,
    tie_embeddings: bamba["tie_word_embeddings"],
  };
}

/** Writes a model of Transformers' format in that of mamba_ssm: the inverse of the import, written down on its own. */
export function writeMambaSsm(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  const bamba = JSON.parse(readFileSync(join(from, "config.json"), "utf8")) as Json;
  writeFileSync(join(to, "config.json"), JSON.stringify(mambaSsmConfig(bamba)));
  const checkpoint = openCheckpoint(from);
  const dtypes = new Set([...checkpoint.tensors.values()].map(({ dtype }) => dtype));
  const [dtype] = dtypes as Set<"F32" | "BF16">;
  const width = storageBytes[dtype!];
  const inner = bamba["intermediate_size"] as number;
  const padded = Math.ceil(inner / multiple) * multiple;
  const tensors: TensorToWrite[] = [];
  const take = (name: string): { readonly shape: readonly number[]; readonly data: Uint8Array } => ({
    shape: checkpoint.tensors.get(name)!.shape,
    data: checkpoint.read(name),
  });
  const add = (name: string, shape: readonly number[], parts: readonly Uint8Array[]): void =>
    void tensors.push({ name, dtype: dtype!, shape, data: parts });
  const copy = (name: string, as: string): void => {
    const { shape, data } = take(name);
    add(as, shape, [data]);
  };
  copy("model.embed_tokens.weight", "backbone.embedding.weight");
  for (let i = 0; checkpoint.tensors.has(`model.layers.${i}.input_layernorm.weight`); i += 1) {
    const old = `model.layers.${i}`;
    const now = `backbone.layers.${i}`;
    copy(`${old}.input_layernorm.weight`, `${now}.norm.weight`);
    copy(`${old}.pre_ff_layernorm.weight`, `${now}.norm2.weight`);
    const [up, gate, down] = ["up", "gate", "down"].map((part) => take(`${old}.feed_forward.${part}_proj.weight`)) as [
      ReturnType<typeof take>,
      ReturnType<typeof take>,
      ReturnType<typeof take>,
    ];
    const d = up.shape[1]!;
    const zeros = new Uint8Array((padded - inner) * d * width);
    add(`${now}.mlp.fc1.weight`, [2 * padded, d], [up.data, zeros, gate.data, zeros]);
    const rowEnd = new Uint8Array((padded - inner) * width);
    const rows = Array.from({ length: d }, (_, row) => down.data.subarray(row * inner * width, (row + 1) * inner * width));
    add(
      `${now}.mlp.fc2.weight`,
      [d, padded],
      rows.flatMap((row) => [row, rowEnd]),
    );
    if (checkpoint.tensors.has(`${old}.self_attn.q_proj.weight`)) {
      const parts = ["q", "k", "v"].map((part) => take(`${old}.self_attn.${part}_proj.weight`));
      add(
        `${now}.mixer.in_proj.weight`,
        [parts.reduce((sum, { shape }) => sum + shape[0]!, 0), d],
        parts.map(({ data }) => data),
      );
      copy(`${old}.self_attn.o_proj.weight`, `${now}.mixer.out_proj.weight`);
    } else {
      for (const name of checkpoint.tensors.keys())
        if (name.startsWith(`${old}.mamba.`)) copy(name, name.replace(`${old}.mamba.`, `${now}.mixer.`));
    }
  }
  copy("model.final_layernorm.weight", "backbone.norm_f.weight");
  copy("lm_head.weight", "lm_head.weight");
  checkpoint.close();
  writeSafetensors(join(to, "model.safetensors"), tensors, { format: "pt" });
}
