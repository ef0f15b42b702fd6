import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { decodeFloats, encodeFloats } from "../../runtime/numeric.ts";
import { writeSafetensors } from "../../runtime/node/write-safetensors.ts";
import type { TensorToWrite } from "../../runtime/node/write-safetensors.ts";
import { culm } from "../support/cli.ts";
import type { Outcome } from "../support/cli.ts";
import { copyModel, goldenFolder, scratchFolder } from "../support/model-folder.ts";

/** culm compare and culm fixtures by the interpreter; tests/model/golden-compare.test.ts has the compiler. */
const scratch = scratchFolder("cli-golden");
afterAll(scratch.remove);

const base = goldenFolder("base");
const goldenFile = join(base, "golden.safetensors");

interface Report {
  readonly agrees: boolean;
  readonly tolerance: number;
  readonly backend: string;
  readonly ignored: readonly string[];
  readonly sections: readonly {
    readonly name: string;
    readonly missing: readonly string[];
    readonly absent: readonly string[];
    readonly ignored: readonly string[];
    readonly tensors: readonly {
      readonly name: string;
      readonly agrees: boolean;
      readonly maxError: number;
      readonly layer: string | null;
    }[];
  }[];
  readonly divergence: {
    readonly tensor: string;
    readonly layer: string | null;
    readonly kind: string | null;
    readonly at: { readonly file: string; readonly line: number; readonly col: number } | null;
    readonly suspects: readonly { readonly parameter: string; readonly at: { readonly line: number } }[];
    readonly sameLayer: readonly { readonly name: string; readonly agrees: boolean }[];
    readonly inputAgrees: boolean;
  } | null;
}

const compare = (model: string, golden: string, ...flags: string[]): Promise<Outcome> =>
  culm("compare", "--model", model, "--golden", golden, "--backend", "interpret", ...flags);
async function report(model: string, golden: string, ...flags: string[]): Promise<Report> {
  const { code, out, err } = await compare(model, golden, "--json", ...flags);
  const parsed = JSON.parse(out) as Report;
  expect({ code, err }).toEqual({ code: parsed.agrees ? 0 : 1, err: "" });
  return parsed;
}

/** A copy of the model with one number of a weight changed. */
function spoilt(weight: string, element = 0): string {
  const copy = copyModel(base, scratch.fresh());
  copy.tensors((tensors) => {
    const tensor = tensors.get(weight)!;
    const values = decodeFloats("F32", tensor.data as Uint8Array);
    values[element]! += 0.5;
    tensors.set(weight, { ...tensor, data: encodeFloats("F32", values) });
  });
  return copy.path;
}

/** A copy of the golden file with other tensors. */
function golden(change: (tensors: Map<string, TensorToWrite>) => void): string {
  const file = openCheckpoint(goldenFile);
  const tensors = new Map(
    [...file.tensors.values()].map((t) => [t.name, { name: t.name, dtype: t.dtype, shape: t.shape, data: file.read(t.name) }]),
  );
  file.close();
  change(tensors);
  const path = `${scratch.fresh()}.safetensors`;
  writeSafetensors(path, [...tensors.values()]);
  return path;
}

const line = (text: string): number => {
  const source = readFileSync("models/bamba/model.ts", "utf8").split("\n");
  const found = source.flatMap((code, i) => (code.includes(text) ? [i + 1] : []));
  expect(found, text).toHaveLength(1);
  return found[0]!;
};

