import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { decodeFloats } from "../../runtime/numeric.ts";
import { culm, launch } from "../support/cli.ts";
import { goldenFolder, tinyFolder } from "../support/model-folder.ts";
import { farthest } from "../support/running.ts";

/** The command line with the compiler: in this process, and through the launcher as a user starts it. */
const scratch = mkdtempSync(join(tmpdir(), "culm-cli-llvm-"));
const cache = join(scratch, "cache");
let before: string | undefined;
beforeAll(() => {
  before = process.env["CULM_CACHE"];
  process.env["CULM_CACHE"] = cache;
});
afterAll(() => {
  if (before === undefined) delete process.env["CULM_CACHE"];
  else process.env["CULM_CACHE"] = before;
  rmSync(scratch, { recursive: true, force: true });
});

describe("demo", () => {
  test("compiles, says what it runs on, continues the prompt and gives its figures; the second time from the cache", async () => {
    const first = await culm("demo", "--max-new-tokens", "8");
    expect(first.code).toBe(0);
    expect(first.out).toMatch(
      /^culm 0\.1: bamba-tiny \(6\.8 M parameters, bf16\) on llvm\/\S+, CPU, \d+ threads?\ncompiled \d+ kernels in [\d.]+ m?s {3}per token: \d+ launches, 0 allocations, 13\.8 MB/,
    );
    expect(first.out).toContain("\nIt was the best of the world, and we were all");
    expect(first.out).toMatch(/\n8 tokens, [\d.]+ tokens\/s, first token after [\d.]+ m?s\n$/);
    const second = await culm("demo", "Alice was", "--max-new-tokens", "8");
    expect(second.out).toContain("kernels from the cache in");
    expect(second.out).toContain("\nAlice was a very good day, and");
  });
});

describe("compile and inspect", () => {
  const folder = join(scratch, "tiny.culm");

  test("an artifact of its own, for two rows", async () => {
    const { code, out } = await culm("compile", "--model", tinyFolder, "--out", folder, "--batch", "2", "--max-length", "128", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ out: folder, programs: ["prefill", "decode.2", "sample"] });
    expect(readdirSync(folder).sort()).toEqual(["kernels.bin", "literals.bin", "manifest.json"]);
  });

  test("--json has the plan, the memory and the kernels", async () => {
    const { code, out } = await culm("inspect", "--artifact", folder, "--json");
    expect(code).toBe(0);
    const report = JSON.parse(out) as {
      name: string;
      memory: Record<string, number>;
      programs: { name: string; launches: number; steps: { label: string; kernel: number }[] }[];
      kernels: { uses: number }[];
      precision: unknown;
    };
    expect(report.name).toBe("bamba-tiny");
    expect(report.precision).toMatchObject({ weights: { bf16: 75 }, arithmetic: "f32" });
    expect(report.memory["total"]).toBe(
      Object.entries(report.memory).reduce((sum, [what, bytes]) => sum + (what === "total" ? 0 : bytes), 0),
    );
    const [prefill] = report.programs;
    expect(prefill!.steps).toHaveLength(prefill!.launches);
    expect(prefill!.steps.some(({ label }) => label.startsWith("layers.3.self_attn"))).toBe(true);
    expect(report.kernels.reduce((sum, { uses }) => sum + uses, 0)).toBe(report.programs.reduce((sum, { launches }) => sum + launches, 0));
  });

  test("for people, with a table a program", async () => {
    const { code, out } = await culm("inspect", "--model", tinyFolder);
    expect(code).toBe(0);
    for (const part of [
      "precision",
      "memory of one session",
      "program prefill:",
      "program decode.1:",
      "layers.0.mamba.in_proj",
      "kernels:",
    ])
      expect(out).toContain(part);
  });

  test("for another level of instructions, or for one that there is not", async () => {
    const other = join(scratch, "other.culm");
    const { code, out } = await culm(
      "compile",
      "--model",
      tinyFolder,
      "--out",
      other,
      "--target",
      "llvm:x86-64",
      "--max-length",
      "64",
      "--json",
    );
    if (process.arch === "x64") {
      expect(code).toBe(0);
      expect(JSON.parse(out)).toMatchObject({ out: other, programs: ["prefill", "decode.1", "sample"] });
      expect(JSON.parse(readFileSync(join(other, "manifest.json"), "utf8"))).toMatchObject({ target: { caps: "x86-64" } });
    }
    const none = await culm("compile", "--model", tinyFolder, "--out", other, "--target", "z80");
    expect(none.code).toBe(1);
    expect(none.err).toMatch(/^error: target z80: .*x86-64-avx2/);
    const threads = await culm("demo", "--threads", "0");
    expect(threads.code).toBe(1);
    expect(threads.err).toContain("--threads");
  });

  test("a damaged artifact is refused by file and field", async () => {
    rmSync(join(folder, "kernels.bin"));
    const { code, err } = await culm("inspect", "--artifact", folder);
    expect(code).toBe(1);
    expect(err).toContain("kernels.bin: cannot be read");
  });
});

