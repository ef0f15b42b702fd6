import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device, DeviceBuffer, StepList, StepSpec } from "../../../runtime/driver.ts";
import type { WebgpuDevice } from "../../../runtime/drivers/webgpu/device.ts";
import { webgpu } from "../../../runtime/drivers/webgpu/device.ts";
import { lavapipe, lavapipeAvailable } from "../../support/webgpu.ts";
import { affine, kernelsFile, tick, windows } from "./kernels.ts";

const floats = (...values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
const bytesOf = (count: number, seed = 0): Uint8Array => Uint8Array.from({ length: count }, (_, i) => (i * 37 + seed) & 255);
const whole = (buffer: DeviceBuffer): StepSpec["args"][number] => ({ buffer, offset: 0 });

describe.skipIf(!lavapipeAvailable)("the WebGPU driver on lavapipe", () => {
  /** With windows of 256 bytes, so that they are soon crossed. */
  const tinyWindow = 256;
  let device: WebgpuDevice;
  let tiny: WebgpuDevice;
  beforeAll(async () => {
    const driver = webgpu(lavapipe({ disable: ["timestamp_quantization"] }));
    device = await driver.open();
    tiny = await driver.open({ requires: { features: [], limits: { maxStorageBufferBindingSize: tinyWindow }, subgroup: null } });
  }, 120_000);
  afterAll(async () => {
    await device.close();
    await tiny.close();
  });

  async function single(
    on: Device,
    kernels: Uint8Array,
    entry: string,
    buffers: readonly DeviceBuffer[],
    symbols: readonly string[] = [],
  ): Promise<StepList> {
    const module = await on.load(kernels);
    return on.prepare([{ kernel: module.kernel(entry), args: buffers.map(whole), symbols, sharedBytes: 0 }], symbols);
  }

  test("memory is zero, keeps what is written, and is read in parts", async () => {
    const buffer = device.alloc(1000, "state");
    await device.ready();
    expect(await buffer.read()).toEqual(new Uint8Array(1000));
    buffer.write(bytesOf(1000));
    expect(await buffer.read()).toEqual(bytesOf(1000));
    expect(await buffer.read(7, 13)).toEqual(bytesOf(1000).slice(7, 20));
    buffer.clear(100, 301);
    const expected = bytesOf(1000);
    expected.fill(0, 100, 401);
    expect(await buffer.read()).toEqual(expected);
    buffer.clear();
    expect(await buffer.read()).toEqual(new Uint8Array(1000));
    expect(() => buffer.write(new Uint8Array(2), 999)).toThrow(RangeError);
    await expect(buffer.read(-1, 2)).rejects.toThrow(RangeError);
    buffer.free();
  });

  test("any bytes are written, copied and read, across windows and within a buffer, as in host memory", async () => {
    const size = 3 * tinyWindow - 21;
    const gpu = [tiny.alloc(size, "state"), tiny.alloc(size, "state")] as const;
    const range = fc
      .record({ offset: fc.nat(size - 1), bytes: fc.nat(size) })
      .map(({ offset, bytes }) => ({ offset, bytes: Math.min(bytes, size - offset) }));
    const action = fc.oneof(
      fc.record({ kind: fc.constant("write" as const), to: fc.nat(1), range, seed: fc.nat(255) }),
      fc.record({ kind: fc.constant("clear" as const), to: fc.nat(1), range }),
      fc.record({ kind: fc.constant("copy" as const), to: fc.nat(1), from: fc.nat(1), range, origin: fc.nat(size - 1) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(action, { maxLength: 12 }), range, async (actions, part) => {
        const host = [bytesOf(size), bytesOf(size, 99)];
        host.forEach((data, i) => gpu[i]!.write(data));
        for (const action of actions) {
          const { to } = action;
          const { offset, bytes } = action.range;
          if (action.kind === "write") {
            const data = bytesOf(bytes, action.seed);
            host[to]!.set(data, offset);
            gpu[to]!.write(data, offset);
          } else if (action.kind === "clear") {
            host[to]!.fill(0, offset, offset + bytes);
            gpu[to]!.clear(offset, bytes);
          } else {
            const { from, origin } = action;
            const count = Math.min(bytes, size - origin);
            const copy = (): void => tiny.copy(gpu[to]!, offset, gpu[from]!, origin, count);
            if (to === from && Math.abs(offset - origin) < count) expect(copy).toThrow("overlap");
            else {
              copy();
              host[to]!.set(host[from]!.slice(origin, origin + count), offset);
            }
          }
        }
        for (const i of [0, 1]) expect(await gpu[i]!.read()).toEqual(host[i]!);
        expect(await gpu[0].read(part.offset, part.bytes)).toEqual(host[0]!.slice(part.offset, part.offset + part.bytes));
      }),
      { numRuns: 40 },
    );
    for (const buffer of gpu) buffer.free();
  });

  test("a buffer larger than a binding comes to the kernel in windows", async () => {
    const words = Uint32Array.from({ length: 3 * 64 - 5 }, (_, i) => i + 1);
    const [source, sum] = [tiny.alloc(words.byteLength, "weights"), tiny.alloc(8, "io")];
    source.write(new Uint8Array(words.buffer));
    const list = await single(tiny, kernelsFile([windows], tinyWindow), "windows", [source, sum]);
    list.grids.set([1, 1, 1]);
    await list.run();
    const [total] = new Uint32Array((await sum.read()).slice().buffer);
    expect(total).toBe(words.reduce((a, b) => a + b, 0));
    const small = tiny.alloc(2 * tinyWindow, "weights");
    await expect(single(tiny, kernelsFile([windows], tinyWindow), "windows", [small, sum])).rejects.toThrow("3 windows");
    await expect(tiny.load(kernelsFile([windows], 512))).rejects.toThrow("pieces of 512 bytes, the device was opened for pieces of 256");
  });

  test("steps run in order, each seeing what the earlier ones wrote, with the symbols of the run", async () => {
    const module = await device.load(kernelsFile([affine, tick]));
    const [a, b, c, n] = [
      device.alloc(1000, "io"),
      device.alloc(1000, "arena"),
      device.alloc(1000, "io"),
      device.alloc(4, "state"),
    ] as const;
    const step = (args: readonly DeviceBuffer[], symbols: readonly string[]): StepSpec => ({
      kernel: module.kernel("affine"),
      args: args.map(whole),
      symbols,
      sharedBytes: 0,
    });
    const list = device.prepare(
      [
        step([a, b], ["two", "past"]),
        step([b, c], ["past", "one"]),
        { kernel: module.kernel("tick"), args: [whole(n)], symbols: [], sharedBytes: 0 },
      ],
      ["past", "one", "two"],
    );
    list.grids.set([4, 1, 1, 4, 1, 1, 1, 1, 1]);
    a.write(floats(...Array.from({ length: 250 }, (_, i) => i)));
    const { buffers, bindGroups } = device.counts;
    for (const past of [1, 2, 3, 4, 5]) {
      list.symbols.set([past, 1, 2]);
      await (past === 3 ? list.runInBackground() : list.run());
      const got = new Float32Array((await c.read()).slice().buffer);
      expect([got[0], got[1], got[249]]).toEqual([past * past + 1, (2 + past) * past + 1, (2 * 249 + past) * past + 1]);
    }
    // a step with a zero in its grid does nothing, also when the next run was recorded with another grid
    list.grids[6] = 0;
    await list.run();
    await list.run();
    expect(new Uint32Array((await n.read()).slice().buffer)[0]).toBe(5);
    list.grids[6] = 70_000;
    await expect(list.run()).rejects.toThrow("70000 x 1 x 1 workgroups, where WebGPU has up to 65535");
    expect(device.counts).toMatchObject({ buffers, bindGroups });
    list.free();
    expect(() => device.prepare([step([a, b], ["two", "zwei"])], ["two"])).toThrow("takes the symbol zwei");
    expect(() => device.prepare([step([a, b], ["two"])], ["two"])).toThrow("takes 2 symbols, the step gives 1");
    expect(() => device.prepare([step([a], ["two", "two"])], ["two"])).toThrow("takes 2 buffers, the step gives 1");
  });

  test("a run that is read takes no new memory, however often", async () => {
    const y = device.alloc(4, "state");
    const list = await single(device, kernelsFile([tick]), "tick", [y]);
    list.grids.set([1, 1, 1]);
    await list.run();
    await y.read();
    const { allocations } = device;
    for (let i = 0; i < 20; i += 1) {
      await list.run();
      await y.read();
    }
    expect(device.allocations).toBe(allocations);
    expect(new Uint32Array((await y.read()).slice().buffer)[0]).toBe(21);
  });

  test("a timed run does the same and says how long each step took", async () => {
    const [a, y] = [device.alloc(4 << 20, "io"), device.alloc(4 << 20, "io")];
    const module = await device.load(kernelsFile([affine]));
    const step: StepSpec = { kernel: module.kernel("affine"), args: [whole(a), whole(y)], symbols: ["s", "s"], sharedBytes: 0 };
    const list = device.prepare([step, step, step], ["s"]);
    list.symbols[0] = 3;
    list.grids.set([1, 1, 1, (1 << 20) / 64, 1, 1, 0, 1, 1]);
    const started = performance.now();
    const times = await list.runTimed();
    const wall = (performance.now() - started) * 1e6;
    expect(times).toHaveLength(3);
    expect(times.every((time) => time >= 0)).toBe(true);
    expect(times[1]).toBeGreaterThan(0);
    expect(times.reduce((sum, time) => sum + time, 0)).toBeLessThan(wall);
    expect(new Float32Array((await y.read(0, 4)).slice().buffer)[0]).toBe(3);
  });

  test("a long list is cut into several submits in the background, and is one otherwise", async () => {
    const y = device.alloc(4, "state");
    const module = await device.load(kernelsFile([tick]));
    const steps = Array.from({ length: 200 }, (): StepSpec => ({
      kernel: module.kernel("tick"),
      args: [whole(y)],
      symbols: [],
      sharedBytes: 0,
    }));
    const list = device.prepare(steps, []);
    list.grids.fill(1);
    const before = device.counts.submits;
    await list.run();
    expect(device.counts.submits).toBe(before + 1);
    await list.runInBackground();
    expect(device.counts.submits).toBe(before + 5);
    expect(new Uint32Array((await y.read()).slice().buffer)[0]).toBe(400);
  });
});
