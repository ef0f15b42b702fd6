import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { writeSafetensors } from "../../runtime/node/write-safetensors.ts";
import { decodeFloats } from "../../runtime/numeric.ts";
import { culm } from "../support/cli.ts";
import { copyModel, goldenFolder, scratchFolder, tinyFolder } from "../support/model-folder.ts";

const scratch = scratchFolder("cli");
afterAll(scratch.remove);

const interpret = ["--backend", "interpret", "--max-length", "64"];

describe("help", () => {
  test("without arguments, and of each command, with examples", async () => {
    const { code, out } = await culm();
    expect(code).toBe(0);
    for (const command of ["demo", "generate", "forward", "tokenize", "convert", "compile", "inspect", "bench", "random-checkpoint"]) {
      expect(out).toContain(command);
      const help = await culm(command, "--help");
      expect(help.code).toBe(0);
      expect(help.out).toContain(`$ culm ${command}`);
    }
  });

  test("a word or flag that is nearly right gets a hint, and exit code 1", async () => {
    const word = await culm("genrate");
    expect(word).toMatchObject({ code: 1, out: "" });
    expect(word.err).toContain("Did you mean generate?");
    const flag = await culm("generate", "--model", "x", "--prompt", "y", "--sede", "1");
    expect(flag.code).toBe(1);
    expect(flag.err).toContain("--sede");
    expect(flag.err).toContain("Did you mean --seed?");
    const missing = await culm("generate", "--model", "x");
    expect(missing.code).toBe(1);
    expect(missing.err).toContain("--prompt");
  });

  test.each([
    ["--backend", "rocm", "llvm, cuda, webgpu, interpret"],
    ["--dtype", "fp8", "auto, f32, bf16, f16"],
    ["--threads", "two", "Expected a whole number"],
    ["--temperature", "warm", "Expected a number"],
    ["--max-new-tokens", "-1", "Expected a whole number"],
  ])("%s %s is refused with what there is", async (flag, value, message) => {
    const { code, err, out } = await culm("generate", "--model", tinyFolder, "--prompt", "x", flag, value);
    expect(code).toBe(1);
    expect(err).toContain(flag);
    expect(err).toContain(message);
    expect(err).not.toContain("    at ");
    expect(out).toBe("");
  });
});

test.each([
  [["--context", "5"], "--context goes with --device cuda"],
  [["--batch", "1,2"], "--batch goes with --device cuda"],
  [["--device", "cuda", "--threads", "2"], "--threads are the CPU's"],
  [["--device", "cuda", "--batch", "0"], "--batch: expected whole numbers from 1, got 0"],
  [["--device", "cuda", "--context", "0"], "--context: expected a whole number from 1, got 0"],
  [["--target", "cuda:sm_90", "--decode", "0"], "--decode: expected a whole number from 1, got 0"],
])("bench %j is refused", async (flags, message) => {
  const { code, err, out } = await culm("bench", "--model", tinyFolder, ...flags);
  expect({ code, out }).toEqual({ code: 1, out: "" });
  expect(err).toContain(message);
});

describe("generate", () => {
  const { generations } = JSON.parse(
    readFileSync(new URL("../reference/bamba-tiny/reference_generations.json", import.meta.url), "utf8"),
  ) as { generations: { prompt: string; prompt_ids: number[]; output_ids: number[]; text: string }[] };
  const first = generations[0]!;
  const made = 8;

  test("--json has the text and the ids", async () => {
    const { code, out } = await culm(
      "generate",
      "--model",
      tinyFolder,
      "--prompt",
      first.prompt,
      "--max-new-tokens",
      String(made),
      ...interpret,
      "--json",
    );
    expect(code).toBe(0);
    const report = JSON.parse(out) as Record<string, unknown>;
    expect(report["promptIds"]).toEqual(first.prompt_ids);
    expect(report["outputIds"]).toEqual(first.output_ids.slice(0, first.prompt_ids.length + made));
    expect(report["newIds"]).toHaveLength(made);
    expect(first.text.startsWith(report["text"] as string)).toBe(true);
    expect(report["text"]).toBe(`${first.prompt}${report["continuation"] as string}`);
    expect(report["finishReason"]).toBe("length");
  });

  test("the text alone goes to standard output, figures to standard error", async () => {
    const { code, out, err } = await culm(
      "generate",
      "--model",
      tinyFolder,
      "--prompt",
      first.prompt,
      "--max-new-tokens",
      String(made),
      ...interpret,
    );
    expect(code).toBe(0);
    expect(first.text.startsWith(out.trimEnd())).toBe(true);
    expect(out.endsWith("\n")).toBe(true);
    expect(err).toMatch(/^8 tokens, [\d.]+ tokens\/s, first token after .*s\n$/);
  });

  test("--sample draws the same tokens with the same seed", async () => {
    const flags = [
      "generate",
      "--model",
      tinyFolder,
      "--prompt",
      "Call",
      "--max-new-tokens",
      "6",
      "--sample",
      "--top-k",
      "20",
      "--json",
      ...interpret,
    ];
    const ids = async (seed: string): Promise<unknown> =>
      (JSON.parse((await culm(...flags, "--seed", seed)).out) as { newIds: unknown }).newIds;
    const seven = await ids("7");
    expect(await ids("7")).toEqual(seven);
    expect(await ids("8")).not.toEqual(seven);
  });
});

