import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseBambaConfig, parseConfigJson } from "../../../models/bamba/config.ts";
import type { BambaConfig, RopeConfig } from "../../../models/bamba/config.ts";
import type { RopeTables } from "../../../models/bamba/rope.ts";
import { attentionScaling, inverseFrequencies, ropeDependsOnLength, ropeRows, ropeTables } from "../../../models/bamba/rope.ts";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";
import { decodeFloats, isFloatDType } from "../../../runtime/numeric.ts";

const base = { theta: 10_000, partialRotaryFactor: 0.5 };
const withRope = (rope: RopeConfig, rotaryDim: number): BambaConfig => ({
  ...parseBambaConfig({ model_type: "bamba" }, "c"),
  rope,
  rotaryDim,
});
const close = (actual: ArrayLike<number>, expected: readonly number[]): void => {
  expect(actual).toHaveLength(expected.length);
  expected.forEach((value, i) => expect(Math.abs(actual[i]! / value - 1)).toBeLessThan(1e-6));
};
/** theta^(-2j/R) in double precision. */
const plain = (rotaryDim: number, theta = 10_000): number[] =>
  Array.from({ length: rotaryDim / 2 }, (_, j) => theta ** ((-2 * j) / rotaryDim));

describe("inverse frequencies by type, against their formulas in double precision", () => {
  test("default and linear", () => {
    close(inverseFrequencies({ ...base, type: "default" }, 64, 1), plain(64));
    close(
      inverseFrequencies({ ...base, type: "linear", factor: 2.5 }, 64, 1),
      plain(64).map((f) => f / 2.5),
    );
  });

  test("dynamic: as default up to the original context, a larger theta beyond", () => {
    const rope = { ...base, type: "dynamic", factor: 3, originalMaxPositions: 100 } as const;
    for (const length of [1, 100]) close(inverseFrequencies(rope, 8, length), plain(8));
    close(inverseFrequencies(rope, 8, 250), plain(8, 10_000 * ((3 * 250) / 100 - 2) ** (8 / 6)));
  });

  test("longrope: the short factors up to the original context, the long ones beyond", () => {
    const rope = {
      ...base,
      type: "longrope",
      factor: 4,
      originalMaxPositions: 32,
      attentionFactor: 1.25,
      shortFactor: [1, 2],
      longFactor: [4, 8],
    } as const;
    close(inverseFrequencies(rope, 4, 32), [1, 0.01 / 2]);
    close(inverseFrequencies(rope, 4, 33), [1 / 4, 0.01 / 8]);
    expect(attentionScaling(rope)).toBe(1.25);
    expect(ropeDependsOnLength(rope)).toBe(true);
  });

  test("llama3: short waves kept, long ones divided, the ones between interpolated", () => {
    const rope = { ...base, type: "llama3", factor: 8, originalMaxPositions: 64, lowFrequencyFactor: 1, highFrequencyFactor: 4 } as const;
    const expected = plain(64).map((f) => {
      const turns = (64 * f) / (2 * Math.PI);
      if (turns < 1) return f / 8;
      if (turns > 4) return f;
      const smooth = (turns - 1) / 3;
      return ((1 - smooth) * f) / 8 + smooth * f;
    });
    expect(expected.filter((f, j) => f !== plain(64)[j] && f !== plain(64)[j]! / 8).length).toBeGreaterThan(3);
    close(inverseFrequencies(rope, 64, 1), expected);
  });

  test.each([true, false])("yarn, truncate %s: a ramp over the pairs from fast to slow", (truncate) => {
    const rope = {
      ...base,
      type: "yarn",
      factor: 4,
      originalMaxPositions: 4096,
      attentionFactor: 1.1386,
      betaFast: 32,
      betaSlow: 1,
      truncate,
    } as const;
    const pair = (turns: number): number => (64 * Math.log(4096 / (turns * 2 * Math.PI))) / (2 * Math.log(10_000));
    const [low, high] = truncate ? [Math.floor(pair(32)), Math.ceil(pair(1))] : [pair(32), pair(1)];
    const expected = plain(64).map((f, j) => {
      const ramp = Math.min(1, Math.max(0, (j - low) / (high - low)));
      return (f / 4) * ramp + f * (1 - ramp);
    });
    close(inverseFrequencies(rope, 64, 1), expected);
  });
});

