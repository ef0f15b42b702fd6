import { readFileSync, readdirSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BambaConfig } from "../../../models/auto/index.ts";
import { bambaConfigJson, configText } from "../../../models/bamba/config-json.ts";
import { ConfigError, parseBambaConfig, parseConfigJson } from "../../../models/bamba/config.ts";
import type { JsonObject } from "../../../models/bamba/json.ts";

const golden = "tests/reference/golden";
const read = (name: string): { text: string; json: JsonObject } => {
  const text = readFileSync(`${golden}/${name}/config.json`, "utf8");
  return { text, json: parseConfigJson(text, name) };
};
const reparsed = (config: BambaConfig): BambaConfig => parseBambaConfig(parseConfigJson(configText(bambaConfigJson(config)), "c"), "c");

describe("config.json as Transformers writes it", () => {
  test.each(readdirSync(golden))("%s: byte for byte", (name) => {
    const { text, json } = read(name);
    const config = parseBambaConfig(json, name);
    expect(configText(bambaConfigJson(config, json))).toBe(text.trimEnd() + "\n");
    const { transformers_version: _, ...known } = json;
    expect(JSON.parse(configText(bambaConfigJson(config)))).toEqual(known);
  });

  test("legacy fields move to their new places, unknown ones stay, derived ones are filled in", () => {
    const json = {
      model_type: "bamba",
      torch_dtype: "bfloat16",
      rope_theta: 5e5,
      rope_scaling: { type: "yarn", factor: 4, mscale: 2, mscale_all_dim: 1 },
      original_max_position_embeddings: 4096,
      max_position_embeddings: 16_384,
      attn_rotary_emb: 64,
      num_key_value_heads: null,
      mamba_d_head: "auto",
      eos_token_id: [2, 5],
      head_dim: 64,
      id2label: { "10": "ä", "9": "\u007f\n" },
      ["__proto__"]: 1,
    };
    const config = parseBambaConfig(parseConfigJson(JSON.stringify(json), "c"), "c");
    const text = configText(bambaConfigJson(config, parseConfigJson(JSON.stringify(json), "c")));
    const written = JSON.parse(text) as Record<string, unknown>;
    expect(written).toMatchObject({
      dtype: "bfloat16",
      architectures: ["BambaForCausalLM"],
      rope_parameters: {
        rope_type: "yarn",
        rope_theta: 5e5,
        factor: 4,
        partial_rotary_factor: 0.5,
        original_max_position_embeddings: 4096,
      },
      num_key_value_heads: 32,
      mamba_d_head: 64,
      eos_token_id: [2, 5],
      head_dim: 64,
      attn_rotary_emb: 64,
      attn_layer_indices: null,
      id2label: json.id2label,
    });
    for (const name of ["torch_dtype", "rope_theta", "rope_scaling", "original_max_position_embeddings"])
      expect(written).not.toHaveProperty(name);
    expect(text).toContain('"rope_theta": 500000.0');
    expect(text).toContain('"9": "\\u007f\\n"');
    expect(text).toContain('"10": "\\u00e4"');
    expect(reparsed(config)).toEqual(config);
  });

  test.each([
    [1e-5, "1e-05"],
    [0.0001, "0.0001"],
    [1.25e-7, "1.25e-07"],
    [1e16, "1e+16"],
    [123456789012345680, "1.2345678901234568e+17"],
    [9007199254740992, "9007199254740992.0"],
    [3, "3.0"],
    [0, "0.0"],
    [1e-300, "1e-300"],
    [0.1, "0.1"],
  ])("a float %d is %s, as in Python", (value, text) => {
    expect(configText({ initializer_range: value })).toBe(`{\n  "initializer_range": ${text}\n}\n`);
  });

  test("what is written is the same configuration, and the text is the value", () => {
    const size = fc.integer({ min: 1, max: 6 });
    const float = fc.double({ min: 1e-9, max: 1e9, noNaN: true });
    const share = fc.constantFrom(0.25, 0.5, 1);
    const rope = fc.oneof(
      fc.record({ rope_type: fc.constant("default"), rope_theta: float, partial_rotary_factor: share }),
      fc.record({ rope_type: fc.constantFrom("linear", "dynamic"), factor: float }),
      fc.record({
        rope_type: fc.constant("llama3"),
        factor: float,
        low_freq_factor: fc.double({ min: 0.1, max: 1, noNaN: true }),
        high_freq_factor: fc.double({ min: 2, max: 9, noNaN: true }),
        original_max_position_embeddings: fc.integer({ min: 2, max: 512 }),
      }),
      fc.record(
        {
          rope_type: fc.constant("yarn"),
          factor: fc.double({ min: 0.5, max: 64, noNaN: true }),
          original_max_position_embeddings: fc.integer({ min: 2, max: 512 }),
          attention_factor: float,
          beta_fast: float,
          beta_slow: float,
          truncate: fc.boolean(),
          mscale: float,
          mscale_all_dim: float,
        },
        { requiredKeys: ["rope_type", "factor"] },
      ),
      fc.record({
        rope_type: fc.constant("longrope"),
        original_max_position_embeddings: fc.integer({ min: 2, max: 512 }),
        short_factor: fc.constant([1, 1.5]),
        long_factor: fc.constant([2, 3.25]),
        partial_rotary_factor: fc.constant(0.5),
      }),
    );
    const fields = fc.record(
      {
        hidden_size: fc.constant(32),
        num_attention_heads: fc.constant(4),
        num_key_value_heads: fc.constantFrom(1, 2, 4, null),
        num_hidden_layers: fc.constant(4),
        attn_layer_indices: fc.oneof(fc.constant(null), fc.subarray([0, 1, 2, 3])),
        mamba_n_heads: fc.constantFrom(2, 4, 8),
        mamba_d_state: size,
        mamba_d_conv: size,
        initializer_range: float,
        rms_norm_eps: float,
        z_loss_coefficient: float,
        eos_token_id: fc.oneof(fc.nat(9), fc.constant(null), fc.array(fc.nat(9))),
        pad_token_id: fc.option(fc.nat(9)),
        num_logits_to_keep: fc.option(size),
        time_step_limit: fc.oneof(
          fc.constant([0, { __float__: "Infinity" }]),
          float.map((low) => [low, 2 * low]),
        ),
        tie_word_embeddings: fc.boolean(),
        mamba_proj_bias: fc.boolean(),
        head_dim: fc.constant(8),
        dtype: fc.constantFrom("float32", "bfloat16", "float16", null),
        rope_parameters: rope,
        max_position_embeddings: fc.integer({ min: 1, max: 9999 }),
      },
      { requiredKeys: ["hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "mamba_n_heads", "head_dim"] },
    );
    fc.assert(
      fc.property(fields, (json) => {
        const config = parseBambaConfig({ model_type: "bamba", ...json }, "c");
        expect(reparsed(config)).toEqual(config);
        const written = bambaConfigJson(config);
        expect(JSON.parse(configText(written))).toEqual(JSON.parse(JSON.stringify(written)));
      }),
      { numRuns: 1000 },
    );
  });
});

describe("BambaConfig", () => {
  test("from camelCase fields, Python names, or both", () => {
    const config = BambaConfig.from({
      hiddenSize: 32,
      num_attention_heads: 4,
      numKeyValueHeads: 2,
      num_hidden_layers: 3,
      attnLayerIndices: [1],
      mambaNHeads: 8,
      zLossCoefficient: 0.5,
      ropeParameters: { ropeType: "linear", factor: 2, ropeTheta: 5000 },
      timeStepLimit: [0, Infinity],
    });
    expect(config).toMatchObject({ hiddenSize: 32, mambaHeads: 8, mambaHeadDim: 8, headDim: 8, zLossCoefficient: 0.5, vocabSize: 128_000 });
    expect(config.rope).toEqual({ type: "linear", theta: 5000, partialRotaryFactor: 0.5, factor: 2 });
    expect(BambaConfig.layersBlockType(config)).toEqual(["linear_attention", "full_attention", "linear_attention"]);
    expect(BambaConfig.from(BambaConfig.toJson(config))).toEqual(config);
    expect(BambaConfig.from()).toEqual(parseBambaConfig({ model_type: "bamba" }, "c"));
    // undefined is "not given"
    expect(BambaConfig.from({ hiddenSize: undefined } as object)).toEqual(BambaConfig.from());
  });

  test("mistakes are refused by field", () => {
    // @ts-expect-error a typing mistake is seen while typing
    expect(() => BambaConfig.from({ hiddenSizes: 3 })).toThrow(ConfigError);
    // @ts-expect-error as is one in Python's name, which otherwise would be kept without a meaning
    expect(BambaConfig.from({ hidden_sizes: 3 })).toEqual(BambaConfig.from());
    const refused = (fields: object, message: string): void => {
      expect(() => BambaConfig.from(fields)).toThrow(ConfigError);
      expect(() => BambaConfig.from(fields)).toThrow(message);
    };
    refused({ hiddenSizes: 3 }, "BambaConfig: hiddenSizes: there is no such field");
    refused({ hidden_size: 32, hiddenSize: 64 }, "BambaConfig: hidden_size: is given twice");
    refused({ hiddenSize: "wide" }, 'BambaConfig: hidden_size: expected an integer from 1 to 2147483647, got "wide"');
    refused({ mambaNHeads: 7 }, "mamba_n_heads must divide mamba_expand * hidden_size");
    refused({ layersBlockType: [] }, "there is no such field");
  });

  test("fromPretrained reads a folder", async () => {
    expect(await BambaConfig.fromPretrained(`${golden}/base`)).toEqual(parseBambaConfig(read("base").json, "c"));
    await expect(BambaConfig.fromPretrained("./nowhere")).rejects.toThrow("./nowhere: there is no such folder");
  });
});
