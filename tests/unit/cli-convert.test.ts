import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { afterAll, describe, expect, test, vi } from "vitest";
import { culm } from "../support/cli.ts";
import type { Outcome } from "../support/cli.ts";
import { writeMambaSsm } from "../support/mamba-ssm.ts";
import { goldenFolder, scratchFolder, tinyFolder } from "../support/model-folder.ts";

const scratch = scratchFolder("cli-convert");
afterAll(scratch.remove);

describe("convert", () => {
  test("another dtype and shards; one line about it, or an object", async () => {
    const out = scratch.fresh();
    const { code, out: text, err } = await culm("convert", "--model", goldenFolder("base"), "--out", out, "--dtype", "bf16");
    expect({ code, text }).toEqual({ code: 0, text: "" });
    expect(err).toMatch(/: 203\.6 k parameters, 407 kB of bf16 in 1 file, written in .*s\n$/);
    const sharded = scratch.fresh();
    const report = await culm("convert", "--model", out, "--out", sharded, "--max-shard-size", "200KB", "--json");
    expect(report).toMatchObject({ code: 0, err: "" });
    expect(JSON.parse(report.out)).toMatchObject({
      folder: sharded,
      from: "transformers",
      dtype: "bf16",
      bytes: 407_248,
      parameters: 203_624,
      files: [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "generation_config.json",
      ],
    });
    // Together again, it is the file before.
    const whole = scratch.fresh();
    await culm("convert", "--model", sharded, "--out", whole);
    expect(readFileSync(join(whole, "model.safetensors")).equals(readFileSync(join(out, "model.safetensors")))).toBe(true);
  });

  test("the tokenizer comes along or stays", async () => {
    const files = async (...flags: string[]): Promise<string[]> => {
      const out = scratch.fresh();
      expect((await culm("convert", "--model", tinyFolder, "--out", out, ...flags)).code).toBe(0);
      return readdirSync(out).sort();
    };
    const model = ["config.json", "generation_config.json", "model.safetensors"];
    expect(await files()).toEqual([...model, "tokenizer.json", "tokenizer_config.json"]);
    expect(await files("--no-tokenizer")).toEqual(model);
  });

  test("an original checkpoint, with a warning where it has no tokenizer", async () => {
    const original = scratch.fresh();
    writeMambaSsm(goldenFolder("base"), original);
    const out = scratch.fresh();
    const { code, err } = await culm("convert", "--model", original, "--out", out);
    expect(code).toBe(0);
    expect(err).toMatch(/^warning: there is no tokenizer\.json beside the mamba_ssm model/);
    expect(readFileSync(join(out, "config.json"), "utf8")).toContain('"model_type": "bamba"');
  });

  test("mistakes: exit code 1, a message, no stack", async () => {
    const mistake = async (message: string, ...argv: string[]): Promise<void> => {
      const { code, out, err } = await culm("convert", ...argv);
      expect({ code, out }).toEqual({ code: 1, out: "" });
      expect(err).toContain(message);
      expect(err).not.toContain("    at ");
    };
    const out = scratch.fresh();
    await mistake("--max-shard-size", "--model", goldenFolder("base"), "--out", out, "--max-shard-size", "huge");
    await mistake("There are: auto, f32, bf16, f16", "--model", goldenFolder("base"), "--out", out, "--dtype", "fp8");
    await mistake("there is no such folder", "--model", "./nowhere", "--out", out);
    await mistake("--out", "--model", goldenFolder("base"));
    const original = scratch.fresh();
    writeMambaSsm(goldenFolder("base"), original);
    writeFileSync(join(original, "config.json"), '{"d_model": 64, "n_layer": 4, "d_intermediate": 96, "ssm_cfg": {"layer": "Mamba1"}}');
    await mistake('ssm_cfg.layer: expected "Mamba2", got "Mamba1"', "--model", original, "--out", out);
  });
});

