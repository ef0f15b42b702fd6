import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseKernels } from "../../backends/metal/toolchain.ts";
import { read } from "../../compiler/ir/dtype.ts";
import type { KernelCase } from "../../models/auto/metal/cases.ts";
import { hash, inputFor, PERIOD } from "../../models/auto/metal/inputs.ts";
import { readArtifact } from "../../runtime/node/artifact.ts";
import { culm } from "../support/cli.ts";
import { skipsClang } from "../support/metal/clang.ts";
import { runJob } from "../support/metal/run.ts";
import { scratchFolder, tinyFolder } from "../support/model-folder.ts";

/** What `culm compile --target metal` writes for a Mac, as far as that can be tried without one. */
const scratch = scratchFolder("metal-artifact");
const folder = join(scratch.path, "tiny.culm");
const text = (name: string): string => readFileSync(join(folder, name), "utf8");

beforeAll(async () => {
  const plan = ["--max-length", "64", "--prefill-chunk", "16"];
  const { code, err } = await culm("compile", "--model", tinyFolder, "--out", folder, "--target", "metal:m4", ...plan);
  expect(err).toMatch(/kernels for m4, programs prefill, decode\.1, sample/);
  expect(code).toBe(0);
});
afterAll(() => {
  scratch.remove();
});

test("nothing here runs it", async () => {
  const { code, err } = await culm("generate", "--model", tinyFolder, "--target", "metal", "--prompt", "x");
  expect(code).not.toBe(0);
  expect(err).toMatch(/kernels for Metal run in an app on a Mac.*culm compile --target metal writes them/s);
});

test("a target that there is not is refused with those that there are", async () => {
  const { code, err } = await culm("compile", "--model", tinyFolder, "--out", `${folder}.other`, "--target", "metal:m2");
  expect(code).not.toBe(0);
  expect(err).toContain('there is no target "m2"; the targets are m1, m3, m4, m5');
});

const cases = (): readonly KernelCase[] => (JSON.parse(text("verify/cases.json")) as { readonly cases: readonly KernelCase[] }).cases;

test("the folder is an artifact, with its kernels as files, cases for all of them, a host and a script", async () => {
  const { manifest, kernels } = await readArtifact(folder);
  expect(manifest.target).toMatchObject({ backend: "metal", caps: "m4", requires: { features: ["Apple9", "MSL 3.1"] } });
  const entries = manifest.kernels.map((k) => k.entry).sort();
  expect(
    parseKernels(kernels)
      .map((k) => k.entry)
      .sort(),
  ).toEqual(entries);
  expect(readdirSync(join(folder, "kernels")).sort()).toEqual(entries.map((e) => `${e}.metal`));
  expect(
    cases()
      .map((c) => c.entry)
      .sort(),
  ).toEqual(entries);
  expect(cases().filter((c) => c.skipped !== null)).toEqual([]);
  for (const c of cases())
    expect(
      c.expected.reduce((n, e) => n + e.count, 0),
      c.entry,
    ).toBeGreaterThan(0);
  expect(readdirSync(join(folder, "host")).sort()).toEqual([
    "Artifact.swift",
    "Checkpoint.swift",
    "Model.swift",
    "Verify.swift",
    "main.swift",
  ]);
  expect(statSync(join(folder, "verify-on-mac.sh")).mode & 0o111).toBe(0o111);
  expect(text("verify-on-mac.sh")).toMatch(/NOT RUN BY US[^]*-std=metal3\.1 -Werror/);
});

test("arguments of every step fit the kernel's bindings", async () => {
  const { manifest, kernels } = await readArtifact(folder);
  const bindings = new Map(parseKernels(kernels).map((k) => [k.entry, k.bindings]));
  for (const { steps } of manifest.programs)
    for (const { kernel, args } of steps) {
      const { entry, symbols } = manifest.kernels[kernel]!;
      expect(bindings.get(entry)!.buffers).toHaveLength(args.length);
      expect(bindings.get(entry)!.symbols).toEqual(symbols);
    }
});

test("inputs are a rule that any language can follow", () => {
  // the same numbers as host/Verify.swift computes, in 32 bits without a sign
  expect([0, 1, 2].map((i) => hash(i, 5))).toEqual([0, 1, 2].map((i) => reference(i, 5)));
  expect([...inputFor("f32", 3, 5)].every((x) => x >= -1 && x < 1 && x === Math.fround(x))).toBe(true);
  const long = inputFor("bf16", 2 * PERIOD + 10, 5);
  for (const at of [0, 9, PERIOD - 1]) expect(long[at + PERIOD]).toBe(long[at]);
  expect(long[2 * PERIOD + 9]).toBe(long[9]);
});

