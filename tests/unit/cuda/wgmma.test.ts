import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import type { Caps, Source } from "../../../compiler/backend.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import type { Config } from "../../../compiler/template.ts";
import { gemmStream } from "../../../compiler/templates/gemm-stream.ts";
import { placed } from "../../support/placed.ts";
import { gemmOf } from "../../support/problems/gemm.ts";

const all = cudaBackend.caps("sm_90a");
const caps: Caps = { ...all, units: all.units.filter(({ lanes, inputs }) => lanes > 32 || inputs.includes("f32")) };
const tile = { bm: 128, bn: 48, kc: 64, stages: 4, groupRows: 1, groupCols: 2, groupWarps: 4 };

const productOf = (k: number): ThreadProgram => {
  const { problem } = gemmOf({ m: 100, n: 60, k, a: "bf16", w: "bf16" }, caps);
  return placed(gemmStream.build(problem, tile, caps), caps);
};
const printed = (p: ThreadProgram, of = caps): Source => cudaBackend.print(cudaBackend.legalize!(p, of), of);

/** Products in a text: how far from where each operand's descriptor begins, in steps of 16 bytes. */
const calls = (text: string): { readonly acc: number; readonly row: number; readonly col: number }[] =>
  [...text.matchAll(/wgmma_bf16_n24\(&r_acc0\[(\d+)\], \w+(?: \+ (\d+))?, \w+(?: \+ (\d+))?\);/g)].map(([, acc, row, col]) => ({
    acc: Number(acc),
    row: Number(row ?? 0),
    col: Number(col ?? 0),
  }));

/** Where a shared array of turned rows of 64 elements has an element (thread.ts). */
const turned = (row: number, k: number): number => row * 64 + ((Math.floor(k / 8) ^ (row % 8)) * 8 + (k % 8));

/**
 * Where the hardware reads element k of row `row` of an operand (PTX: matrix descriptor, swizzle of 128 bytes): rows of 128 bytes, eight of them a stride, and then
 * bits 7 to 9 of the address are added to bits 4 to 6 without carry.
 */
function read(descriptor: bigint, row: number, k: number): number {
  const start = Number(descriptor & 0x3fffn) * 16;
  const stride = Number((descriptor >> 32n) & 0x3fffn) * 16;
  expect(descriptor >> 62n).toBe(1n);
  expect((descriptor >> 49n) & 7n).toBe(0n);
  const address = start + Math.floor(row / 8) * stride + (row % 8) * 128 + k * 2;
  return (address ^ (((address >> 7) & 7) << 4)) / 2;
}

describe("a product by four warps", () => {
  const { text, sharedBytes } = printed(productOf(512));

  test("reads what copies wrote, at every step and in every row", () => {
    const layout = BigInt(/>> 4\) \| (0x[0-9a-f]+)ull;/.exec(text)![1]!);
    const found = calls(text);
    expect(found.length).toBe(2 * 4);
    const base = 9 * 1024;
    for (const [i, { acc, row, col }] of found.entries()) {
      const [step, down] = [Math.floor(i / 2), i % 2];
      expect(acc).toBe(down * 3 * 4);
      for (const k of [0, 7, 8, 15]) {
        for (let r = 0; r < 64; r++)
          expect(read(layout | BigInt(base / 16 + row), r, k) - base / 2).toBe(turned(64 * down + r, 16 * step + k));
        for (let c = 0; c < 24; c++) expect(read(layout | BigInt(base / 16 + col), c, k) - base / 2).toBe(turned(c, 16 * step + k));
      }
    }
  });

  test("begins where eight rows do, in memory of the block too", () => {
    expect(text).toContain("extern __shared__ __align__(1024)");
    const arrays = [...text.matchAll(/const s_(\w+) = .*\+ (\d+)\);/g)].map(([, name, at]) => [name, Number(at)]);
    expect(arrays).toEqual([["a", 0], ["w0", 4 * 128 * 128]]); // prettier-ignore
    expect(sharedBytes).toBe(4 * (128 + 48) * 128);
  });

  test("is started after all have said what they copied and met, and runs while the next copies do", () => {
    const loop = text.slice(text.indexOf("for (int v_step"));
    const order = [
      "cp.async.wait_group 1;",
      "wgmma.wait_group.sync.aligned 1;",
      "fence.proxy.async.shared::cta;",
      "__syncthreads();",
      'asm volatile("" : "+f"(r_acc0[i]) :: "memory");',
      "wgmma.fence.sync.aligned;",
      "wgmma_bf16_n24(&r_acc0[0]",
      "wgmma.commit_group.sync.aligned;",
      "async_copy_where_16(",
      "wgmma.wait_group.sync.aligned 0;",
      'asm volatile("" : "+f"(r_acc0[i]) :: "memory");',
      "reinterpret_cast<float2*>",
    ];
    let at = 0;
    for (const part of order) {
      const next = loop.indexOf(part, at);
      expect(next, part).toBeGreaterThanOrEqual(at);
      at = next + part.length;
    }
    // two turns of the four slots are copied before the loop: one is free, one still multiplied
    expect(text.slice(0, text.indexOf("for (int v_step")).match(/cp\.async\.wait_group 2;/g)).toHaveLength(1);
  });

  test("that is the only one is waited for at once", () => {
    const one = printed(productOf(64)).text;
    expect(calls(one).length).toBe(8);
    expect(one.indexOf("wgmma.wait_group.sync.aligned 0;")).toBeGreaterThan(one.indexOf("wgmma.commit_group"));
    expect(one.indexOf("fence.proxy.async")).toBeLessThan(one.indexOf("__syncthreads"));
  });
});

