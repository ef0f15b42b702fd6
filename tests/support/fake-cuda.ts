import { writeCubins } from "../../ffi/cubins.ts";
import { CODES, CudaError } from "../../ffi/cuda-errors.ts";
import type {
  Cuda,
  CudaContext,
  CudaEvent,
  CudaFunction,
  CudaGraph,
  CudaModule,
  CudaStream,
  DeviceAddress,
  HostAddress,
  HostBlock,
} from "../../ffi/cuda.ts";
import { ATTRIBUTE } from "../../ffi/cuda.ts";

export interface FakeGpu {
  readonly name: string;
  readonly computeCapability: number;
  readonly multiprocessors: number;
  readonly totalBytes: number;
  readonly sharedBytes: number;
}

/** A kernel of a fake GPU: whole buffers from an argument's address on, symbols as it takes them, and the grid. */
export interface FakeKernel {
  readonly params: number;
  readonly symbols: number;
  readonly body: (args: readonly Uint8Array<ArrayBuffer>[], symbols: Int32Array, grid: readonly [number, number, number]) => void;
}

export interface FakeOptions {
  readonly version?: number;
  readonly gpus?: readonly Partial<FakeGpu>[];
  readonly kernels?: Readonly<Record<string, FakeKernel>>;
  /** An error that a call answers with, by its name; undefined lets it pass. */
  readonly refuse?: (call: string, bytes: number) => number | undefined;
  /** The launch, counted from 0, that breaks off with an error when it is run. */
  readonly fault?: { readonly launch: number; readonly code: number };
  /** Whether the driver can tell the parameters of a kernel. */
  readonly tellsParameters?: boolean;
}

export const H200: FakeGpu = {
  name: "NVIDIA H200",
  computeCapability: 90,
  multiprocessors: 132,
  totalBytes: 1 << 30,
  sharedBytes: 232_448,
};

export interface Launched {
  readonly entry: string;
  readonly grid: readonly [number, number, number];
  readonly threads: number;
  readonly sharedBytes: number;
  readonly early: boolean;
  readonly inGraph: boolean;
}

const NAMES: Readonly<Record<number, readonly [string, string]>> = {
  [CODES.outOfMemory]: ["CUDA_ERROR_OUT_OF_MEMORY", "out of memory"],
  [CODES.invalidImage]: ["CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"],
  [CODES.noBinary]: ["CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"],
  [CODES.unsupportedPtx]: ["CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain"],
  [CODES.notFound]: ["CUDA_ERROR_NOT_FOUND", "named symbol not found"],
  [CODES.illegalAddress]: ["CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"],
  [CODES.ecc]: ["CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"],
};

type Operation = () => void;

/** What a cubin begins with. Behind it a fake one has the names of its kernels. */
const ELF = "\u007fELF";

/**
 * The CUDA driver without a GPU: memory is here, kernels are functions, and nothing is done before somebody waits or asks twice, so that whoever changes
 * pinned memory too early is found out. Handles are counted: what is left when a test ends was leaked.
 */
export class FakeCuda implements Cuda {
  readonly path = "libcuda.fake";
  readonly version: number;
  readonly launched: Launched[] = [];
  /** Calls that were made, by name. */
  readonly calls = new Map<string, number>();
  /** What exists: contexts, memory, streams, events, modules, graphs. */
  readonly live = new Map<bigint, string>();
  private readonly options: FakeOptions;
  private readonly gpus: readonly FakeGpu[];
  private readonly memory = new Map<bigint, Uint8Array<ArrayBuffer>>();
  private readonly images = new Map<bigint, Readonly<Record<string, number>>>();
  private readonly functions = new Map<bigint, string>();
  private readonly graphs = new Map<bigint, readonly Operation[]>();
  private readonly times = new Map<bigint, number>();
  private readonly allowed = new Map<bigint, number>();
  private readonly queue: Operation[] = [];
  private captured: Operation[] | null = null;
  private asked = false;
  private broken = 0;
  private clock = 0;
  private runs = 0;
  private next = 0x1000n;
  private entered: CudaContext | null = null;