describe("forward", () => {
  const golden = openCheckpoint(join(goldenFolder("base"), "golden.safetensors"));
  const inputs = (names: Readonly<Record<string, string>>): string => {
    const file = `${scratch.fresh()}.safetensors`;
    writeSafetensors(
      file,
      Object.entries(names).map(([name, from]) => ({ ...golden.tensors.get(from)!, name, data: golden.read(from) })),
    );
    return file;
  };
  const distance = (file: string, name: string, expected: string): number => {
    const output = openCheckpoint(file);
    expect(output.tensors.get(name)?.shape).toEqual(golden.tensors.get(expected)?.shape);
    const [a, b] = [decodeFloats("F32", output.read(name)), decodeFloats("F32", golden.read(expected))];
    return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
  };

  test("logits, hidden states and the loss are Transformers'", async () => {
    const output = `${scratch.fresh()}.safetensors`;
    const file = inputs({ input_ids: "forward.input_ids", labels: "forward.input_ids" });
    const { code, out, err } = await culm(
      "forward",
      "--model",
      goldenFolder("base"),
      "--inputs",
      file,
      "--output",
      output,
      "--hidden-states",
      "--json",
      ...interpret,
    );
    expect(err).toBe("");
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ rows: 2, positions: 37, vocabSize: 256, hiddenStates: 5 });
    expect(distance(output, "logits", "forward.logits")).toBeLessThan(1e-4);
    for (let layer = 0; layer < 5; layer += 1)
      expect(distance(output, `hidden_states.${layer}`, `forward.hidden_states.${layer}`)).toBeLessThan(1e-4);
  });

  test("embeddings in place of ids", async () => {
    const output = `${scratch.fresh()}.safetensors`;
    const { code } = await culm(
      "forward",
      "--model",
      goldenFolder("base"),
      "--inputs",
      inputs({ inputs_embeds: "embeds.inputs_embeds" }),
      "--output",
      output,
      ...interpret,
    );
    expect(code).toBe(0);
    expect(distance(output, "logits", "embeds.logits")).toBeLessThan(1e-4);
  });

  test("inputs that do not fit are refused by name", async () => {
    const refused = async (names: Readonly<Record<string, string>>): Promise<string> => {
      const { code, err } = await culm(
        "forward",
        "--model",
        goldenFolder("base"),
        "--inputs",
        inputs(names),
        "--output",
        "never",
        ...interpret,
      );
      expect(code).toBe(1);
      return err;
    };
    expect(await refused({ tokens: "forward.input_ids" })).toContain("unknown input tokens");
    expect(await refused({ attention_mask: "padded.attention_mask" })).toContain("exactly one of input_ids and inputs_embeds");
    expect(await refused({ input_ids: "forward.logits" })).toContain("input_ids has dtype F32");
    expect(await refused({ input_ids: "forward.input_ids", position_ids: "generate.greedy" })).toContain("position_ids is [2, 61]");
    expect(await refused({ input_ids: "forward.input_ids", attention_mask: "forward.input_ids" })).toContain("attention_mask: element");
  });
});

describe("random-checkpoint", () => {
  test("writes a model that generates, the same for the same seed", async () => {
    const config = join(goldenFolder("options"), "config.json");
    const make = async (seed: string): Promise<string> => {
      const folder = scratch.fresh();
      const { code, err } = await culm("random-checkpoint", "--config", config, "--out", folder, "--seed", seed, "--dtype", "bf16");
      expect(code).toBe(0);
      expect(err).toMatch(/parameters, .* of bf16 in /);
      return folder;
    };
    const [a, b, c] = [await make("1"), await make("1"), await make("2")];
    const weights = (folder: string): Buffer => readFileSync(join(folder, "model.safetensors"));
    expect(weights(a).equals(weights(b))).toBe(true);
    expect(weights(a).equals(weights(c))).toBe(false);
    const { code, err } = await culm("generate", "--model", a, "--prompt", "x", ...interpret);
    expect(code).toBe(1);
    expect(err).toContain("tokenizer.json: there is no such file");
  });
});

