import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError, parseBambaConfig, parseConfigJson } from "../../../models/bamba/config.ts";
import type { BambaConfig } from "../../../models/bamba/config.ts";
import { isUserError } from "../../../runtime/errors.ts";

/** A small valid configuration with attention at layer 1 of 2; head 8, 4 rotated. */
const small = {
  model_type: "bamba",
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  attn_layer_indices: [1],
  mamba_n_heads: 8,
  mamba_d_state: 16,
  vocab_size: 64,
};
const parse = (changes: Readonly<Record<string, unknown>> = {}): BambaConfig => parseBambaConfig({ ...small, ...changes }, "m/config.json");

describe("defaults and derived sizes", () => {
  test("an empty configuration is the class default (spec a.1)", () => {
    expect(parseBambaConfig({ model_type: "bamba" }, "config.json")).toEqual({
      vocabSize: 128_000,
      hiddenSize: 4096,
      intermediateSize: 14_336,
      numHiddenLayers: 32,
      numAttentionHeads: 32,
      numKeyValueHeads: 8,
      tieWordEmbeddings: false,
      hiddenAct: "silu",
      initializerRange: 0.02,
      normEps: 1e-5,
      useCache: true,
      numLogitsToKeep: 1,
      padTokenId: 0,
      bosTokenId: 1,
      eosTokenIds: [2],
      maxPositionEmbeddings: 262_144,
      attentionDropout: 0,
      zLossCoefficient: 0,
      attentionBias: false,
      mlpBias: false,
      mambaHeads: 128,
      mambaHeadDim: 64,
      mambaGroups: 1,
      mambaStateSize: 256,
      mambaConvWidth: 4,
      mambaExpand: 2,
      chunkSize: 256,
      mambaConvBias: true,
      mambaProjBias: false,
      timeStepLimit: [0, Infinity],
      rope: { type: "default", theta: 10_000, partialRotaryFactor: 0.5 },
      dtype: null,
      layerKinds: Array.from({ length: 32 }, () => "mamba"),
      attentionLayers: [],
      innerSize: 8192,
      convChannels: 8192 + 2 * 256,
      projectionSize: 2 * 8192 + 2 * 256 + 128,
      headDim: 128,
      rotaryDim: 64,
      headsPerKeyValue: 4,
      attentionScale: 128 ** -0.5,
      warnings: [],
    });
  });

  test("Bamba-9B (spec a.5)", () => {
    const config = parseBambaConfig(
      {
        model_type: "bamba",
        vocab_size: 128_256,
        attn_layer_indices: [9, 18, 27],
        mamba_d_state: 128,
        attn_rotary_emb: 64,
        torch_dtype: "bfloat16",
      },
      "config.json",
    );
    expect(config).toMatchObject({
      innerSize: 8192,
      convChannels: 8448,
      projectionSize: 16_768,
      rotaryDim: 64,
      headsPerKeyValue: 4,
      dtype: "bf16",
    });
    expect(config.layerKinds.flatMap((kind, i) => (kind === "attention" ? [i] : []))).toEqual([9, 18, 27]);
    expect(config.warnings).toEqual([]);
  });

  test("null: as many key heads as heads, no limit on logits, no special tokens, no attention, no rope parameters", () => {
    const nulls = [
      "num_logits_to_keep",
      "pad_token_id",
      "bos_token_id",
      "eos_token_id",
      "attn_layer_indices",
      "rope_parameters",
      "time_step_limit",
    ];
    const config = parse({
      ...Object.fromEntries(nulls.map((name) => [name, null])),
      num_key_value_heads: null,
      head_dim: null,
      torch_dtype: null,
    });
    expect(config).toMatchObject({
      numKeyValueHeads: 4,
      numLogitsToKeep: null,
      padTokenId: null,
      bosTokenId: null,
      eosTokenIds: [],
      headDim: 8,
    });
    expect(config).toMatchObject({ attentionLayers: [], timeStepLimit: [0, Infinity], dtype: null, rope: { type: "default" } });
  });

  test("fields are honoured: head_dim, auto, lists of eos, torch_dtype and dtype, swish, duplicate attention indices", () => {
    expect(parse({ head_dim: 16 })).toMatchObject({ headDim: 16, rotaryDim: 8, attentionScale: 0.25 });
    expect(
      parse({ head_dim: 6, num_attention_heads: 5, num_key_value_heads: 5, rope_parameters: { partial_rotary_factor: 1 } }).rotaryDim,
    ).toBe(6);
    expect(parse({ mamba_d_head: "auto" }).mambaHeadDim).toBe(8);
    expect(parse({ mamba_d_head: 8 }).mambaHeadDim).toBe(8);
    expect(parse({ eos_token_id: [2, 5] }).eosTokenIds).toEqual([2, 5]);
    expect(parse({ torch_dtype: "torch.float16" }).dtype).toBe("f16");
    expect(parse({ dtype: "float32", torch_dtype: "bfloat16" }).dtype).toBe("f32");
    expect(parse({ dtype: "auto" }).dtype).toBeNull();
    expect(parse({ hidden_act: "swish" }).hiddenAct).toBe("silu");
    expect(parse({ attn_layer_indices: [1, 0, 1] }).attentionLayers).toEqual([0, 1]);
    expect(parse({ unknown_field: [], mamba_proj_bias: true, mamba_conv_bias: false, attention_bias: true, mlp_bias: true })).toMatchObject(
      {
        mambaProjBias: true,
        mambaConvBias: false,
        attentionBias: true,
        mlpBias: true,
      },
    );
  });

  test("sizes of attention do not matter to a model without attention", () => {
    expect(parse({ attn_layer_indices: [], num_attention_heads: 7, num_key_value_heads: 3 }).layerKinds).toEqual(["mamba", "mamba"]);
  });

  test.each(["base", "options", "all-mamba", "all-attention", "rope-yarn", "rope-linear", "rope-llama3", "bf16"])(
    "reference %s",
    (name) => {
      const file = `tests/reference/golden/${name}/config.json`;
      const config = parseBambaConfig(parseConfigJson(readFileSync(file, "utf8"), file), file);
      expect(config.warnings).toEqual([]);
      expect(config.timeStepLimit).toEqual(name === "options" ? [0.02, 0.4] : [0, Infinity]);
      expect(config.rope.theta).toBe(name === "options" ? 50_000 : 10_000);
      expect(config.rope.type).toBe(name.startsWith("rope-") ? name.slice(5) : "default");
    },
  );
});

