import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError, parseBambaConfig } from "../../../models/bamba/config.ts";
import type { BambaConfig } from "../../../models/bamba/config.ts";
import { bambaFromMambaSsm, isMambaSsmConfig, matchMambaSsmTensors } from "../../../models/bamba/mamba-ssm.ts";
import { bambaTensors } from "../../../models/bamba/weights.ts";

/** The configuration that Bamba-9B was trained with (spec bamba a.5). */
const bamba9b = {
  d_model: 4096,
  d_intermediate: 14_336,
  n_layer: 32,
  vocab_size: 128_256,
  ssm_cfg: { layer: "Mamba2" },
  attn_layer_idx: [9, 18, 27],
  attn_cfg: {
    causal: true,
    d_conv: 0,
    head_dim: 128,
    num_heads: 32,
    num_heads_kv: 8,
    out_proj_bias: false,
    qkv_proj_bias: false,
    rotary_emb_dim: 64,
  },
  rms_norm: true,
  residual_in_fp32: true,
  fused_add_norm: true,
  pad_vocab_size_multiple: 16,
  tie_embeddings: false,
};
const convert = (changes: object = {}, ssm: object = {}, attention: object = {}): BambaConfig =>
  parseBambaConfig(
    bambaFromMambaSsm(
      { ...bamba9b, ssm_cfg: { ...bamba9b.ssm_cfg, ...ssm }, attn_cfg: { ...bamba9b.attn_cfg, ...attention }, ...changes },
      {},
      "m",
    ),
    "m",
  );

