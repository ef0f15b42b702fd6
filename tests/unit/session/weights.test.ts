import { describe, expect, test } from "vitest";
import type { DType, Manifest, WeightEntry } from "../../../compiler/artifact.ts";
import { BYTES, NO_REQUIREMENTS } from "../../../compiler/artifact.ts";
import { isUserError } from "../../../runtime/errors.ts";
import { decodeFloats, encodeFloats } from "../../../runtime/numeric.ts";
import type { FloatDType } from "../../../runtime/numeric.ts";
import { packPanels } from "../../../runtime/pack.ts";
import type { StorageDType } from "../../../runtime/safetensors.ts";
import { checkWeights, createStaging, loadWeight, sourceBytes, stagingBytes } from "../../../runtime/weights.ts";
import type { WeightSource } from "../../../runtime/weights.ts";

const storage: Readonly<Record<"f32" | "bf16" | "f16", FloatDType>> = { f32: "F32", bf16: "BF16", f16: "F16" };

interface Stored {
  readonly dtype: StorageDType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A checkpoint in memory that counts how often each byte is read, and what is asked for at once. */
function memorySource(tensors: Readonly<Record<string, Stored>>) {
  const reads = new Map<string, Uint8Array>(Object.entries(tensors).map(([name, { bytes }]) => [name, new Uint8Array(bytes.length)]));
  let largest = 0;
  const source: WeightSource = {
    path: "memory",
    tensors: new Map(Object.entries(tensors).map(([name, { dtype, shape }]) => [name, { dtype, shape, file: "memory/model.safetensors" }])),
    readInto(name, target, offset) {
      target.set(tensors[name]!.bytes.subarray(offset, offset + target.length));
      const counts = reads.get(name)!;
      for (let i = 0; i < target.length; i += 1) counts[offset + i]! += 1;
      largest = Math.max(largest, target.length);
    },
  };
  return { source, once: () => [...reads.values()].every((counts) => counts.every((n) => n === 1)), largest: () => largest };
}

const values = (count: number, start = 0): Float32Array => Float32Array.from({ length: count }, (_, i) => ((start + i) % 251) / 8 - 15);
const stored = (dtype: FloatDType, shape: readonly number[], start = 0): Stored => ({
  dtype,
  shape,
  bytes: encodeFloats(
    dtype,
    values(
      shape.reduce((n, d) => n * d, 1),
      start,
    ),
  ),
});

function entryOf(dtype: "f32" | "bf16" | "f16", parts: WeightEntry["parts"], cols: number, panel: number): WeightEntry {
  const rows = parts.reduce((n, { shape }) => n + shape.reduce((m, d) => m * d, 1) / cols, 0);
  const held = panel > 0 ? Math.ceil(rows / panel) * panel : rows;
  return { name: "w", dtype, parts, rows, cols, panel, bytes: held * cols * BYTES[dtype] };
}

const manifestOf = (...weights: WeightEntry[]): Manifest => ({
  format: "culm-artifact",
  version: 2,
  compiler: "test",
  name: "test",
  target: { backend: "none", caps: "none", toolchain: "none", requires: NO_REQUIREMENTS },
  weights,
  literals: [],
  states: [],
  programs: [],
  kernels: [],
  metadata: {},
});

async function load(entry: WeightEntry, source: WeightSource): Promise<Float32Array> {
  // Filled with rubbish: padding has to be written.
  const memory = new Uint8Array(entry.bytes).fill(0xab);
  let progress = 0;
  const sink = { window: (offset: number, bytes: number) => memory.subarray(offset, offset + bytes), commit: () => undefined };
  await loadWeight(entry, source, sink, createStaging(), (bytes) => (progress += bytes));
  expect(progress).toBe(sourceBytes([entry], source));
  return decodeFloats(storage[entry.dtype as "f32"], memory);
}

/** The element of [rows, cols] at its place in panels. */
const at = (data: Float32Array, cols: number, panel: number, row: number, k: number): number =>
  panel === 0 ? data[row * cols + k]! : data[Math.floor(row / panel) * panel * cols + k * panel + (row % panel)]!;

describe("panels", () => {
  for (const [rows, cols, panel] of [
    [1, 1, 1],
    [7, 5, 4],
    [64, 130, 16],
    [33, 64, 32],
    [10, 7, 64],
    [6, 3, 6],
  ] as const) {
    for (const width of [2, 4] as const) {
      test(`${rows} x ${cols} in panels of ${panel}, ${width} bytes`, () => {
        const make = (n: number) => (width === 2 ? new Uint16Array(n) : new Uint32Array(n));
        const source = make(rows * cols).map((_, i) => i + 1);
        const target = make(Math.ceil(rows / panel) * panel * cols).fill(999);
        packPanels(source, target, rows, cols, panel);
        const expected = make(target.length);
        for (let row = 0; row < rows; row += 1)
          for (let k = 0; k < cols; k += 1)
            expected[Math.floor(row / panel) * panel * cols + k * panel + (row % panel)] = row * cols + k + 1;
        expect(target).toEqual(expected);
      });
    }
  }
});

describe("loading a weight", () => {
  for (const from of ["F64", "F32", "F16", "BF16"] as const) {
    for (const to of ["f32", "bf16", "f16"] as const satisfies readonly DType[]) {
      for (const panel of [0, 4]) {
        test(`${from} to ${to}, ${panel === 0 ? "rows" : "panels"}, two parts stacked`, async () => {
          const { source, once } = memorySource({ a: stored(from, [5, 6]), b: stored(from, [6, 6], 30) });
          const entry = entryOf(to, [{ tensor: "a", shape: [5, 6] }, { tensor: "b", shape: [6, 6] }], 6, panel); // prettier-ignore
          const loaded = await load(entry, source);
          const expected = values(66);
          for (let row = 0; row < 11; row += 1)
            for (let k = 0; k < 6; k += 1) expect(at(loaded, 6, panel, row, k)).toBe(expected[row * 6 + k]);
          if (panel > 0) for (let k = 0; k < 6; k += 1) expect(at(loaded, 6, panel, 11, k)).toBe(0);
          expect(once()).toBe(true);
        });
      }
    }
  }

  test("a weight of many blocks reads each byte once, and never much at a time", async () => {
    const shape = [3000, 1000];
    const data: Stored = { dtype: "F32", shape, bytes: new Uint8Array(new Float32Array(3_000_000).map((_, i) => i).buffer) };
    const { source, once, largest } = memorySource({ a: data });
    const loaded = await load(entryOf("f32", [{ tensor: "a", shape }], 1000, 16), source);
    for (let row = 0; row < 3000; row += 7) for (let k = 0; k < 1000; k += 13) expect(at(loaded, 1000, 16, row, k)).toBe(row * 1000 + k);
    expect(once()).toBe(true);
    expect(largest()).toBeLessThanOrEqual(stagingBytes);
  });

  test("a panel of all rows is the transposed matrix", async () => {
    const { source } = memorySource({ a: stored("BF16", [5, 1, 4]) });
    const loaded = await load(entryOf("f32", [{ tensor: "a", shape: [5, 4] }], 4, 5), source);
    const expected = values(20);
    expect([...loaded]).toEqual(Array.from({ length: 20 }, (_, i) => expected[(i % 5) * 4 + Math.floor(i / 5)]));
  });
});

describe("a checkpoint that does not fit is refused before anything is read", () => {
  const entry = entryOf("f32", [{ tensor: "a", shape: [2, 3] }], 3, 0);
  const refusal = (tensors: Readonly<Record<string, Stored>>): string => {
    try {
      checkWeights(manifestOf(entry), memorySource(tensors).source);
    } catch (error) {
      expect(isUserError(error)).toBe(true);
      return (error as Error).message;
    }
    return "";
  };
  test("missing", () => expect(refusal({})).toBe("memory: tensor a is missing, which the compiled model reads"));
  test("extra", () => expect(refusal({ a: stored("F32", [2, 3]), b: stored("F32", [1]) })).toContain("tensor b is in the checkpoint"));
  test("wrong shape", () =>
    expect(refusal({ a: stored("F32", [3, 2]) })).toBe(
      "memory/model.safetensors: tensor a has shape [3, 2], the compiled model expects [2, 3]",
    ));
  test("wrong dtype", () =>
    expect(refusal({ a: { dtype: "I32", shape: [2, 3], bytes: new Uint8Array(24) } })).toContain("tensor a has dtype I32"));
  test("rotary frequencies of old files may be there", () =>
    expect(refusal({ a: stored("F32", [2, 3]), "layers.0.rotary_emb.inv_freq": stored("F32", [4]) })).toBe(""));
});
