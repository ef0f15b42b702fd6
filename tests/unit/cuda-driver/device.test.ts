import { describe, expect, test, vi } from "vitest";
import { cuda } from "../../../runtime/drivers/cuda/device.ts";
import type { CudaDevice } from "../../../runtime/drivers/cuda/device.ts";
import type { BufferUse, DeviceBuffer, StepList } from "../../../runtime/driver.ts";
import { FakeCuda, fakeKernels } from "../../support/fake-cuda.ts";
import type { FakeKernel, FakeOptions } from "../../support/fake-cuda.ts";

const floats = (bytes: Uint8Array<ArrayBuffer>): Float32Array => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);

/** y[i] = x[i] + symbol, one block an element; and y[0] += 1. */
const kernels: Readonly<Record<string, FakeKernel>> = {
  add: {
    params: 2,
    symbols: 1,
    body: ([x, y], symbols, [blocks]) => {
      for (let i = 0; i < blocks; i += 1) floats(y!)[i] = floats(x!)[i]! + symbols[0]!;
    },
  },
  count: { params: 1, symbols: 0, body: ([y]) => void (floats(y!)[0]! += 1) },
  pair: { params: 1, symbols: 2, body: ([y], [a, b]) => void (floats(y!)[0] = 10 * a! + b!) },
};