describe("a configuration of mamba_ssm", () => {
  test("Bamba-9B's is that of the published model", () => {
    expect(bambaFromMambaSsm(bamba9b, { bos: 128_000, eos: 128_001 }, "m")).toEqual({
      architectures: ["BambaForCausalLM"],
      model_type: "bamba",
      vocab_size: 128_256,
      tie_word_embeddings: false,
      hidden_size: 4096,
      intermediate_size: 14_336,
      num_hidden_layers: 32,
      rms_norm_eps: 1e-5,
      mamba_expand: 2,
      mamba_n_heads: 128,
      mamba_d_head: 64,
      mamba_n_groups: 1,
      mamba_d_state: 128,
      mamba_d_conv: 4,
      mamba_chunk_size: 256,
      mamba_conv_bias: true,
      mamba_proj_bias: false,
      attn_layer_indices: [9, 18, 27],
      num_attention_heads: 32,
      num_key_value_heads: 8,
      attention_bias: false,
      attn_rotary_emb: 64,
      rope_parameters: { rope_type: "default", rope_theta: 10_000, partial_rotary_factor: 0.5 },
      bos_token_id: 128_000,
      eos_token_id: 128_001,
    });
    const published = { model_type: "bamba", vocab_size: 128_256, attn_layer_indices: [9, 18, 27], mamba_d_state: 128 };
    expect(convert()).toEqual(parseBambaConfig(published, "m"));
  });

  test("is told from one of Transformers", () => {
    expect(isMambaSsmConfig(bamba9b)).toBe(true);
    expect(isMambaSsmConfig({ ...bamba9b, model_type: "bamba" })).toBe(false);
    expect(isMambaSsmConfig({ hidden_size: 3 })).toBe(false);
  });

  test("options of the parts are followed", () => {
    expect(convert({ vocab_size: 50_277, pad_vocab_size_multiple: 8, d_intermediate: 1000, tie_embeddings: true })).toMatchObject({
      vocabSize: 50_280,
      intermediateSize: 1024,
      tieWordEmbeddings: true,
    });
    expect(
      convert(
        {},
        { headdim: 128, d_state: 16, d_conv: 3, expand: 1, chunk_size: 64, bias: true, conv_bias: false, dt_limit: [0.1, 2], dt_min: 1 },
      ),
    ).toMatchObject({
      mambaHeads: 32,
      mambaHeadDim: 128,
      mambaStateSize: 16,
      mambaConvWidth: 3,
      chunkSize: 64,
      mambaProjBias: true,
      mambaConvBias: false,
      timeStepLimit: [0.1, 2],
    });
    const attention = {
      head_dim: 96,
      rotary_emb_dim: 50,
      rotary_emb_base: 5000,
      qkv_proj_bias: true,
      out_proj_bias: true,
      num_heads_kv: null,
    };
    expect(convert({}, {}, attention)).toMatchObject({ headDim: 96, rotaryDim: 50, attentionBias: true, numKeyValueHeads: 32, rope: { theta: 5000 } }); // prettier-ignore
    expect(convert({ attn_layer_idx: [], attn_cfg: {} }).attentionLayers).toEqual([]);
  });

  test("every share of a head is rotated exactly", () => {
    for (let head = 2; head <= 256; head += 1)
      for (let rotary = 2; rotary <= head; rotary += 2)
        expect(convert({}, {}, { head_dim: head, rotary_emb_dim: rotary }).rotaryDim, `${rotary} of ${head}`).toBe(rotary);
  });

  test.each([
    [{ rms_norm: false }, "m: rms_norm: expected true, got false"],
    [{ d_intermediate: 0 }, "m: d_intermediate: 0 means layers without an MLP"],
    [{ d_model: "wide" }, "m: d_model: expected an integer"],
    [{ attn_layer_idx: [32] }, "m: attn_layer_idx: expected a list of values, each an integer from 0 to 31"],
    [{ ssm_cfg: {} }, 'm: ssm_cfg.layer: expected "Mamba2", got "Mamba1"'],
    [{ ssm_cfg: [] }, "m: ssm_cfg: expected an object"],
    [{ ssm_cfg: { layer: "Mamba2", ngroups: 2 } }, "m: ssm_cfg.ngroups: expected 1, got 2: the gated norm"],
    [{ ssm_cfg: { layer: "Mamba2", d_ssm: 64 } }, "m: ssm_cfg.d_ssm: expected 8192, got 64"],
    [{ ssm_cfg: { layer: "Mamba2", headdim: 100 } }, "m: ssm_cfg.headdim: 100 must divide expand * d_model"],
    [{ ssm_cfg: { layer: "Mamba2", rmsnorm: false } }, "m: ssm_cfg.rmsnorm: expected true"],
    [{ ssm_cfg: { layer: "Mamba2", magic: 1 } }, 'm: ssm_cfg: the option "magic" is not known here'],
    [{ ssm_cfg: { layer: "Mamba2", dt_limit: [3, 1] } }, "m: time_step_limit: the lower bound"],
    [{ attn_cfg: {} }, "m: attn_cfg.causal: expected true, got false"],
    // A bias that is not mentioned is mamba_ssm's default, there in both projections; what is missing first is the number of heads.
    [{ attn_cfg: { causal: true } }, "m: attn_cfg.num_heads: is missing"],
    [{ attn_cfg: { ...bamba9b.attn_cfg, out_proj_bias: true } }, "m: attn_cfg.out_proj_bias: expected false, got true"],
    [{ attn_cfg: { ...bamba9b.attn_cfg, num_heads: null } }, "m: attn_cfg.num_heads: is missing"],
    [{ attn_cfg: { ...bamba9b.attn_cfg, rotary_emb_dim: 0 } }, "m: attn_cfg.rotary_emb_dim: expected a number from 1 to"],
    [{ attn_cfg: { ...bamba9b.attn_cfg, rotary_emb_dim: 130 } }, "m: attn_cfg.rotary_emb_dim"],
    [{ attn_cfg: { ...bamba9b.attn_cfg, rotary_emb_interleaved: true } }, "m: attn_cfg.rotary_emb_interleaved: expected false"],
    [{ attn_cfg: { ...bamba9b.attn_cfg, softmax_scale: 1 } }, "m: attn_cfg.softmax_scale"],
    [{ attn_cfg: { ...bamba9b.attn_cfg, d_conv: 4 } }, "m: attn_cfg.d_conv: expected 0, got 4"],
  ])("%j is refused", (changes, message) => {
    const attempt = (): unknown => parseBambaConfig(bambaFromMambaSsm({ ...bamba9b, ...changes }, {}, "m"), "m");
    expect(attempt).toThrow(message);
    expect(attempt).toThrow(ConfigError);
  });

  test("any JSON is a configuration or a ConfigError", () => {
    const names = [...Object.keys(bamba9b), "ssm_cfg", "attn_cfg"];
    const inner = fc.dictionary(
      fc.constantFrom(...Object.keys(bamba9b.attn_cfg), "layer", "headdim", "expand", "ngroups", "dt_limit", "d_ssm"),
      fc.oneof(fc.jsonValue(), fc.nat(64), fc.constant("Mamba2")),
    );
    const json = fc.dictionary(fc.constantFrom(...names), fc.oneof(fc.jsonValue(), inner, fc.nat(99)), { maxKeys: 4 });
    fc.assert(
      fc.property(json, inner, (changes, attention) => {
        try {
          parseBambaConfig(bambaFromMambaSsm({ ...bamba9b, attn_cfg: { ...bamba9b.attn_cfg, ...attention }, ...changes }, {}, "m"), "m");
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe("its tensors", () => {
  const small = {
    d_model: 32,
    d_intermediate: 128,
    n_layer: 2,
    vocab_size: 64,
    ssm_cfg: { layer: "Mamba2", headdim: 8, d_state: 16, bias: true },
    attn_layer_idx: [1],
    attn_cfg: { causal: true, num_heads: 4, num_heads_kv: 2, head_dim: 12, rotary_emb_dim: 6, qkv_proj_bias: true, out_proj_bias: true },
    tie_embeddings: false,
  };
  const config = (changes: object = {}): BambaConfig => parseBambaConfig(bambaFromMambaSsm({ ...small, ...changes }, {}, "m"), "m");
  const stored = (): Map<string, { shape: number[]; file: string }> =>
    new Map(
      Object.entries({
        "backbone.embedding.weight": [64, 32],
        "backbone.layers.0.norm.weight": [32],
        "backbone.layers.0.norm2.weight": [32],
        "backbone.layers.0.mlp.fc1.weight": [256, 32],
        "backbone.layers.0.mlp.fc2.weight": [32, 128],
        "backbone.layers.0.mixer.in_proj.weight": [168, 32],
        "backbone.layers.0.mixer.in_proj.bias": [168],
        "backbone.layers.0.mixer.conv1d.weight": [96, 1, 4],
        "backbone.layers.0.mixer.conv1d.bias": [96],
        "backbone.layers.0.mixer.dt_bias": [8],
        "backbone.layers.0.mixer.A_log": [8],
        "backbone.layers.0.mixer.D": [8],
        "backbone.layers.0.mixer.norm.weight": [64],
        "backbone.layers.0.mixer.out_proj.weight": [32, 64],
        "backbone.layers.0.mixer.out_proj.bias": [32],
        "backbone.layers.1.norm.weight": [32],
        "backbone.layers.1.norm2.weight": [32],
        "backbone.layers.1.mlp.fc1.weight": [256, 32],
        "backbone.layers.1.mlp.fc2.weight": [32, 128],
        "backbone.layers.1.mixer.in_proj.weight": [96, 32],
        "backbone.layers.1.mixer.in_proj.bias": [96],
        "backbone.layers.1.mixer.out_proj.weight": [32, 48],
        "backbone.layers.1.mixer.out_proj.bias": [32],
        "backbone.norm_f.weight": [32],
        "lm_head.weight": [64, 32],
      }).map(([name, shape]) => [name, { shape, file: "f" }]),
    );

  test("up before gate, and query, key and value one after the other", () => {
    const places = matchMambaSsmTensors(config(), stored(), "w");
    expect([...places.keys()]).toEqual(bambaTensors(config()).map(({ name }) => name));
    const at = (name: string): unknown => places.get(`model.layers.${name}`);
    expect(at("0.feed_forward.up_proj.weight")).toEqual({ stored: "backbone.layers.0.mlp.fc1.weight", firstRow: 0 });
    expect(at("0.feed_forward.gate_proj.weight")).toEqual({ stored: "backbone.layers.0.mlp.fc1.weight", firstRow: 128 });
    expect(at("1.self_attn.q_proj.weight")).toEqual({ stored: "backbone.layers.1.mixer.in_proj.weight", firstRow: 0 });
    expect(at("1.self_attn.k_proj.weight")).toEqual({ stored: "backbone.layers.1.mixer.in_proj.weight", firstRow: 48 });
    expect(at("1.self_attn.v_proj.bias")).toEqual({ stored: "backbone.layers.1.mixer.in_proj.bias", firstRow: 72 });
    expect(at("1.self_attn.o_proj.weight")).toEqual({ stored: "backbone.layers.1.mixer.out_proj.weight", firstRow: 0 });
    expect(at("0.mamba.norm.weight")).toEqual({ stored: "backbone.layers.0.mixer.norm.weight", firstRow: 0 });
  });

  test("a tied model may have either name of the embedding", () => {
    const tied = config({ tie_embeddings: true });
    expect(matchMambaSsmTensors(tied, stored(), "w").get("model.embed_tokens.weight")?.stored).toBe("backbone.embedding.weight");
    const headOnly = stored();
    headOnly.delete("backbone.embedding.weight");
    expect(matchMambaSsmTensors(tied, headOnly, "w").get("model.embed_tokens.weight")?.stored).toBe("lm_head.weight");
  });

  test("missing, extra and wrongly shaped ones are named as the file has them", () => {
    const missing = stored();
    missing.delete("backbone.layers.1.mixer.in_proj.weight");
    expect(() => matchMambaSsmTensors(config(), missing, "w")).toThrow("w: tensor backbone.layers.1.mixer.in_proj.weight is missing");
    const extra = stored().set("backbone.layers.1.mixer.conv1d.weight", { shape: [1], file: "f" });
    expect(() => matchMambaSsmTensors(config(), extra, "w")).toThrow("backbone.layers.1.mixer.conv1d.weight is not expected");
    const wrong = stored().set("backbone.layers.0.mlp.fc1.weight", { shape: [255, 32], file: "f" });
    expect(() => matchMambaSsmTensors(config(), wrong, "w")).toThrow(
      "backbone.layers.0.mlp.fc1.weight has shape [255, 32], config.json asks for [256, 32]",
    );
  });
});
