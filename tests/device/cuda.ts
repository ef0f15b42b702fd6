import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { writeCubins } from "../../ffi/cubins.ts";
import { loadNvrtc } from "../../ffi/libnvrtc.ts";
import { benchSteps } from "../../models/auto/bench-cuda.ts";
import { openCausalLM } from "../../models/auto/index.ts";
import { printStepBench } from "../../runtime/cli/bench-cuda-text.ts";
import { cuda } from "../../runtime/drivers/cuda/device.ts";
import type { CudaDevice } from "../../runtime/drivers/cuda/device.ts";
import { openNoise } from "../../runtime/drivers/cuda/noise.ts";
import type { DeviceBuffer, StepList } from "../../runtime/driver.ts";
import { DeviceLostError } from "../../runtime/errors.ts";
import { decodeFloats } from "../../runtime/numeric.ts";
import { tinyFolder } from "../support/model-folder.ts";

/** Threads of a block. */
const THREADS = 64;

/** x + symbol -> y; a store to where there is nothing; and one after the other, each in many blocks that begin early. */
const SOURCE = `
__device__ __forceinline__ void early() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
extern "C" __global__ void __launch_bounds__(${THREADS}) add(const int* x, int* y, const int* symbols) {
  early();
  int i = blockIdx.x * ${THREADS} + threadIdx.x;
  y[i] = x[i] + symbols[0];
}
extern "C" __global__ void __launch_bounds__(${THREADS}) twice(int* y) {
  early();
  int i = blockIdx.x * ${THREADS} + threadIdx.x;
  y[i] = 2 * y[i];
}
extern "C" __global__ void __launch_bounds__(${THREADS}) astray(int* y) {
  early();
  *(volatile int*)(size_t)(threadIdx.x * 4 + 64) = y[0];
}
`;

/** @param architecture that the code is really for, unless given the device's */
async function kernels(device: CudaDevice, architecture = device.facts.computeCapability): Promise<Uint8Array> {
  const { computeCapability } = device.facts;
  const { binary } = await loadNvrtc().compileInBackground(SOURCE, "tests", [`--gpu-architecture=sm_${architecture}`]);
  const member = "tests.cubin";
  const entries = { add: 1, twice: 0, astray: 0 };
  return writeCubins({
    computeCapability,
    kernels: Object.entries(entries).map(([entry, symbols]) => ({ entry, threads: THREADS, symbols, member })),
    members: [{ name: member, data: binary }],
  });
}

interface Adding {
  readonly list: StepList;
  readonly x: DeviceBuffer;
  readonly y: DeviceBuffer;
}

const BLOCKS = 1000;

/** y = 2^doublings * (x + past). */
async function adding(device: CudaDevice, doublings: number, last = "twice"): Promise<Adding> {
  const module = await device.load(await kernels(device));
  const [x, y] = [device.alloc(4 * BLOCKS * THREADS, "io"), device.alloc(4 * BLOCKS * THREADS, "io")];
  const args = (...buffers: DeviceBuffer[]): { buffer: DeviceBuffer; offset: number }[] => buffers.map((buffer) => ({ buffer, offset: 0 }));
  const steps = Array.from({ length: doublings }, (_, i) => ({
    kernel: module.kernel(i === doublings - 1 ? last : "twice"),
    args: args(y),
    symbols: [],
    sharedBytes: 0,
  }));
  const list = device.prepare([{ kernel: module.kernel("add"), args: args(x, y), symbols: ["past"], sharedBytes: 0 }, ...steps], ["past"]);
  for (let i = 0; i <= doublings; i += 1) list.grids.set([BLOCKS, 1, 1], 3 * i);
  return { list, x, y };
}

const integers = (bytes: Uint8Array): Int32Array => new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);