async function open(options: FakeOptions = {}): Promise<{ library: FakeCuda; device: CudaDevice }> {
  const library = new FakeCuda({ kernels, ...options });
  return { library, device: await cuda(library).open() };
}
const f32 = (...values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
const numbersOf = async (buffer: DeviceBuffer): Promise<number[]> => [...floats((await buffer.read()) as Uint8Array<ArrayBuffer>)];

async function adding(device: CudaDevice, use: BufferUse = "io"): Promise<{ list: StepList; x: DeviceBuffer; y: DeviceBuffer }> {
  const module = await device.load(fakeKernels(kernels));
  const [x, y] = [device.alloc(16, "io"), device.alloc(16, use)];
  x.write(f32(1, 2, 3, 4));
  const whole = (buffer: DeviceBuffer): { buffer: DeviceBuffer; offset: number } => ({ buffer, offset: 0 });
  const step = (entry: string, args: DeviceBuffer[], symbols: string[]) => ({
    kernel: module.kernel(entry),
    args: args.map(whole),
    symbols,
    sharedBytes: 0,
  });
  const list = device.prepare([step("add", [x, y], ["past"]), step("count", [y], [])], ["seq", "past"]);
  list.grids.set([4, 1, 1, 1, 1, 1]);
  return { list, x, y };
}

describe("memory", () => {
  test("it is zeroed, and written and read in the order of the calls", async () => {
    const { device } = await open();
    const buffer = device.alloc(10, "state");
    expect([...(await buffer.read())]).toEqual(new Array(10).fill(0));
    const data = Uint8Array.from([1, 2, 3]);
    buffer.write(data, 4);
    data.fill(9); // the data was taken at once
    const before = buffer.read(3, 5);
    buffer.write(Uint8Array.from([7]), 4);
    expect([...(await before)]).toEqual([0, 1, 2, 3, 0]);
    buffer.clear(5, 1);
    expect([...(await buffer.read(4, 3))]).toEqual([7, 0, 3]);
    expect([...(await device.alloc(0, "state").read())]).toEqual([]);
  });

  test("what is larger than the pinned memory goes through it in pieces", async () => {
    const { device, library } = await open();
    const words = new Uint32Array((70 << 20) / 4);
    for (let i = 0; i < words.length; i += 1) words[i] = Math.imul(i, 0x9e3779b1);
    const data = new Uint8Array(words.buffer);
    const buffer = device.alloc(data.length + 1, "weights");
    buffer.write(data, 1);
    const back = await buffer.read(1);
    expect(Buffer.compare(back, data)).toBe(0);
    expect([...library.live.values()].filter((kind) => kind === "host memory").length).toBeLessThan(8);
  });

  test("what is made in the staging memory is copied to the device from there", async () => {
    const { device } = await open();
    const buffer = device.alloc(40 << 20, "weights");
    const count = 5 << 20;
    for (let at = 0; at < buffer.bytes; at += count) {
      const piece = device.staging!(count)!;
      piece.fill(1 + at / count);
      buffer.write(piece, at);
    }
    expect(device.staging!(1 << 30)).toBeNull();
    const all = await buffer.read();
    for (let at = 0; at < buffer.bytes; at += count)
      expect(all.subarray(at, at + count).every((byte) => byte === 1 + at / count)).toBe(true);
  });

  test("what is being made in the staging memory stays as it is, however much others write meanwhile", async () => {
    const { device } = await open();
    const [a, b] = [device.alloc(1 << 20, "weights"), device.alloc(100 << 20, "state")];
    const piece = device.staging!(a.bytes)!;
    piece.fill(7);
    b.write(new Uint8Array(b.bytes).fill(9)); // all of the memory that writes go through, and more
    a.write(piece);
    expect((await a.read()).every((byte) => byte === 7)).toBe(true);
    expect((await b.read(99 << 20)).every((byte) => byte === 9)).toBe(true);
  });

  test("copies within the device; ranges are checked", async () => {
    const { device } = await open();
    const [a, b] = [device.alloc(8, "state"), device.alloc(8, "state")];
    a.write(Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]));
    device.copy(b, 2, a, 4, 3);
    device.copy(a, 0, a, 4, 4);
    expect([...(await b.read())]).toEqual([0, 0, 5, 6, 7, 0, 0, 0]);
    expect([...(await a.read())]).toEqual([5, 6, 7, 8, 5, 6, 7, 8]);
    expect(() => device.copy(a, 0, a, 3, 4)).toThrow("of one buffer overlap");
    expect(() => b.write(new Uint8Array(3), 6)).toThrow("bytes 6 to 9 of a buffer of 8");
    await expect(b.read(7, 2)).rejects.toThrow("bytes 7 to 9 of a buffer of 8");
    b.free();
    expect(() => b.write(new Uint8Array(1))).toThrow("after it was freed");
  });

  test("a result is memory like any other: zeroed, written, cleared, copied in the order of the calls, read after them, and given back", async () => {
    const { device, library } = await open();
    const before = library.live.size;
    const [result, other] = [device.alloc(8, "result"), device.alloc(8, "io")];
    expect([...(await result.read())]).toEqual(new Array(8).fill(0));
    other.write(Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]));
    device.copy(result, 2, other, 0, 6);
    result.clear(3, 1); // after the copy
    expect([...(await result.read())]).toEqual([0, 0, 1, 0, 3, 4, 5, 6]);
    device.copy(other, 0, result, 0, 4);
    result.write(Uint8Array.from([9]), 2);
    expect([...(await other.read(0, 4))]).toEqual([0, 0, 1, 0]);
    expect([...(await result.read(1, 2))]).toEqual([0, 9]);
    await expect(result.read(7, 2)).rejects.toThrow("bytes 7 to 9 of a buffer of 8");
    expect(() => result.clear(7, 2)).toThrow("bytes 7 to 9 of a buffer of 8");
    result.free();
    other.free();
    expect(library.live.size).toBe(before + 2); // the pinned memory that writes go through, and its event
  });

  test("too little of it is a RangeError, and the device goes on", async () => {
    const { device } = await open({ gpus: [{ totalBytes: 1 << 20 }] });
    expect(device.freeBytes!()).toBe(1 << 20);
    expect(() => device.alloc(2 << 20, "weights")).toThrow(RangeError);
    expect(() => device.alloc(2 << 20, "weights")).toThrow("NVIDIA H200: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory");
    const buffer = device.alloc(1 << 19, "weights");
    expect(device.freeBytes!()).toBe(1 << 19);
    buffer.free();
    expect(device.freeBytes!()).toBe(1 << 20);
  });
});

