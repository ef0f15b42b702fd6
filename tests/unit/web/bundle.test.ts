import { expect, test } from "vitest";
import type { AdapterFacts } from "../../../runtime/drivers/webgpu/adapter.ts";
import { parseBundle } from "../../../runtime/web/bundle.ts";
import type { Variant, WebBundle } from "../../../runtime/web/bundle.ts";
import { chooseVariant } from "../../../runtime/web/variants.ts";

const hash = "0".repeat(64);
const variant = (caps: string, requires: Variant["requires"]): Variant => ({ caps, requires, folder: "wgsl/base" });
const bundle: WebBundle = {
  format: "culm-web",
  version: 1,
  compiler: "0.1.0",
  name: "tiny",
  blockBytes: 1024,
  files: [
    { path: "weights/model.safetensors", bytes: 2000, blocks: [hash, hash] },
    ...["tokenizer.json", "tokenizer_config.json", "wgsl/base/manifest.json", "wgsl/base/kernels.bin"].map((path) => ({
      path,
      bytes: 10,
      blocks: [hash],
    })),
    { path: "wgsl/base/literals.bin", bytes: 0, blocks: [] },
  ],
  variants: [variant("base", { features: [], limits: {}, subgroup: null })],
  weights: ["weights/model.safetensors"],
  tokenizer: { file: "tokenizer.json", config: "tokenizer_config.json" },
  generation: null,
  model: {
    parameters: 1,
    dtype: "bf16",
    vocabSize: 16,
    maxPositionEmbeddings: 64,
    bosTokenId: 1,
    eosTokenIds: [2],
    padTokenId: null,
    positionAxes: { "layers.0.keys": 2 },
  },
};

const parse = (change: object = {}): WebBundle => parseBundle(JSON.stringify({ ...bundle, ...change }), "http://x/model.json");

test("what the compiler writes is read", () => {
  expect(parse()).toEqual(bundle);
});

test.each([
  ["another version", { version: 2 }, /version: this is a model of version 2, this page reads version 1/],
  ["a path out of the folder", { files: [{ path: "../secret", bytes: 1, blocks: [hash] }] }, /files\.0\.path: expected a path inside/],
  ["an absolute path", { weights: ["/etc/passwd"] }, /weights\.0: expected a path inside/],
  ["another server's address", { weights: ["https://evil.example/x"] }, /weights\.0: expected a path inside/],
  ["a path with a query", { weights: ["model?x=1"] }, /weights\.0: expected a path inside/],
  ["a hidden part", { weights: ["weights/../../x"] }, /weights\.0: expected a path inside/],
  ["a file that is listed twice", { files: [...bundle.files, bundle.files[0]] }, /files: weights\/model\.safetensors is there twice/],
  ["a file that is used and not listed", { files: bundle.files.slice(1) }, /files: weights\/model\.safetensors is used and not listed/],
  [
    "too few hashes",
    { files: bundle.files.map((file) => ({ ...file, blocks: file.blocks.slice(0, 1) })) },
    /has 2000 bytes, which are 2 blocks, not 1/,
  ],
  ["a hash that is none", { files: [{ path: "x", bytes: 1, blocks: ["abc"] }] }, /files\.0\.blocks\.0/],
  ["no variants", { variants: [] }, /variants: /],
  ["blocks of no size", { blockBytes: 0 }, /blockBytes: /],
  ["something else", { format: "culm-artifact" }, /format: /],
])("%s is refused", (_, change, message) => {
  expect(() => parse(change)).toThrow(message);
});

test("a page in place of the file is told as such", () => {
  expect(() => parseBundle("<!doctype html><title>404</title>", "http://x/model.json")).toThrow(/is not valid JSON, but a page/);
});

const adapter: AdapterFacts = {
  name: "A GPU",
  vendor: "",
  architecture: "",
  device: "",
  description: "",
  features: ["shader-f16"],
  limits: { maxStorageBufferBindingSize: 1 << 27, maxComputeWorkgroupStorageSize: 16384 },
  subgroupMinSize: 0,
  subgroupMaxSize: 0,
};

test("the first variant that the adapter can run is chosen", () => {
  const variants = [
    variant("large", { features: [], limits: { maxStorageBufferBindingSize: 1 << 30 }, subgroup: null }),
    variant("base-f16", { features: ["shader-f16"], limits: { maxStorageBufferBindingSize: 1 << 27 }, subgroup: null }),
    variant("base", { features: [], limits: {}, subgroup: null }),
  ];
  expect(chooseVariant(variants, adapter).caps).toBe("base-f16");
  expect(chooseVariant(variants, { ...adapter, features: [] }).caps).toBe("base");
});

test("where none can be run, what each lacks is said with the numbers", () => {
  const variants = [
    variant("large", { features: ["subgroups"], limits: { maxStorageBufferBindingSize: 1 << 30 }, subgroup: 32 }),
    variant("base", { features: [], limits: { maxComputeWorkgroupStorageSize: 32768 }, subgroup: null }),
  ];
  expect(() => chooseVariant(variants, adapter)).toThrow(
    "A GPU can run no variant of this model. large: no feature subgroups, maxStorageBufferBindingSize 134217728 (wanted 1073741824), " +
      "no subgroups (wanted 32 lanes); base: maxComputeWorkgroupStorageSize 16384 (wanted 32768)",
  );
});
