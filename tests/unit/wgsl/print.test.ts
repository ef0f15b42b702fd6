import { beforeAll, describe, expect, test } from "vitest";
import { wgslBackend } from "../../../backends/wgsl/index.ts";
import { foldGrid } from "../../../backends/text/grid.ts";
import type { Caps } from "../../../compiler/backend.ts";
import { allocate, write } from "../../../compiler/ir/dtype.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import {
  add,
  cast,
  constant,
  evaluateInt,
  f32,
  i32,
  idiv,
  intVar,
  load,
  lt,
  mod,
  mul,
  reg,
  select,
  shuffle,
} from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { emulateThread } from "../../../compiler/run/thread.ts";
import { lavapipe, lavapipeAvailable } from "../../support/webgpu.ts";
import { openDevice, Runner } from "../../support/wgsl-run.ts";

const tid = intVar("tid", 0, 31);
const store = (buffer: string, dtype: DType, index: Expr, value: Expr, guard: Expr | null = null): Stmt => ({
  op: "store",
  buffer,
  dtype,
  index,
  value,
  guard,
});
const program = (p: Partial<ThreadProgram>): ThreadProgram => ({
  name: "k",
  params: [],
  symbols: [],
  grid: [i32(1), i32(1), i32(1)],
  threads: 32,
  lanes: 32,
  shared: [],
  regs: [],
  body: [],
  ...p,
});

test("what differs in nothing but the name it is asked for has one hash, and what differs has another", () => {
  const caps = wgslBackend.caps("base");
  const body = [store("p0", "f32", tid, f32(1))];
  const params = [{ name: "p0", dtype: "f32", access: "write" }] as const;
  const entry = (p: Partial<ThreadProgram>): string => wgslBackend.print(program({ params, body, ...p }), caps).entry;
  expect(entry({})).toMatch(/^k_[0-9a-f]{12}$/);
  expect(entry({})).toBe(entry({}));
  expect(entry({ body: [store("p0", "f32", tid, f32(2))] })).not.toBe(entry({}));
});

const limits = [65535, 65535, 65535] as const;

test("an axis of more workgroups than WebGPU starts is folded into another, every block once and none twice", () => {
  const n = intVar("n", 1, 400_000);
  const [bx, by] = [intVar("bx", 0, 399_999), intVar("by", 0, 2)];
  const body = [store("p0", "i32", add(mul(by, 200_000), bx), add(mul(by, 1_000_000), bx), lt(tid, 1))];
  const p = program({ params: [{ name: "p0", dtype: "i32", access: "write" }], symbols: [n], grid: [n, i32(3), i32(1)], body });
  const folded = foldGrid(p, limits);
  for (const value of [1, 32768, 32769, 65536, 70_000]) {
    const grid = folded.grid.map((g) => evaluateInt(g, { n: value }));
    expect(Math.max(...grid)).toBeLessThanOrEqual(65535);
    expect(grid[0]! * grid[1]! * grid[2]!).toBeGreaterThanOrEqual(3 * value);
  }
  const out = new Int32Array(600_000).fill(-1);
  const caps = wgslBackend.caps("base");
  const one = [store("p0", "i32", add(mul(by, 200_000), bx), add(mul(by, 1_000_000), bx))];
  const small = foldGrid({ ...p, threads: 1, lanes: 1, body: one }, limits);
  expect(emulateThread(small, caps, { p0: out }, { n: 40_000 })).toEqual([]);
  for (let y = 0; y < 3; y++) for (const x of [0, 1, 32767, 32768, 39_999]) expect(out[y * 200_000 + x]).toBe(y * 1_000_000 + x);
  expect(out.filter((x) => x >= 0).length).toBe(120_000);
});

test("more workgroups than all axes hold are refused", () => {
  const most = 2 ** 31 - 1;
  const grid = [intVar("n", 1, most), i32(65535), i32(65535)] as const;
  expect(() => foldGrid(program({ grid, symbols: [grid[0]] }), limits)).toThrow("blocks is more than 65535 x 65535 x 65535");
});