describe("tables", () => {
  test("angles are rounded to float32 before the cosine, and scaled after it", () => {
    const { cos, sin } = ropeTables(withRope({ ...base, type: "default" }, 4), 5000);
    expect(cos).toHaveLength(10_000);
    const frequency = Math.fround(1 / Math.fround(100));
    expect(cos[4321 * 2 + 1]).toBe(Math.fround(Math.cos(Math.fround(4321 * frequency))));
    expect(sin[4321 * 2]).toBe(Math.fround(Math.sin(4321)));
    expect([cos[0], sin[0]]).toEqual([1, 0]);
    const scaled = ropeTables(
      withRope(
        { ...base, type: "yarn", factor: 1, originalMaxPositions: 64, attentionFactor: 2, betaFast: 32, betaSlow: 1, truncate: true },
        4,
      ),
      2,
    );
    expect(scaled.cos[0]).toBe(2);
  });

  test("the number of positions is checked", () => {
    const config = withRope({ ...base, type: "default" }, 4);
    for (const positions of [0, -1, 1.5, NaN, 2 ** 40]) expect(() => ropeTables(config, positions)).toThrow("rope tables: expected");
  });
});

describe("rows of a call, where the frequencies depend on its length", () => {
  const positions = 40;
  const dynamic = withRope({ ...base, type: "dynamic", factor: 3, originalMaxPositions: 16 }, 8);
  const longrope = withRope(
    { ...base, type: "longrope", factor: 4, originalMaxPositions: 16, attentionFactor: 1.25, shortFactor: [1, 2], longFactor: [4, 8] },
    4,
  );
  const empty = (config: BambaConfig): RopeTables => {
    const size = (positions * config.rotaryDim) / 2;
    return { cos: new Float32Array(size).fill(NaN), sin: new Float32Array(size).fill(NaN) };
  };
  /** The cosines of a position after a call. */
  const row = (config: BambaConfig, { cos }: RopeTables, position: number): number[] => {
    const pairs = config.rotaryDim / 2;
    return [...cos.subarray(position * pairs, (position + 1) * pairs)];
  };
  const expected = (config: BambaConfig, position: number, length: number): number[] =>
    [...inverseFrequencies(config.rope, config.rotaryDim, length)].map((f) =>
      Math.fround(Math.fround(Math.cos(Math.fround(position * f))) * Math.fround(attentionScaling(config.rope))),
    );

  test("only the rows of the call are written", () => {
    const tables = empty(longrope);
    ropeRows(longrope)(tables, [3, 7, 0, 9], 2, 8, 0);
    for (let position = 0; position < positions; position += 1)
      expect(row(longrope, tables, position).every(Number.isNaN), `row ${position}`).toBe(position !== 3 && position !== 7);
    expect(row(longrope, tables, 7)).toEqual(expected(longrope, 7, 8));
    expect(tables.sin[7 * 2]).toBe(Math.fround(Math.fround(Math.sin(7)) * 1.25));
  });

  test("longrope: each call by its own length", () => {
    const tables = empty(longrope);
    const write = ropeRows(longrope);
    for (const length of [16, 17, 30, 5]) {
      write(tables, [length - 1], 1, length, length - 1);
      expect(row(longrope, tables, length - 1)).toEqual(expected(longrope, length - 1, length));
    }
    expect(expected(longrope, 15, 16)).not.toEqual(expected(longrope, 15, 17));
  });

  test("dynamic: by the longest call of the sequence so far, and as at first below the original context", () => {
    const write = ropeRows(dynamic);
    const after = (position: number, length: number, past: number): number[] => {
      const tables = empty(dynamic);
      write(tables, [position], 1, length, past);
      return row(dynamic, tables, position);
    };
    expect(after(15, 16, 0)).toEqual(expected(dynamic, 15, 16));
    expect(after(29, 30, 16)).toEqual(expected(dynamic, 29, 30));
    expect(after(19, 20, 30), "a shorter call keeps what the longer one needed").toEqual(expected(dynamic, 19, 30));
    expect(after(11, 12, 30), "one within the original context does not").toEqual(expected(dynamic, 11, 16));
    expect(after(19, 20, 30), "and from there it grows anew").toEqual(expected(dynamic, 19, 20));
    expect(after(29, 30, 20)).toEqual(expected(dynamic, 29, 30));
    expect(after(19, 20, 0), "a new sequence knows nothing of the one before").toEqual(expected(dynamic, 19, 20));
  });

  test("frequencies in float32, as a tensor of the length makes them", () => {
    const reference = openCheckpoint("tests/reference/extra/rope.safetensors");
    const theirs = decodeFloats("F32", reference.read("dynamic.inv_freq"));
    const ours = inverseFrequencies({ ...base, type: "dynamic", factor: 3, originalMaxPositions: 16 }, 8, 24);
    ours.forEach((f, j) => expect(Math.abs(f / theirs[j]! - 1)).toBeLessThan(2e-7));
  });

  test("other types have no such rows", () => {
    expect(() => ropeRows(withRope({ ...base, type: "default" }, 4))).toThrow("does not depend on the length");
  });
});

