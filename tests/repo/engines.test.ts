import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { findChromium, findClang, findLavapipe, useLavapipe } from "../../scripts/engines.mjs";
import { chromiumAvailable, launchChromium, openPage } from "../support/browser.ts";
import type { StaticServer } from "../support/static-server.ts";
import { serveFolders } from "../support/static-server.ts";
import { lavapipe, lavapipeAvailable, nullGpu } from "../support/webgpu.ts";

const doubled = `
  @group(0) @binding(0) var<storage, read_write> x: array<f32>;
  @compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3<u32>) { x[id.x] = 2 * x[id.x]; }`;

async function open(gpu: GPU, requiredFeatures: GPUFeatureName[] = []): Promise<GPUDevice> {
  const adapter = await gpu.requestAdapter();
  if (adapter === null) throw new Error("no adapter");
  return adapter.requestDevice({ requiredFeatures });
}

async function doubleOn(device: GPUDevice, values: Float32Array<ArrayBuffer>): Promise<Float32Array> {
  const { STORAGE, COPY_DST, COPY_SRC, MAP_READ } = GPUBufferUsage;
  const buffer = device.createBuffer({ size: values.byteLength, usage: STORAGE | COPY_DST | COPY_SRC });
  const readback = device.createBuffer({ size: values.byteLength, usage: COPY_DST | MAP_READ });
  const module = device.createShaderModule({ code: doubled });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module } });
  const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: [{ binding: 0, resource: { buffer } }] });
  device.queue.writeBuffer(buffer, 0, values);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(values.length / 4);
  pass.end();
  encoder.copyBufferToBuffer(buffer, 0, readback, 0, values.byteLength);
  device.queue.submit([encoder.finish()]);
  await readback.mapAsync(GPUMapMode.READ);
  return new Float32Array(readback.getMappedRange().slice(0));
}

describe("Dawn's null device", () => {
  test("finds what is wrong in a shader, with its place", async () => {
    const device = await open(nullGpu());
    device.pushErrorScope("validation");
    const wrong = device.createShaderModule({ code: doubled.replace("2 *", "2u *") });
    expect((await device.popErrorScope())?.message).toContain("operator");
    const { messages } = await wrong.getCompilationInfo();
    expect(messages.map(({ type, lineNum }) => [type, lineNum])).toEqual([["error", 3]]);
    device.pushErrorScope("validation");
    device.createShaderModule({ code: doubled });
    expect(await device.popErrorScope()).toBeNull();
    device.destroy();
  });

  test("has the features that kernels have variants for", async () => {
    const adapter = await nullGpu({ enable: ["allow_unsafe_apis"] }).requestAdapter();
    const features = [...(adapter?.features ?? [])];
    expect(features).toEqual(expect.arrayContaining(["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"]));
  });

  test("is one object in a process", () => {
    expect(nullGpu()).toBe(nullGpu());
    expect(nullGpu()).not.toBe(nullGpu({ enable: ["allow_unsafe_apis"] }));
  });
});

describe("what the set-up finds", () => {
  test("can be named by the user", () => {
    vi.stubEnv("CULM_LAVAPIPE", "/elsewhere/lvp_icd.json");
    vi.stubEnv("CULM_CHROMIUM", "/elsewhere/chrome");
    vi.stubEnv("CULM_CLANG", "/elsewhere/clang++");
    expect(findLavapipe()).toEqual({ icd: "/elsewhere/lvp_icd.json", libraries: [] });
    expect(findChromium()).toBe("/elsewhere/chrome");
    expect(findClang()).toBe("/elsewhere/clang++");
    vi.unstubAllEnvs();
  });

  test("is asked for with what to do where it is missing or broken", () => {
    expect(() => useLavapipe(null)).toThrow(/npm test fetches it.*CULM_LAVAPIPE names.*CULM_SKIP_GPU_TESTS=1 skips/s);
    expect(() => useLavapipe({ icd: "lvp.json", libraries: ["/elsewhere/libLLVM.so"] })).toThrow("lavapipe needs /elsewhere/libLLVM.so");
  });
});

describe.skipIf(!lavapipeAvailable)("lavapipe", () => {
  test("runs kernels", async () => {
    const device = await open(lavapipe());
    expect(await doubleOn(device, Float32Array.of(1, 2, 3, -4))).toEqual(Float32Array.of(2, 4, 6, -8));
    device.destroy();
  });

  test("has half floats, and subgroups of 8", async () => {
    const device = await open(lavapipe(), ["shader-f16", "subgroups"]);
    expect(device.adapterInfo).toMatchObject({ subgroupMinSize: 8, subgroupMaxSize: 8 });
    expect(device.adapterInfo.description).toContain("llvmpipe");
    device.destroy();
  });

  test("two devices at once, of the same object, are independent", async () => {
    const [a, b] = [await open(lavapipe()), await open(lavapipe())];
    a.destroy();
    expect((await a.lost).reason).toBe("destroyed");
    expect(await doubleOn(b, Float32Array.of(1, 1, 1, 5))).toEqual(Float32Array.of(2, 2, 2, 10));
    b.destroy();
  });
});

describe.skipIf(!chromiumAvailable)("Chromium", () => {
  const adapterOf = `navigator.gpu.requestAdapter().then((adapter) => adapter && [adapter.info.subgroupMinSize, adapter.features.has("shader-f16")])`;
  let server: StaticServer;
  const folder = mkdtempSync(join(tmpdir(), "culm-chromium-"));
  beforeAll(async () => {
    writeFileSync(join(folder, "index.html"), "<script>fetch('/other'); console.error('as it should')</script>");
    server = await serveFolders({ "/": folder });
  });
  afterAll(async () => {
    await server.close();
    rmSync(folder, { recursive: true });
  });

  test("has WebGPU with subgroups of 4 and without half floats, and shows what a page asks for", async () => {
    const browser = await launchChromium();
    const { page, requests, errors } = await openPage(browser);
    await page.goto(`${server.origin}/`);
    expect(await page.evaluate(adapterOf)).toEqual([4, false]);
    expect(requests.slice(0, 2)).toEqual([`${server.origin}/`, `${server.origin}/other`]);
    expect(errors).toContain("as it should");
    await browser.close();
  });

  test("has no adapter where that is asked for", async () => {
    const browser = await launchChromium({ webgpu: false });
    const { page } = await openPage(browser);
    await page.goto(`${server.origin}/`);
    expect(await page.evaluate(adapterOf)).toBeNull();
    await browser.close();
  });
});
