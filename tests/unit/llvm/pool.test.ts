import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { caps } from "../../../backends/llvm/caps.ts";
import { print } from "../../../backends/llvm/print.ts";
import { toolchain } from "../../../backends/llvm/toolchain.ts";
import { add, i32, intVar, load, lt, mod, mul } from "../../../compiler/ir/expr.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import type { Device, KernelModule } from "../../../runtime/driver.ts";
import { loadLlvm } from "../../../ffi/libllvm.ts";
import { cpu } from "../../../runtime/drivers/cpu/device.ts";
import { poolText } from "../../../runtime/drivers/cpu/pool-ir.ts";

const target = caps("host");
const W = target.lanes;
const blocks = intVar("blocks", 1, 1 << 16);
const by = intVar("by", 0, 1 << 16);
const bx = intVar("bx", 0, 1 << 16);
const tid = intVar("tid", 0, W - 1);
const block = add(bx, mul(by, 4));
const element = add(mul(block, W), tid);

/** Block b of the result is block b + 1 of the source, plus one: every step needs what another block of the step before wrote. */
const rotate: ThreadProgram = {
  name: "rotate",
  params: [
    { name: "p0", dtype: "i32", access: "read" },
    { name: "p1", dtype: "i32", access: "write" },
  ],
  symbols: [blocks],
  grid: [i32(1), i32(1), i32(1)],
  threads: W,
  lanes: W,
  shared: [],
  regs: [],
  body: [
    {
      op: "store",
      buffer: "p1",
      dtype: "i32",
      index: element,
      value: add(load("p0", "i32", add(mul(mod(add(block, 1), blocks), W), tid)), 1),
      guard: lt(block, blocks),
    },
  ],
};

describe.each([1, 2, 3])("a pool of %i threads", (threads) => {
  let device: Device;
  let module: KernelModule;
  let entry: string;

  beforeAll(async () => {
    device = await cpu.open({ threads });
    const source = print(rotate, target);
    entry = source.entry;
    module = await device.load(await toolchain.compile([source], target));
  });
  afterAll(() => device.close());

  const prepare = (steps: number, n: number) => {
    const [a, b] = [device.alloc(4 * n * W, "arena"), device.alloc(4 * n * W, "arena")];
    const data = new Int32Array(a.host!.buffer, a.host!.byteOffset, n * W);
    for (let i = 0; i < data.length; i++) data[i] = i;
    const kernel = module.kernel(entry);
    const list = device.prepare(
      Array.from({ length: steps }, (_, s) => ({
        kernel,
        args: [
          { buffer: s % 2 === 0 ? a : b, offset: 0 },
          { buffer: s % 2 === 0 ? b : a, offset: 0 },
        ],
        symbols: ["blocks"],
        sharedBytes: 0,
      })),
      ["unused", "blocks"],
    );
    for (let s = 0; s < steps; s++) list.grids.set([4, Math.ceil(n / 4), 1], 3 * s);
    list.symbols.set([-1, n]);
    return { list, data, free: () => [list, a, b].forEach((x) => x.free()) };
  };

  test.each([1, 2, 7, 64, 1000])("runs thousands of small steps of %i blocks in order", async (n) => {
    const steps = threads > 2 || n === 1000 ? 400 : 4000; // more threads than processors wait for the scheduler at every barrier
    const { list, data, free } = prepare(steps, n);
    for (let round = 1; round <= 3; round++) {
      await list.run();
      for (let i = 0; i < data.length; i++) {
        const from = (Math.floor(i / W) + ((round * steps) % n)) % n;
        expect(data[i]).toBe(from * W + (i % W) + round * steps);
      }
    }
    free();
  });

  test("runs again after its workers have gone to sleep", async () => {
    const { list, data, free } = prepare(10, 8);
    for (let round = 0; round < 20; round++) {
      await new Promise((resolve) => setTimeout(resolve, round % 3));
      await list.run();
    }
    expect(data[0]).toBe((200 % 8) * W + 200);
    free();
  });

  test("runs in the background, one list at a time", async () => {
    const { list, data, free } = prepare(2000, 64);
    const done = list.runInBackground();
    await expect(async () => list.run()).rejects.toThrow(/running another list/);
    await done;
    await list.run();
    expect(data[5]).toBe((4000 % 64) * W + 5 + 4000);
    free();
  });

  test("times each step", async () => {
    const { list, free } = prepare(50, 64);
    const times = await list.runTimed();
    expect(times).toHaveLength(50);
    expect(Math.min(...times)).toBeGreaterThanOrEqual(0);
    expect(times.reduce((a, b) => a + b)).toBeGreaterThan(0);
    free();
  });

  test("steps with an empty grid, and lists without steps, do nothing", async () => {
    const { list, data, free } = prepare(2, 8);
    list.grids.fill(0);
    await list.run();
    expect(data[9]).toBe(9);
    const none = device.prepare([], []);
    await none.run();
    await none.run();
    list.grids.set([4, 2, 1], 0);
    list.grids.set([4, 2, 1], 3);
    await list.run();
    expect(data[0]).toBe(2 * W + 2);
    free();
  });
});

test("a step that names an unknown symbol, a foreign buffer or a place outside a buffer is refused", async () => {
  const device = await cpu.open({ threads: 1 });
  const source = print(rotate, target);
  const module = await device.load(await toolchain.compile([source], target));
  const kernel = module.kernel(source.entry);
  const buffer = device.alloc(64, "io");
  const args = [
    { buffer, offset: 0 },
    { buffer, offset: 0 },
  ];
  expect(() => device.prepare([{ kernel, args, symbols: ["blocks"], sharedBytes: 0 }], ["seq"])).toThrow(/takes the symbol blocks/);
  expect(() => device.prepare([{ kernel, args: [{ buffer, offset: 65 }], symbols: [], sharedBytes: 0 }], [])).toThrow(/bytes 65 to 65/);
  expect(() => module.kernel("nope")).toThrow(/nope/);
  expect(() => buffer.write(new Uint8Array(8), 60)).toThrow(RangeError);
  await device.close();
});

test("buffers are cleared, copied and read back", async () => {
  const device = await cpu.open({ threads: 1 });
  const [a, b] = [device.alloc(100, "io"), device.alloc(100, "io")];
  a.write(Uint8Array.from({ length: 100 }, (_, i) => i));
  device.copy(b, 10, a, 50, 20);
  expect([...(await b.read(8, 5))]).toEqual([0, 0, 50, 51, 52]);
  b.clear(11, 1);
  expect([...(await b.read(10, 3))]).toEqual([50, 0, 52]);
  expect(() => device.copy(b, 90, a, 0, 20)).toThrow(RangeError);
  await device.close();
});

test("the pool compiles for every platform it is written for", () => {
  const llvm = loadLlvm();
  for (const [os, arch, triple] of [
    ["linux", "x64", "x86_64-unknown-linux-gnu"],
    ["linux", "arm64", "aarch64-unknown-linux-gnu"],
    ["darwin", "arm64", "arm64-apple-macosx14.0"],
  ] as const) {
    const object = llvm.compile(
      poolText({ os, arch }),
      { triple, cpu: "", features: "" },
      { name: `${os} ${arch}`, passes: null, level: 2 },
    );
    expect(object.length).toBeGreaterThan(1000);
  }
});