/**
 * The rotated keys that Transformers cached, from the hidden states that it gave out: the norm, the key projection and the rotation are done
 * here in a few lines, so that tables of every reference model's type are checked against the real thing.
 */
describe.each(["base", "options", "all-attention", "bf16", "rope-yarn", "rope-linear", "rope-llama3"])("reference keys of %s", (name) => {
  test("match", () => {
    const folder = `tests/reference/golden/${name}`;
    const config = parseBambaConfig(parseConfigJson(readFileSync(`${folder}/config.json`, "utf8"), name), name);
    const weights = openCheckpoint(folder);
    const golden = openCheckpoint(`${folder}/golden.safetensors`);
    const floats = (checkpoint: typeof weights, tensor: string): Float32Array => {
      const { dtype } = checkpoint.tensors.get(tensor)!;
      if (!isFloatDType(dtype)) throw new Error(dtype);
      return decodeFloats(dtype, checkpoint.read(tensor));
    };
    const { hiddenSize: d, headDim, rotaryDim, numKeyValueHeads: heads, normEps } = config;
    // The bf16 reference was made from a model cast to bf16 and back as a whole, which rounded the frequencies along with the weights.
    const { cos, sin } = ropeTables(config, 20, { frequencies: name === "bf16" ? "bf16" : "f32" });
    const layer = config.attentionLayers[0]!;
    const hidden = floats(golden, `forward.hidden_states.${layer}`);
    const cached = floats(golden, `cache.after_prefill.${layer}.keys`);
    const [, , positions] = golden.tensors.get(`cache.after_prefill.${layer}.keys`)!.shape;
    expect(positions).toBe(20);
    const norm = floats(weights, `model.layers.${layer}.input_layernorm.weight`);
    const project = floats(weights, `model.layers.${layer}.self_attn.k_proj.weight`);
    const bias = config.attentionBias ? floats(weights, `model.layers.${layer}.self_attn.k_proj.bias`) : new Float32Array(heads * headDim);
    let worst = 0;
    for (let p = 0; p < 20; p += 1) {
      const row = hidden.subarray(p * d, (p + 1) * d);
      const scale = 1 / Math.sqrt(row.reduce((sum, x) => sum + x * x, 0) / d + normEps);
      const x = row.map((value, i) => value * scale * norm[i]!);
      for (let h = 0; h < heads; h += 1) {
        const key = Float32Array.from({ length: headDim }, (_, i) => {
          const at = h * headDim + i;
          return project.subarray(at * d, (at + 1) * d).reduce((sum, w, k) => sum + w * x[k]!, bias[at]!);
        });
        const pairs = rotaryDim / 2;
        const rotated = key.map((value, i) => {
          if (i >= rotaryDim) return value;
          const j = i % pairs;
          const [c, s] = [cos[p * pairs + j]!, sin[p * pairs + j]!];
          return i < pairs ? value * c - key[j + pairs]! * s : value * c + key[j]! * s;
        });
        rotated.forEach((value, i) => (worst = Math.max(worst, Math.abs(value - cached[(h * 20 + p) * headDim + i]!))));
      }
    }
    expect(worst).toBeLessThan(2e-5);
  });
});