test("of two weights, one instruction multiplies 16 elements along k of both, and reads the left operand once", () => {
  const { problem } = gemmOf({ m: 200, n: 224, k: 512, weights: 2, a: "bf16", w: "bf16" }, caps);
  const config = { ...tile, bn: 112, stages: 5, groupRows: 2, groupCols: 1 };
  const { text, sharedBytes } = printed(placed(gemmStream.build(problem, config, caps), caps));
  expect([...text.matchAll(/^ *wgmma_\w+\(.*$/gm)].map(([call]) => call.trim().replaceAll(/\bd\d+/g, "d"))).toEqual(
    ["", " + 2", " + 4", " + 6"].map((step) => `wgmma_bf16_n224(&r_acc0[0], d${step}, d${step});`),
  );
  expect(text.match(/wgmma\.commit_group/g)).toHaveLength(1);
  expect(text).toContain("m64n224k16");
  expect(text).toContain("float r_acc0[112];");
  expect(text).not.toMatch(/r_acc1|s_w1/);
  expect(sharedBytes).toBe(5 * (128 + 2 * 112) * 128);
});

test("kernels without such products say nothing to a second way into shared memory", () => {
  const { problem } = gemmOf({ m: 40, n: 60, k: 512, a: "bf16", w: "bf16" }, all);
  const config = (gemmStream.configs(problem, all) as readonly Config[]).find((c) => c["groupWarps"] === undefined)!;
  const source = printed(placed(gemmStream.build(problem, config, all), all), all);
  expect(source.text).toContain("mma.sync");
  expect(source.text).not.toContain("fence.proxy");
  expect(source.text).toContain("__align__(128)");
});

test.each<readonly [string, (s: Extract<Stmt, { op: "unit" }>) => Stmt, RegExp]>([
  [
    "whose rows are not turned",
    (s) => ({ ...s, a: { ...s.a, name: "plain" } }),
    /plain is no operand of wgmma: expected turned rows of 64 elements/,
  ],
  ["of another type", (s) => ({ ...s, a: { ...s.a, dtype: "f16" } }), /of f16 and bf16/],
  ["of too many columns", (s) => ({ ...s, fn: 33 }), /264 columns, an instruction takes at most 256/],
])("an operand %s is an error", (_, change, message) => {
  const p = productOf(64);
  const body = p.body.map((s) => (s.op === "unit" ? change(s) : s));
  const plain = { name: "plain", dtype: "bf16", count: 128 * 64 } as const;
  expect(() => cudaBackend.print({ ...p, shared: [...p.shared, plain], body }, caps)).toThrow(message);
});