describe("rope parameters, old and new (spec a.3)", () => {
  const rope = (changes: Readonly<Record<string, unknown>>): unknown => parse({ max_position_embeddings: 128, ...changes }).rope;
  test("linear from the new schema, and from rope_scaling with `type`, which wins", () => {
    const expected = { type: "linear", theta: 10_000, partialRotaryFactor: 0.5, factor: 2 };
    expect(rope({ rope_parameters: { rope_type: "linear", factor: 2 } })).toEqual(expected);
    expect(rope({ rope_scaling: { type: "linear", factor: 2 }, rope_parameters: { rope_type: "default" } })).toEqual(expected);
    expect(rope({ rope_scaling: {}, rope_parameters: { rope_type: "linear", factor: 2 } })).toEqual(expected);
  });

  test("theta: inside, then at the top, then 10000", () => {
    expect(rope({ rope_theta: 5, rope_parameters: { rope_theta: 7 } })).toMatchObject({ theta: 7 });
    expect(rope({ rope_theta: 5, rope_parameters: {} })).toMatchObject({ theta: 5 });
    expect(rope({ rope_theta: null })).toMatchObject({ theta: 10_000 });
  });

  test("a partial rotary factor counts only inside rope_parameters; elsewhere it is ignored with a warning", () => {
    expect(parse({ rope_parameters: { partial_rotary_factor: 1 } })).toMatchObject({ rotaryDim: 8, warnings: [] });
    const ignored = parse({ partial_rotary_factor: 1, attn_rotary_emb: 8 });
    expect(ignored.rotaryDim).toBe(4);
    expect(ignored.warnings).toHaveLength(2);
    expect(ignored.warnings.join()).toMatch(/attn_rotary_emb is 8, but 4 dimensions.*partial_rotary_factor 1 at the top level is ignored/s);
  });

  test("dynamic, llama3, yarn and longrope with their defaults", () => {
    expect(rope({ rope_parameters: { rope_type: "dynamic", factor: 4 } })).toMatchObject({
      type: "dynamic",
      factor: 4,
      originalMaxPositions: 128,
    });
    const llama = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
    expect(rope({ rope_parameters: llama })).toMatchObject({ lowFrequencyFactor: 1, highFrequencyFactor: 4, originalMaxPositions: 128 });
    expect(rope({ rope_parameters: { ...llama, original_max_position_embeddings: 64 } })).toMatchObject({ originalMaxPositions: 64 });
    expect(
      rope({ rope_parameters: { ...llama, original_max_position_embeddings: 64 }, original_max_position_embeddings: 32 }),
    ).toMatchObject({
      originalMaxPositions: 32,
    });
    expect(rope({ rope_parameters: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32 } })).toEqual({
      type: "yarn",
      theta: 10_000,
      partialRotaryFactor: 0.5,
      factor: 4,
      originalMaxPositions: 32,
      attentionFactor: 0.1 * Math.log(4) + 1,
      betaFast: 32,
      betaSlow: 1,
      truncate: true,
    });
    const weighted = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32, mscale: 2, mscale_all_dim: 0.5, beta_fast: 0 };
    expect(rope({ rope_parameters: weighted })).toMatchObject({
      attentionFactor: (0.2 * Math.log(4) + 1) / (0.05 * Math.log(4) + 1),
      betaFast: 32,
    });
    expect(rope({ rope_parameters: { ...weighted, factor: null, attention_factor: 1.5 } })).toMatchObject({
      factor: 4,
      attentionFactor: 1.5,
    });
    const long = { rope_type: "longrope", short_factor: [1, 1], long_factor: [1, 3], original_max_position_embeddings: 32 };
    expect(rope({ rope_parameters: long })).toMatchObject({
      factor: 4,
      attentionFactor: Math.sqrt(1 + Math.log(4) / Math.log(32)),
      shortFactor: [1, 1],
      longFactor: [1, 3],
    });
    expect(parse({ max_position_embeddings: 128, rope_parameters: { ...weighted, factor: 2 } }).warnings.join()).toContain(
      "rope factor 2 is not",
    );
  });
});

