import { describe, expect, test } from "vitest";
import type { Requirements } from "../../../compiler/artifact.ts";
import { NO_REQUIREMENTS } from "../../../compiler/artifact.ts";
import type { WebgpuDevice } from "../../../runtime/drivers/webgpu/device.ts";
import { webgpu } from "../../../runtime/drivers/webgpu/device.ts";
import { parseKernels } from "../../../runtime/drivers/webgpu/kernels-file.ts";
import { nodeWebgpu } from "../../../runtime/drivers/webgpu/node.ts";
import { DeviceLostError, isUserError } from "../../../runtime/errors.ts";
import { nullGpu } from "../../support/webgpu.ts";
import { affine, kernelsFile, tick } from "./kernels.ts";

/** Dawn without a device refuses as one with a device does. */
const open = (requires: Partial<Requirements> = {}): Promise<WebgpuDevice> =>
  webgpu(nullGpu()).open({ requires: { ...NO_REQUIREMENTS, ...requires } });

async function failure(promise: Promise<unknown>): Promise<Error & { readonly hint?: string | undefined }> {
  const error: unknown = await promise.then(
    () => new Error("it did not fail"),
    (reason: unknown) => reason,
  );
  if (!isUserError(error)) throw error;
  return error;
}

describe("opening", () => {
  test("without an adapter says so, and what to do", async () => {
    const none = { requestAdapter: () => Promise.resolve(null) } as unknown as GPU;
    const error = await failure(webgpu(none).open());
    expect(error.message).toBe("WebGPU found no adapter: no GPU that it can use");
    expect(error.hint).toContain("use a browser with WebGPU");
    const other = webgpu(none, "install a driver");
    expect((await failure(other.facts())).hint).toBe("install a driver");
    expect((await failure(other.open())).hint).toBe("install a driver");
  });

  test("says all that is missing, with the numbers, before there is a device", async () => {
    const error = await failure(
      open({
        features: ["shader-f16", "mind-reading"],
        limits: { maxStorageBufferBindingSize: 2 ** 40, maxComputeInvocationsPerWorkgroup: 64, maxWishes: 3 },
        subgroup: 32,
      }),
    );
    for (const part of [
      "no feature mind-reading",
      "maxStorageBufferBindingSize 134217728 (wanted 1099511627776)",
      "maxBufferSize 268435456 (wanted 1099511627776)",
      "no limit maxWishes (wanted 3)",
      "subgroups of 4 to 128 lanes (wanted 32)",
    ])
      expect(error.message).toContain(part);
    expect(error.message).not.toMatch(/shader-f16|maxComputeInvocations/);
    expect(error.hint).toContain("--target wgsl:base");
  });

  test("options of other drivers are refused", async () => {
    expect((await failure(webgpu(nullGpu()).open({ index: 1 }))).message).toContain("does not number its devices");
    expect((await failure(webgpu(nullGpu()).open({ threads: 2 }))).message).toContain("no number of threads");
  });

  test("facts are asked for first and cost no second adapter", async () => {
    const gpu = nullGpu();
    let asked = 0;
    const counting = { requestAdapter: (options: GPURequestAdapterOptions) => ((asked += 1), gpu.requestAdapter(options)) } as GPU;
    const driver = webgpu(counting);
    expect((await driver.facts()).features).toContain("shader-f16");
    expect((await driver.facts()).limits["maxBufferSize"]).toBe(256 << 20);
    const first = await driver.open({ requires: { ...NO_REQUIREMENTS, features: ["shader-f16"] } });
    expect(asked).toBe(1);
    expect(first.gpu.features.has("shader-f16")).toBe(true);
    await (await driver.open()).close();
    expect(asked).toBe(2);
    await first.close();
  });

  test("Dawn's toggles come from CULM_DAWN and are names", async () => {
    process.env["CULM_DAWN"] = "skip_validation,--x";
    try {
      expect((await failure(nodeWebgpu())).message).toContain("CULM_DAWN: expected names");
    } finally {
      delete process.env["CULM_DAWN"];
    }
  });
});

