import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { indexText, removeOtherWeights, shardTensors, stageFiles, writeShards } from "../../../runtime/node/write-checkpoint.ts";
import type { TensorSpec } from "../../../runtime/safetensors.ts";
import type { WeightSource } from "../../../runtime/weights.ts";
import { scratchFolder } from "../../support/model-folder.ts";

const scratch = scratchFolder("write-checkpoint");
afterAll(scratch.remove);

const bytes = (name: string, size: number): TensorSpec => ({ name, dtype: "U8", shape: [size] });

describe("division into files", () => {
  test("the example of Transformers: 6, 6, 2, 6, 2, 2 with at most 10", () => {
    const shards = shardTensors(
      [6, 6, 2, 6, 2, 2].map((size, i) => bytes(`t${i}`, size)),
      10,
    );
    expect(shards.map(({ tensors }) => tensors.map(({ name }) => name))).toEqual([["t0"], ["t1", "t2"], ["t3", "t4", "t5"]]);
    expect(shards.map(({ file }) => file)).toEqual([1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`));
  });

  test("a tensor above the limit has a file of its own, before the one that is being filled", () => {
    const shards = shardTensors([bytes("a", 4), bytes("big", 11), bytes("b", 4), bytes("c", 4)], 10);
    expect(shards.map(({ tensors }) => tensors.map(({ name }) => name))).toEqual([["big"], ["a", "b"], ["c"]]);
    expect(shardTensors([bytes("big", 11)], 10)).toEqual([{ file: "model.safetensors", tensors: [bytes("big", 11)] }]);
  });

  test("each tensor once, no file above the limit but those of one tensor, none empty", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(30), { minLength: 1, maxLength: 40 }), fc.integer({ min: 1, max: 40 }), (sizes, limit) => {
        const tensors = sizes.map((size, i) => bytes(`t${i}`, size));
        const shards = shardTensors(tensors, limit);
        expect(new Set(shards.flatMap((shard) => shard.tensors))).toEqual(new Set(tensors));
        expect(shards.flatMap((shard) => shard.tensors)).toHaveLength(tensors.length);
        for (const shard of shards) {
          expect(shard.tensors.length).toBeGreaterThan(0);
          const total = shard.tensors.reduce((sum, { shape }) => sum + shape[0]!, 0);
          if (shard.tensors.length > 1) expect(total).toBeLessThanOrEqual(limit);
        }
      }),
    );
  });

  test("the index has sizes and a sorted map", () => {
    const shards = shardTensors(
      [
        { name: "b", dtype: "BF16", shape: [3, 2] },
        { name: "a", dtype: "BF16", shape: [4] },
      ],
      12,
    );
    expect(indexText(shards)).toBe(
      `${JSON.stringify(
        {
          metadata: { total_parameters: 10, total_size: 20 },
          weight_map: { a: "model-00002-of-00002.safetensors", b: "model-00001-of-00002.safetensors" },
        },
        null,
        2,
      )}\n`,
    );
  });
});

describe("files that appear together", () => {
  test("under their names only after commit, and not at all after discard", () => {
    const folder = join(scratch.fresh(), "deep");
    const first = stageFiles(folder);
    first.write("a.txt", "1");
    first.copy("b.txt", first.path("a.txt"));
    expect(readdirSync(folder).every((name) => name.endsWith(".tmp"))).toBe(true);
    first.commit();
    first.discard();
    expect(readdirSync(folder).sort()).toEqual(["a.txt", "b.txt"]);
    const second = stageFiles(folder);
    second.write("a.txt", "2");
    second.discard();
    expect(readdirSync(folder).sort()).toEqual(["a.txt", "b.txt"]);
    expect(readFileSync(join(folder, "a.txt"), "utf8")).toBe("1");
  });

  test("other weights are those that a save writes and nothing else", () => {
    const folder = scratch.fresh();
    const staged = stageFiles(folder);
    const others = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model.safetensors"];
    const kept = ["model-00001-of-00003.safetensors", "my-model-00001-of-00002.safetensors", "notes.txt", "model-1-of-2.safetensors"];
    for (const name of [...others, ...kept]) staged.write(name, "");
    staged.commit();
    removeOtherWeights(folder, new Set(["model-00001-of-00003.safetensors"]));
    expect(readdirSync(folder).sort()).toEqual([...kept].sort());
  });
});

describe("casting", () => {
  const source = (values: Float64Array): WeightSource => ({
    path: "memory",
    tensors: new Map([["w", { dtype: "F64", shape: [values.length], file: "memory" }]]),
    readInto: (_, target, offset) => target.set(new Uint8Array(values.buffer, offset, target.length)),
  });

  test("in pieces, of which none is lost or doubled", async () => {
    // Three pieces, the last one short.
    const count = 2 * (1 << 21) + 5;
    const values = Float64Array.from({ length: count }, (_, i) => i % 65_521);
    const folder = scratch.fresh();
    const staged = stageFiles(folder);
    const seen: number[] = [];
    const shards = shardTensors([{ name: "w", dtype: "F32", shape: [count] }], 1e12);
    await writeShards(staged, shards, source(values), (done, total) => {
      seen.push(done);
      expect(total).toBe(4 * count);
    });
    staged.commit();
    expect(seen).toEqual([4 << 21, 8 << 21, 4 * count]);
    const file = readFileSync(join(folder, "model.safetensors"));
    const data = file.subarray(8 + Number(file.readBigUInt64LE(0)));
    expect(data).toHaveLength(4 * count);
    const floats = new Float32Array(new Uint8Array(data).buffer);
    expect(floats.every((x, i) => x === values[i])).toBe(true);
  });

  test("what is no number is refused", async () => {
    const folder = scratch.fresh();
    const staged = stageFiles(folder);
    const shards = shardTensors([{ name: "w", dtype: "I32", shape: [1] }], 10);
    await expect(writeShards(staged, shards, source(Float64Array.of(1)))).rejects.toThrow("tensor w of F64 cannot become I32");
    staged.discard();
    writeFileSync(join(folder, "x"), "");
    expect(readdirSync(folder)).toEqual(["x"]);
  });
});