describe("bad input: exit code 1, and a message that names the file and the field or tensor", () => {
  const base = (): ReturnType<typeof copyModel> => {
    const model = copyModel(goldenFolder("base"), scratch.fresh());
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) writeFileSync(model.file(name), readFileSync(join(tinyFolder, name)));
    return model;
  };
  const name = "model.layers.1.mamba.A_log";
  type Spoil = (model: ReturnType<typeof base>) => void;
  const withTensor =
    (change: (tensors: Parameters<Parameters<ReturnType<typeof base>["tensors"]>[0]>[0]) => void): Spoil =>
    (model) =>
      model.tensors(change);
  const cases: readonly (readonly [what: string, spoil: Spoil, expected: readonly string[]])[] = [
    ["config.json is not JSON", (m) => writeFileSync(m.file("config.json"), '{ "model_type": '), ["config.json", "not valid JSON"]],
    ["config.json is a list", (m) => writeFileSync(m.file("config.json"), "[]"), ["config.json", "expected a JSON object"]],
    ["wrong model_type", (m) => m.config({ model_type: "llama" }), ["config.json", "model_type", '"llama"']],
    ["a field of the wrong type", (m) => m.config({ hidden_size: "wide" }), ["config.json", "hidden_size", '"wide"']],
    ["indivisible sizes", (m) => m.config({ mamba_n_heads: 7 }), ["config.json", "mamba_n_heads", "must divide"]],
    ["indivisible heads", (m) => m.config({ num_key_value_heads: 3 }), ["config.json", "num_key_value_heads", "must divide"]],
    ["a missing tensor", withTensor((t) => void t.delete(name)), ["model.safetensors", name, "missing"]],
    [
      "an extra tensor",
      withTensor((t) => void t.set("extra", { ...t.get(name)!, name: "extra" })),
      ["model.safetensors", "extra", "not expected"],
    ],
    [
      "a tensor of the wrong shape",
      withTensor((t) => void t.set(name, { ...t.get(name)!, shape: [4, 2] })),
      ["model.safetensors", name, "[4, 2]", "[8]"],
    ],
    ["a tensor of integers", withTensor((t) => void t.set(name, { ...t.get(name)!, dtype: "I32" })), ["model.safetensors", name, "I32"]],
    ["a truncated file", (m) => m.bytes((b) => b.subarray(0, b.length - 100)), ["model.safetensors"]],
    ["a header longer than the file", (m) => m.bytes((b) => b.subarray(0, 200)), ["model.safetensors", "truncated"]],
    ["an empty file", (m) => m.bytes(() => Buffer.alloc(0)), ["model.safetensors", "truncated"]],
    [
      "overlapping offsets",
      (m) => m.header((h) => h.replace(/"data_offsets":\[(\d+),(\d+)\]/, '"data_offsets":[0,16]')),
      ["model.safetensors"],
    ],
    [
      "offsets outside the file",
      (m) => m.header((h) => h.replace(/"data_offsets":\[(\d+),(\d+)\]/g, '"data_offsets":[$1,9$2]')),
      ["model.safetensors"],
    ],
    ["an unknown dtype", (m) => m.header((h) => h.replace('"F32"', '"F31"')), ["model.safetensors", "F31"]],
    ["no weights at all", (m) => m.bytes((b) => b), []],
    ["a tokenizer that is missing", (m) => writeFileSync(m.file("tokenizer.json"), "{}"), ["tokenizer.json"]],
    [
      "generation_config.json with a wrong field",
      (m) => writeFileSync(m.file("generation_config.json"), '{"top_k": "many"}'),
      ["generation_config.json", "top_k"],
    ],
  ];
  test.each(cases.filter(([, , expected]) => expected.length > 0))("%s", async (_, spoil, expected) => {
    const model = base();
    spoil(model);
    const { code, out, err } = await culm("generate", "--model", model.path, "--prompt", "x", ...interpret);
    expect(code).toBe(1);
    expect(out).toBe("");
    expect(err).toMatch(/^error: /);
    expect(err).not.toContain("    at ");
    for (const part of [model.path, ...expected]) expect(err).toContain(part);
  });

  test("a folder that is not there, or is a file", async () => {
    const there = await culm("generate", "--model", join(scratch.path, "nowhere"), "--prompt", "x", ...interpret);
    expect(there).toMatchObject({ code: 1 });
    expect(there.err).toContain("nowhere: there is no such folder");
    const file = await culm("generate", "--model", join(tinyFolder, "config.json"), "--prompt", "x", ...interpret);
    expect(file.err).toContain("is not a folder");
  });

  test("a prompt longer than the compiled limit names the limit and the flag", async () => {
    const { code, err } = await culm(
      "generate",
      "--model",
      tinyFolder,
      "--prompt",
      "one two three four five six",
      "--backend",
      "interpret",
      "--max-length",
      "4",
    );
    expect(code).toBe(1);
    expect(err).toMatch(/the prompt has \d+ tokens, but the model was compiled for at most 4 positions/);
    expect(err).toContain("--max-length");
  });

  test("a token id outside the vocabulary", async () => {
    const file = `${scratch.fresh()}.safetensors`;
    writeSafetensors(file, [{ name: "input_ids", dtype: "I32", shape: [1, 2], data: new Uint8Array(Int32Array.of(3, 256).buffer) }]);
    const { code, err } = await culm("forward", "--model", goldenFolder("base"), "--inputs", file, "--output", "never", ...interpret);
    expect(code).toBe(1);
    expect(err).toContain("input_ids: element 1 is 256, expected an integer from 0 to 255");
  });

  test("a vocabulary smaller than the tokenizer's", async () => {
    const { code, err } = await culm("generate", "--model", base().path, "--prompt", "Plants generate energy", ...interpret);
    expect(code).toBe(1);
    expect(err).toMatch(/token id \d+ .* is outside the vocabulary of 256 tokens/);
  });
});