/** What only a real driver shows. */
export function cudaTests(): void {
  describe("CUDA driver", () => {
    const on = (name: string, body: (device: CudaDevice) => Promise<void>): void =>
      test(name, async () => {
        const device = await cuda().open();
        await body(device).finally(() => device.close());
      });

    on("memory: odd ranges, many pieces, copies, and the count of what is free", async (device) => {
      const words = new Uint32Array(100 << 18);
      for (let i = 0; i < words.length; i += 1) words[i] = Math.imul(i, 0x9e3779b1);
      const data = new Uint8Array(words.buffer);
      const free = device.freeBytes!();
      const [a, b] = [device.alloc(data.length + 3, "weights"), device.alloc(data.length + 3, "weights")];
      expect(free - device.freeBytes!()).toBeGreaterThanOrEqual(2 * data.length);
      a.write(data, 3);
      device.copy(b, 1, a, 3, data.length);
      expect(Buffer.compare(await b.read(1, data.length), data)).toBe(0);
      expect([...(await b.read(0, 1)), ...(await a.read(0, 3)), ...(await b.read(data.length + 1))]).toEqual([0, 0, 0, 0, 0, 0]);
      a.clear(5, 7);
      expect(Buffer.compare(await a.read(5, 7), new Uint8Array(7))).toBe(0);
      expect(() => device.alloc(2 ** 44, "weights")).toThrow(RangeError);
      expect((await a.read(3, 2))[1]).toBe(data[1]);
    });

    on("a list in launches, as a graph and timed gives the same, with symbols of each run", async (device) => {
      const { list, x, y } = await adding(device, 5);
      const given = Int32Array.from({ length: BLOCKS * THREADS }, (_, i) => i);
      x.write(new Uint8Array(given.buffer));
      const made: number[] = [];
      for (let past = 1; past <= 8; past += 1) {
        list.symbols[0] = past;
        if (past === 4) expect((await list.runTimed()).every((ns) => ns > 0 && ns < 1e8)).toBe(true);
        else await list.run();
        const got = integers(await y.read());
        expect([got[0], got[77], got.at(-1)]).toEqual([0, 77, given.length - 1].map((i) => 32 * (i + past)));
        made.push(device.allocations);
      }
      expect(new Set(made.slice(4)).size).toBe(1);
    });

    on("runs that follow each other without a read keep their own symbols", async (device) => {
      const { list, y } = await adding(device, 3);
      const reads: Promise<Uint8Array>[] = [];
      for (let past = 0; past < 40; past += 1) {
        list.symbols[0] = past;
        await list.run();
        reads.push(y.read(0, 4));
      }
      expect((await Promise.all(reads)).map((bytes) => integers(bytes)[0])).toEqual(Array.from({ length: 40 }, (_, past) => 8 * past));
    });

    test("a decode step is measured: its graph, a token of the loop, and kernels that together take about as long", async () => {
      const report = await benchSteps(
        { model: tinyFolder },
        { batches: [1, 3], context: 40, prefill: 16, decode: 8, repeat: 1, cache: null },
      );
      const { copy, read, fma, mma } = report.ceilings;
      expect(Math.min(copy, read, fma, mma)).toBeGreaterThan(1e11);
      expect(report.steps.map(({ batch }) => batch)).toEqual([1, 3]);
      for (const step of report.steps) {
        expect(step.graphMilliseconds).toBeGreaterThan(0);
        expect(step.wallMilliseconds).toBeGreaterThan(0.8 * step.graphMilliseconds);
        const launches = step.kernels.reduce((sum, kernel) => sum + kernel.launches, 0);
        expect(launches).toBe(step.launches);
        const together = step.kernels.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
        expect(together / step.graphMilliseconds).toBeGreaterThan(0.5);
        expect(together / step.graphMilliseconds).toBeLessThan(2);
      }
      expect(report.prompt!.tokens).toBe(16);
      expect(printStepBench(report)).toContain("a step of 3 at 40");
    });

    test("weights that are made on the device are spread as they should be", async () => {
      const device = await cuda().open();
      const noise = await openNoise(device);
      const count = 1 << 16;
      const buffer = device.alloc(4 * count, "weights");
      for (const [dtype, storage] of [
        ["f32", "F32"],
        ["bf16", "BF16"],
        ["f16", "F16"],
      ] as const) {
        await noise.fill(buffer, 0, count, dtype, 0.25, "w");
        const values = decodeFloats(storage, await buffer.read(0, count * (dtype === "f32" ? 4 : 2)));
        const mean = values.reduce((sum, x) => sum + x, 0) / count;
        const deviation = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / count);
        expect(Math.abs(mean)).toBeLessThan(0.005);
        expect(Math.abs(deviation - 0.25)).toBeLessThan(0.005);
        expect(new Set(values).size).toBeGreaterThan(500);
      }
      noise.free();
      await device.close();
    });

    on(
      "code of another architecture under this one's name is refused by the driver, told with what to do, and does no harm",
      async (device) => {
        const other = device.facts.computeCapability === 80 ? 90 : 80;
        const loading = device.load(await kernels(device, other));
        await expect(loading).rejects.toThrow(/^kernels.bin: tests.cubin (has no code for|is no program that) .*CUDA_ERROR/);
        const { list, y } = await adding(device, 1);
        await list.run();
        expect(integers(await y.read(0, 4))[0]).toBe(0);
      },
    );

    test("a model that is too large is refused with the plan, and nothing of it is taken", async () => {
      const device = await cuda().open();
      device.alloc(device.freeBytes!() - (512 << 20), "io");
      const free = device.freeBytes!();
      const model = await openCausalLM(tinyFolder, { backend: "cuda", batch: 64, maxLength: 60_000, prefillChunk: 16, cache: null });
      const opening = model.session();
      await expect(opening).rejects.toThrow(/not enough memory; the model needs .*: weights .*, keys and values .* are free$/);
      await model.close();
      expect(free - device.freeBytes!()).toBeLessThan(128 << 20);
      await device.close();
    });

    test("faults, in a process of their own", () => {
      const flags = [process.argv[1]!, "--backend", "cuda", "--faults"];
      for (const env of [{}, { CULM_CUDA_SYNC: "1" }]) {
        const { status, stdout, stderr } = spawnSync(process.execPath, flags, { env: { ...process.env, ...env }, encoding: "utf8" });
        expect({ status, said: status === 0 ? "" : `${stdout}\n${stderr}` }).toEqual({ status: 0, said: "" });
      }
    });
  });
}

/** A device that is lost is lost for its process. */
export function cudaFaults(): void {
  test("a kernel that goes astray is told, every later call says so, and the process has to be started again", async () => {
    const device = await cuda().open();
    const { list, y } = await adding(device, 3, "astray");
    const broken = await list.runInBackground().then(
      () => null,
      (error: unknown) => error,
    );
    expect(broken).toBeInstanceOf(DeviceLostError);
    const which =
      process.env["CULM_CUDA_SYNC"] === "1"
        ? /kernel astray broke off: .*CUDA_ERROR/
        : /a kernel broke off: .*under way were add, twice, astray/;
    expect((broken as Error).message).toMatch(which);
    await expect(y.read()).rejects.toBe(broken);
    expect(() => device.alloc(4, "io")).toThrow((broken as Error).message);
    await device.close();

    const again = cuda().open();
    await expect(again).rejects.toBeInstanceOf(DeviceLostError);
    await expect(again).rejects.toThrow(/cannot be opened: in this process a kernel broke off, .*CUDA_ERROR/);
  });
}