describe("lists", () => {
  test("each step sees what the earlier ones wrote; a run with other symbols does not disturb the one before", async () => {
    const { device } = await open();
    const { list, y } = await adding(device);
    const got = [];
    for (const past of [10, 20, 20, 30, 40]) {
      list.symbols[1] = past;
      await list.run(); // the GPU may still be at work when the next one comes
      got.push(y.read());
    }
    const results = await Promise.all(got);
    expect(results.map((bytes) => [...floats(bytes as Uint8Array<ArrayBuffer>)])).toEqual(
      [10, 20, 20, 30, 40].map((past) => [past + 2, past + 2, past + 3, past + 4]),
    );
  });

  test("runs with grids as the last one's are one graph; another grid is launched kernel by kernel", async () => {
    const { device, library } = await open();
    const { list } = await adding(device);
    const run = async (blocks: number): Promise<boolean[]> => {
      list.grids[0] = blocks;
      const before = library.launched.length;
      await list.runInBackground();
      return library.launched.slice(before).map(({ inGraph }) => inGraph);
    };
    expect(await run(4)).toEqual([false, false]);
    expect(await run(4)).toEqual([true, true]);
    expect(await run(4)).toEqual([true, true]);
    expect(await run(3)).toEqual([false, false]);
    expect(await run(4)).toEqual([true, true]); // the graph is still there
    expect(await run(2)).toEqual([false, false]);
    expect(await run(2)).toEqual([true, true]);
    expect(library.calls.get("cuStreamBeginCapture_v2")).toBe(2);
    expect([...library.live.values()].filter((kind) => kind === "graph")).toHaveLength(1);
  });

  test.each([
    ["result, which kernels store where the host sees it", "result", {}],
    ["buffer of the device's", "io", { cuMemcpyDtoHAsync_v2: 1 }],
  ] as const)("a token costs one graph launch and one read of a %s, and makes nothing", async (_, use, reads) => {
    const { device, library } = await open();
    const { list, x, y } = await adding(device, use);
    const token = async (past: number): Promise<void> => {
      x.write(f32(past));
      list.symbols[1] = past;
      await list.run();
      expect(floats((await y.read(0, 4)) as Uint8Array<ArrayBuffer>)[0]).toBe(2 * past + 1);
    };
    for (let past = 0; past < 3; past += 1) await token(past);
    const made = device.allocations;
    const before = new Map(library.calls);
    await token(3);
    const calls = [...library.calls].filter(([name, n]) => n > (before.get(name) ?? 0)).map(([name, n]) => [name, n - before.get(name)!]);
    expect(Object.fromEntries(calls)).toEqual({
      cuMemcpyHtoDAsync_v2: 1, // the token itself
      cuGraphLaunch: 1,
      ...reads,
      cuStreamQuery: 3,
    });
    expect(device.allocations).toBe(made);
  });

  test("all kernels but the first may begin early, from compute capability 9.0 on", async () => {
    for (const [computeCapability, early] of [
      [90, [false, true]],
      [89, [false, false]],
    ] as const) {
      const library = new FakeCuda({ kernels, gpus: [{ computeCapability }] });
      const device = await cuda(library).open();
      const module = await device.load(fakeKernels(kernels, { computeCapability }));
      const y = device.alloc(16, "io");
      const step = { kernel: module.kernel("count"), args: [{ buffer: y, offset: 0 }], symbols: [], sharedBytes: 0 };
      const list = device.prepare([step, step], []);
      list.grids.fill(1);
      for (let i = 0; i < 2; i += 1) await list.runInBackground();
      expect(library.launched.map((launch) => launch.early)).toEqual([...early, ...early]);
      expect(library.launched[0]).toMatchObject({ threads: 64, grid: [1, 1, 1], sharedBytes: 0 });
      await list.runTimed();
      expect(library.launched.slice(-2).map((launch) => [launch.early, launch.inGraph])).toEqual([
        [false, false],
        [false, false],
      ]);
    }
  });

  test("a step with nothing to do is left out; the next one is then the first", async () => {
    const { device, library } = await open();
    const { list, y } = await adding(device);
    list.grids[1] = 0;
    await list.runInBackground();
    expect(library.launched.map(({ entry, early }) => [entry, early])).toEqual([["count", false]]);
    expect(await numbersOf(y)).toEqual([1, 0, 0, 0]);
    expect([...(await list.runTimed())]).toEqual([0, 1e6]);
    list.grids[2] = 70_000;
    list.grids[1] = 1;
    await expect(list.run()).rejects.toThrow("add: a grid of 4 x 1 x 70000 blocks; the GPU has up to 2147483647 x 65535 x 65535");
  });

  test("symbols come in the order of each kernel", async () => {
    const { device } = await open();
    const module = await device.load(fakeKernels(kernels));
    const [a, b] = [device.alloc(4, "io"), device.alloc(4, "io")];
    const step = (buffer: DeviceBuffer, symbols: string[]) => ({
      kernel: module.kernel("pair"),
      args: [{ buffer, offset: 0 }],
      symbols,
      sharedBytes: 0,
    });
    const list = device.prepare([step(a, ["seq", "past"]), step(b, ["past", "seq"])], ["past", "batch", "seq"]);
    list.grids.fill(1);
    list.symbols.set([7, 1, 3]);
    await list.run();
    expect([await numbersOf(a), await numbersOf(b)]).toEqual([[37], [73]]);
    expect(() => device.prepare([step(a, ["seq", "kept"])], ["seq"])).toThrow("pair takes the symbol kept");
    expect(() => device.prepare([step(a, ["seq"])], ["seq"])).toThrow("pair takes 2 symbols, the step gives 1");
  });

  test("a kernel with much shared memory asks for it once; more than the GPU has is refused with the numbers", async () => {
    const { device, library } = await open();
    const module = await device.load(fakeKernels(kernels));
    const y = device.alloc(4, "io");
    const step = (sharedBytes: number) => ({ kernel: module.kernel("count"), args: [{ buffer: y, offset: 0 }], symbols: [], sharedBytes });
    const list = device.prepare([step(49_152), step(100_000), step(90_000)], []);
    list.grids.fill(1);
    await list.runInBackground();
    expect(library.launched.map(({ sharedBytes }) => sharedBytes)).toEqual([49_152, 100_000, 90_000]);
    expect(library.calls.get("cuFuncSetAttribute")).toBe(1);
    expect(() => device.prepare([step(300_000)], [])).toThrow("count needs 300000 bytes of shared memory a block, NVIDIA H200 has 232448");
  });

  test("a step gives no more buffers than the kernel was compiled with", async () => {
    for (const tellsParameters of [true, false]) {
      const { device } = await open({ tellsParameters });
      const module = await device.load(fakeKernels(kernels));
      const slice = { buffer: device.alloc(4, "io"), offset: 0 };
      const step = { kernel: module.kernel("count"), args: [slice, slice], symbols: [], sharedBytes: 0 };
      if (tellsParameters)
        expect(() => device.prepare([step], [])).toThrow("count takes 1 parameters (of 8 bytes), its step gives 2 pointers");
      else expect(device.prepare([step], []).grids).toHaveLength(3);
    }
  });
});

