import type { Api } from "./cuda-api.ts";
import { API } from "./cuda-api.ts";
import { CODES, CudaError, CudaMissing } from "./cuda-errors.ts";
import type { Cuda, CudaContext, CudaFunction, CudaStream } from "./cuda.ts";
import type { Library, Pointer } from "./native.ts";
import { asPointer, bind, hasSymbol, openLibrary, pointerIn, stringAt, viewAt } from "./native.ts";

/** The oldest driver that has all that is called: 525, of December 2022. */
export const OLDEST_CUDA = 12000;

/** "13.0" */
export const cudaVersionText = (version: number): string => `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;

/** Where to look for the driver's library, in order. `wanted` is a path, or undefined for what is usual. */
export function cudaCandidates(wanted: string | undefined, platform: string = process.platform): readonly string[] {
  if (wanted !== undefined && wanted !== "") return [wanted];
  if (platform === "win32") return ["nvcuda.dll"];
  // Under Windows' Linux the driver lies where no loader looks.
  return ["libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1"];
}

const loaded = new Map<string, Cuda>();

/**
 * The CUDA driver of this machine, or the library that `wanted` (default: environment variable CULM_CUDA) names.
 * @throws CudaMissing when there is none, it is too old, or it finds no GPU
 */
export function loadCuda(wanted: string | undefined = process.env["CULM_CUDA"]): Cuda {
  const key = wanted ?? "";
  const known = loaded.get(key);
  if (known !== undefined) return known;
  const names = cudaCandidates(wanted);
  for (const name of names) {
    const library = openLibrary(name);
    if (library === undefined || !hasSymbol(library, "cuInit")) continue;
    const cuda = wrap(library);
    loaded.set(key, cuda);
    return cuda;
  }
  throw new CudaMissing(
    `the CUDA driver was not found; tried ${names.join(", ")}`,
    "install NVIDIA's driver (nvidia-smi shows whether it works), or set CULM_CUDA to the path of libcuda.so.1; without an NVIDIA GPU use another --backend",
  );
}

function wrap(library: Library): Cuda {
  const { driverVersion } = bind<Pick<Api, "driverVersion">>(library, { driverVersion: API.driverVersion });
  const versionOut = new Int32Array(1);
  driverVersion(versionOut);
  const version = versionOut[0]!;
  if (version < OLDEST_CUDA)
    throw new CudaMissing(
      `${library.path}: the CUDA driver is for CUDA ${cudaVersionText(version)}, culm needs ${cudaVersionText(OLDEST_CUDA)} or later`,
      "install a newer driver: 525 or later, and 580 or later for kernels that CUDA 13 has compiled",
    );
  const api = bind<Api>(library, API);
  const check = checker(api);
  check("cuInit", api.init(0));
  return new LibCuda(library, api, version, check);
}

type Check = (call: string, code: number) => void;

function checker(api: Pick<Api, "errorName" | "errorText">): Check {
  const out = new BigUint64Array(1);
  const textOf = (read: Api["errorName"], code: number): string =>
    read(code, out) === 0 && out[0] !== 0n ? stringAt(pointerIn(out)) : "an error that the driver has no name for";
  return (call, code) => {
    if (code === 0) return;
    if (code === CODES.noDevice)
      throw new CudaMissing(
        "the CUDA driver finds no NVIDIA GPU",
        "look with nvidia-smi; CUDA_VISIBLE_DEVICES may hide it, and a container has to be given one",
      );
    throw new CudaError(call, code, textOf(api.errorName, code), textOf(api.errorText, code));
  };
}

/** CU_STREAM_NON_BLOCKING */
const NON_BLOCKING = 1;
/** CU_STREAM_CAPTURE_MODE_RELAXED: what is called during a capture is ours alone, and does nothing that a capture forbids. */
const CAPTURE_RELAXED = 2;
/** CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */
const MAX_DYNAMIC_SHARED = 8;
const NAME_BYTES = 256;

class LibCuda implements Cuda {
  readonly path: string;
  readonly version: number;
  private readonly api: Api;
  private readonly check: Check;
  private readonly readParameter: ((fn: CudaFunction, index: number, offset: BigUint64Array, bytes: BigUint64Array) => number) | null;
  /** Where the driver leaves a result; read before the next call. */
  private readonly out = new BigUint64Array(1);
  private readonly second = new BigUint64Array(1);
  private readonly integer = new Int32Array(1);
  private readonly float = new Float32Array(1);
  private current: CudaContext | null = null;

  constructor(library: Library, api: Api, version: number, check: Check) {
    this.path = library.path;
    this.version = version;
    this.api = api;
    this.check = check;
    const name = "cuFuncGetParamInfo";
    this.readParameter = hasSymbol(library, name)
      ? bind<{ read: NonNullable<LibCuda["readParameter"]> }>(library, { read: ["int", name, ["void *", "size_t", "void *", "void *"]] })
          .read
      : null;
  }

  private pointer<Name extends string>(call: string, code: number): Pointer<Name> {
    this.check(call, code);
    return pointerIn<Name>(this.out);
  }

  private device(ordinal: number): number {
    this.check("cuDeviceGet", this.api.deviceGet(this.integer, ordinal));
    return this.integer[0]!;
  }

  deviceCount(): number {
    this.check("cuDeviceGetCount", this.api.deviceCount(this.integer));
    return this.integer[0]!;
  }

  deviceName(ordinal: number): string {
    const text = new Uint8Array(NAME_BYTES);
    this.check("cuDeviceGetName", this.api.deviceName(text, NAME_BYTES, this.device(ordinal)));
    const end = text.indexOf(0);
    return new TextDecoder().decode(text.subarray(0, end < 0 ? NAME_BYTES : end));
  }

  attribute(ordinal: number, attribute: number): number {
    this.check("cuDeviceGetAttribute", this.api.deviceAttribute(this.integer, attribute, this.device(ordinal)));
    return this.integer[0]!;
  }

  totalBytes(ordinal: number): number {
    this.check("cuDeviceTotalMem_v2", this.api.deviceTotal(this.out, this.device(ordinal)));
    return Number(this.out[0]!);
  }

  retain(ordinal: number): CudaContext {
    return this.pointer("cuDevicePrimaryCtxRetain", this.api.retain(this.out, this.device(ordinal)));
  }

  release(ordinal: number): void {
    this.check("cuDevicePrimaryCtxRelease_v2", this.api.release(this.device(ordinal)));
    // It may be gone now, and another one may get its address.
    this.current = null;
  }

  enter(context: CudaContext): void {
    if (this.current === context) return;
    this.check("cuCtxSetCurrent", this.api.setCurrent(context));
    this.current = context;
  }

  freeBytes(): number {
    this.check("cuMemGetInfo_v2", this.api.memInfo(this.out, this.second));
    return Number(this.out[0]!);
  }

  alloc(bytes: number): ReturnType<Cuda["alloc"]> {
    return this.pointer("cuMemAlloc_v2", this.api.memAlloc(this.out, bytes));
  }

  free(address: Parameters<Cuda["free"]>[0]): void {
    this.check("cuMemFree_v2", this.api.memFree(address));
  }

  allocHost(bytes: number): ReturnType<Cuda["allocHost"]> {
    const address = this.pointer<"pinned">("cuMemHostAlloc", this.api.hostAlloc(this.out, bytes, 0));
    // With unified addressing, which every GPU that we run on has, pinned memory has one address for all.
    return { address, mapped: asPointer<"CUdeviceptr">(address), bytes, view: viewAt(address, bytes) };
  }

  freeHost({ address }: Parameters<Cuda["freeHost"]>[0]): void {
    this.check("cuMemFreeHost", this.api.hostFree(address));
  }

  createStream(): CudaStream {
    return this.pointer("cuStreamCreate", this.api.streamCreate(this.out, NON_BLOCKING));
  }

  destroyStream(stream: CudaStream): void {
    this.check("cuStreamDestroy_v2", this.api.streamDestroy(stream));
  }

  upload(...[to, from, bytes, stream]: Parameters<Cuda["upload"]>): void {
    this.check("cuMemcpyHtoDAsync_v2", this.api.upload(to, from, bytes, stream));
  }

  download(...[to, from, bytes, stream]: Parameters<Cuda["download"]>): void {
    this.check("cuMemcpyDtoHAsync_v2", this.api.download(to, from, bytes, stream));
  }

  copy(...[to, from, bytes, stream]: Parameters<Cuda["copy"]>): void {
    this.check("cuMemcpyAsync", this.api.copy(to, from, bytes, stream));
  }

  fill(...[to, byte, bytes, stream]: Parameters<Cuda["fill"]>): void {
    this.check("cuMemsetD8Async", this.api.fill(to, byte, bytes, stream));
  }

  done(stream: CudaStream): boolean {
    const code = this.api.streamQuery(stream);
    if (code === CODES.notReady) return false;
    this.check("cuStreamQuery", code);
    return true;
  }

  synchronize(stream: CudaStream): void {
    this.check("cuStreamSynchronize", this.api.streamSynchronize(stream));
  }

  createEvent(): ReturnType<Cuda["createEvent"]> {
    return this.pointer("cuEventCreate", this.api.eventCreate(this.out, 0));
  }

  destroyEvent(event: Parameters<Cuda["destroyEvent"]>[0]): void {
    this.check("cuEventDestroy_v2", this.api.eventDestroy(event));
  }

  record(...[event, stream]: Parameters<Cuda["record"]>): void {
    this.check("cuEventRecord", this.api.eventRecord(event, stream));
  }

  waitFor(event: Parameters<Cuda["waitFor"]>[0]): void {
    this.check("cuEventSynchronize", this.api.eventSynchronize(event));
  }

  milliseconds(...[start, end]: Parameters<Cuda["milliseconds"]>): number {
    this.check("cuEventElapsedTime", this.api.eventElapsed(this.float, start, end));
    return this.float[0]!;
  }

  loadModule(image: Uint8Array): ReturnType<Cuda["loadModule"]> {
    return this.pointer("cuModuleLoadData", this.api.moduleLoad(this.out, image));
  }

  unloadModule(module: Parameters<Cuda["unloadModule"]>[0]): void {
    this.check("cuModuleUnload", this.api.moduleUnload(module));
  }

  functionOf(...[module, name]: Parameters<Cuda["functionOf"]>): CudaFunction {
    return this.pointer("cuModuleGetFunction", this.api.moduleFunction(this.out, module, name));
  }

  parameterBytes(fn: CudaFunction, most: number): readonly number[] | null {
    if (this.readParameter === null) return null;
    const sizes: number[] = [];
    while (sizes.length < most) {
      const code = this.readParameter(fn, sizes.length, this.out, this.second);
      // Beyond the last one.
      if (code === CODES.invalidValue) break;
      this.check("cuFuncGetParamInfo", code);
      sizes.push(Number(this.second[0]!));
    }
    return sizes;
  }

  allowSharedBytes(fn: CudaFunction, bytes: number): void {
    this.check("cuFuncSetAttribute", this.api.functionSet(fn, MAX_DYNAMIC_SHARED, bytes));
  }

  launch(...[config, fn, params]: Parameters<Cuda["launch"]>): void {
    this.check("cuLaunchKernelEx", this.api.launch(config, fn, params, null));
  }

  recordGraph(stream: CudaStream, body: () => void): ReturnType<Cuda["recordGraph"]> {
    const graph = this.capture(stream, body);
    try {
      return this.pointer("cuGraphInstantiateWithFlags", this.api.graphInstantiate(this.out, graph, 0));
    } finally {
      this.api.graphDestroy(graph);
    }
  }

  /** A capture that was begun has to be ended, or the stream is of no use any more. */
  private capture(stream: CudaStream, body: () => void): Pointer {
    this.check("cuStreamBeginCapture_v2", this.api.captureBegin(stream, CAPTURE_RELAXED));
    try {
      body();
    } catch (error) {
      if (this.api.captureEnd(stream, this.out) === 0 && this.out[0] !== 0n) this.api.graphDestroy(pointerIn(this.out));
      throw error;
    }
    return this.pointer("cuStreamEndCapture", this.api.captureEnd(stream, this.out));
  }

  launchGraph(...[graph, stream]: Parameters<Cuda["launchGraph"]>): void {
    this.check("cuGraphLaunch", this.api.graphLaunch(graph, stream));
  }

  destroyGraph(graph: Parameters<Cuda["destroyGraph"]>[0]): void {
    this.check("cuGraphExecDestroy", this.api.graphExecDestroy(graph));
  }
}