describe("errors name the file and the field", () => {
  const yarn = { rope_type: "yarn", factor: 4 };
  const long = { rope_type: "longrope", short_factor: [1, 1], long_factor: [1, 1], factor: 2 };
  test.each<[Readonly<Record<string, unknown>>, string]>([
    [{ model_type: "llama" }, 'model_type: expected "bamba", got "llama"'],
    [{ model_type: undefined }, 'model_type: expected "bamba", got nothing'],
    [{ hidden_size: "32" }, 'hidden_size: expected an integer from 1 to 2147483647, got "32"'],
    [{ hidden_size: 0 }, "hidden_size: expected an integer from 1"],
    [{ hidden_size: 1.5 }, "hidden_size: expected an integer from 1"],
    [{ hidden_size: null }, "hidden_size: expected an integer from 1 to 2147483647, got null"],
    [{ hidden_size: 2 ** 40 }, "hidden_size: expected an integer from 1"],
    [{ hidden_size: true }, "hidden_size: expected an integer from 1"],
    [{ num_hidden_layers: 1e9 }, "num_hidden_layers: expected an integer from 1 to 65536"],
    [{ mamba_d_conv: 0 }, "mamba_d_conv: expected an integer"],
    [{ mamba_conv_bias: "yes" }, 'mamba_conv_bias: expected true or false, got "yes"'],
    [{ mamba_n_heads: 7 }, "mamba_n_heads: mamba_n_heads must divide mamba_expand * hidden_size, got 7 and 2 * 32"],
    [{ mamba_d_head: 4 }, "mamba_d_head: The dimensions for the Mamba head state do not match the model intermediate_size"],
    [{ mamba_d_head: "automatic" }, 'mamba_d_head: expected an integer from 1 to 2147483647, got "automatic"'],
    [{ mamba_n_groups: 3 }, "mamba_n_groups: 3 must divide mamba_n_heads 8"],
    [{ mamba_expand: 2 ** 30 }, "mamba_expand: 1073741824 * hidden_size 32 is more than 2^31 - 1"],
    [{ mamba_d_state: 2 ** 30 }, "mamba_d_state: the input projection would have 2147483784 rows"],
    [{ num_attention_heads: 3, num_key_value_heads: 3 }, "num_attention_heads: 3 must divide hidden_size 32, or head_dim must be given"],
    [{ num_key_value_heads: 3 }, "num_key_value_heads: 3 must divide num_attention_heads 4"],
    [{ head_dim: 2 ** 30 }, "head_dim: the query projection would have 4 * 1073741824 rows"],
    [{ attn_layer_indices: [2] }, "attn_layer_indices: expected a list of values, each an integer from 0 to 1, got [2]"],
    [{ attn_layer_indices: [-1] }, "attn_layer_indices: expected a list"],
    [{ attn_layer_indices: 1 }, "attn_layer_indices: expected a list"],
    [{ layer_types: ["mamba"] }, "layer_types: is derived from attn_layer_indices"],
    [{ quantization_config: { quant_method: "fp8" } }, "quantization_config: quantised checkpoints are not supported"],
    [{ hidden_act: "gelu" }, 'hidden_act: "gelu" is not supported; supported are silu, swish'],
    [{ hidden_act: 1 }, "hidden_act: expected a string, got 1"],
    [{ rms_norm_eps: 0 }, "rms_norm_eps: expected a number above 0"],
    [{ rms_norm_eps: { __float__: "Infinity" } }, "rms_norm_eps: expected a number above 0, finite"],
    [{ initializer_range: -1 }, "initializer_range: expected a number from 0"],
    [{ pad_token_id: 64 }, "pad_token_id: 64 is outside the vocabulary (vocab_size 64)"],
    [{ bos_token_id: -1 }, "bos_token_id: expected an integer from 0"],
    [{ eos_token_id: [1, "2"] }, "eos_token_id: expected a list of values, each an integer from 0"],
    [{ time_step_limit: [1] }, "time_step_limit: expected a list of 2 values"],
    [{ time_step_limit: [1, 0] }, "time_step_limit: the lower bound 1 is above the upper bound 0"],
    [{ time_step_limit: [0, { __float__: "NaN" }] }, "time_step_limit: expected a list of 2 values, each a number"],
    [{ time_step_limit: [0, { __float__: "Infinity", x: 1 }] }, "time_step_limit: expected a list of 2 values"],
    [{ dtype: "float64" }, 'dtype: expected float32, bfloat16, float16 or auto, got "float64"'],
    [{ dtype: "constructor" }, "dtype: expected float32"],
    [{ rope_parameters: [] }, "rope_parameters: expected an object, got []"],
    [{ rope_parameters: { rope_type: "mrope" } }, 'rope_parameters.rope_type: "mrope" is not supported; supported are default, linear'],
    [{ rope_scaling: { type: "ntk" } }, 'rope_scaling.type: "ntk" is not supported'],
    [{ rope_parameters: { rope_type: "linear" } }, "rope_parameters.factor: is missing; rope type linear needs it"],
    [{ rope_parameters: { rope_type: "linear", factor: 0 } }, "rope_parameters.factor: expected a number above 0"],
    [{ rope_parameters: { rope_theta: -1 } }, "rope_parameters.rope_theta: expected a number above 0"],
    [{ rope_parameters: { partial_rotary_factor: 1.5 } }, "rope_parameters.partial_rotary_factor: expected a number above 0 to 1, got 1.5"],
    [{ rope_parameters: { partial_rotary_factor: 0.4 } }, "rope_parameters.partial_rotary_factor: 0.4 of a head of 8 are 3 dimensions"],
    [{ head_dim: 2 }, "partial_rotary_factor: 0.5 of a head of 2 are 1 dimensions"],
    [{ rope_parameters: { full_attention: {} } }, "rope_parameters.full_attention: rope parameters by layer type"],
    [{ rope_parameters: { rope_type: "dynamic", factor: 2 }, head_dim: 4 }, "rope_parameters.rope_type: dynamic needs more than 2"],
    [{ rope_parameters: { ...yarn, factor: undefined } }, "rope_parameters.factor: is missing"],
    [{ rope_parameters: { ...yarn, rope_theta: 1 } }, "rope_parameters.rope_theta: yarn needs a rope_theta above 1"],
    [{ rope_parameters: { ...yarn, truncate: 1 } }, "rope_parameters.truncate: expected true or false"],
    [
      { rope_parameters: { rope_type: "llama3", factor: 2, low_freq_factor: 4, high_freq_factor: 4 } },
      "rope_parameters.high_freq_factor: 4 must be above low_freq_factor 4",
    ],
    [{ rope_parameters: { rope_type: "llama3", factor: 2, low_freq_factor: 4 } }, "rope_parameters.high_freq_factor: is missing"],
    [
      { rope_parameters: { ...long, short_factor: [1] } },
      "rope_parameters.short_factor: expected a list of 2 values, each a number above 0",
    ],
    [{ rope_parameters: { ...long, long_factor: null } }, "rope_parameters.long_factor: is missing"],
    [
      { rope_parameters: { ...long, original_max_position_embeddings: 1 } },
      "rope_parameters.original_max_position_embeddings: 1 is too small",
    ],
  ])("%j", (changes, message) => {
    const attempt = (): unknown => parse(changes);
    expect(attempt).toThrow(ConfigError);
    expect(attempt).toThrow(`m/config.json: ${message}`);
  });

  test("they are errors that the command line prints without a stack", () => {
    try {
      parse({ model_type: "x" });
      expect.unreachable();
    } catch (error) {
      expect(isUserError(error) && error.hint).toBe("only Bamba models are supported so far");
    }
  });

  test("any JSON is a configuration or a ConfigError", () => {
    const names = Object.keys({
      ...small,
      rope_parameters: 0,
      rope_scaling: 0,
      time_step_limit: 0,
      eos_token_id: 0,
      head_dim: 0,
      dtype: 0,
    });
    const change = fc.dictionary(fc.constantFrom(...names), fc.oneof(fc.jsonValue(), fc.nat(70), fc.constant({ __float__: "Infinity" })), {
      maxKeys: 3,
    });
    fc.assert(
      fc.property(
        fc.oneof(
          fc.jsonValue(),
          change.map((changes) => ({ ...small, ...changes })),
        ),
        (json) => {
          try {
            parseBambaConfig(json, "c");
          } catch (error) {
            expect(error).toBeInstanceOf(ConfigError);
          }
        },
      ),
      { numRuns: 3000 },
    );
  });
});