describe("compare", () => {
  test("every tensor of a golden file, and what of it is not computed", async () => {
    const { agrees, sections, ignored, divergence, tolerance, backend } = await report(base, goldenFile);
    expect({ agrees, divergence, tolerance, backend }).toEqual({ agrees: true, divergence: null, tolerance: 1e-4, backend: "interpret" });
    const file = openCheckpoint(goldenFile);
    const inputs = /^forward\.(input_ids|masked_labels)$|^padded\.(?!logits)|inputs_embeds$|^sampling\.(scores|history)$/;
    const expected = [...file.tensors.keys()].filter((name) => !name.startsWith("grad.") && !inputs.test(name)).sort();
    file.close();
    expect(sections.flatMap(({ tensors }) => tensors.map(({ name }) => name)).sort()).toEqual(expected);
    expect(sections.map(({ name }) => name)).toEqual(["forward", "padded", "embeds", "cache", "generate", "sampling"]);
    for (const section of sections) expect([section.missing, section.absent, section.ignored]).toEqual([[], [], []]);
    expect(ignored.length).toBeGreaterThan(40);
    expect(ignored.every((name) => name.startsWith("grad."))).toBe(true);
  });

  test("as tables", async () => {
    const { code, out, err } = await compare(base, goldenFile, "--section", "forward,generate");
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out).toMatch(/^forward\n {2}tensor +layer +kind +max error +mean error +largest\n/);
    expect(out).toMatch(/\n {2}hidden_states\.3 +layers\.2 +attention +\d\.\de-\d+ +\d\.\de-\d+ +8\.3e\+0 +agrees\n/);
    expect(out).toMatch(/\n {2}beam4_len +196 +agrees\n/);
    expect(out).toMatch(/not compared: grad\.\* \(\d+\)\n\n16 tensors agree within 0\.0001\n$/);
    expect(out).not.toContain("padded");
  });

  test.each([
    // What the states tell of a layer narrows down the weights that may be wrong.
    [
      "model.layers.2.self_attn.v_proj.weight",
      "layers.2.self_attn.values",
      "attention",
      "v_proj",
      ["input_layernorm.weight", "self_attn.v_proj.weight"],
    ],
    ["model.layers.1.feed_forward.down_proj.weight", "layers.1", "mamba", "add(between, feedForward", null],
    ["model.layers.0.mamba.A_log", "layers.0.mamba.recurrent_states", "mamba", "mamba.in_proj", null],
  ] as const)("%s is wrong: the layer, its line, and the weights that may be it", async (weight, name, kind, text, weights) => {
    const { agrees, divergence } = await report(spoilt(weight), goldenFile, "--section", "forward,cache");
    expect(agrees).toBe(false);
    const { tensor, layer, suspects, at, sameLayer, inputAgrees } = divergence!;
    const number = Number(/layers\.(\d)/.exec(weight)![1]);
    expect(tensor).toBe(`forward.hidden_states.${number + 1}`);
    expect([layer, divergence!.kind, inputAgrees]).toEqual([name, kind, true]);
    expect(at!.file).toBe("models/bamba/model.ts");
    const parameters = suspects.map(({ parameter }) => parameter);
    expect(parameters).toContain(weight);
    expect(parameters.every((parameter) => parameter.startsWith(`model.layers.${number}.`))).toBe(true);
    if (weights !== null) expect(parameters).toEqual(weights.map((parameter) => `model.layers.${number}.${parameter}`));
    if (text === "add(between, feedForward") expect(at!.line).toBe(line(text));
    else expect(suspects.map((suspect) => suspect.at.line)).toContain(line(`"${text.includes(".") ? text : `self_attn.${text}`}"`));
    const states = kind === "mamba" ? ["conv_states", "recurrent_states"] : ["keys", "values"];
    for (const state of states) expect(sameLayer.map((entry) => entry.name)).toContain(`cache.after_prefill.${number}.${state}`);
  });

  test("said in words, with exit code 1", async () => {
    const { code, out } = await compare(spoilt("model.layers.2.self_attn.v_proj.weight"), goldenFile, "--section", "forward,cache");
    expect(code).toBe(1);
    expect(out).toMatch(
      new RegExp(
        [
          "18 of 37 tensors differ by more than 0.0001",
          "",
          "first divergence",
          String.raw`  forward\.hidden_states\.3 at \[0, 0, 0\]: expected -?[\d.]+, got -?[\d.]+`,
          String.raw`  in layers\.2\.self_attn\.values \(attention\) at models/bamba/model\.ts:\d+:\d+`,
          "  of the same layer",
          String.raw`    forward\.attentions\.0 agrees`,
          String.raw`    cache\.after_prefill\.2\.keys agrees`,
          String.raw`    cache\.after_prefill\.2\.values differs, by \d\.\de-\d`,
          "  weights between what agrees and what differs",
          String.raw`    model\.layers\.2\.input_layernorm\.weight +models/bamba/model\.ts:\d+:\d+`,
          String.raw`    model\.layers\.2\.self_attn\.v_proj\.weight +models/bamba/model\.ts:\d+:\d+\n$`,
        ].join("\n"),
      ),
    );
  });

  test("the head, and the embeddings", async () => {
    const head = (await report(spoilt("lm_head.weight"), goldenFile, "--section", "forward")).divergence!;
    expect(head).toMatchObject({ tensor: "forward.logits", layer: "lm_head", kind: null, inputAgrees: true });
    expect(head.suspects.map(({ parameter }) => parameter)).toEqual(["lm_head.weight"]);
    // Token 110 is the first one of the text.
    const embedded = (await report(spoilt("model.embed_tokens.weight", 110 * 64), goldenFile, "--section", "forward")).divergence!;
    expect(embedded).toMatchObject({ tensor: "forward.hidden_states.0", layer: "embed_tokens", inputAgrees: true });
    expect(embedded.suspects.map(({ parameter }) => parameter)).toEqual(["model.embed_tokens.weight"]);
  });

  test("a file with fewer tensors: what is missing is said, and a cause before the first difference is not ruled out", async () => {
    const file = golden((tensors) => {
      for (const name of [...tensors.keys()])
        if (!["forward.input_ids", "forward.hidden_states.3", "cache.chunk_logits", "padded.logits"].includes(name)) tensors.delete(name);
    });
    const whole = await report(base, file);
    expect(whole.sections.flatMap(({ tensors }) => tensors.map(({ name }) => name))).toEqual([
      "forward.hidden_states.3",
      "cache.chunk_logits",
    ]);
    expect(whole.sections[0]!.absent).toContain("forward.attentions.0");
    expect(whole.sections[1]!).toMatchObject({
      tensors: [],
      missing: ["padded.input_ids", "padded.attention_mask", "padded.position_ids"],
    });
    const { divergence } = await report(spoilt("model.layers.0.mamba.A_log"), file);
    expect(divergence).toMatchObject({ tensor: "forward.hidden_states.3", layer: "layers.2", inputAgrees: false });
    const { out } = await compare(spoilt("model.layers.0.mamba.A_log"), file);
    expect(out).toContain("It is not known whether what comes into it agrees, so the cause may lie before it.");
    expect(out).toContain("skipped: the file has no padded.input_ids, padded.attention_mask, padded.position_ids");
    expect(out).toContain("skipped, as the file has nothing of it: embeds, generate, sampling");
  });

  test("token lists: the first position that differs; logits without layers: that it cannot be said where", async () => {
    const tokens = golden((tensors) => {
      const { data } = tensors.get("generate.beam3")!;
      (data as Uint8Array)[8 * (49 + 40)]! ^= 1;
    });
    const { code, out } = await compare(base, tokens, "--section", "generate");
    expect(code).toBe(1);
    expect(out).toMatch(/beam3 +98 +differs: at \[1, 40\]: expected \d+, got \d+\n/);
    const logits = golden((tensors) => {
      const padding = new Uint8Array(4).fill(255);
      // NaN at a padded position is nothing; at a real one it is.
      (tensors.get("padded.logits")!.data as Uint8Array).set(padding, 0);
      (tensors.get("embeds.logits")!.data as Uint8Array).set(padding, 0);
    });
    const both = await report(base, logits, "--section", "padded,embeds");
    expect(both.sections.flatMap(({ tensors }) => tensors.map((t) => t.agrees))).toEqual([true, false]);
    expect(both.divergence).toMatchObject({ tensor: "embeds.logits", layer: null, at: null });
  });

  test("--tolerance, and --strict where Transformers and we part", async () => {
    const model = spoilt("model.layers.2.self_attn.v_proj.weight");
    expect((await report(model, goldenFile, "--section", "forward", "--tolerance", "5")).agrees).toBe(true);
    const options = goldenFolder("options");
    const file = join(options, "golden.safetensors");
    const { code, out } = await compare(options, file, "--section", "padded,cache");
    expect(code).toBe(1);
    expect(out).toContain("is reproduced with --strict only");
    expect((await report(options, file, "--strict")).agrees).toBe(true);
  });

  test("mistakes: exit code 1, a message, no stack", async () => {
    const mistake = async (message: string, ...argv: string[]): Promise<void> => {
      const { code, out, err } = await culm("compare", "--backend", "interpret", ...argv);
      expect({ code, out }).toEqual({ code: 1, out: "" });
      expect(err).toContain(message);
      expect(err).not.toContain("    at ");
    };
    const given = ["--model", base, "--golden", goldenFile];
    await mistake("required option '--golden <file>'", "--model", base);
    await mistake("nowhere.safetensors: cannot be opened", "--model", base, "--golden", "nowhere.safetensors");
    await mistake("unknown section grad", ...given, "--section", "grad");
    await mistake("--tolerance", ...given, "--tolerance", "small");
    await mistake("tolerance (--tolerance): expected a number from 0, got -1", ...given, "--tolerance", "-1");
    await mistake("nothing of these sections", "--model", base, "--golden", join(base, "model.safetensors"));
    const ids = golden((tensors) => {
      new DataView((tensors.get("forward.input_ids")!.data as Uint8Array).buffer).setBigInt64(0, 256n, true);
    });
    await mistake("forward.input_ids: element 0 is 256, expected an integer from 0 to 255", "--model", base, "--golden", ids);
    const flat = golden((tensors) => tensors.set("forward.input_ids", { ...tensors.get("forward.input_ids")!, shape: [74] }));
    await mistake("forward.input_ids: expected integers [rows, length], got integers [74]", "--model", base, "--golden", flat);
    const cut = golden((tensors) => {
      const { data } = tensors.get("cache.prefill_logits")!;
      tensors.set("cache.prefill_logits", { name: "cache.prefill_logits", dtype: "F32", shape: [1, 40, 256], data: data as Uint8Array });
    });
    await mistake(
      "a prompt of 40 tokens, 5 steps and a chunk do not fit the 37 tokens",
      "--model",
      base,
      "--golden",
      cut,
      "--section",
      "cache",
    );
  });
});

