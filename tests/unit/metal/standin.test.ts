import { describe, expect, test, vi } from "vitest";
import { metalBackend } from "../../../backends/metal/index.ts";
import type { MetalSource } from "../../../backends/metal/print.ts";
import { add, cast, i32, intVar, load, mul, sub } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import type { Config } from "../../../compiler/template.ts";
import { gemm } from "../../../compiler/templates/gemm.ts";
import { faultsOf } from "../../support/metal/check.ts";
import { skipsClang } from "../../support/metal/clang.ts";
import { launchOf, printed, runOnStandin } from "../../support/metal/program.ts";
import type { Build, Launch } from "../../support/metal/run.ts";
import { runJob } from "../../support/metal/run.ts";
import { placed } from "../../support/placed.ts";
import { copyBuffers, differences } from "../../support/problems/case.ts";
import { gemmOf } from "../../support/problems/gemm.ts";

/** The stand-in finds what it is there to find: mistakes that are put into kernels' text, each by the build that looks for it. */
vi.setConfig({ testTimeout: 120_000 });

const caps = metalBackend.caps("m4");
const tid = intVar("tid", 0, 63);
const n = intVar("n", 1, 100);
const store = (buffer: string, index: Expr, value: Expr): Stmt => ({ op: "store", buffer, dtype: "f32", index, value, guard: null });

/** Two blocks that each turn 64 elements round, and add a symbol. */
const turning: ThreadProgram = {
  name: "turning",
  params: [
    { name: "p0", dtype: "f32", access: "write" },
    { name: "p1", dtype: "f32", access: "read" },
  ],
  symbols: [n],
  grid: [i32(2), i32(1), i32(1)],
  threads: 64,
  lanes: 32,
  shared: [{ name: "a", dtype: "f32", count: 64 }],
  regs: [],
  body: [
    store("a", tid, load("p1", "f32", add(mul(intVar("bx", 0, 1), 64), tid))),
    { op: "barrier" },
    store("p0", add(mul(intVar("bx", 0, 1), 64), tid), add(load("a", "f32", sub(i32(63), tid)), cast(n, "f32"))),
  ],
};
const source = printed(turning, caps);
const changed = (from: string | RegExp, to: string): MetalSource => {
  const text = source.text.replace(from, to);
  if (text === source.text) throw new Error(`the kernel has no ${String(from)}:\n${text}`);
  return { ...source, text };
};

function run(of: MetalSource, build: Build, more: Partial<Launch> = {}, order = 0): Float32Array {
  const [out, given] = [new Float32Array(128), Float32Array.from({ length: 128 }, (_, i) => i)];
  const bytes = [out, given].map((a) => new Uint8Array(a.buffer));
  runJob({ build, order, launches: [{ ...launchOf(turning, of, { n: 5 }), ...more }] }, bytes);
  return out;
}
const turned = (plus: number): Float32Array => Float32Array.from({ length: 128 }, (_, i) => (i < 64 ? 63 - i : 191 - i) + plus);

