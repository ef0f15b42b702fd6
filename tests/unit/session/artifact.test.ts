import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import type { Manifest } from "../../../compiler/artifact.ts";
import { NO_REQUIREMENTS } from "../../../compiler/artifact.ts";
import { isUserError } from "../../../runtime/errors.ts";
import { parseManifest } from "../../../runtime/manifest.ts";
import { readArtifact, writeArtifact } from "../../../runtime/node/artifact.ts";

const folder = mkdtempSync(join(tmpdir(), "culm-artifact-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const good: Manifest = {
  format: "culm-artifact",
  version: 2,
  compiler: "0.1.0",
  name: "tiny",
  target: { backend: "null", caps: "null-32", toolchain: "none", requires: NO_REQUIREMENTS },
  weights: [{ name: "w", dtype: "bf16", parts: [{ tensor: "a", shape: [3, 4] }], rows: 3, cols: 4, panel: 2, bytes: 32 }],
  literals: [{ name: "table", dtype: "f32", shape: [2, 2], offset: 4, bytes: 16 }],
  states: [{ name: "s", dtype: "f32", shape: ["batch", 4], bytes: 32 }],
  programs: [
    {
      name: "prefill",
      symbols: [
        { name: "batch", min: 1, max: 2 },
        { name: "seq", min: 1, max: 5 },
      ],
      inputs: [{ name: "ids", dtype: "i32", shape: ["batch", "seq"], bytes: 40 }],
      outputs: [{ name: "y", dtype: "f32", shape: ["batch", ["mul", 2, "seq"]], bytes: 80 }],
      arenas: [64],
      steps: [
        {
          kernel: 0,
          grid: [["idiv", ["add", "seq", 3], 4], "batch", 1],
          args: [
            { kind: "weight", name: "w" },
            { kind: "literal", name: "table" },
            { kind: "input", name: "ids" },
            { kind: "state", name: "s" },
            { kind: "arena", arena: 0, offset: 32 },
            { kind: "output", name: "y" },
          ],
          label: "layers.0",
          bytes: ["mul", "seq", 100],
          flops: 0,
        },
      ],
    },
  ],
  kernels: [{ entry: "k0", name: "k0", template: "rows", config: { block: 4 }, symbols: ["seq"], threads: 8, sharedBytes: 0 }],
  metadata: { vocabSize: 8 },
};

type Json = Record<string, unknown>;

/** The good manifest with one place changed. */
function changed(path: string, value: unknown): unknown {
  const copy = structuredClone(good) as unknown as Json;
  const keys = path.split(".");
  let at = copy;
  for (const key of keys.slice(0, -1)) at = at[key] as Json;
  const last = keys.at(-1)!;
  if (value === undefined) Reflect.deleteProperty(at, last);
  else at[last] = value;
  return copy;
}

function refusal(json: unknown, literalBytes = 20): string {
  try {
    parseManifest(json, literalBytes, "x/manifest.json");
  } catch (error) {
    expect(isUserError(error)).toBe(true);
    expect((error as Error).message).toMatch(/^x\/manifest\.json: /);
    return (error as Error).message.slice("x/manifest.json: ".length);
  }
  return "";
}

describe("a manifest", () => {
  test("as the compiler writes it is taken as it is", () => {
    expect(parseManifest(JSON.parse(JSON.stringify(good)), 20, "x")).toEqual(good);
  });

  const deep = (depth: number): unknown => (depth === 0 ? 1 : ["add", deep(depth - 1), 1]);
  const cases: readonly (readonly [path: string, value: unknown, message: string])[] = [
    ["format", "zip", "format:"],
    ["version", 1, "version: this is an artifact of version 1"],
    ["weights", undefined, "weights:"],
    ["weights.0.dtype", "f8", "weights.0.dtype: expected f32"],
    ["weights.0.dtype", "i32", "weights.w: a weight cannot be i32"],
    ["weights.0.bytes", 24, "weights.w: 3 x 4 of bf16 in panels of 2 has 32 bytes, not 24"],
    ["weights.0.rows", 4, "weights.w: its parts have 3 rows, not 4"],
    ["weights.0.cols", 5, "weights.w: [3, 4] of a is not made of rows of 5"],
    ["weights.0.rows", -1, "weights.0.rows:"],
    ["weights.0.rows", 1.5, "weights.0.rows:"],
    ["weights.0.rows", 2 ** 53, "weights.0.rows:"],
    ["weights.0.parts", [], "weights.0.parts:"],
    ["weights.1", good.weights[0], 'weights: the name "w" is given twice'],
    ["literals.0.offset", 8, "literals.table: bytes 8 to 24 lie outside literals.bin, which has 20"],
    ["literals.0.offset", 2, "literals.table: offset 2 is not a multiple"],
    ["literals.0.bytes", 12, "literals.table: [2, 2] of f32 has 16 bytes, not 12"],
    ["programs", [], "programs:"],
    ["programs.0.symbols.0.min", 3, "programs.prefill.symbols.batch: the least value 3"],
    ["programs.0.inputs.0.bytes", 44, "programs.prefill.inputs.ids: [2, 5] of i32 has 40 bytes, not 44"],
    ["programs.0.inputs.0.shape", ["batch", "length"], "programs.prefill.inputs.ids:"],
    ["programs.0.outputs.0.shape", ["batch", ["sub", 1, "seq"]], "programs.prefill.outputs.y: [2, -4]"],
    ["programs.0.outputs.0.shape", ["batch", ["pow", 2, "seq"]], "programs.0.outputs.0.shape.1: expected an integer"],
    ["programs.0.outputs.0.shape", [deep(200)], "programs.0.outputs.0.shape.0: expected an integer"],
    ["programs.0.outputs.0.name", "ids", "programs.prefill.outputs.ids: the program also takes an input of this name"],
    ["programs.0.steps.0.kernel", 1, "programs.prefill.steps.0.kernel: there is no kernel 1"],
    ["programs.0.steps.0.grid", [1, 1], "programs.0.steps.0.grid"],
    ["programs.0.steps.0.grid", ["past", 1, 1], "programs.prefill.steps.0:"],
    ["programs.0.steps.0.args.0", { kind: "weight", name: "v" }, 'programs.prefill.steps.0.args.0: there is no weight "v"'],
    [
      "programs.0.steps.0.args.4",
      { kind: "arena", arena: 0, offset: 64 },
      "programs.prefill.steps.0.args.4: offset 64 lies outside arena 0",
    ],
    ["programs.0.steps.0.args.4", { kind: "arena", arena: 0, offset: -8 }, "programs.0.steps.0.args.4.offset:"],
    ["programs.0.steps.0.args.4", { kind: "device", offset: 0 }, "programs.0.steps.0.args.4.kind:"],
    ["kernels.0.symbols", ["past"], "programs.prefill.steps.0: kernel k0 needs the symbol"],
    ["kernels.0.threads", 0, "kernels.0.threads:"],
    ["kernels.1", good.kernels[0], 'kernels: the name "k0" is given twice'],
    ["states.0.bytes", "many", "states.0.bytes:"],
    ["states.0.bytes", 16, "states.s: its shape needs 32 bytes and it has 16"],
    ["metadata", [], "metadata:"],
  ];
  test.each(cases)("%s = %j is refused", (path, value, message) => expect(refusal(changed(path, value))).toContain(message));

  test.each([[null], [[]], ["text"], [7], [{}]])("%j is refused", (json) => expect(refusal(json)).not.toBe(""));
});

test("whatever is changed in a manifest, it is taken or refused, and what is taken keeps its promises", () => {
  const paths: string[] = [];
  const walk = (value: unknown, path: string): void => {
    if (path !== "") paths.push(path);
    if (typeof value === "object" && value !== null)
      for (const [key, inner] of Object.entries(value)) walk(inner, path === "" ? key : `${path}.${key}`);
  };
  walk(good, "");
  const strange = fc.oneof(
    fc.jsonValue(),
    fc.integer(),
    fc.maxSafeInteger(),
    fc.double(),
    fc.constantFrom("batch", "seq", "w", "__proto__", "constructor", ["mul", 2 ** 30, ["mul", 2 ** 30, "seq"]], undefined),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.constantFrom(...paths), strange), { minLength: 1, maxLength: 3 }), (changes) => {
      const copy = structuredClone(good) as unknown as Json;
      for (const [path, value] of changes) {
        const keys = path.split(".");
        const last = keys.pop()!;
        const at = keys.reduce<unknown>(
          (inner, key) => (typeof inner === "object" && inner !== null ? (inner as Json)[key] : undefined),
          copy,
        );
        if (typeof at === "object" && at !== null) (at as Json)[last] = value;
      }
      let taken: Manifest;
      try {
        taken = parseManifest(copy, 20, "x");
      } catch (error) {
        expect(isUserError(error)).toBe(true);
        return;
      }
      for (const { offset, bytes } of taken.literals) expect(offset + bytes).toBeLessThanOrEqual(20);
      for (const { steps, arenas } of taken.programs)
        for (const { kernel, args } of steps) {
          expect(taken.kernels[kernel]).toBeDefined();
          for (const arg of args) if (arg.kind === "arena") expect(arg.offset).toBeLessThan(arenas[arg.arena]!);
        }
    }),
    { numRuns: 5000 },
  );
});