describe("fixtures", () => {
  const out = join(scratch.path, "fixtures.safetensors");
  let made: Outcome;
  beforeAll(async () => {
    made = await culm("fixtures", "--model", base, "--out", out);
  });

  test("writes the format of the references: the same names, types and shapes", () => {
    expect(made).toMatchObject({ code: 0, out: "" });
    expect(made.err).toMatch(/: 61 tensors of 2 x 37 tokens by interpret, in [\d.]+ m?s\n$/);
    const [ours, theirs] = [out, goldenFile].map((path) => {
      const file = openCheckpoint(path);
      file.close();
      return new Map([...file.tensors.values()].map(({ name, dtype, shape }) => [name, `${dtype} [${shape.join(", ")}]`]));
    }) as [Map<string, string>, Map<string, string>];
    for (const name of [...theirs.keys()]) if (name.startsWith("grad.")) theirs.delete(name);
    // Where the list of end tokens ends a row depends on the tokens.
    for (const shapes of [ours, theirs]) expect(shapes.delete("generate.greedy_eos")).toBe(true);
    expect(Object.fromEntries(ours)).toEqual(Object.fromEntries(theirs));
  });

  test("agrees with itself exactly, and not with another model", async () => {
    const same = await report(base, out, "--tolerance", "0");
    expect(same.agrees).toBe(true);
    expect(same.sections.flatMap(({ tensors }) => tensors)).toHaveLength(53);
    expect((await report(spoilt("model.final_layernorm.weight"), out)).divergence).toMatchObject({ layer: "layers.3, final_layernorm" });
  });

  test("sizes, seed and sections as asked for; the seed decides on the tokens", async () => {
    const tokens: string[] = [];
    for (const seed of ["3", "3", "4"]) {
      const path = `${scratch.fresh()}.safetensors`;
      const flags = ["--rows", "1", "--length", "13", "--seed", seed, "--sections", "cache,sampling", "--json"];
      const { code, out: text, err } = await culm("fixtures", "--model", goldenFolder("all-mamba"), "--out", path, ...flags);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      const { tensors, ...rest } = JSON.parse(text) as { tensors: string[]; backend: string; rows: number };
      expect(rest).toMatchObject({ out: path, backend: "interpret", rows: 1, length: 13, seed: Number(seed), dtype: "f32", strict: false });
      const file = openCheckpoint(path);
      expect([...file.tensors.keys()].sort()).toEqual([...tensors].sort());
      expect(tensors).toContain("cache.after_steps.2.recurrent_states");
      expect(tensors.filter((name) => !/^(cache|sampling)\.|^forward\.input_ids$/.test(name))).toEqual([]);
      expect(file.tensors.get("cache.prefill_logits")!.shape).toEqual([1, 5, 256]);
      tokens.push(Buffer.from(file.read("forward.input_ids")).toString("hex"));
      file.close();
      expect((await report(goldenFolder("all-mamba"), path, "--tolerance", "0")).agrees).toBe(true);
    }
    expect(tokens[0]).toBe(tokens[1]);
    expect(tokens[0]).not.toBe(tokens[2]);
  });

  test("mistakes leave no file behind", async () => {
    const path = join(scratch.path, "none.safetensors");
    for (const [message, ...flags] of [
      ["rows (--rows): expected a whole number from 1, got 0", "--rows", "0"],
      ["length (--length): expected a whole number from 12, got 11", "--length", "11"],
      ["unknown section beams", "--sections", "beams"],
      ["compiled for at most 20 positions", "--max-length", "20"],
    ] as const) {
      const { code, err } = await culm("fixtures", "--model", base, "--out", path, ...flags);
      expect(code).toBe(1);
      expect(err).toContain(message);
      expect(err).not.toContain("    at ");
    }
    expect(existsSync(path)).toBe(false);
    expect(readdirSync(scratch.path).filter((name) => name.includes(".tmp"))).toEqual([]);
  });
});