describe.skipIf(!lavapipeAvailable)("on lavapipe", () => {
  const runners = new Map<string, Runner>();
  let run: (
    caps: Caps,
    p: ThreadProgram,
    buffers: Record<string, ReturnType<typeof allocate>>,
    symbols?: Record<string, number>,
  ) => Promise<void>;
  beforeAll(async () => {
    for (const name of ["base", "base-sg8-f16"])
      runners.set(name, new Runner(await openDevice(lavapipe(), wgslBackend.caps(name)), wgslBackend.caps(name)));
    run = (caps, p, buffers, symbols) => new Runner(runners.get(caps.name)!.device, caps).run(p, buffers, symbols);
  });

  // a window of 64 bytes: 16 words, 32 halves
  const windowed = (name: string): Caps => {
    const caps = wgslBackend.caps(name);
    return { ...caps, requires: { ...caps.requires, limits: { ...caps.requires.limits, maxStorageBufferBindingSize: 64 } } };
  };

  test.each(["f32", "bf16", "i32"] as const)("a long buffer of %s is bound, read and written in windows", async (dtype) => {
    const caps = windowed("base");
    const n = dtype === "bf16" ? 96 : 48;
    const data = allocate(dtype, n);
    for (let i = 0; i < n; i++) write(data, dtype, i, i);
    const out = allocate(dtype, n);
    const step = intVar("step", 0, n / 4 - 1);
    // backwards in fours by one lane, so that a vector at a time is read from wherever it lies, and one by one
    const from = add(mul(add(i32(n / 4 - 1), mul(step, -1)), 4), 0);
    const p = program({
      params: [
        { name: "p0", dtype, access: "read", elements: n },
        { name: "p1", dtype, access: "write", elements: n },
      ],
      regs: [{ name: "v", dtype, count: 4, uniform: false }],
      body: [
        {
          op: "for",
          var: step,
          count: i32(n / 4),
          unroll: false,
          body: [
            { op: "loadVec", reg: "v", index: i32(0), width: 4, buffer: "p0", dtype, at: from, guard: null },
            ...[0, 1, 2, 3].map((j) => store("p1", dtype, add(mul(step, 4), j), reg("v", dtype, 3 - j), lt(tid, 1))),
          ],
        },
      ],
    });
    const source = wgslBackend.print(p, caps);
    expect(source.params).toEqual([
      { access: "read", windows: 3 },
      { access: "readwrite", windows: 3 },
    ]);
    await run(caps, p, { p0: data, p1: out });
    expect([...out]).toEqual([...data].reverse());
  });

  test("an index that is certainly in one window needs no choice", () => {
    const body = [store("p1", "f32", tid, load("p0", "f32", add(mod(tid, 4), 20)))];
    const params = [
      { name: "p0", dtype: "f32", access: "read", elements: 48 },
      { name: "p1", dtype: "f32", access: "write", elements: 16 },
    ] as const;
    const { text } = wgslBackend.print(program({ params, body }), windowed("base"));
    expect(text).not.toContain("switch");
    expect(text).toContain("p0_1[");
  });

  test.each(["bool", "bf16", "f16"] as const)("threads store single elements of %s into words that others store to", async (dtype) => {
    for (const name of ["base", "base-sg8-f16"]) {
      const caps = wgslBackend.caps(name);
      const out = allocate(dtype, 37);
      out.fill(1);
      const value = cast(cast(mod(tid, 2), "f32"), dtype);
      // the elements that no thread stores to keep their bits
      const p = program({
        params: [{ name: "p0", dtype, access: "write" }],
        threads: caps.lanes,
        lanes: caps.lanes,
        body: [0, 8, 16, 24].map((from) => store("p0", dtype, add(from, mod(tid, 8)), value, lt(mod(idiv(tid, 1), 8), 7))),
      });
      await run(caps, p, { p0: out });
      const one = allocate(dtype, 1);
      write(one, dtype, 0, 1);
      const lanes = Array.from({ length: 37 }, (_, i) => (i < 32 && i % 8 < 7 ? (i % 2) * one[0]! : 1));
      expect([...out]).toEqual(lanes);
    }
  });

  test("values go from lane to lane, with and without subgroups", async () => {
    for (const name of ["base", "base-sg8-f16"]) {
      const caps = wgslBackend.caps(name);
      const { lanes } = caps;
      const lane = intVar("tid", 0, lanes - 1);
      const p = program({
        params: [{ name: "p0", dtype: "i32", access: "write" }],
        threads: lanes,
        lanes,
        regs: [
          { name: "x", dtype: "i32", count: 1, uniform: false },
          { name: "y", dtype: "i32", count: 1, uniform: false },
          { name: "top", dtype: "i32", count: 1, uniform: false },
        ],
        body: [
          { op: "assign", reg: "x", index: i32(0), value: mul(lane, lane) },
          { op: "assign", reg: "y", index: i32(0), value: shuffle(reg("x", "i32", 0), 4) },
          { op: "laneReduce", reg: "top", index: i32(0), fn: "max", value: reg("x", "i32", 0), masks: [1, 4] },
          store("p0", "i32", mul(lane, 2), reg("y", "i32", 0)),
          store("p0", "i32", add(mul(lane, 2), 1), reg("top", "i32", 0)),
        ],
      });
      const out = new Int32Array(2 * lanes);
      await run(caps, p, { p0: out });
      const want = Array.from({ length: lanes }, (_, i) => [(i ^ 4) ** 2, Math.max(...[0, 1, 4, 5].map((m) => (i ^ m) ** 2))]).flat();
      expect([...out]).toEqual(want);
    }
  });

  test("a load whose condition does not hold gives 0, whatever lies there", async () => {
    const data = Float32Array.from({ length: 32 }, (_, i) => (i < 8 ? i + 1 : NaN));
    const guard = lt(tid, 8);
    const p = program({
      params: [
        { name: "p0", dtype: "f32", access: "read" },
        { name: "p1", dtype: "f32", access: "write" },
      ],
      body: [store("p1", "f32", tid, add(load("p0", "f32", tid, guard), select(guard, f32(0), constant(-1, "f32"))))],
    });
    const out = new Float32Array(32);
    await run(wgslBackend.caps("base"), p, { p0: data, p1: out });
    expect([...out]).toEqual(Array.from({ length: 32 }, (_, i) => (i < 8 ? i + 1 : -1)));
  });

  test("symbols arrive in their order, however many", async () => {
    const symbols = ["a", "b", "c", "d", "e", "f"].map((name) => intVar(name, 0, 1000));
    const p = program({
      params: [{ name: "p0", dtype: "i32", access: "write" }],
      symbols,
      body: symbols.map((s, i) => store("p0", "i32", i32(i), s, lt(tid, 1))),
    });
    const out = new Int32Array(6);
    await run(wgslBackend.caps("base"), p, { p0: out }, { a: 1, b: 20, c: 300, d: 4, e: 50, f: 600 });
    expect([...out]).toEqual([1, 20, 300, 4, 50, 600]);
  });
});

test("kernels.bin says of each kernel what the driver has to know", async () => {
  const caps = wgslBackend.caps("base-sg8-f16");
  const p = program({
    params: [{ name: "p0", dtype: "f32", access: "write" }],
    symbols: [intVar("n", 1, 9)],
    threads: 8,
    lanes: 8,
    body: [store("p0", "f32", tid, f32(1))],
  });
  const source = wgslBackend.print(p, caps);
  const packed: unknown = JSON.parse(new TextDecoder().decode(await wgslBackend.toolchain!.compile([source, source], caps)));
  expect(packed).toEqual({
    format: "culm-wgsl",
    version: 1,
    windowBytes: 2 ** 27,
    kernels: [{ entry: source.entry, source: source.text, threads: 8, params: [{ access: "readwrite", windows: 1 }], symbols: 1 }],
  });
  await expect(async () =>
    wgslBackend.toolchain!.compile([{ language: "llvm", text: "", entry: "e", sharedBytes: 0 }], caps),
  ).rejects.toThrow("this toolchain packs WGSL");
});
