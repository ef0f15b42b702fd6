import type { CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaStream, DeviceAddress, HostAddress } from "./cuda.ts";
import type { Memory, Pointer, Signature } from "./native.ts";

/** The functions of libcuda as they are; each gives a CUresult. */
export interface Api {
  readonly init: (flags: number) => number;
  readonly driverVersion: (out: Int32Array) => number;
  readonly errorName: (code: number, out: BigUint64Array) => number;
  readonly errorText: (code: number, out: BigUint64Array) => number;
  readonly deviceCount: (out: Int32Array) => number;
  readonly deviceGet: (out: Int32Array, ordinal: number) => number;
  readonly deviceName: (out: Uint8Array, bytes: number, device: number) => number;
  readonly deviceAttribute: (out: Int32Array, attribute: number, device: number) => number;
  readonly deviceTotal: (out: BigUint64Array, device: number) => number;
  readonly retain: (out: BigUint64Array, device: number) => number;
  readonly release: (device: number) => number;
  readonly setCurrent: (context: CudaContext) => number;
  readonly memInfo: (free: BigUint64Array, total: BigUint64Array) => number;
  readonly memAlloc: (out: BigUint64Array, bytes: number) => number;
  readonly memFree: (address: DeviceAddress) => number;
  readonly hostAlloc: (out: BigUint64Array, bytes: number, flags: number) => number;
  readonly hostFree: (address: HostAddress) => number;
  readonly upload: (to: DeviceAddress, from: Memory, bytes: number, stream: CudaStream) => number;
  readonly download: (to: Memory, from: DeviceAddress, bytes: number, stream: CudaStream) => number;
  readonly copy: (to: DeviceAddress, from: DeviceAddress, bytes: number, stream: CudaStream) => number;
  readonly fill: (to: DeviceAddress, byte: number, bytes: number, stream: CudaStream) => number;
  readonly streamCreate: (out: BigUint64Array, flags: number) => number;
  readonly streamDestroy: (stream: CudaStream) => number;
  readonly streamQuery: (stream: CudaStream) => number;
  readonly streamSynchronize: (stream: CudaStream) => number;
  readonly eventCreate: (out: BigUint64Array, flags: number) => number;
  readonly eventDestroy: (event: CudaEvent) => number;
  readonly eventRecord: (event: CudaEvent, stream: CudaStream) => number;
  readonly eventSynchronize: (event: CudaEvent) => number;
  readonly eventElapsed: (out: Float32Array, start: CudaEvent, end: CudaEvent) => number;
  readonly moduleLoad: (out: BigUint64Array, image: Memory) => number;
  readonly moduleUnload: (module: CudaModule) => number;
  readonly moduleFunction: (out: BigUint64Array, module: CudaModule, name: string) => number;
  readonly functionSet: (fn: CudaFunction, attribute: number, value: number) => number;
  readonly launch: (config: HostAddress, fn: CudaFunction, params: HostAddress, extra: null) => number;
  readonly captureBegin: (stream: CudaStream, mode: number) => number;
  readonly captureEnd: (stream: CudaStream, out: BigUint64Array) => number;
  readonly graphInstantiate: (out: BigUint64Array, graph: Pointer, flags: number) => number;
  readonly graphDestroy: (graph: Pointer) => number;
  readonly graphLaunch: (graph: CudaGraph, stream: CudaStream) => number;
  readonly graphExecDestroy: (graph: CudaGraph) => number;
}

/** Signatures of cuda.h. Names with _v2 are what its macros make of the plain ones; the plain ones are functions of 32-bit times. */
export const API: { readonly [K in keyof Api]: Signature } = {
  init: ["int", "cuInit", ["uint32_t"]],
  driverVersion: ["int", "cuDriverGetVersion", ["void *"]],
  errorName: ["int", "cuGetErrorName", ["int", "void *"]],
  errorText: ["int", "cuGetErrorString", ["int", "void *"]],
  deviceCount: ["int", "cuDeviceGetCount", ["void *"]],
  deviceGet: ["int", "cuDeviceGet", ["void *", "int"]],
  deviceName: ["int", "cuDeviceGetName", ["void *", "int", "int"]],
  deviceAttribute: ["int", "cuDeviceGetAttribute", ["void *", "int", "int"]],
  deviceTotal: ["int", "cuDeviceTotalMem_v2", ["void *", "int"]],
  retain: ["int", "cuDevicePrimaryCtxRetain", ["void *", "int"]],
  release: ["int", "cuDevicePrimaryCtxRelease_v2", ["int"]],
  setCurrent: ["int", "cuCtxSetCurrent", ["void *"]],
  memInfo: ["int", "cuMemGetInfo_v2", ["void *", "void *"]],
  memAlloc: ["int", "cuMemAlloc_v2", ["void *", "size_t"]],
  memFree: ["int", "cuMemFree_v2", ["uint64_t"]],
  hostAlloc: ["int", "cuMemHostAlloc", ["void *", "size_t", "uint32_t"]],
  hostFree: ["int", "cuMemFreeHost", ["void *"]],
  upload: ["int", "cuMemcpyHtoDAsync_v2", ["uint64_t", "void *", "size_t", "void *"]],
  download: ["int", "cuMemcpyDtoHAsync_v2", ["void *", "uint64_t", "size_t", "void *"]],
  copy: ["int", "cuMemcpyAsync", ["uint64_t", "uint64_t", "size_t", "void *"]],
  fill: ["int", "cuMemsetD8Async", ["uint64_t", "uint8_t", "size_t", "void *"]],
  streamCreate: ["int", "cuStreamCreate", ["void *", "uint32_t"]],
  streamDestroy: ["int", "cuStreamDestroy_v2", ["void *"]],
  streamQuery: ["int", "cuStreamQuery", ["void *"]],
  streamSynchronize: ["int", "cuStreamSynchronize", ["void *"]],
  eventCreate: ["int", "cuEventCreate", ["void *", "uint32_t"]],
  eventDestroy: ["int", "cuEventDestroy_v2", ["void *"]],
  eventRecord: ["int", "cuEventRecord", ["void *", "void *"]],
  eventSynchronize: ["int", "cuEventSynchronize", ["void *"]],
  eventElapsed: ["int", "cuEventElapsedTime", ["void *", "void *", "void *"]],
  moduleLoad: ["int", "cuModuleLoadData", ["void *", "void *"]],
  moduleUnload: ["int", "cuModuleUnload", ["void *"]],
  moduleFunction: ["int", "cuModuleGetFunction", ["void *", "void *", "str"]],
  functionSet: ["int", "cuFuncSetAttribute", ["void *", "int", "int"]],
  launch: ["int", "cuLaunchKernelEx", ["void *", "void *", "void *", "void *"]],
  captureBegin: ["int", "cuStreamBeginCapture_v2", ["void *", "int"]],
  captureEnd: ["int", "cuStreamEndCapture", ["void *", "void *"]],
  graphInstantiate: ["int", "cuGraphInstantiateWithFlags", ["void *", "void *", "uint64_t"]],
  graphDestroy: ["int", "cuGraphDestroy", ["void *"]],
  graphLaunch: ["int", "cuGraphLaunch", ["void *", "void *"]],
  graphExecDestroy: ["int", "cuGraphExecDestroy", ["void *"]],
};