/** The rule once more, in big numbers. */
function reference(i: number, seed: number): number {
  const mask = 0xffffffffn;
  let h = ((BigInt(i) ^ BigInt(seed)) * 0x9e3779b1n) & mask;
  h ^= h >> 15n;
  h = (h * 0x85ebca6bn) & mask;
  h ^= h >> 13n;
  h = (h * 0xc2b2ae35n) & mask;
  return Number(h ^ (h >> 16n));
}

test.skipIf(skipsClang)("every kernel gives on the stand-in what its case says", { timeout: 240_000 }, async () => {
  const { kernels } = await readArtifact(folder);
  const sources = new Map(parseKernels(kernels).map((k) => [k.entry, k]));
  const expected = readFileSync(join(folder, "verify", "expected.bin"));
  for (const c of cases()) {
    const { source, bindings, threads } = sources.get(c.entry)!;
    const memory = c.buffers.map((b) => inputFor(b.dtype, b.elements, b.seed));
    const launch = {
      source: { language: "metal", text: source, entry: c.entry, sharedBytes: 0, bindings } as const,
      threads,
      grid: c.grid,
      args: c.buffers.map((_, i) => [i, 0] as const),
      symbols: c.symbols,
    };
    runJob(
      { build: "plain", order: 0, launches: [launch] },
      memory.map((m) => new Uint8Array(m.buffer)),
    );
    for (const e of c.expected)
      for (let i = 0; i < e.count; i++) {
        const at = expected.readInt32LE(e.offset + 4 * i);
        const wanted = expected.readFloatLE(e.offset + 4 * (e.count + i));
        const got = read(memory[e.buffer]!, c.buffers[e.buffer]!.dtype, at);
        if (!Object.is(got, wanted) && !(Math.abs(got - wanted) <= e.tolerance * (1 + Math.abs(wanted))))
          expect.fail(`${c.entry} (${c.label}): element ${at} of buffer ${e.buffer} is ${got}, expected ${wanted}`);
      }
  }
});

describe.skipIf(process.platform === "win32")("verify-on-mac.sh, with stand-ins for Apple's tools", () => {
  const tools = join(scratch.path, "tools");
  const log = join(scratch.path, "log");
  beforeAll(() => {
    mkdirSync(tools);
    // each tool notes what it is given and makes its output; the host that "swiftc" makes notes how it is called
    const xcrun = `#!/bin/sh
echo "$@" >> ${log}
tool=$3
for last in "$@"; do out=$last; done
if [ "$tool" = metal ] && grep -q "does not compile" "$8"; then exit 1; fi
if [ "$tool" = swiftc ]; then printf '#!/bin/sh\\necho "host $@"\\nexit 7\\n' > "$out"; chmod +x "$out"; else : > "$out"; fi
`;
    writeFileSync(join(tools, "xcrun"), xcrun);
    chmodSync(join(tools, "xcrun"), 0o755);
  });
  const verify = (): ReturnType<typeof spawnSync> => {
    writeFileSync(log, "");
    return spawnSync("/bin/sh", [join(folder, "verify-on-mac.sh")], {
      encoding: "utf8",
      env: { ...process.env, PATH: `${tools}${delimiter}${process.env["PATH"] ?? ""}` },
    });
  };

  test("compiles every kernel with warnings as errors, links them, and ends as the host does", () => {
    const { status, stdout, stderr } = verify();
    expect([status, stdout, stderr]).toEqual([7, "host verify .\n", ""]);
    const lines = readFileSync(log, "utf8").trim().split("\n");
    const metal = lines.filter((l) => l.includes(" metal "));
    expect(metal).toHaveLength(cases().length);
    for (const l of metal)
      expect(l).toMatch(/^-sdk macosx metal -std=metal3\.1 -Werror -fno-fast-math -c kernels\/(\w+)\.metal -o build\/\1\.air$/);
    expect(lines.at(-2)).toMatch(/^-sdk macosx metallib build\/.*\.air -o build\/kernels\.metallib$/);
    expect(lines.at(-1)).toBe(
      "-sdk macosx swiftc -O host/Artifact.swift host/Checkpoint.swift host/Model.swift host/Verify.swift host/main.swift -o build/culm-metal",
    );
  });

  test("names every kernel that does not compile, and runs nothing then", () => {
    const [first, second] = cases().map((c) => c.entry);
    for (const entry of [first!, second!]) writeFileSync(join(folder, "kernels", `${entry}.metal`), "// does not compile\n");
    const { status, stdout } = verify();
    expect(status).toBe(1);
    for (const entry of [first!, second!]) expect(stdout).toContain(`kernels/${entry}.metal does not compile`);
    expect(stdout).toContain("2 kernels do not compile");
    expect(readFileSync(log, "utf8")).not.toContain("swiftc");
  });
});