describe("kernels.bin", () => {
  const good = kernelsFile([affine, tick]);
  const text = new TextDecoder().decode(good);
  test.each([
    ["cut off", good.subarray(0, good.length - 20), "bytes are not valid JSON"],
    ["empty", new Uint8Array(0), "its 0 bytes are not valid JSON"],
    ["machine code", Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 0xff, 0xfe), "not valid JSON"],
    ["another format", new TextEncoder().encode(text.replace("culm-wgsl", "culm-spirv")), "format:"],
    ["another version", new TextEncoder().encode(text.replace('"version":1', '"version":2')), "version:"],
    ["an entry that is no name", new TextEncoder().encode(text.replace('"entry":"tick"', '"entry":"tick();"')), "kernels.1.entry:"],
    ["an entry twice", kernelsFile([tick, tick]), "an entry is given twice"],
    ["many bindings", new TextEncoder().encode(text.replace('"windows":1', '"windows":1e9')), "kernels.0.params.0.windows:"],
    ["a strange access", new TextEncoder().encode(text.replace('"readwrite"', '"execute"')), "kernels.0.params.1.access:"],
  ])("%s is refused", (_, binary, message) => {
    expect(() => parseKernels(binary)).toThrow(message);
    expect(() => parseKernels(binary)).toThrow(expect.objectContaining({ name: "UserError" }) as Error);
  });

  test("a kernel that does not compile is named, with the line", async () => {
    const device = await open();
    const broken = { ...tick, source: tick.source.replace("1u;", "1.5;") };
    const error = await failure(device.load(kernelsFile([affine, broken])));
    expect(error.message).toMatch(/cannot compile kernel tick: line 3: no matching overload.*y\[0\] \+= 1\.5/);
    // more threads than the device has: the module is good, the pipeline is not
    const wide = { ...tick, source: tick.source.replace("@workgroup_size(1)", "@workgroup_size(2048)") };
    expect((await failure(device.load(kernelsFile([wide])))).message).toMatch(/cannot compile kernel tick: .*2048/s);
    // the device works as before
    const module = await device.load(good);
    expect(module.kernel("tick").entry).toBe("tick");
    expect(() => module.kernel("tock")).toThrow("there is no kernel tock");
    await device.close();
  });
});

describe("memory", () => {
  test("that is not there comes out before anything runs", async () => {
    const device = await open();
    for (let i = 0; i < 3; i += 1) device.alloc(250 << 20, "weights");
    await expect(device.ready()).rejects.toThrow(RangeError);
    await device.close();
  });

  test("a mistake in a call fails every later one: results would be wrong", async () => {
    const device = await open();
    const buffer = device.alloc(64, "io");
    await device.ready();
    device.gpu.createBuffer({ size: 2 ** 40, usage: 0x80 });
    await device.gpu.queue.onSubmittedWorkDone();
    await expect(buffer.read()).rejects.toThrow(/WebGPU refused a call: .*max buffer size/);
    expect(() => buffer.write(new Uint8Array(4))).toThrow("WebGPU refused a call");
    await device.close();
  });
});

describe("a device that is lost", () => {
  test("fails what is under way and what comes later, with the reason", async () => {
    const device = await open();
    const module = await device.load(kernelsFile([tick]));
    const buffer = device.alloc(4, "state");
    const list = device.prepare([{ kernel: module.kernel("tick"), args: [{ buffer, offset: 0 }], symbols: [], sharedBytes: 0 }], []);
    list.grids.fill(1);
    await list.run();
    const reading = failure(buffer.read());
    device.gpu.destroy();
    for (const error of [
      await reading,
      await failure(list.run()),
      await failure(list.runInBackground()),
      await failure(list.runTimed()),
      await failure(buffer.read()),
      await failure(device.ready()),
      await failure(device.load(kernelsFile([tick]))),
      await failure(Promise.resolve().then(() => device.alloc(4, "io"))),
      await failure(Promise.resolve().then(() => buffer.write(new Uint8Array(4)))),
    ]) {
      expect(error).toBeInstanceOf(DeviceLostError);
      expect(error.message).toMatch(/the GPU device was lost \(destroyed/);
      expect(error.hint).toContain("open the model again");
    }
    list.free();
    buffer.free();
    await device.close();
  });

  test("a closed device says that it is closed", async () => {
    const device = await open();
    const buffer = device.alloc(4, "state");
    await device.close();
    await device.close();
    await expect(buffer.read()).rejects.toThrow("is closed");
  });
});