describe("tokenize", () => {
  const reference = JSON.parse(readFileSync(new URL("../reference/bamba-tiny/reference_tokens.json", import.meta.url), "utf8")) as {
    text: string;
    ids: number[];
    ids_plain: number[];
    decoded: string;
    decoded_skip: string;
  }[];
  const tokenize = (...argv: string[]): Promise<Outcome> => culm("tokenize", "--model", tinyFolder, ...argv);

  test("ids and texts are Transformers'", async () => {
    expect(reference.length).toBeGreaterThan(3);
    for (const { text, ids, ids_plain, decoded, decoded_skip } of reference) {
      // A text that starts with a dash is an option unless options have ended.
      expect(JSON.parse((await tokenize("--json", "--", text)).out)).toMatchObject({ text, ids });
      expect(JSON.parse((await tokenize("--json", "--no-special", "--", text)).out)).toMatchObject({ ids: ids_plain });
      if (ids.length === 0) continue;
      expect((await tokenize("--ids", ids.join(","))).out).toBe(`${decoded}\n`);
      expect((await tokenize("--ids", ids.join(","), "--no-special")).out).toBe(`${decoded_skip}\n`);
    }
  });

  test("a table for people", async () => {
    const { code, out, err } = await tokenize("It was\n🎋");
    expect({ code, err }).toEqual({ code: 0, err: "8 tokens\n" });
    expect(out.replaceAll(/\u001b\[\d+m/g, "")).toBe(
      [
        "      id  token                text",
        '  0    1  "<|begin_of_text|>"  "<|begin_of_text|>"  special',
        '  1  954  "It"                 "It"',
        '  2  315  "Ġwas"               " was"',
        '  3  201  "Ċ"                  "\\n"',
        '  4  175  "ð"                  "\\xf0"',
        '  5  256  "Ł"                  "\\x9f"',
        '  6  239  "İ"                  "\\x8e"',
        '  7  236  "ĭ"                  "\\x8b"',
        "",
      ].join("\n"),
    );
  });

  test("an object for machines, with and without special tokens", async () => {
    const { code, out, err } = await tokenize("It was", "--json");
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(JSON.parse(out)).toEqual({
      text: "It was",
      ids: [1, 954, 315],
      tokens: [
        { id: 1, token: "<|begin_of_text|>", text: "<|begin_of_text|>", special: true },
        { id: 954, token: "It", text: "It", special: false },
        { id: 315, token: "Ġwas", text: " was", special: false },
      ],
    });
    expect(JSON.parse((await tokenize("It was", "--no-special", "--json")).out)).toMatchObject({ ids: [954, 315] });
    expect(JSON.parse((await tokenize("", "--no-special", "--json")).out)).toEqual({ text: "", ids: [], tokens: [] });
  });

  test("ids back to text; one without a token is said", async () => {
    expect(await tokenize("--ids", "1,954,315")).toEqual({ code: 0, out: "<|begin_of_text|>It was\n", err: "" });
    expect(await tokenize("--ids", "1,954,315", "--no-special")).toEqual({ code: 0, out: "It was\n", err: "" });
    const unknown = await tokenize("--ids", "954,99999", "--json");
    expect(unknown.err).toBe("warning: no token has the id 99999\n");
    expect(JSON.parse(unknown.out)).toMatchObject({ text: "It", tokens: [{ id: 954 }, { id: 99999, token: null, text: "" }] });
  });

  test("standard input as it is, characters cut by its pieces included", async () => {
    const bytes = Buffer.from("was 🎋\n");
    const stdin = vi.spyOn(process, "stdin", "get").mockReturnValue(Readable.from([bytes.subarray(0, 6), bytes.subarray(6)]) as never);
    try {
      const { out } = await tokenize("--stdin", "--json");
      expect(JSON.parse(out)).toMatchObject({ text: "was 🎋\n" });
    } finally {
      stdin.mockRestore();
    }
  });

  test("mistakes: none or two of the sources, no list, no tokenizer", async () => {
    const mistake = async (message: string, ...argv: string[]): Promise<void> => {
      const { code, out, err } = await culm("tokenize", ...argv);
      expect({ code, out }).toEqual({ code: 1, out: "" });
      expect(err).toContain(message);
      expect(err).not.toContain("    at ");
    };
    await mistake("expected one of a text, --ids and --stdin", "--model", tinyFolder);
    await mistake("expected one of a text, --ids and --stdin", "--model", tinyFolder, "x", "--ids", "1");
    await mistake("Expected a whole number", "--model", tinyFolder, "--ids", "1,x");
    await mistake("tokenizer.json: there is no such file", "--model", goldenFolder("base"), "x");
  });
});
