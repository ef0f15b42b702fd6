import type { Pointer } from "./native.ts";

export type CudaContext = Pointer<"CUcontext">;
export type CudaStream = Pointer<"CUstream">;
export type CudaEvent = Pointer<"CUevent">;
export type CudaModule = Pointer<"CUmodule">;
export type CudaFunction = Pointer<"CUfunction">;
export type CudaGraph = Pointer<"CUgraphExec">;
/** An address on a device. */
export type DeviceAddress = Pointer<"CUdeviceptr">;
/** An address of pinned memory of this process, which a device copies from and to without help. */
export type HostAddress = Pointer<"pinned">;

/** Pinned memory. */
export interface HostBlock {
  readonly address: HostAddress;
  /** The same memory for kernels, which reach it over the bus. */
  readonly mapped: DeviceAddress;
  readonly bytes: number;
  /** The memory itself. It must not be touched after `freeHost`. */
  readonly view: ArrayBuffer;
}

/** CUdevice_attribute, those in use. */
export const ATTRIBUTE = { maxGridY: 6, maxGridZ: 7, multiprocessors: 16, major: 75, minor: 76, sharedBytes: 97 } as const;

/**
 * The CUDA driver, as far as culm uses it. Every call is checked; what goes wrong is a CudaError with the driver's own name and text. Work is put into
 * streams and may fail when it runs: the call that notices is a later one. A context has to be current (`enter`) for all calls below it.
 */
export interface Cuda {
  /** Soname or path of the library. */
  readonly path: string;
  /** Of the CUDA version that the driver is made for: 13000 is 13.0. */
  readonly version: number;
  deviceCount(): number;
  deviceName(device: number): string;
  attribute(device: number, attribute: number): number;
  /** Bytes of memory that a device has. */
  totalBytes(device: number): number;
  /** The device's primary context, of which the driver counts the users. */
  retain(device: number): CudaContext;
  release(device: number): void;
  /** Makes a context the calling thread's; nothing when it is already. */
  enter(context: CudaContext): void;

  /** Bytes that nobody uses. */
  freeBytes(): number;
  alloc(bytes: number): DeviceAddress;
  free(address: DeviceAddress): void;
  allocHost(bytes: number): HostBlock;
  freeHost(block: HostBlock): void;

  /** A stream of its own: it does not wait for the default one. */
  createStream(): CudaStream;
  destroyStream(stream: CudaStream): void;
  upload(to: DeviceAddress, from: HostAddress, bytes: number, stream: CudaStream): void;
  download(to: HostAddress, from: DeviceAddress, bytes: number, stream: CudaStream): void;
  /** Either side may be pinned memory. */
  copy(to: DeviceAddress, from: DeviceAddress, bytes: number, stream: CudaStream): void;
  fill(to: DeviceAddress, byte: number, bytes: number, stream: CudaStream): void;
  /** Whether all work of a stream is done. */
  done(stream: CudaStream): boolean;
  /** Waits for all work of a stream; the thread stands still. */
  synchronize(stream: CudaStream): void;

  createEvent(): CudaEvent;
  destroyEvent(event: CudaEvent): void;
  record(event: CudaEvent, stream: CudaStream): void;
  waitFor(event: CudaEvent): void;
  /** From one event to a later one; half a microsecond is the resolution. */
  milliseconds(start: CudaEvent, end: CudaEvent): number;

  /** A cubin, or PTX text that ends with a zero. */
  loadModule(image: Uint8Array): CudaModule;
  unloadModule(module: CudaModule): void;
  /** @throws CudaError with CODES.notFound when there is none of that name. */
  functionOf(module: CudaModule, name: string): CudaFunction;
  /**
   * Bytes of each of the first `most` parameters, as far as there are so many; null where the driver is too old to tell (before 12.4). What lies behind them
   * is not asked for: tools that watch the driver take the answer for a fault.
   */
  parameterBytes(fn: CudaFunction, most: number): readonly number[] | null;
  /** Allows launches of a kernel with this much dynamic shared memory. Without it the most is 48 KiB. */
  allowSharedBytes(fn: CudaFunction, bytes: number): void;
  /** cuLaunchKernelEx. `config` is a CUlaunchConfig, `params` an array with the address of each parameter (runtime/drivers/cuda/launches.ts). */
  launch(config: HostAddress, fn: CudaFunction, params: HostAddress): void;
  /** Records what `body` puts into the stream, which is then not done, as a graph that can be launched any number of times. */
  recordGraph(stream: CudaStream, body: () => void): CudaGraph;
  launchGraph(graph: CudaGraph, stream: CudaStream): void;
  destroyGraph(graph: CudaGraph): void;
}
