import { expect, test } from "vitest";
import { NO_REQUIREMENTS } from "../../compiler/artifact.ts";
import type { KernelShare, StepResult } from "../../models/auto/bench-cuda-step.ts";
import { printStepBench } from "../../runtime/cli/bench-cuda-text.ts";

const kernel: KernelShare = {
  kernel: "gemv_1",
  label: "layers.*.mamba.in_proj",
  launches: 4,
  milliseconds: 0.1,
  share: 0.5,
  gigabytesPerSecond: 3000,
  gigaflopsPerSecond: 2500,
  roofline: 0.75,
};
const step: StepResult = {
  batch: 2,
  context: 1024,
  compile: { milliseconds: 1500, cached: true },
  memory: {
    weights: 18e9,
    states: 1e9,
    caches: 2e9,
    bytesPerPosition: 1e6,
    between: 0.5e9,
    inputsAndOutputs: 0.1e9,
    total: 21.6e9,
    rows: 2,
    capacity: 2000,
  },
  largestContext: 120_000,
  launches: 169,
  graphMilliseconds: 4.75,
  wallMilliseconds: 4.8,
  host: { write: 0.012, launch: 0.025, wait: 4.75, rest: 0.013 },
  tokensPerSecond: 416.7,
  bytes: 19e9,
  bytesPerSecond: 4e12,
  shareOfCopy: 0.95,
  kernels: [kernel],
};

test("a report has the ceilings, a line a batch, what memory is for, and the kernels of each", () => {
  const text = printStepBench({
    device: "NVIDIA H200",
    target: { backend: "cuda", caps: "sm_90", toolchain: "nvrtc", requires: NO_REQUIREMENTS },
    parameters: 9.78e9,
    dtype: "bf16",
    ceilings: { copy: 4.2e12, read: 4.4e12, fma: 64e12, mma: 640e12 },
    steps: [step],
    prompt: {
      tokens: 512,
      chunk: 256,
      milliseconds: 75,
      tokensPerSecond: 6821,
      flopsPerSecond: 121e12,
      kernels: [{ ...kernel, label: "layers.*.ssdScan" }],
    },
  });
  expect(text).toContain("9.78 B parameters in bf16, on NVIDIA H200 (cuda sm_90)");
  expect(text).toContain("copies 4200 GB/s, reads 4400 GB/s, multiplies and adds 64.0 TFLOP/s in f32 and 640 TFLOP/s by mma.sync in bf16");
  expect(text).toMatch(/^ +2 +1024 +169 +4\.750 +4\.800 +417 +4000 +95 % +1\.50 s \(cached\)$/m);
  expect(text).toContain(
    "a token of 2: 50 us more than its graph; the host takes 12 us to write, 25 us to launch, 13 us for the rest, and waits 4750 us",
  );
  expect(text).toContain("memory for 2 at once: 21.6 GB: weights 18.0 GB");
  expect(text).toContain("up to 120000 positions would fit");
  expect(text).toMatch(/layers\.\*\.mamba\.in_proj +gemv_1 +4 +25\.0 +50 % +3000 +2\.50 +75 %/);
  expect(text).toContain("a prompt of 512, 256 at once: 75.0 ms, 6821 tokens/s, 121 TFLOP/s");
  expect(text).toContain("layers.*.ssdScan");
});
