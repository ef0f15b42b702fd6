import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { breakDown, kindOf } from "../../../runtime/web/page/kernels.ts";
import type { Kind } from "../../../runtime/web/page/kernels.ts";
import type { Profile } from "../../../runtime/web/protocol.ts";

type Step = Profile["steps"][number];

const step = (label: string, kernel: string, milliseconds: number): Step => ({
  label,
  kernel,
  template: "",
  milliseconds,
  bytes: 1000,
  flops: 10,
});

// The kernels of bamba-tiny: `culm inspect --model models/bamba-tiny`.
const kinds: readonly (readonly [string, Kind])[] = [
  ["gemm", "matrix"],
  ["gemm2", "matrix"],
  ["gemv", "matrix"],
  ["ssd_step", "scan"],
  ["ssd_scan", "scan"],
  ["conv1d", "convolution"],
  ["attention", "attention"],
  ["cache_write", "attention"],
  ["reduce_argmax", "token"],
  ["process_logits", "token"],
  ["sample_token", "token"],
  ["norm", "rows"],
  ["something_new", "rows"],
];

test.each(kinds)("%s is of kind %s", (kernel, kind) => expect(kindOf(kernel)).toBe(kind));

describe("a decode step", () => {
  const {
    segments,
    kinds: sums,
    ...all
  } = breakDown([
    step("layers.0.mamba.in_proj", "gemm", 2),
    step("layers.0.ssdScan", "ssd_step", 1),
    step("layers.0.feed_forward.gate_proj+layers.0.feed_forward.up_proj", "gemm2", 1),
    step("layers.1.mamba.in_proj", "gemm", 2),
    step("layers.1.ssdScan", "ssd_step", 1),
    step("layers.1.feed_forward.gate_proj+layers.1.feed_forward.up_proj", "gemm2", 1),
    step("matmulT", "gemm", 1),
    step("argmax", "reduce_argmax", 1),
  ]);

  test("has a segment for what all layers do alike, kind by kind, the costliest first", () => {
    expect(segments.map(({ title, kind, launches, milliseconds, from }) => [title, kind, launches, milliseconds, from])).toEqual(
      [
        ["in_proj", "matrix", 2, 4, 0],
        ["gate_proj + up_proj", "matrix", 2, 2, 0.4],
        ["lm_head", "matrix", 1, 1, 0.6],
        ["ssdScan", "scan", 2, 2, 0.7],
        ["argmax", "token", 1, 1, 0.9],
      ].map((row) => row.map((cell) => (typeof cell === "number" ? (expect.closeTo(cell, 9) as unknown) : cell))),
    );
  });

  test("is summed by kind", () => {
    expect(sums).toEqual([
      { kind: "matrix", launches: 5, milliseconds: 7, share: expect.closeTo(0.7, 9) as unknown },
      { kind: "scan", launches: 2, milliseconds: 2, share: expect.closeTo(0.2, 9) as unknown },
      { kind: "token", launches: 1, milliseconds: 1, share: expect.closeTo(0.1, 9) as unknown },
    ]);
    expect(all).toEqual({ milliseconds: 10, launches: 8 });
  });
});

test("the segments of any step fill the bar without a gap", () => {
  const label = fc.tuple(fc.nat(3), fc.constantFrom("mlp", "mixer", "")).map(([layer, name]) => `layers.${layer}.${name}`);
  const one = fc
    .tuple(label, fc.constantFrom(...kinds.map(([kernel]) => kernel)), fc.integer({ min: 1, max: 1000 }))
    .map(([name, kernel, microseconds]) => step(name, kernel, microseconds / 1000));
  fc.assert(
    fc.property(fc.array(one, { minLength: 1, maxLength: 40 }), (steps) => {
      const { segments, milliseconds } = breakDown(steps);
      expect(milliseconds).toBeCloseTo(
        steps.reduce((sum, s) => sum + s.milliseconds, 0),
        6,
      );
      segments.forEach(({ from, share }, i) => expect(from + share).toBeCloseTo(segments[i + 1]?.from ?? 1, 6));
      expect(new Set(segments.map(({ kernel, label: of }) => `${kernel} ${of}`)).size).toBe(segments.length);
    }),
  );
});

test("a device that timed nothing gives a bar without parts", () => {
  expect(breakDown([])).toEqual({ segments: [], kinds: [], milliseconds: 0, launches: 0 });
});