describe("a folder", () => {
  const parts = { manifest: good, kernels: Uint8Array.of(1, 2, 3), literals: new Uint8Array(20).fill(7) };

  test("is read as it was written, and replaced whole", async () => {
    const path = join(folder, "inner", "tiny.culm");
    await writeArtifact(path, parts);
    await writeArtifact(path, { ...parts, kernels: Uint8Array.of(9) });
    const { manifest, kernels, literals } = await readArtifact(path);
    expect(manifest).toEqual(good);
    expect([...kernels]).toEqual([9]);
    expect(literals).toHaveLength(20);
    expect(readdirSync(join(folder, "inner"))).toEqual(["tiny.culm"]);
  });

  test("of something else is left alone", async () => {
    const path = join(folder, "photos");
    mkdirSync(path);
    writeFileSync(join(path, "a.jpg"), "x");
    await expect(writeArtifact(path, parts)).rejects.toThrow("exists already and is not an artifact");
    expect(readdirSync(path)).toEqual(["a.jpg"]);
    expect(readdirSync(folder).filter((name) => name.includes("tmp"))).toEqual([]);
  });

  test("that is missing, or not whole, is refused by name", async () => {
    await expect(readArtifact(join(folder, "nothing"))).rejects.toThrow(/nothing.*there is no such file/);
    const path = join(folder, "half");
    mkdirSync(path);
    writeFileSync(join(path, "kernels.bin"), "");
    writeFileSync(join(path, "literals.bin"), "");
    writeFileSync(join(path, "manifest.json"), "{");
    await expect(readArtifact(path)).rejects.toThrow("manifest.json: is not valid JSON");
    writeFileSync(join(path, "manifest.json"), JSON.stringify(good));
    await expect(readArtifact(path)).rejects.toThrow("lie outside literals.bin, which has 0");
  });
});