test("forward gives what the interpreter gives", async () => {
  const outputs = [join(scratch, "llvm.safetensors"), join(scratch, "interpret.safetensors")] as const;
  const inputs = join(scratch, "in.safetensors");
  const { writeSafetensors } = await import("../../runtime/node/write-safetensors.ts");
  writeSafetensors(inputs, [
    { name: "input_ids", dtype: "I32", shape: [2, 5], data: new Uint8Array(Int32Array.of(3, 1, 4, 1, 5, 9, 2, 6, 5, 3).buffer) },
  ]);
  for (const [i, backend] of (["llvm", "interpret"] as const).entries()) {
    const { code } = await culm("forward", "--model", goldenFolder("options"), "--inputs", inputs, "--output", outputs[i]!, "--backend", backend, "--hidden-states", "--max-length", "64"); // prettier-ignore
    expect(code).toBe(0);
  }
  const [a, b] = outputs.map((file) => openCheckpoint(file)) as [ReturnType<typeof openCheckpoint>, ReturnType<typeof openCheckpoint>];
  expect([...a.tensors.keys()].sort()).toEqual([...b.tensors.keys()].sort());
  for (const name of a.tensors.keys())
    expect(farthest(decodeFloats("F32", a.read(name)), decodeFloats("F32", b.read(name)))).toBeLessThan(1e-4);
});

test("bench measures the model and the machine in one run", async () => {
  const { code, out } = await culm(
    "bench",
    "--model",
    tinyFolder,
    "--prefill",
    "24",
    "--decode",
    "4",
    "--repeat",
    "1",
    "--threads",
    "1",
    "--profile",
    "--json",
  );
  expect(code).toBe(0);
  const { runs } = JSON.parse(out) as {
    runs: {
      threads: number;
      decode: { share: number; bytesPerToken: number };
      prefill: { share: number };
      profile: { decode: { launches: number }[] };
    }[];
  };
  expect(runs).toHaveLength(1);
  expect(runs[0]!.threads).toBe(1);
  for (const share of [runs[0]!.decode.share, runs[0]!.prefill.share]) expect(share).toBeGreaterThan(0);
  // all weights but the table of embeddings, 4096 x 256 in bf16
  expect(runs[0]!.decode.bytesPerToken).toBeCloseTo(13_771_264 - 4096 * 256 * 2, -5);
  expect(runs[0]!.profile.decode.reduce((sum, { launches }) => sum + launches, 0)).toBe(33);
});

test("bench makes a model of random weights from a configuration, and leaves nothing behind", async () => {
  const temporary = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith("culm-bench-"));
  const before = temporary();
  const config = join(goldenFolder("base"), "config.json");
  const { code, out } = await culm(
    "bench",
    "--config",
    config,
    "--dtype",
    "bf16",
    "--prefill",
    "8",
    "--decode",
    "2",
    "--repeat",
    "1",
    "--threads",
    "1",
  );
  expect(code).toBe(0);
  expect(out).toContain("parameters in bf16, on llvm");
  expect(out).toMatch(/peak memory .* times the checkpoint's/);
  expect(temporary()).toEqual(before);
});

test("npm start: the set-up and then the demo, with a prompt, from the sources as they are", () => {
  const start = fileURLToPath(new URL("../../scripts/start.mjs", import.meta.url));
  const { status, stdout } = spawnSync(process.execPath, [start, "It was the best of"], { encoding: "utf8" });
  expect(stdout).toContain("It was the best of the world, and we were all in a state of mind");
  expect(stdout).toMatch(/compiled \d+ kernels .* per token: 33 launches, 0 allocations/);
  expect(stdout).toMatch(/\n64 tokens, [\d.,]+ tokens\/s, first token after/);
  expect(status).toBe(0);
});

describe("the launcher", () => {
  test("a start from the cache: the same text as in this process, exit code 0", async () => {
    const { code, out, err } = await launch(["generate", "--model", tinyFolder, "--prompt", "Alice was", "--max-new-tokens", "8"]);
    expect(err).toMatch(/8 tokens/);
    expect(code).toBe(0);
    expect(out).toMatch(/^Alice was a very good day, and .*\n$/);
  });

  test("a mistake of the user's: exit code 1, one message, no stack", async () => {
    const { code, out, err } = await launch(["generate", "--model", join(scratch, "nowhere"), "--prompt", "x"]);
    expect({ code, out }).toEqual({ code: 1, out: "" });
    expect(err).toMatch(/^error: .*nowhere: there is no such folder\nhint: /);
    expect(err).not.toContain("    at ");
  });

  test("an unknown flag and an unknown command: exit code 1", async () => {
    expect((await launch(["generate", "--wat"])).code).toBe(1);
    expect((await launch(["fly"])).code).toBe(1);
  });

  test("no libLLVM: exit code 1 and how to install it", async () => {
    const { code, err } = await launch(["demo"], { env: { CULM_LLVM: join(scratch, "libLLVM.so") } });
    expect(code).toBe(1);
    expect(err).toContain("libLLVM was not found");
    expect(err).toContain("apt-get install");
    expect(err).not.toContain("    at ");
  });

  test("Ctrl-C ends the text where it is, in good order", async () => {
    let killed = false;
    const { code, out, err } = await launch(["demo", "--max-new-tokens", "2000", "--max-length", "2048", "Call me"], {
      during: (text, { interrupt }) => {
        if (killed || text.length < 300) return;
        killed = true; // a second one would end the process on the spot
        interrupt();
      },
    });
    expect(err).toBe("");
    expect(code).toBe(130);
    expect(out).toMatch(/\n\d+ tokens, .*\n$/);
    expect(Number(/\n(\d+) tokens,/.exec(out)?.[1])).toBeLessThan(2000);
  });

  test("what is compiled is kept below CULM_CACHE and nowhere else", () => {
    expect(existsSync(join(cache, "models"))).toBe(true);
    for (const entry of readdirSync(join(cache, "models")))
      expect(readFileSync(join(cache, "models", entry, "manifest.json"), "utf8")).toContain("culm-artifact");
  });
});