describe.skipIf(skipsClang)("a kernel on the stand-in", () => {
  test.each(["plain", "races", "memory"] as const)("gives its results in every order of threads: %s", (build) => {
    for (const order of [0, 1, 7]) expect(run(source, build, {}, order)).toEqual(turned(5));
    expect(faultsOf([source])).toEqual([]);
  });

  test("takes a symbol from its pipeline where that has it", () => {
    expect(run(source, "plain", { fixed: [[0, 7]] })).toEqual(turned(7));
  });

  test.each<[string, Build, MetalSource, RegExp]>([
    ["a barrier that is missing", "races", changed(/threadgroup_barrier\(.*\);/, ""), /data race/],
    [
      "a barrier that some threads do not come to",
      "memory",
      changed("threadgroup_barrier(", "if (tid < 40) threadgroup_barrier("),
      /24 threads have returned/,
    ],
    [
      "threads at different barriers",
      "plain",
      changed(/(threadgroup_barrier\(.*\);)/, "if (tid < 40) $1\n  else $1"),
      /at different barriers/,
    ],
    ["an element past the end", "memory", changed("p1[x0]", "p1[x0 + 1]"), /heap-buffer-overflow/],
    ["an element past the end of the block's memory", "memory", changed("s_a[tid]", "s_a[tid + 1]"), /heap-buffer-overflow/],
    [
      "a vector that does not begin where one may",
      "memory",
      changed("s_a[tid] = p1[x0];", "const float4 v = *(device const float4*)(p1 + 1);\n  s_a[tid] = v.x;"),
      /misaligned address/,
    ],
    [
      "a number that overflows",
      "memory",
      changed("const int bx = int(group.x);", "const int bx = int(group.x) + (2147483647 + tid) * 0;"),
      /signed integer overflow/,
    ],
    ["blocks that write one element", "races", changed("p0[x0]", "p0[tid]"), /data race/],
    [
      "a shuffle that some lanes do not come to",
      "plain",
      changed("const int bx = int(group.x);", "const int bx = int(group.x) + (tid < 3 ? simd_shuffle_xor(0, 1) : 0);"),
      /different operations|wait at different places/,
    ],
    [
      "more memory than a block may have",
      "plain",
      printed({ ...turning, shared: [{ name: "a", dtype: "f32", count: 10_000 }] }, caps),
      /40000 bytes of threadgroup memory/,
    ],
  ])("shows %s", (_, build, of, message) => {
    expect(() => run(of, build)).toThrow(message);
  });

  test.each([
    ["a pointer cast to another address space", changed("(threadgroup float*)v_s_a", "(threadgroup float*)p1"), /p1/],
    [
      "a pointer to another address space",
      changed("threadgroup float* const s_a = (threadgroup float*)v_s_a;", "threadgroup float* const s_a = p0;"),
      /s_a = p0/,
    ],
    ["a write to what is only read", changed("p0[x0] =", "p1[x0] ="), /p1\[/],
    [
      "a number that is converted by itself",
      changed("const int tid = int(index);", "const int tid = int(index);\n  const half h = half(1.0f);\n  const float2 v = half2(h, h);"),
      /float2/,
    ],
  ])("is not taken with %s", (_, of, message) => {
    expect(faultsOf([of]).join("\n")).toMatch(message);
  });

  test.each(["f32", "f16", "bf16"] as const)("multiplies by weights of %s where they lie, and where they are staged", (w) => {
    const c = gemmOf({ m: 20, n: 32, k: 64, w }, caps);
    const configs = gemm.configs(c.problem, caps);
    if ("reject" in configs) throw new Error(configs.reject);
    const kinds = new Set<number>();
    for (const config of configs) {
      // one of each kind: in place or staged, by matrices of the weights' type or of f32
      const kind = 2 * config["unit"]! + config["direct"]!;
      if (kinds.has(kind)) continue;
      kinds.add(kind);
      const program = placed(gemm.build(c.problem, config, caps), caps);
      expect(printed(program, caps).text.includes(`simdgroup_load(x`)).toBe(true);
      const buffers = copyBuffers(c);
      runOnStandin(program, caps, buffers, c.symbols);
      expect(differences({ ...c, tolerance: Math.max(c.tolerance, w === "bf16" ? 0.02 : w === "f16" ? 0.003 : 0) }, buffers)).toEqual([]);
    }
    expect(kinds.size).toBeGreaterThanOrEqual(2);
  });

  test("a product's barriers are all needed: without any one of them threads race", () => {
    const c = gemmOf({ m: 20, n: 16, k: 64, w: "bf16" }, caps);
    const configs = gemm.configs(c.problem, caps);
    if ("reject" in configs) throw new Error(configs.reject);
    const matrices = (f: Config): number => (f["bm"]! * f["bn"]!) / 64 / (f["groupRows"]! * f["groupCols"]!);
    const config = configs.find((f) => f["unit"] !== 0 && f["direct"] === 0 && matrices(f) > 1)!;
    const program = placed(gemm.build(c.problem, config, caps), caps);
    const whole = printed(program, caps);
    const parts = whole.text.split(/((?:threadgroup|simdgroup)_barrier\(.*\);)/);
    expect(parts.length).toBeGreaterThanOrEqual(9);
    const attempt = (of: MetalSource): void => {
      const buffers = Object.values(copyBuffers(c)).map((b) => new Uint8Array(b.buffer));
      runJob({ build: "races", order: 7, launches: [launchOf(program, of, c.symbols)] }, buffers);
    };
    attempt(whole);
    for (let i = 1; i < parts.length; i += 2)
      expect(
        () => {
          attempt({ ...whole, text: parts.map((x, j) => (j === i ? "" : x)).join("") });
        },
        `barrier ${(i + 1) / 2} of\n${whole.text}`,
      ).toThrow(/data race/);
  });
});