  constructor(options: FakeOptions = {}) {
    this.options = options;
    this.version = options.version ?? 13_000;
    this.gpus = (options.gpus ?? [{}]).map((gpu) => ({ ...H200, ...gpu }));
  }

  private call(name: string, bytes = 0): void {
    this.calls.set(name, (this.calls.get(name) ?? 0) + 1);
    const code = this.broken || (this.options.refuse?.(name, bytes) ?? 0);
    if (code === 0) return;
    const [codeName, text] = NAMES[code] ?? ["CUDA_ERROR", "some error"];
    throw new CudaError(name, code, codeName, text);
  }

  private inContext(name: string, bytes = 0): void {
    if (this.entered === null || !this.live.has(this.entered)) throw new Error(`${name} without a context`);
    this.call(name, bytes);
  }

  private handle<T extends bigint>(kind: string): T {
    this.next += 0x1000n;
    this.live.set(this.next, kind);
    return this.next as T;
  }

  private end(handle: bigint, kind: string): void {
    if (this.live.get(handle) !== kind) throw new Error(`${kind} ${handle} is not there`);
    this.live.delete(handle);
  }

  deviceCount(): number {
    this.call("cuDeviceGetCount");
    return this.gpus.length;
  }
  deviceName(device: number): string {
    return this.gpus[device]!.name;
  }
  attribute(device: number, attribute: number): number {
    const { computeCapability, multiprocessors, sharedBytes } = this.gpus[device]!;
    const values: Readonly<Record<number, number>> = {
      [ATTRIBUTE.major]: Math.floor(computeCapability / 10),
      [ATTRIBUTE.minor]: computeCapability % 10,
      [ATTRIBUTE.multiprocessors]: multiprocessors,
      [ATTRIBUTE.sharedBytes]: sharedBytes,
      [ATTRIBUTE.maxGridY]: 65_535,
      [ATTRIBUTE.maxGridZ]: 65_535,
    };
    return values[attribute]!;
  }
  totalBytes(device: number): number {
    return this.gpus[device]!.totalBytes;
  }
  retain(): CudaContext {
    this.call("cuDevicePrimaryCtxRetain");
    return this.handle("context");
  }
  release(): void {
    this.call("cuDevicePrimaryCtxRelease_v2");
    if (this.entered !== null) this.end(this.entered, "context");
    this.entered = null;
  }
  enter(context: CudaContext): void {
    this.entered = context;
  }

