import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { writeCubins } from "../../../ffi/cubins.ts";
import { CudaError } from "../../../ffi/cuda-errors.ts";
import { cudaCandidates, loadCuda } from "../../../ffi/libcuda.ts";
import { cuda } from "../../../runtime/drivers/cuda/device.ts";
import type { CudaDevice } from "../../../runtime/drivers/cuda/device.ts";
import { DeviceLostError, isUserError } from "../../../runtime/errors.ts";

test("where the driver's library is looked for", () => {
  expect(cudaCandidates(undefined, "linux")[0]).toBe("libcuda.so.1");
  expect(cudaCandidates("", "win32")).toEqual(["nvcuda.dll"]);
  expect(cudaCandidates("/there/libcuda.so")).toEqual(["/there/libcuda.so"]);
  const missing = (): unknown => {
    try {
      return loadCuda("/nowhere/libcuda.so.1");
    } catch (error) {
      return error;
    }
  };
  expect(isUserError(missing())).toBe(true);
  expect((missing() as Error).message).toBe("the CUDA driver was not found; tried /nowhere/libcuda.so.1");
});

const headers = process.env["CUDA_HOME"] === undefined ? "/usr/local/cuda/include" : join(process.env["CUDA_HOME"], "include");
const why = !existsSync(join(headers, "cuda.h"))
  ? `there is no cuda.h in ${headers} (CUDA_HOME names a toolkit)`
  : spawnSync("cc", ["--version"]).status !== 0
    ? "there is no cc to build a stand-in with"
    : null;

/** The calls of the driver against cuda.h, which a stand-in is compiled with. */
describe.skipIf(why !== null)(why === null ? "libcuda" : `libcuda (skipped: ${why})`, () => {
  const directory = mkdtempSync(join(tmpdir(), "culm-libcuda-"));
  const built = join(directory, "libcuda.so");
  beforeAll(() => {
    const source = fileURLToPath(new URL("../../support/fake-libcuda.c", import.meta.url));
    const flags = ["-shared", "-fPIC", "-O1", "-Werror", "-Wall", "-Wno-deprecated-declarations", "-I", headers, "-o", built, source];
    const { status, stderr } = spawnSync("cc", flags, { encoding: "utf8" });
    expect(status, stderr).toBe(0);
  });
  afterEach(() => vi.unstubAllEnvs());
  afterAll(() => rmSync(directory, { recursive: true }));

  /** A library is loaded once under its path, and remembers what became of it. */
  let copies = 0;
  const library = (): string => {
    copies += 1;
    const path = join(directory, `libcuda-${copies}.so`);
    copyFileSync(built, path);
    return path;
  };
  const kernels = writeCubins({
    computeCapability: 90,
    kernels: [{ entry: "store", threads: 96, symbols: 1, member: "a" }],
    members: [{ name: "a", data: new TextEncoder().encode("\u007fELF store") }],
  });
  const open = async (): Promise<CudaDevice> => cuda(loadCuda(library())).open();

  test("facts", () => {
    expect(cuda(loadCuda(library())).facts()).toEqual({
      name: "Fake 70",
      index: 0,
      computeCapability: 90,
      multiprocessors: 132,
      sharedBytes: 232_448,
      totalBytes: 141 * 2 ** 30,
      maxGrid: [65_535, 65_534],
      driverVersion: 13_000,
    });
  });

  test("an old driver, and no GPU", () => {
    vi.stubEnv("FAKE_VERSION", "11040");
    expect(() => loadCuda(library())).toThrow(/the CUDA driver is for CUDA 11\.4, culm needs 12\.0 or later$/);
    vi.stubEnv("FAKE_VERSION", "");
    vi.stubEnv("FAKE_COUNT", "0");
    expect(() => loadCuda(library())).toThrow("the CUDA driver finds no NVIDIA GPU");
  });

  test("memory", async () => {
    const device = await open();
    expect(device.freeBytes!()).toBe(100 * 2 ** 30);
    const [a, b] = [device.alloc(100, "io"), device.alloc(50, "result")];
    a.write(
      Uint8Array.from({ length: 70 }, (_, i) => i + 1),
      20,
    );
    device.copy(b, 10, a, 30, 30);
    a.clear(31, 2);
    expect([...(await a.read(29, 6))]).toEqual([10, 11, 0, 0, 14, 15]);
    expect([...(await b.read(8, 4))]).toEqual([0, 0, 11, 12]);
    expect(() => device.alloc(2 ** 41, "io")).toThrow("Fake 70: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory");
    expect(() => device.alloc(2 ** 41, "io")).toThrow(RangeError);
    await device.close();
  });

  test("launches, as the driver sees them: at once, as a graph, and timed", async () => {
    const device = await open();
    const module = await device.load(kernels);
    const buffers = (["io", "result"] as const).map((use) => device.alloc(64, use));
    const steps = buffers.map((buffer, i) => ({
      kernel: module.kernel("store"),
      args: [{ buffer, offset: 0 }],
      symbols: ["past"],
      sharedBytes: 50_000 * i,
    }));
    const list = device.prepare(steps, ["seq", "past"]);
    list.grids.set([3, 4, 5, 6, 7, 8]);
    for (let past = 40; past < 44; past += 1) {
      list.symbols[1] = past;
      await list.run();
      const [first, second] = await Promise.all(buffers.map(async (buffer) => [...new Int32Array((await buffer.read(0, 36)).buffer)]));
      expect(first).toEqual([past, 3, 4, 5, 96, 1, 1, 0, 0]);
      expect(second).toEqual([past, 6, 7, 8, 96, 1, 1, 50_000, 1]);
    }
    expect([...(await list.runTimed())]).toEqual([250_000, 250_000]);
    const twice = [...steps[0]!.args, ...steps[0]!.args];
    expect(() => device.prepare([{ ...steps[0]!, args: twice }], ["past"])).toThrow(
      "store takes 2 parameters (of 8, 8 bytes), its step gives 3",
    );
    await device.close();
  });

  test("a kernel's fault, and an error that the driver has no name for", async () => {
    vi.stubEnv("FAKE_FAULT", "1");
    const driver = cuda(loadCuda(library()));
    const device = await driver.open();
    const module = await device.load(kernels);
    const buffer = device.alloc(64, "io");
    const step = { kernel: module.kernel("store"), args: [{ buffer, offset: 0 }], symbols: ["past"], sharedBytes: 0 };
    const list = device.prepare([step, step], ["past"]);
    list.grids.fill(1);
    await expect(list.runInBackground()).rejects.toThrow(DeviceLostError);
    await expect(buffer.read()).rejects.toThrow("CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered");
    await device.close();
    await expect(driver.open()).rejects.toThrow(DeviceLostError);
    await expect(driver.open()).rejects.toThrow("Fake 70 cannot be opened: in this process a kernel broke off");

    const other = loadCuda(library());
    expect(() => other.freeBytes()).toThrow(CudaError);
    expect(() => other.freeBytes()).toThrow("cuMemGetInfo_v2: an error that the driver has no name for (201)");
  });
});
