import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { openCausalLM } from "../../models/auto/index.ts";
import { saveModel } from "../../models/auto/save.ts";
import type { SaveOptions, Saved } from "../../models/auto/save.ts";
import { openModelSource, readConfig } from "../../models/auto/source.ts";
import { isUserError } from "../../runtime/errors.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { stageFiles, writeShards } from "../../runtime/node/write-checkpoint.ts";
import { writeSafetensors } from "../../runtime/node/write-safetensors.ts";
import { decodeFloats, encodeFloats } from "../../runtime/numeric.ts";
import { writeMambaSsm } from "../support/mamba-ssm.ts";
import { copyModel, goldenFolder, scratchFolder, tinyFolder } from "../support/model-folder.ts";
import { farthest, forwarded, openGoldenTensors } from "../support/running.ts";

const scratch = scratchFolder("save");
afterAll(scratch.remove);

/** The format, read by nothing of ours. Buffers are compared by `equals`: element by element takes seconds. */
function readFile(file: string): { metadata: unknown; tensors: Map<string, { dtype: string; shape: number[]; data: Buffer }> } {
  const whole = readFileSync(file);
  const end = 8 + Number(whole.readBigUInt64LE(0));
  const { __metadata__: metadata, ...entries } = JSON.parse(whole.toString("utf8", 8, end)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = Object.entries(entries).map(
    ([name, { dtype, shape, data_offsets }]) =>
      [name, { dtype, shape, data: whole.subarray(end + data_offsets[0], end + data_offsets[1]) }] as const,
  );
  return { metadata, tensors: new Map(tensors) };
}

const json = (...path: string[]): Record<string, unknown> => JSON.parse(readFileSync(join(...path), "utf8")) as Record<string, unknown>;

async function save(from: string, to: string, options: SaveOptions = {}): Promise<Saved> {
  const source = openModelSource(from);
  try {
    return await saveModel(source, to, source.dtype, options);
  } finally {
    source.checkpoint.close();
  }
}

/** The logits of a golden model's inputs, by the model in a folder. */
async function logits(folder: string, name: string): Promise<Float32Array> {
  const rotary = name === "bf16" ? "bf16" : "f32";
  const model = await openCausalLM(folder, { backend: "interpret", batch: 2, maxLength: 64, dtype: "f32", rotary });
  const { logits: values } = await forwarded(model, { inputIds: openGoldenTensors(name).rows("forward.input_ids") });
  await model.close();
  return values;
}

describe("savePretrained", () => {
  test.each(["base", "options", "all-mamba", "all-attention", "rope-yarn", "bf16"])(
    "%s: the files that Transformers wrote, byte for byte",
    async (name) => {
      const to = scratch.fresh();
      const model = await openCausalLM(goldenFolder(name), { backend: "interpret" });
      const saved = await model.savePretrained(to);
      await model.close();
      expect(readdirSync(to).sort()).toEqual(["config.json", "generation_config.json", "model.safetensors"]);
      for (const file of saved.files)
        expect(readFileSync(join(to, file)).equals(readFileSync(join(goldenFolder(name), file))), file).toBe(true);
      const bytes = [...readFile(join(to, "model.safetensors")).tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
      expect(saved).toMatchObject(
        name === "bf16" ? { dtype: "bf16", bytes, parameters: bytes / 2 } : { dtype: "f32", bytes, parameters: bytes / 4 },
      );
    },
  );

  test("shards as Transformers writes them: as many, of the same tensors, and the same configurations", async () => {
    const { saved } = JSON.parse(readFileSync("tests/reference/extra/extra.json", "utf8")) as {
      saved: { readonly files: Readonly<Record<string, number>> } & Readonly<Record<string, object>>;
    };
    const to = scratch.fresh();
    await save(goldenFolder("options"), to, { maxShardSize: "300KB" });
    expect(readdirSync(to).sort()).toEqual(Object.keys(saved.files).sort());
    for (const name of ["config.json", "generation_config.json"]) {
      expect(json(to, name)).toEqual(saved[name]);
      expect(readFileSync(join(to, name))).toHaveLength(saved.files[name]!);
    }
    // Which tensor lies in which shard is for the index to say, and the order of a PyTorch module is not ours.
    const index = "model.safetensors.index.json";
    const [ours, theirs] = [json(to, index), saved[index]] as { metadata: object; weight_map: Record<string, string> }[];
    expect(ours!.metadata).toEqual(theirs!.metadata);
    expect(Object.keys(ours!.weight_map)).toEqual(Object.keys(theirs!.weight_map));
    expect(new Set(Object.values(ours!.weight_map))).toEqual(new Set(Object.values(theirs!.weight_map)));
  });

  test("shards: filled in order, with an index that agrees, and no tied head", async () => {
    const to = scratch.fresh();
    const limit = 100_000;
    const saved = await save(goldenFolder("options"), to, { maxShardSize: limit });
    const { metadata, weight_map } = json(to, "model.safetensors.index.json") as {
      metadata: Record<string, number>;
      weight_map: Record<string, string>;
    };
    const files = [...new Set(Object.values(weight_map))].sort();
    expect(files.length).toBeGreaterThan(3);
    expect(files).toEqual(files.map((_, i) => `model-0000${i + 1}-of-0000${files.length}.safetensors`));
    expect(saved.files.filter((file) => file.endsWith(".safetensors"))).toEqual(files);
    expect(existsSync(join(to, "model.safetensors"))).toBe(false);
    expect(Object.keys(weight_map)).toEqual(Object.keys(weight_map).sort());
    const expected = readFile(join(goldenFolder("options"), "model.safetensors")).tensors;
    const seen = new Map<string, string>();
    for (const file of files) {
      const shard = readFile(join(to, file));
      expect(shard.metadata).toEqual({ format: "pt" });
      const bytes = [...shard.tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
      expect(bytes <= limit || shard.tensors.size === 1).toBe(true);
      for (const [name, tensor] of shard.tensors) {
        const { dtype, shape, data } = expected.get(name)!;
        expect(tensor).toMatchObject({ dtype, shape });
        expect(tensor.data.equals(data), name).toBe(true);
        seen.set(name, file);
      }
    }
    expect(Object.fromEntries(seen)).toEqual(weight_map);
    expect([...seen.keys()].sort()).toEqual([...expected.keys()].sort());
    expect(seen.has("lm_head.weight")).toBe(false);
    const size = [...expected.values()].reduce((sum, { data }) => sum + data.length, 0);
    expect(metadata).toEqual({ total_parameters: size / 4, total_size: size });
    // Layers are never before those below them: the order of the model.
    const layers = files.map((file) =>
      [...seen].filter(([, f]) => f === file).map(([name]) => Number(/layers\.(\d+)/.exec(name)?.[1] ?? NaN)),
    );
    const ordered = layers.map((list) => list.filter((layer) => !Number.isNaN(layer)));
    for (let i = 1; i < ordered.length; i += 1)
      expect(Math.min(...ordered[i]!, Infinity)).toBeGreaterThanOrEqual(Math.max(...ordered[i - 1]!, 0));
  });

  test("a saved model in shards gives the same logits", async () => {
    const to = scratch.fresh();
    await save(goldenFolder("base"), to, { maxShardSize: "100KB" });
    expect(farthest(await logits(to, "base"), openGoldenTensors("base").floats("forward.logits"))).toBeLessThan(1e-4);
    expect(await logits(to, "base")).toEqual(await logits(goldenFolder("base"), "base"));
  });

  test.each(["bf16", "f16"] as const)("cast to %s, and its configuration says so", async (dtype) => {
    const to = scratch.fresh();
    const saved = await save(goldenFolder("base"), to, { dtype });
    const stored = dtype === "bf16" ? "BF16" : "F16";
    expect(saved.dtype).toBe(dtype);
    expect(json(to, "config.json")["dtype"]).toBe(dtype === "bf16" ? "bfloat16" : "float16");
    const cast = readFile(join(to, "model.safetensors")).tensors;
    for (const [name, { data, shape }] of readFile(join(goldenFolder("base"), "model.safetensors")).tensors) {
      expect(cast.get(name)).toMatchObject({ dtype: stored, shape });
      expect(cast.get(name)!.data.equals(encodeFloats(stored, decodeFloats("F32", data)))).toBe(true);
    }
    // And back: what was rounded stays as it is.
    const back = scratch.fresh();
    await save(to, back, { dtype: "f32" });
    for (const [name, { data }] of readFile(join(back, "model.safetensors")).tensors)
      expect(data.equals(encodeFloats("F32", decodeFloats(stored, cast.get(name)!.data))), name).toBe(true);
  });

  test("the tokenizer and the generation settings come along, or the settings are made from the configuration", async () => {
    const to = scratch.fresh();
    await save(tinyFolder, to);
    for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
      expect(readFileSync(join(to, name)).equals(readFileSync(join(tinyFolder, name)))).toBe(true);
    const without = scratch.fresh();
    const saved = await save(tinyFolder, without, { includeTokenizer: false });
    expect(saved.files).toEqual(["model.safetensors", "config.json", "generation_config.json"]);
    const bare = copyModel(goldenFolder("base"), scratch.fresh());
    rmSync(bare.file("generation_config.json"));
    bare.config({ eos_token_id: [2, 5], pad_token_id: null });
    const made = scratch.fresh();
    await save(bare.path, made);
    expect(json(made, "generation_config.json")).toEqual({
      _from_model_config: true,
      bos_token_id: 1,
      eos_token_id: [2, 5],
      use_cache: true,
      output_attentions: false,
      output_hidden_states: false,
    });
  });

  test("over itself and over an earlier save: old weights go when the new ones are there", async () => {
    const { path } = copyModel(tinyFolder, scratch.fresh());
    const before = json(path, "config.json");
    const weights = readFile(join(path, "model.safetensors")).tensors;
    const names = (): string[] => readdirSync(path).filter((name) => name.startsWith("model"));
    await save(path, path, { maxShardSize: "5MB" });
    expect(names()).toContain("model-00001-of-00003.safetensors");
    expect(names()).not.toContain("model.safetensors");
    await save(path, path, { maxShardSize: "8MB" });
    expect(names().sort()).toEqual([
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
    ]);
    await save(path, path);
    expect(names()).toEqual(["model.safetensors"]);
    for (const [name, { data }] of readFile(join(path, "model.safetensors")).tensors)
      expect(data.equals(weights.get(name)!.data), name).toBe(true);
    expect(json(path, "config.json")).toEqual(before);
    expect(existsSync(join(path, "tokenizer.json"))).toBe(true);
  });

  test("stopped halfway it leaves the folder as it was", async () => {
    const { path } = copyModel(goldenFolder("base"), scratch.fresh());
    const content = (): unknown => readdirSync(path).map((name) => [name, readFileSync(join(path, name), "latin1")]);
    const before = content();
    const seen: number[] = [];
    const stop = (bytes: number): void => {
      seen.push(bytes);
      if (seen.length === 20) throw new Error("enough");
    };
    await expect(save(path, path, { dtype: "bf16", maxShardSize: "50KB", onSave: stop })).rejects.toThrow("enough");
    expect(content()).toEqual(before);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });

  test("options that make no sense are refused before anything is written", async () => {
    const to = scratch.fresh();
    for (const maxShardSize of [0, -1, NaN, 1.5e300, "5 gigabytes", "", "GB", "0.1", "5PB", "1e3"])
      await expect(save(goldenFolder("base"), to, { maxShardSize }), String(maxShardSize)).rejects.toThrow(
        "maxShardSize (--max-shard-size): expected bytes",
      );
    await expect(save(goldenFolder("base"), to, { dtype: "fp8" as "f32" })).rejects.toThrow('dtype: expected f32, bf16 or f16, got "fp8"');
    expect(existsSync(to)).toBe(false);
    writeFileSync(to, "");
    await expect(save(goldenFolder("base"), to)).rejects.toThrow(`${to}: is a file`);
    // The system's own refusals are not taken for bugs.
    await expect(save(goldenFolder("base"), join(to, "deeper"))).rejects.toSatisfy(
      (error) => isUserError(error) && /deeper: cannot be written \(ENOTDIR/.test(error.message),
    );
  });
});

describe("dtype auto", () => {
  const withTypes = (change: (name: string) => "F32" | "BF16" | "F16", config: object = { dtype: undefined }): string => {
    const model = copyModel(goldenFolder("base"), scratch.fresh());
    model.config(config as Record<string, unknown>);
    model.tensors((tensors) => {
      for (const [name, tensor] of tensors) {
        const dtype = change(name);
        tensors.set(name, { ...tensor, dtype, data: encodeFloats(dtype, decodeFloats("F32", tensor.data as Uint8Array)) });
      }
    });
    return model.path;
  };
  const auto = (folder: string): string => {
    const source = openModelSource(folder);
    source.checkpoint.close();
    return source.dtype;
  };

  test("what config.json says, by either name, whatever the tensors are", () => {
    expect(auto(withTypes(() => "BF16", { dtype: "float16" }))).toBe("f16");
    expect(auto(withTypes(() => "F32", { dtype: undefined, torch_dtype: "bfloat16" }))).toBe("bf16");
  });

  test("else the first tensor by name, wherever it lies in the file", () => {
    // lm_head.weight is the first name; it is the last tensor of this file, since the larger elements go first.
    const folder = withTypes((name) => (name === "lm_head.weight" ? "BF16" : "F32"));
    expect([...readFile(join(folder, "model.safetensors")).tensors.keys()].at(-1)).toBe("lm_head.weight");
    expect(auto(folder)).toBe("bf16");
    expect(auto(withTypes((name) => (name === "model.embed_tokens.weight" ? "BF16" : "F32")))).toBe("f32");
  });

  test("of the first shard by name, whatever the index lists first", async () => {
    const mixed = withTypes((name) => (name === "model.embed_tokens.weight" ? "F16" : "F32"));
    const source = openModelSource(mixed);
    const folder = scratch.fresh();
    // The embedding comes first in the model and goes to the first file by name; lm_head.weight, the first tensor by name, to the other.
    const tensors = [...source.weights.tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
    const staged = stageFiles(folder);
    const files = [
      { file: "b.safetensors", tensors: tensors.slice(1) },
      { file: "a.safetensors", tensors: tensors.slice(0, 1) },
    ];
    await writeShards(staged, files, source.weights);
    const map = files.flatMap(({ file, tensors: content }) => content.map(({ name }) => [name, file]));
    const weight_map = Object.fromEntries(map) as Record<string, string>;
    staged.write("model.safetensors.index.json", JSON.stringify({ weight_map }));
    staged.copy("config.json", join(mixed, "config.json"));
    staged.commit();
    source.checkpoint.close();
    expect(auto(folder)).toBe("f16");
  });

  test("a checkpoint of several types is cast to one when it is saved", async () => {
    const to = scratch.fresh();
    await save(
      withTypes((name) => (name === "lm_head.weight" ? "BF16" : "F32")),
      to,
    );
    expect(new Set([...readFile(join(to, "model.safetensors")).tensors.values()].map(({ dtype }) => dtype))).toEqual(new Set(["BF16"]));
    expect(json(to, "config.json")["dtype"]).toBe("bfloat16");
  });
});

describe("checkpoints that do not fit", () => {
  const spoilt = (change: Parameters<ReturnType<typeof copyModel>["tensors"]>[0], config: Record<string, unknown> = {}): string => {
    const model = copyModel(goldenFolder("base"), scratch.fresh());
    model.config(config);
    model.tensors(change);
    return model.path;
  };
  const bare: Parameters<typeof spoilt>[0] = (tensors) => {
    for (const [name, tensor] of [...tensors]) {
      tensors.delete(name);
      if (name !== "lm_head.weight") tensors.set(name, { ...tensor, name: name.replace(/^model\./, "") });
    }
  };

  test("of the bare model: refused without a head, read where the head is tied", async () => {
    expect(() => openModelSource(spoilt(bare))).toThrow("tensor lm_head.weight is missing: this is a checkpoint of the bare BambaModel");
    const tied = spoilt(bare, { tie_word_embeddings: true });
    const to = scratch.fresh();
    await save(tied, to);
    expect(readFile(join(to, "model.safetensors")).tensors.has("model.embed_tokens.weight")).toBe(true);
  });

  test("a wrong shape says that there is no ignore_mismatched_sizes", () => {
    const folder = spoilt(
      (tensors) => void tensors.set("model.layers.0.mamba.D", { ...tensors.get("model.layers.0.mamba.D")!, shape: [2, 4] }),
    );
    expect(() => openModelSource(folder)).toThrow(
      expect.objectContaining({ hint: expect.stringContaining("ignore_mismatched_sizes") as unknown }),
    );
  });
});

describe("checkpoints of mamba_ssm", () => {
  test.each(["base", "all-mamba", "all-attention", "bf16"])(
    "%s: opened as it is, every tensor in its place and the logits of the model",
    async (name) => {
      const original = scratch.fresh();
      writeMambaSsm(goldenFolder(name), original);
      const source = openModelSource(original);
      expect(source.format).toBe("mamba_ssm");
      expect(source.dtype).toBe(name === "bf16" ? "bf16" : "f32");
      const golden = openCheckpoint(goldenFolder(name));
      for (const [tensor, info] of golden.tensors) {
        // Those of the MLP have zeros at the end, see writeMambaSsm.
        const bytes = tensor.includes("down_proj") ? 0 : info.bytes;
        const target = new Uint8Array(bytes);
        await source.weights.readInto(tensor, target, 0);
        expect(Buffer.from(target).equals(golden.read(tensor).subarray(0, bytes)), tensor).toBe(true);
      }
      golden.close();
      source.checkpoint.close();
      const expected = openGoldenTensors(name).floats("forward.logits");
      expect(farthest(await logits(original, name), expected)).toBeLessThan(1e-4);
    },
  );

  test("converted it is a model of Transformers, with the special tokens of its tokenizer", async () => {
    const original = scratch.fresh();
    writeMambaSsm(goldenFolder("base"), original);
    expect(readConfig(original).config.warnings).toEqual([expect.stringContaining("no tokenizer.json") as unknown]);
    for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(tinyFolder, file), join(original, file));
    expect(readConfig(original).config.warnings).toEqual([]);
    const to = scratch.fresh();
    await save(original, to, { maxShardSize: "200KB" });
    expect(json(to, "config.json")).toMatchObject({ model_type: "bamba", dtype: "float32", vocab_size: 256, intermediate_size: 128, attn_rotary_emb: 8, bos_token_id: 1, eos_token_id: 2, pad_token_id: 0 }); // prettier-ignore
    expect(json(to, "config.json")).not.toHaveProperty("d_model");
    expect(existsSync(join(to, "tokenizer.json"))).toBe(true);
    const source = openModelSource(to);
    expect(source).toMatchObject({ format: "transformers", config: { warnings: [] } });
    source.checkpoint.close();
    expect(farthest(await logits(to, "base"), openGoldenTensors("base").floats("forward.logits"))).toBeLessThan(1e-4);
  });

  test("in shards with an index; a pickle is refused with a way out", async () => {
    const original = scratch.fresh();
    writeMambaSsm(goldenFolder("base"), original);
    const whole = openCheckpoint(original);
    const names = [...whole.tensors.values()];
    const folder = scratch.fresh();
    mkdirSync(folder);
    const map: Record<string, string> = {};
    for (const [i, part] of [names.slice(0, 7), names.slice(7)].entries()) {
      const file = `part-${i}.safetensors`;
      writeSafetensors(join(folder, file), part.map(({ name, dtype, shape }) => ({ name, dtype, shape, data: whole.read(name) }))); // prettier-ignore
      for (const { name } of part) map[name] = file;
    }
    whole.close();
    writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }));
    cpSync(join(original, "config.json"), join(folder, "config.json"));
    const to = scratch.fresh();
    await save(folder, to);
    const direct = scratch.fresh();
    await save(original, direct);
    expect(readFileSync(join(to, "model.safetensors")).equals(readFileSync(join(direct, "model.safetensors")))).toBe(true);
    renameSync(join(original, "model.safetensors"), join(original, "pytorch_model.bin"));
    expect(() => openModelSource(original)).toThrow(expect.objectContaining({ hint: expect.stringContaining("is a pickle") as unknown }));
  });
});