  freeBytes(): number {
    this.inContext("cuMemGetInfo_v2");
    return this.gpus[0]!.totalBytes - this.usedBytes();
  }
  private usedBytes(): number {
    return [...this.live].reduce((sum, [at, kind]) => (kind === "memory" ? sum + this.memory.get(at)!.length : sum), 0);
  }
  alloc(bytes: number): DeviceAddress {
    this.inContext("cuMemAlloc_v2", bytes);
    if (bytes === 0) throw new CudaError("cuMemAlloc_v2", CODES.invalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument");
    if (this.usedBytes() + bytes > this.gpus[0]!.totalBytes)
      throw new CudaError("cuMemAlloc_v2", CODES.outOfMemory, ...NAMES[CODES.outOfMemory]!);
    return this.place("memory", new Uint8Array(bytes).fill(0xcd));
  }
  private place<T extends bigint>(kind: string, data: Uint8Array<ArrayBuffer>): T {
    const address = this.handle<T>(kind);
    this.next += BigInt(data.length);
    this.memory.set(address, data);
    return address;
  }
  free(address: DeviceAddress): void {
    this.inContext("cuMemFree_v2");
    this.flush();
    this.end(address, "memory");
    this.memory.delete(address);
  }
  allocHost(bytes: number): HostBlock {
    this.inContext("cuMemHostAlloc", bytes);
    const data = new Uint8Array(bytes).fill(0xcd);
    const address = this.place<HostAddress>("host memory", data);
    return { address, mapped: address as bigint as DeviceAddress, bytes, view: data.buffer };
  }
  freeHost({ address }: HostBlock): void {
    this.inContext("cuMemFreeHost");
    this.flush();
    this.end(address, "host memory");
    this.memory.delete(address);
  }

  /** Memory from an address to the end of what it lies in. */
  private from(address: bigint): Uint8Array<ArrayBuffer> {
    for (const [base, data] of this.memory)
      if (address >= base && address < base + BigInt(data.length))
        return new Uint8Array(data.buffer, Number(address - base), data.length - Number(address - base));
    throw new Error(`there is no memory at ${address}`);
  }
  private put(operation: Operation): void {
    (this.captured ?? this.queue).push(operation);
  }
  /** Does what was put into the stream. */
  private flush(): void {
    this.asked = false;
    while (this.queue.length > 0 && this.broken === 0) {
      this.clock += 0.5;
      this.queue.shift()!();
    }
  }

  createStream(): CudaStream {
    this.inContext("cuStreamCreate");
    return this.handle("stream");
  }
  destroyStream(stream: CudaStream): void {
    this.inContext("cuStreamDestroy_v2");
    this.flush();
    this.end(stream, "stream");
  }
  upload(to: DeviceAddress, from: HostAddress, bytes: number): void {
    this.inContext("cuMemcpyHtoDAsync_v2", bytes);
    this.put(() => this.from(to).set(this.from(from).subarray(0, bytes)));
  }
  download(to: HostAddress, from: DeviceAddress, bytes: number): void {
    this.inContext("cuMemcpyDtoHAsync_v2", bytes);
    this.put(() => this.from(to).set(this.from(from).subarray(0, bytes)));
  }
  copy(to: DeviceAddress, from: DeviceAddress, bytes: number): void {
    this.inContext("cuMemcpyAsync", bytes);
    this.put(() => this.from(to).set(this.from(from).slice(0, bytes)));
  }
  fill(to: DeviceAddress, byte: number, bytes: number): void {
    this.inContext("cuMemsetD8Async", bytes);
    this.put(() => this.from(to).fill(byte, 0, bytes));
  }
  /** A stream that is being recorded has nothing to wait for. */
  private notRecording(call: string): void {
    if (this.captured !== null) throw new Error(`${call} while a graph is recorded`);
  }
  done(): boolean {
    this.inContext("cuStreamQuery");
    this.notRecording("cuStreamQuery");
    if (this.queue.length > 0 && !this.asked) {
      this.asked = true;
      return false;
    }
    this.flush();
    this.inContext("cuStreamQuery");
    return true;
  }
  synchronize(): void {
    this.inContext("cuStreamSynchronize");
    this.notRecording("cuStreamSynchronize");
    this.flush();
    this.inContext("cuStreamSynchronize");
  }

  createEvent(): CudaEvent {
    this.inContext("cuEventCreate");
    return this.handle("event");
  }
  destroyEvent(event: CudaEvent): void {
    this.inContext("cuEventDestroy_v2");
    this.end(event, "event");
  }
  record(event: CudaEvent): void {
    this.inContext("cuEventRecord");
    this.put(() => void this.times.set(event, this.clock));
  }
  waitFor(event: CudaEvent): void {
    this.inContext("cuEventSynchronize");
    if (this.live.get(event) !== "event") throw new Error("there is no such event");
    this.flush();
  }
  milliseconds(start: CudaEvent, end: CudaEvent): number {
    this.inContext("cuEventElapsedTime");
    return this.times.get(end)! - this.times.get(start)!;
  }

  loadModule(image: Uint8Array): CudaModule {
    this.inContext("cuModuleLoadData");
    const module = this.handle<CudaModule>("module");
    this.images.set(module, JSON.parse(new TextDecoder().decode(image.subarray(ELF.length))) as Record<string, number>);
    return module;
  }
  unloadModule(module: CudaModule): void {
    this.inContext("cuModuleUnload");
    this.flush();
    this.end(module, "module");
  }
  functionOf(module: CudaModule, name: string): CudaFunction {
    this.inContext("cuModuleGetFunction");
    if (!(name in this.images.get(module)!)) throw new CudaError("cuModuleGetFunction", CODES.notFound, ...NAMES[CODES.notFound]!);
    this.next += 0x1000n;
    this.functions.set(this.next, name);
    return this.next as CudaFunction;
  }
  parameterBytes(fn: CudaFunction, most: number): readonly number[] | null {
    if (this.options.tellsParameters === false) return null;
    const { params, symbols } = this.options.kernels![this.functions.get(fn)!]!;
    return new Array<number>(Math.min(most, params + (symbols > 0 ? 1 : 0))).fill(8);
  }
  allowSharedBytes(fn: CudaFunction, bytes: number): void {
    this.inContext("cuFuncSetAttribute", bytes);
    this.allowed.set(fn, bytes);
  }
  launch(config: HostAddress, fn: CudaFunction, params: HostAddress): void {
    this.inContext("cuLaunchKernelEx");
    const entry = this.functions.get(fn)!;
    const kernel = this.options.kernels![entry]!;
    const fields = new DataView(this.from(config).slice(0, 56).buffer);
    const u32 = (at: number): number => fields.getUint32(at, true);
    if (this.live.get(fields.getBigUint64(32, true)) !== "stream") throw new Error("a launch without a stream");
    const early = u32(48) === 1 && this.earlyAttribute(fields.getBigUint64(40, true));
    const grid = [u32(0), u32(4), u32(8)] as const;
    if (grid.some((n) => n === 0) || u32(24) > (this.allowed.get(fn) ?? 49_152))
      throw new CudaError("cuLaunchKernelEx", CODES.invalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument");
    const count = kernel.params + (kernel.symbols > 0 ? 1 : 0);
    // Values are taken when the call is made.
    const pointers = new BigUint64Array(this.from(params).slice(0, 8 * count).buffer);
    const values = [...pointers].map((at) => new BigUint64Array(this.from(at).slice(0, 8).buffer)[0]!);
    const inGraph = this.captured !== null;
    this.put(() => {
      const { fault } = this.options;
      if (fault?.launch === this.runs) this.broken = fault.code;
      this.runs += 1;
      if (this.broken !== 0) return;
      this.launched.push({ entry, grid, threads: u32(12) * u32(16) * u32(20), sharedBytes: u32(24), early, inGraph });
      const symbols = kernel.symbols > 0 ? this.from(values[kernel.params]!).slice(0, 4 * kernel.symbols) : new Uint8Array(0);
      kernel.body(
        values.slice(0, kernel.params).map((at) => this.from(at)),
        new Int32Array(symbols.buffer),
        grid,
      );
    });
  }
  private earlyAttribute(address: bigint): boolean {
    const fields = new DataView(this.from(address).slice(0, 72).buffer);
    return fields.getUint32(0, true) === 6 && fields.getInt32(8, true) === 1;
  }
  recordGraph(_: CudaStream, body: () => void): CudaGraph {
    this.inContext("cuStreamBeginCapture_v2");
    this.captured = [];
    try {
      body();
    } finally {
      const graph = this.captured;
      this.captured = null;
      this.graphs.set(this.next + 0x1000n, graph);
    }
    return this.handle("graph");
  }
  launchGraph(graph: CudaGraph): void {
    this.inContext("cuGraphLaunch");
    if (this.live.get(graph) !== "graph") throw new Error("there is no such graph");
    this.queue.push(...this.graphs.get(graph)!);
  }
  destroyGraph(graph: CudaGraph): void {
    this.inContext("cuGraphExecDestroy");
    this.end(graph, "graph");
  }
}

/** A kernels.bin with kernels of a fake GPU, one program for all. */
export function fakeKernels(
  kernels: Readonly<Record<string, FakeKernel>>,
  { computeCapability = 90, threads = 64 }: { readonly computeCapability?: number; readonly threads?: number } = {},
): Uint8Array {
  const member = "kernels.cubin";
  const names = JSON.stringify(Object.fromEntries(Object.keys(kernels).map((entry) => [entry, 1])));
  return writeCubins({
    computeCapability,
    kernels: Object.entries(kernels).map(([entry, { symbols }]) => ({ entry, threads, symbols, member })),
    members: [{ name: member, data: new TextEncoder().encode(`${ELF}${names}`) }],
  });
}
