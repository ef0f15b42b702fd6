import { wgslBackend } from "../../backends/wgsl/index.ts";
import type { Caps, Source } from "../../compiler/backend.ts";
import { evaluateInt } from "../../compiler/ir/expr.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { HostArray } from "../../compiler/run/tile.ts";

/** A device for the kernels of a target, with what the target requires. */
export async function openDevice(gpu: GPU, caps: Caps): Promise<GPUDevice> {
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new Error("there is no adapter");
  return adapter.requestDevice({
    requiredFeatures: caps.requires.features as GPUFeatureName[],
    requiredLimits: { ...caps.requires.limits },
  });
}

/** A device to validate the kernels of a target on, which may have less memory than the target wants: then `faultsOf` does not ask it about that. */
export async function validator(gpu: GPU, caps: Caps): Promise<GPUDevice> {
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new Error("there is no adapter");
  return adapter.requestDevice({
    requiredFeatures: caps.requires.features as GPUFeatureName[],
    requiredLimits: { maxStorageBuffersPerShaderStage: adapter.limits.maxStorageBuffersPerShaderStage },
  });
}

/** The target with as many buffers a kernel as test problems have: a model's kernels have to do with fewer. */
export const manyBuffers = (caps: Caps): Caps => ({
  ...caps,
  maxBuffers: 10,
  requires: { ...caps.requires, limits: { ...caps.requires.limits, maxStorageBuffersPerShaderStage: 10 } },
});

/** What a validating compiler finds in a kernel's text, each with its line and the text of it; nothing when all is well. */
export async function faultsOf(device: GPUDevice, source: Source, caps: Caps): Promise<string[]> {
  const lines = source.text.split("\n");
  const [module, { messages }, failed] = await scoped(device, async () => {
    const made = device.createShaderModule({ code: source.text });
    return [made, await made.getCompilationInfo()] as const;
  });
  const found = messages
    .filter((m) => m.type !== "info")
    .map((m) => `${source.entry} line ${m.lineNum}: ${m.message}\n    ${(lines[m.lineNum - 1] ?? "").trim().slice(0, 240)}`);
  if (found.length === 0 && failed) found.push(`${source.entry}: ${failed}`);
  const allowed = caps.requires.limits["maxComputeWorkgroupStorageSize"]!;
  if (source.sharedBytes > allowed)
    found.push(`${source.entry}: ${source.sharedBytes} bytes of workgroup memory, ${caps.name} has ${allowed}`);
  const { maxComputeWorkgroupStorageSize: memory, maxStorageBuffersPerShaderStage: buffers } = device.limits;
  // what the device itself has no room for is checked as far as its text goes
  if (found.length > 0 || source.sharedBytes > memory || source.params!.reduce((n, p) => n + p.windows, 0) > buffers) return found;
  try {
    await device.createComputePipelineAsync({ layout: layoutOf(device, source), compute: { module } });
  } catch (e) {
    found.push(`${source.entry}: ${e instanceof Error ? e.message : String(e)}`);
  }
  return found;
}

/** What `work` gives, and what the device's validation found wrong while it began. */
async function scoped<M, I>(device: GPUDevice, work: () => Promise<readonly [M, I]>): Promise<readonly [M, I, string | null]> {
  device.pushErrorScope("validation");
  const working = work();
  const failed = device.popErrorScope();
  const [made, info] = await working;
  return [made, info, (await failed)?.message ?? null];
}

function groupLayout(device: GPUDevice, source: Source): GPUBindGroupLayout {
  const types: GPUBufferBindingType[] = source.params!.flatMap(({ access, windows }) =>
    Array<GPUBufferBindingType>(windows).fill(access === "read" ? "read-only-storage" : "storage"),
  );
  if (source.launch!.symbols > 0) types.push("uniform");
  return device.createBindGroupLayout({
    entries: types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
  });
}
const layoutOf = (device: GPUDevice, source: Source): GPUPipelineLayout =>
  device.createPipelineLayout({ bindGroupLayouts: [groupLayout(device, source)] });

interface Ready {
  readonly source: Source;
  readonly layout: GPUBindGroupLayout;
  readonly pipeline: GPUComputePipeline;
}

/** What an element past the end of a buffer is filled with; it must still be there afterwards. */
const BEYOND = 0xa5;