describe("time", () => {
  test("of groups of steps: each is a graph that runs twice, its steps one right after the other", async () => {
    const { device, library } = await open();
    const { list } = await adding(device);
    const before = library.live.size;
    const [both, one, none] = await list.timeGroups!([[0, 1], [1], []]);
    expect(both).toBeGreaterThan(one!);
    expect(one).toBeGreaterThan(0);
    expect(none).toBe(0);
    const launched = library.launched.map(({ entry, early, inGraph }) => `${entry}${early ? " early" : ""}${inGraph ? "" : " alone"}`);
    // 32 launches of each group at least, in a run that counts and in one before it
    expect(launched).toHaveLength(2 * 32 + 2 * 32);
    expect(launched.slice(0, 4)).toEqual(["add", "count early", "add early", "count early"]);
    expect(launched.slice(64, 66)).toEqual(["count", "count early"]);
    expect(library.live.size).toBe(before);
    await device.close();
  });

  test("of groups, where each launch is waited for, is taken without a graph", async () => {
    vi.stubEnv("CULM_CUDA_SYNC", "1");
    const { device, library } = await open();
    vi.unstubAllEnvs();
    const { list } = await adding(device);
    const [both] = await list.timeGroups!([[0, 1]]);
    expect(both).toBeGreaterThan(0);
    expect(library.launched.map(({ early, inGraph }) => early || inGraph)).toEqual(new Array(64).fill(false));
    await device.close();
  });

  test("of groups with nothing to do is none", async () => {
    const { device } = await open();
    const { list } = await adding(device);
    list.grids.set([0, 1, 1], 3);
    expect([...(await list.timeGroups!([[1]]))]).toEqual([0]);
  });

  test("of what a body calls is the device's", async () => {
    const { device, library } = await open();
    const { list } = await adding(device);
    await list.runInBackground();
    const before = library.live.size;
    const [once, thrice] = [
      await device.milliseconds(() => list.run()),
      await device.milliseconds(async () => {
        for (let i = 0; i < 3; i += 1) await list.run();
      }),
    ];
    expect(thrice).toBeGreaterThan(once);
    expect(library.live.size).toBe(before + 1); // the graph of the list
    await expect(device.milliseconds(() => Promise.reject(new Error("not this time")))).rejects.toThrow("not this time");
    expect(library.live.size).toBe(before + 1);
  });
});

test("the event loop lives while a list runs in the background", async () => {
  const { device } = await open();
  const { list } = await adding(device);
  let turns = 0;
  const other = setImmediate(() => (turns += 1));
  await list.runInBackground();
  clearImmediate(other);
  expect(turns).toBe(1);
});

test("closing gives everything back, and nothing works afterwards", async () => {
  const { device, library } = await open();
  const { list, y } = await adding(device);
  await list.run();
  await list.run();
  await list.runTimed();
  await y.read();
  await device.close();
  await device.close();
  expect([...library.live.values()]).toEqual([]);
  expect(() => device.alloc(4, "io")).toThrow("NVIDIA H200 is closed");
  await expect(list.run()).rejects.toThrow("after it was freed");
});
