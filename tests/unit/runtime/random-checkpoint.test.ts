import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { parseBambaConfig, parseConfigJson } from "../../../models/bamba/config.ts";
import { bambaTensors, matchBambaTensors, parameterCount } from "../../../models/bamba/weights.ts";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";
import { writeRandomCheckpoint } from "../../../runtime/node/random-checkpoint.ts";
import type { RandomTensor } from "../../../runtime/node/random-checkpoint.ts";
import { decodeFloats, encodeFloats } from "../../../runtime/numeric.ts";
import { hash32, normalQuantile } from "../../../runtime/random.ts";

const root = mkdtempSync(join(tmpdir(), "culm-random-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let count = 0;
const fresh = (): string => join(root, String((count += 1)), "deep");

const dtypes = ["f32", "bf16", "f16"] as const;
const storage = { f32: "F32", bf16: "BF16", f16: "F16" } as const;

function values(folder: string, name: string): Float32Array {
  const checkpoint = openCheckpoint(folder);
  const { dtype } = checkpoint.tensors.get(name)!;
  const floats = decodeFloats(dtype as "F32" | "BF16" | "F16", checkpoint.read(name));
  checkpoint.close();
  return floats;
}

function make(tensors: readonly RandomTensor[], seed = 1, dtype: (typeof dtypes)[number] = "f32"): string {
  const folder = fresh();
  writeRandomCheckpoint({ config: {}, tensors, seed, dtype, folder });
  return folder;
}

const normal = (name: string, ...shape: number[]): RandomTensor => ({ name, shape, init: { kind: "normal", std: 0.02 } });

describe("a random Bamba", () => {
  test.each(dtypes)("in %s has the model's tensors, its configuration and generation settings", (dtype) => {
    const file = "tests/reference/golden/options/config.json";
    const json = parseConfigJson(readFileSync(file, "utf8"), file);
    const config = parseBambaConfig(json, file);
    const folder = fresh();
    const written = writeRandomCheckpoint({
      config: { ...json, torch_dtype: "float64" },
      tensors: bambaTensors(config),
      seed: 7,
      dtype,
      folder,
    });
    expect(readdirSync(folder).sort()).toEqual(["config.json", "generation_config.json", "model.safetensors"]);
    expect(written.parameters).toBe(parameterCount(config));
    const checkpoint = openCheckpoint(folder);
    expect(matchBambaTensors(config, checkpoint.tensors, folder).size).toBe(checkpoint.tensors.size);
    expect([...checkpoint.tensors.values()].every((tensor) => tensor.dtype === storage[dtype])).toBe(true);
    expect([...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)).toBe(written.bytes);
    const back = join(folder, "config.json");
    expect(parseBambaConfig(parseConfigJson(readFileSync(back, "utf8"), back), back)).toEqual({ ...config, dtype });
    expect(JSON.parse(readFileSync(join(folder, "generation_config.json"), "utf8"))).toEqual({
      _from_model_config: true,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: 0,
      use_cache: true,
    });
    const at = (name: string): Float32Array => values(folder, `model.layers.0.${name}`);
    const rounded = (numbers: readonly number[]): Float32Array =>
      decodeFloats(storage[dtype], encodeFloats(storage[dtype], Float32Array.from(numbers)));
    expect(at("mamba.A_log")).toEqual(rounded(Array.from({ length: 8 }, (_, h) => Math.log(h + 1))));
    expect(new Set([...at("mamba.D"), ...at("mamba.norm.weight"), ...at("input_layernorm.weight")])).toEqual(new Set([1]));
    for (const bias of at("mamba.dt_bias")) {
      const dt = Math.log1p(Math.exp(bias));
      expect(dt).toBeGreaterThan(0.98e-3);
      expect(dt).toBeLessThan(1.02e-1);
    }
    checkpoint.close();
  });
});

describe("the generator", () => {
  test("mean, deviation, tails and neighbours are those of independent normals", () => {
    const n = 3_000_001;
    const x = values(make([normal("w", n)]), "w");
    const z = x.map((value) => value / 0.02);
    const mean = z.reduce((sum, v) => sum + v, 0) / n;
    const square = z.reduce((sum, v) => sum + v * v, 0) / n;
    expect(Math.abs(mean)).toBeLessThan(4 / Math.sqrt(n));
    expect(Math.abs(square - 1)).toBeLessThan(6 / Math.sqrt(n));
    for (const [bound, share] of [
      [1, 0.317311],
      [2, 0.0455],
      [3, 0.0027],
    ] as const) {
      const outside = z.reduce((sum, v) => sum + (Math.abs(v) > bound ? 1 : 0), 0) / n;
      expect(Math.abs(outside - share)).toBeLessThan(5 * Math.sqrt(share / n) + 2e-5);
    }
    // Neighbours, the other half of a hash, the same place of the next block.
    for (const lag of [1, 2, 3, 1024, 1 << 20]) {
      let product = 0;
      for (let i = lag; i < n; i += 1) product += z[i]! * z[i - lag]!;
      expect(Math.abs(product / (n - lag)), `lag ${lag}`).toBeLessThan(5 / Math.sqrt(n - lag));
    }
  });

  test("a value depends on seed, name and place only; the dtype rounds it", () => {
    const a = make([normal("a", 5), normal("b", 1001)], 3);
    const b = make([normal("b", 1001)], 3);
    expect(values(a, "b")).toEqual(values(b, "b"));
    expect(values(make([normal("b", 1001)], 4), "b")).not.toEqual(values(b, "b"));
    expect(values(make([normal("b", 1001)], 3 + 2 ** 32), "b")).not.toEqual(values(b, "b"));
    expect(values(a, "a")).not.toEqual(values(b, "b").slice(0, 5));
    expect(values(make([normal("b", 7, 11, 13)], 3), "b")).toEqual(values(b, "b"));
    for (const dtype of ["bf16", "f16"] as const) {
      const expected = decodeFloats(storage[dtype], encodeFloats(storage[dtype], values(b, "b")));
      expect(values(make([normal("b", 1001)], 3, dtype), "b")).toEqual(expected);
    }
  });

  test("does not change: these values are part of the format of a seed", () => {
    expect([...values(make([normal("w", 4)], 42), "w")].map((v) => Math.fround(v).toFixed(7))).toMatchInlineSnapshot(`
      [
        "-0.0224719",
        "-0.0037515",
        "-0.0119515",
        "-0.0115153",
      ]
    `);
    expect(hash32(1)).toMatchInlineSnapshot(`2261973619`);
  });

  test("seeds are integers", () => {
    for (const seed of [-1, 0.5, NaN, 2 ** 53]) expect(() => make([], seed)).toThrow("seed: expected an integer from 0 to 2^53 - 1");
  });

  test("the normal quantile is the inverse of the distribution", () => {
    expect(normalQuantile(0.5)).toBe(0);
    expect(normalQuantile(0.975)).toBeCloseTo(1.959963984540054, 8);
    expect(normalQuantile(0.001)).toBeCloseTo(-3.090232306167813, 8);
    expect(normalQuantile(1 - 1e-6)).toBeCloseTo(4.753424308822899, 7);
    expect(normalQuantile(0.02425 - 1e-12)).toBeCloseTo(normalQuantile(0.02425 + 1e-12), 7);
  });
});