/** Runs programs on a device, on copies of host memory; throws what the device or its compiler finds wrong. */
export class Runner {
  readonly device: GPUDevice;
  private readonly caps: Caps;
  private readonly window: number;
  private readonly ready = new Map<string, Promise<Ready>>();

  constructor(device: GPUDevice, caps: Caps) {
    this.device = device;
    this.caps = caps;
    this.window = caps.requires.limits["maxStorageBufferBindingSize"]!;
  }

  private async prepare(program: ThreadProgram): Promise<Ready> {
    const { device, caps } = this;
    const source = wgslBackend.print(program, caps);
    const known = this.ready.get(source.text);
    if (known) return known;
    const make = async (): Promise<Ready> => {
      const layout = groupLayout(device, source);
      const module = device.createShaderModule({ code: source.text });
      try {
        const pipeline = await device.createComputePipelineAsync({
          layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
          compute: { module },
        });
        return { source, layout, pipeline };
      } catch (e) {
        throw new Error(`${(await faultsOf(device, source, caps)).join("\n")}\n${source.text}`, { cause: e });
      }
    };
    const made = make();
    this.ready.set(source.text, made);
    return made;
  }

  async run(
    placed: ThreadProgram,
    buffers: Readonly<Record<string, HostArray>>,
    symbols: Readonly<Record<string, number>> = {},
  ): Promise<void> {
    const { device } = this;
    const program = wgslBackend.legalize!(placed, this.caps);
    const { source, layout, pipeline } = await this.prepare(program);
    const owned: GPUBuffer[] = [];
    const make = (bytes: number, usage: number): GPUBuffer => {
      const b = device.createBuffer({ size: bytes, usage });
      owned.push(b);
      return b;
    };
    const params = program.params.map(({ name }, i) => {
      const data = buffers[name];
      if (!data) throw new Error(`there is no buffer for ${name}`);
      const padded = new Uint8Array(Math.ceil(data.byteLength / 16) * 16 + 16).fill(BEYOND);
      padded.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      const { windows, access } = source.params![i]!;
      const parts = Array.from({ length: windows }, (_, w) => {
        const bytes = padded.subarray(w * this.window, w === windows - 1 ? padded.length : (w + 1) * this.window);
        const b = make(Math.max(16, bytes.length), GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST);
        device.queue.writeBuffer(b, 0, bytes);
        return { b, bytes };
      });
      return { name, data, access, parts, length: padded.length };
    });
    const bound = params.flatMap((p) => p.parts.map(({ b }) => b));
    if (program.symbols.length > 0) {
      const values = new Int32Array(Math.ceil(program.symbols.length / 4) * 4);
      values.set(program.symbols.map((s) => symbols[s.name]!));
      const uniform = make(values.byteLength, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
      device.queue.writeBuffer(uniform, 0, values);
      bound.push(uniform);
    }
    device.pushErrorScope("validation");
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout, entries: bound.map((buffer, binding) => ({ binding, resource: { buffer } })) }));
    const [gx, gy, gz] = program.grid.map((g) => evaluateInt(g, symbols)) as [number, number, number];
    pass.dispatchWorkgroups(gx, gy, gz);
    pass.end();
    const written = params.filter((p) => p.access === "readwrite");
    const total = written.reduce((n, p) => n + p.length, 0);
    const back = make(Math.max(16, total), GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
    let at = 0;
    for (const p of written)
      for (const { b, bytes } of p.parts) {
        if (bytes.length > 0) encoder.copyBufferToBuffer(b, 0, back, at, bytes.length);
        at += bytes.length;
      }
    device.queue.submit([encoder.finish()]);
    const failed = await device.popErrorScope();
    if (failed) throw new Error(`${program.name}: ${failed.message}`);
    await back.mapAsync(GPUMapMode.READ);
    const got = new Uint8Array(back.getMappedRange());
    at = 0;
    for (const { name, data, length } of written) {
      const bytes = got.subarray(at, at + length);
      new Uint8Array(data.buffer, data.byteOffset, data.byteLength).set(bytes.subarray(0, data.byteLength));
      if (bytes.subarray(data.byteLength).some((x) => x !== BEYOND)) throw new Error(`${program.name} writes past the end of ${name}`);
      at += length;
    }
    back.unmap();
    for (const b of owned) b.destroy();
  }
}
