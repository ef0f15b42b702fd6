import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ConfigError, parseBambaConfig, parseConfigJson } from "../../../models/bamba/config.ts";
import type { BambaConfig } from "../../../models/bamba/config.ts";
import { bambaTensors, matchBambaTensors, parameterCount } from "../../../models/bamba/weights.ts";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";

const read = (folder: string): BambaConfig =>
  parseBambaConfig(parseConfigJson(readFileSync(`${folder}/config.json`, "utf8"), folder), folder);

const references = ["base", "options", "all-mamba", "all-attention", "rope-yarn", "rope-linear", "rope-llama3", "bf16"];
describe.each([...references.map((name) => `tests/reference/golden/${name}`), "models/bamba-tiny"])("%s", (folder) => {
  test("names and shapes are those of the checkpoint, no more and no less", () => {
    const checkpoint = openCheckpoint(folder);
    const listed = bambaTensors(read(folder)).map(({ name, shape }) => [name, shape] as const);
    expect(new Map(listed)).toEqual(new Map([...checkpoint.tensors].map(([name, { shape }]) => [name, shape])));
    expect(listed).toHaveLength(checkpoint.tensors.size);
    expect([...matchBambaTensors(read(folder), checkpoint.tensors, folder)].every(([name, stored]) => name === stored)).toBe(true);
    checkpoint.close();
  });
});

test("Bamba-9B has 9 780 235 392 parameters, the small model of spec (h) 44 944 in 47 tensors", () => {
  const bamba9b = { model_type: "bamba", vocab_size: 128_256, attn_layer_indices: [9, 18, 27], mamba_d_state: 128 };
  expect(parameterCount(parseBambaConfig(bamba9b, "c"))).toBe(9_780_235_392);
  const small = parseBambaConfig(
    {
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
      mamba_d_state: 16,
      mamba_chunk_size: 4,
    },
    "c",
  );
  expect(parameterCount(small)).toBe(44_944);
  expect(bambaTensors(small)).toHaveLength(47);
  expect(small).toMatchObject({ headDim: 8, rotaryDim: 4, convChannels: 96, projectionSize: 168 });
});

describe("matching a checkpoint", () => {
  const config = read("tests/reference/golden/base");
  const stored = (): Map<string, { shape: readonly number[]; file: string }> =>
    new Map(bambaTensors(config).map(({ name, shape }) => [name, { shape, file: "x/model.safetensors" }]));

  test("a bare model's names have no prefix; a tied model's lm_head and rotary buffers are left aside", () => {
    const tied: BambaConfig = { ...config, tieWordEmbeddings: true };
    const bare = new Map(
      [...stored()].filter(([name]) => name !== "lm_head.weight").map(([name, value]) => [name.replace("model.", ""), value]),
    );
    expect(matchBambaTensors(tied, bare, "x").get("model.layers.0.mamba.D")).toBe("layers.0.mamba.D");
    const older = stored().set("model.layers.2.self_attn.rotary_emb.inv_freq", { shape: [4], file: "x" });
    expect(matchBambaTensors(tied, older, "x").has("lm_head.weight")).toBe(false);
    expect(matchBambaTensors(config, older, "x").size).toBe(bambaTensors(config).length);
  });

  test("missing, extra and wrongly shaped tensors are named", () => {
    const missing = stored();
    missing.delete("model.layers.0.mamba.D");
    expect(() => matchBambaTensors(config, missing, "x")).toThrow("x: tensor model.layers.0.mamba.D is missing");
    expect(() => matchBambaTensors(config, new Map(), "x")).toThrow(
      /x: \d+ tensors \(model\.embed_tokens\.weight, .*, \.\.\.\) are missing/,
    );
    const extra = stored().set("model.layers.0.self_attn.q_proj.weight", { shape: [1], file: "x" });
    expect(() => matchBambaTensors(config, extra, "x")).toThrow("x: tensor model.layers.0.self_attn.q_proj.weight is not expected");
    const wrong = stored().set("model.layers.0.mamba.D", { shape: [8, 1], file: "x/model.safetensors" });
    expect(() => matchBambaTensors(config, wrong, "x")).toThrow(
      "x/model.safetensors: tensor model.layers.0.mamba.D has shape [8, 1], config.json asks for [8]",
    );
    expect(() => matchBambaTensors(config, wrong, "x")).toThrow(ConfigError);
  });
});