describe("config.json text", () => {
  test("bare Infinity and NaN outside strings become the object form", () => {
    const text = '{"a": [0.0, Infinity], "b": -Infinity, "c": NaN, "NaN": "Infinity \\" NaN", "d":"\\\\"}';
    expect(parseConfigJson(text, "c")).toEqual({
      a: [0, { __float__: "Infinity" }],
      b: { __float__: "-Infinity" },
      c: { __float__: "NaN" },
      NaN: 'Infinity " NaN',
      d: "\\",
    });
    const config = parseBambaConfig(parseConfigJson('{"model_type": "bamba", "time_step_limit": [0.0, Infinity]}', "c"), "c");
    expect(config.timeStepLimit).toEqual([0, Infinity]);
  });

  test.each([
    ['{"a": 1,}', /c: is not valid JSON: .*\(line 1, column 9\)|c: is not valid JSON/],
    ['{\n"a": 1 "b"}', /c: is not valid JSON: .* \(line 2, column 8\)/],
    ['{"a": Infinity', /c: is not valid JSON/],
    ["", /c: is not valid JSON/],
    ['"unterminated Infinity', /c: is not valid JSON/],
    ["[1]", /c: expected a JSON object, got \[1\]/],
    ["Infinit", /c: is not valid JSON/],
  ])("%j", (text, message) => {
    expect(() => parseConfigJson(text, "c")).toThrow(message);
    expect(() => parseConfigJson(text, "c")).toThrow(ConfigError);
  });

  test("valid JSON is JSON.parse", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
        const text = JSON.stringify(value);
        expect(parseConfigJson(text, "c")).toEqual(JSON.parse(text));
      }),
    );
  });
});
