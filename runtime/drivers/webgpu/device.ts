import type { Requirements } from "../../../compiler/artifact.ts";
import { NO_REQUIREMENTS } from "../../../compiler/artifact.ts";
import type { Device, DeviceBuffer, Driver, OpenOptions } from "../../driver.ts";
import { UserError } from "../../errors.ts";
import type { AdapterFacts } from "./adapter.ts";
import { factsOf, requestAdapter, shortfalls } from "./adapter.ts";
import { copyBetween, WindowedBuffer } from "./buffer.ts";
import { DEFAULT_LIMITS } from "./constants.ts";
import { byteCopier } from "./copy-bytes.ts";
import { parseKernels } from "./kernels-file.ts";
import { loadKernels, WebgpuKernel } from "./kernels.ts";
import { List } from "./list.ts";
import type { Counts } from "./work.ts";
import { Work } from "./work.ts";

export interface WebgpuDevice extends Device {
  readonly facts: AdapterFacts;
  /** What was made on the device so far; a run makes nothing but its command buffers. */
  readonly counts: Readonly<Counts>;
  /** The WebGPU device itself, for what is not a model's: a benchmark's own kernels, a forced loss. */
  readonly gpu: GPUDevice;
}

export interface WebgpuDriver extends Driver {
  /** What the adapter offers, to choose what to compile or to download. @throws UserError when there is none. */
  facts(): Promise<AdapterFacts>;
  open(options?: OpenOptions): Promise<WebgpuDevice>;
}

const browserHint =
  "use a browser with WebGPU (Chrome or Edge 113, Safari 26, Firefox 141 or later) on a machine whose GPU it supports; chrome://gpu says why not";

/**
 * WebGPU, in a page (`navigator.gpu`) and in Node (node.ts).
 * @param hint what to do when there is no adapter
 */
export function webgpu(gpu: GPU, hint: string = browserHint): WebgpuDriver {
  // An adapter gives one device. The one whose facts were asked for is the next to be opened.
  let waiting: Promise<GPUAdapter> | null = null;
  const adapter = (): Promise<GPUAdapter> => {
    waiting ??= requestAdapter(gpu, hint);
    return waiting;
  };
  return {
    name: "webgpu",
    facts: async () => {
      try {
        return factsOf(await adapter());
      } catch (error) {
        waiting = null;
        throw error;
      }
    },
    open: async (options = {}) => {
      try {
        return await open(gpu, await adapter(), options);
      } finally {
        waiting = null;
      }
    },
  };
}

/** Limits to ask for: those required, and that a buffer can be as large as a binding. */
function wantedLimits({ limits }: Requirements): Readonly<Record<string, number>> {
  const window = limits["maxStorageBufferBindingSize"] ?? DEFAULT_LIMITS.maxStorageBufferBindingSize;
  return window > (limits["maxBufferSize"] ?? DEFAULT_LIMITS.maxBufferSize) ? { ...limits, maxBufferSize: window } : limits;
}

async function open(
  instance: GPU,
  adapter: GPUAdapter,
  { requires = NO_REQUIREMENTS, threads, index }: OpenOptions,
): Promise<WebgpuDevice> {
  if (threads !== undefined) throw new UserError("WebGPU has no number of threads", { hint: "leave out threads (--threads)" });
  if (index !== undefined)
    throw new UserError("WebGPU does not number its devices", { hint: "leave out index; the browser or Vulkan decides which GPU it is" });
  const facts = factsOf(adapter);
  const limits = wantedLimits(requires);
  const missing = shortfalls(facts, { ...requires, limits });
  if (missing.length > 0)
    throw new UserError(`${facts.name} cannot run this model: it has ${missing.join(", ")}`, {
      hint: "compile the model for less, such as --target wgsl:base, which runs on every WebGPU adapter, or use another GPU",
    });
  const timed: readonly string[] = facts.features.includes("timestamp-query") ? ["timestamp-query"] : [];
  let gpu: GPUDevice;
  try {
    gpu = await adapter.requestDevice({
      requiredFeatures: [...new Set([...requires.features, ...timed])] as GPUFeatureName[],
      requiredLimits: limits,
    });
  } catch (cause) {
    throw new UserError(`${facts.name} gave no WebGPU device: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  return new OpenDevice(instance, gpu, facts, limits["maxStorageBufferBindingSize"] ?? DEFAULT_LIMITS.maxStorageBufferBindingSize);
}

class OpenDevice implements WebgpuDevice {
  readonly name: string;
  readonly backend = "wgsl";
  readonly fingerprint: string;
  /** WebGPU does not tell how many cores a GPU has. */
  readonly workers = null;
  readonly facts: AdapterFacts;
  readonly gpu: GPUDevice;
  private readonly work: Work;
  private readonly windowBytes: number;
  private readonly copier: ReturnType<typeof byteCopier>;
  private closed = false;
  /** Dawn in Node ends its event loop with the last reference to this: promises of a device that outlives it never settle. */
  readonly instance: GPU;

  constructor(instance: GPU, gpu: GPUDevice, facts: AdapterFacts, windowBytes: number) {
    this.instance = instance;
    this.gpu = gpu;
    this.facts = facts;
    this.name = `${facts.name} (WebGPU)`;
    this.fingerprint = `webgpu ${facts.vendor} ${facts.architecture} ${facts.device} ${facts.description}`;
    this.windowBytes = windowBytes;
    this.work = new Work(gpu, this.name);
    this.copier = byteCopier(this.work);
  }

  get counts(): Readonly<Counts> {
    return this.work.counts;
  }

  get allocations(): number {
    return this.work.counts.buffers + this.work.counts.bindGroups;
  }

  alloc(bytes: number): WindowedBuffer {
    return new WindowedBuffer(this.work, this.windowBytes, this.copier, bytes);
  }

  ready(): Promise<void> {
    return this.work.ready();
  }

  copy(to: DeviceBuffer, toOffset: number, from: DeviceBuffer, fromOffset: number, bytes: number): void {
    copyBetween(this.copier, ownBuffer(to), toOffset, ownBuffer(from), fromOffset, bytes);
  }

  async load(binary: Uint8Array): ReturnType<Device["load"]> {
    const file = parseKernels(binary);
    if (file.windowBytes !== this.windowBytes)
      throw new UserError(
        `kernels.bin: its kernels see buffers in pieces of ${file.windowBytes} bytes, the device was opened for pieces of ${this.windowBytes}`,
        { hint: "open the device with what the artifact's manifest requires" },
      );
    return loadKernels(this.work, file);
  }

  prepare(steps: Parameters<Device["prepare"]>[0], symbols: readonly string[]): List {
    const prepared = steps.map(({ kernel, args, symbols: taken }) => ({
      kernel: ownKernel(kernel),
      args: args.map(({ buffer, offset }) => ({ buffer: ownBuffer(buffer), offset })),
      symbols: taken,
    }));
    return new List(this.work, prepared, symbols);
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.work.fail(new Error(`${this.name} is closed`));
    this.gpu.destroy();
    await this.gpu.lost;
  }
}

/** A buffer of this driver; anything else has no GPU memory to bind. */
function ownBuffer(buffer: DeviceBuffer): WindowedBuffer {
  if (buffer instanceof WindowedBuffer) return buffer;
  throw new Error("a buffer of another device was given to the WebGPU driver");
}

function ownKernel(kernel: Parameters<Device["prepare"]>[0][number]["kernel"]): WebgpuKernel {
  if (kernel instanceof WebgpuKernel) return kernel;
  throw new Error(`kernel ${kernel.entry} is of another device`);
}
