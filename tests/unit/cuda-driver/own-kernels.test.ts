import { expect, test, vi } from "vitest";
import { complaintOf } from "../../../backends/cuda/report.ts";
import { openCudaCeilings } from "../../../runtime/drivers/cuda/ceilings.ts";
import { cuda } from "../../../runtime/drivers/cuda/device.ts";
import { openNoise } from "../../../runtime/drivers/cuda/noise.ts";
import type { CompileCuda } from "../../../runtime/drivers/cuda/own-kernels.ts";
import { FakeCuda } from "../../support/fake-cuda.ts";
import type { FakeKernel } from "../../support/fake-cuda.ts";
import { assemble, NO_NVCC, nvccAvailable } from "../../support/nvcc.ts";

const entriesOf = (text: string): readonly string[] => [...text.matchAll(/ (culm_\w+)\(/g)].map((found) => found[1]!);

/** What the fake GPU loads for a text: the names of its kernels. */
const compile = vi.fn<CompileCuda>((text) =>
  Promise.resolve({
    binary: new TextEncoder().encode(`\u007fELF${JSON.stringify(Object.fromEntries(entriesOf(text).map((e) => [e, 1])))}`),
  }),
);

const nothing = (params: number): FakeKernel => ({ params, symbols: 0, body: () => undefined });

test("what a device can do is measured over all of its memory and processors, and nothing is left behind", async () => {
  const kernels = { culm_copy: nothing(2), culm_read: nothing(2), culm_fma: nothing(1), culm_mma: nothing(1) };
  const library = new FakeCuda({ kernels });
  const device = await cuda(library).open();
  const before = library.live.size;
  const ceilings = await openCudaCeilings(device, 4, compile);
  // a launch and an event, a millisecond of the fake clock: 8 MiB are copied, 4 MiB read
  expect(await ceilings.copyBandwidth()).toBeCloseTo((8 * 2 ** 20) / 1e-3, -3);
  expect(await ceilings.readBandwidth()).toBeCloseTo((4 * 2 ** 20) / 1e-3, -3);
  expect(await ceilings.fmaRate()).toBeCloseTo((2 * 132 * 8 * 256 * 2048 * 16) / 1e-3, -6);
  expect(await ceilings.mmaRate()).toBeCloseTo((132 * 8 * 8 * 2048 * 8 * 4096) / 1e-3, -6);
  expect(library.launched.map(({ entry, grid, threads }) => [entry, grid[0], threads])).toEqual([
    ["culm_copy", 128, 256],
    ["culm_read", 128, 256],
    ["culm_fma", 1056, 256],
    ["culm_mma", 1056, 256],
  ]);
  ceilings.free();
  expect(library.live.size).toBe(before);
  await device.close();
});

test("noise fills ranges of a buffer, and each tensor has its own", async () => {
  const asked: { bytes: number; symbols: readonly number[]; blocks: number }[] = [];
  const noiseKernel: FakeKernel = {
    params: 1,
    symbols: 4,
    body: ([to], symbols, [blocks]) => void asked.push({ bytes: to!.length, symbols: [...symbols], blocks }),
  };
  const library = new FakeCuda({ kernels: { culm_noise: noiseKernel } });
  const device = await cuda(library).open();
  const noise = await openNoise(device, compile);
  const buffer = device.alloc(20_000, "weights");
  await noise.fill(buffer, 400, 2049, "bf16", 0.5, "a");
  await noise.fill(buffer, 0, 10, "f32", 0.5, "b");
  await noise.fill(buffer, 0, 10, "f16", 0.5, "a");
  await device.ready();
  await buffer.read(0, 1);
  const scale = new Int32Array(Float32Array.of(0.5 * Math.sqrt(3)).buffer)[0]!;
  expect(asked.map(({ bytes, blocks }) => [bytes, blocks])).toEqual([
    [19_600, 2],
    [20_000, 1],
    [20_000, 1],
  ]);
  expect(asked.map(({ symbols }) => [symbols[0], symbols[1], symbols[3]])).toEqual([
    [1, 2049, scale],
    [0, 10, scale],
    [2, 10, scale],
  ]);
  expect(asked[0]!.symbols[2]).toBe(asked[2]!.symbols[2]);
  expect(asked[0]!.symbols[2]).not.toBe(asked[1]!.symbols[2]);
  await expect(noise.fill(buffer, 0, 10_001, "bf16", 1, "a")).rejects.toThrow("10001 elements of bf16 at byte 0 of a buffer of 20000");
  await expect(noise.fill(buffer, 0, 10, "i32", 1, "a")).rejects.toThrow("in f32, bf16, f16, not in i32");
  noise.free();
  await device.close();
});

test("the driver's own kernels compile without headers, and keep their registers", (context) => {
  if (!nvccAvailable) return void context.skip(NO_NVCC);
  const texts = [...new Set(compile.mock.calls.map(([text]) => text))];
  expect(texts).toHaveLength(2);
  for (const text of texts) {
    const reports = assemble([{ language: "cuda", text, entry: "", sharedBytes: 0 }], "sm_80");
    expect([...reports.keys()].sort()).toEqual([...entriesOf(text)].sort());
    for (const report of reports.values()) expect(complaintOf(report)).toBeNull();
  }
});
