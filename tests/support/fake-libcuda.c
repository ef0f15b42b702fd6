/*
 * A library with the CUDA driver's functions as cuda.h declares them, to try our calls of them: memory is the host's, work is done at once, and there is one
 * kernel, store(int *y, const int *symbols), which writes what it was launched with: y = {symbols[0], grid, block, shared bytes, early or not}. FAKE_VERSION and
 * FAKE_COUNT stand for an old driver and for a machine without a GPU; FAKE_FAULT=n breaks launch n off.
 */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPERATIONS 64

typedef struct {
  int launch;
  CUlaunchConfig config;
  int early;
  void *args[2];
  void *to;
  const void *from;
  size_t bytes;
} operation;

struct CUgraph_st {
  operation operations[MAX_OPERATIONS];
  int count;
};

static CUcontext current;
static struct CUgraph_st *capturing;
static int launches, broken, clock_;
static int context_, stream_, function_;

static int fromEnvironment(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text && *text ? atoi(text) : otherwise;
}
static CUresult state(void) { return broken ? (CUresult)broken : current ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT; }
#define ALIVE                            \
  do {                                   \
    CUresult now = state();              \
    if (now != CUDA_SUCCESS) return now; \
  } while (0)

static void run(const operation *o) {
  if (!o->launch) {
    memcpy(o->to, o->from, o->bytes);
    return;
  }
  if (launches++ == fromEnvironment("FAKE_FAULT", -1)) {
    broken = CUDA_ERROR_ILLEGAL_ADDRESS;
    return;
  }
  const CUlaunchConfig *c = &o->config;
  int *y = o->args[0], *symbols = o->args[1];
  int values[] = {symbols[0],          (int)c->gridDimX,  (int)c->gridDimY, (int)c->gridDimZ,
                  (int)c->blockDimX,   (int)c->blockDimY, (int)c->blockDimZ, (int)c->sharedMemBytes,
                  o->early};
  memcpy(y, values, sizeof values);
}
static CUresult put(operation o) {
  if (capturing) capturing->operations[capturing->count++] = o;
  else run(&o);
  return CUDA_SUCCESS;
}

CUresult cuInit(unsigned flags) { return flags ? CUDA_ERROR_INVALID_VALUE : fromEnvironment("FAKE_COUNT", 1) ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
CUresult cuDriverGetVersion(int *version) { return *version = fromEnvironment("FAKE_VERSION", 13000), CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult code, const char **text) {
  *text = code == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == CUDA_ERROR_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : 0;
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult code, const char **text) {
  *text = code == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : code == CUDA_ERROR_ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : 0;
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { return *device = 70 + ordinal, ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int length, CUdevice device) { return snprintf(name, length, "Fake %d", device), CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  if (device != 70) return CUDA_ERROR_INVALID_DEVICE;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: *value = 65535; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65534; break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) { return *bytes = (size_t)141 << 30, device == 70 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { return *context = (CUcontext)&context_, device == 70 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return current = 0, device == 70 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuCtxSetCurrent(CUcontext context) { return current = context, context == (CUcontext)&context_ ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT; }

CUresult cuMemGetInfo(size_t *available, size_t *total) {
  ALIVE;
  *available = (size_t)100 << 30;
  *total = (size_t)141 << 30;
  return CUDA_SUCCESS;
}
CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
  ALIVE;
  if (bytes > (size_t)1 << 40) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = (CUdeviceptr)malloc(bytes);
  return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr address) { return free((void *)address), state(); }
CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
  ALIVE;
  *address = malloc(bytes);
  return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *address) { return free(address), state(); }
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  ALIVE;
  return stream == (CUstream)&stream_ ? put((operation){.to = (void *)to, .from = from, .bytes = bytes}) : CUDA_ERROR_INVALID_HANDLE;
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ALIVE;
  return stream == (CUstream)&stream_ ? put((operation){.to = to, .from = (void *)from, .bytes = bytes}) : CUDA_ERROR_INVALID_HANDLE;
}
CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ALIVE;
  return stream == (CUstream)&stream_ ? put((operation){.to = (void *)to, .from = (void *)from, .bytes = bytes}) : CUDA_ERROR_INVALID_HANDLE;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char byte, size_t bytes, CUstream stream) {
  ALIVE;
  return memset((void *)to, byte, bytes), stream == (CUstream)&stream_ ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  ALIVE;
  return *stream = (CUstream)&stream_, flags == CU_STREAM_NON_BLOCKING ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuStreamDestroy(CUstream stream) { return stream == (CUstream)&stream_ ? state() : CUDA_ERROR_INVALID_HANDLE; }
CUresult cuStreamQuery(CUstream stream) {
  ALIVE;
  static int asked;
  return stream != (CUstream)&stream_ ? CUDA_ERROR_INVALID_HANDLE : asked++ % 2 ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
CUresult cuStreamSynchronize(CUstream stream) { return stream == (CUstream)&stream_ ? state() : CUDA_ERROR_INVALID_HANDLE; }
CUresult cuEventCreate(CUevent *event, unsigned flags) { return *event = calloc(1, sizeof(int)), flags ? CUDA_ERROR_INVALID_VALUE : state(); }
CUresult cuEventDestroy(CUevent event) { return free(event), state(); }
CUresult cuEventRecord(CUevent event, CUstream stream) { return *(int *)event = clock_++, stream == (CUstream)&stream_ ? state() : CUDA_ERROR_INVALID_HANDLE; }
CUresult cuEventSynchronize(CUevent event) { return event ? state() : CUDA_ERROR_INVALID_HANDLE; }
#undef cuEventElapsedTime
CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end) { return *ms = (*(int *)end - *(int *)start) * 0.25f, state(); }

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  ALIVE;
  return *module = (CUmodule)strdup(image), memcmp(image, "\177ELF", 4) ? CUDA_ERROR_INVALID_IMAGE : CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) { return free(module), state(); }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  ALIVE;
  return *function = (CUfunction)&function_, strstr((char *)module, name) ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes) {
  *offset = 8 * index;
  *bytes = 8;
  return function == (CUfunction)&function_ && index < 2 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
static int allowed = 49152;
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  allowed = value;
  return function == (CUfunction)&function_ && attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES ? state() : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra) {
  ALIVE;
  if (function != (CUfunction)&function_ || extra || config->hStream != (CUstream)&stream_) return CUDA_ERROR_INVALID_HANDLE;
  if ((int)config->sharedMemBytes > allowed) return CUDA_ERROR_INVALID_VALUE;
  int early = 0;
  for (unsigned i = 0; i < config->numAttrs; i++)
    early |= config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION && config->attrs[i].value.programmaticStreamSerializationAllowed == 1;
  return put((operation){.launch = 1, .config = *config, .early = early, .args = {*(void **)params[0], *(void **)params[1]}});
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  ALIVE;
  capturing = calloc(1, sizeof *capturing);
  return stream == (CUstream)&stream_ && mode == CU_STREAM_CAPTURE_MODE_RELAXED ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  *graph = capturing;
  capturing = 0;
  return stream == (CUstream)&stream_ ? state() : CUDA_ERROR_INVALID_HANDLE;
}
#undef cuGraphInstantiate
CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
  struct CUgraph_st *copy = malloc(sizeof *copy);
  *copy = *graph;
  *exec = (CUgraphExec)copy;
  return flags ? CUDA_ERROR_INVALID_VALUE : state();
}
CUresult cuGraphDestroy(CUgraph graph) { return free(graph), state(); }
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  ALIVE;
  struct CUgraph_st *graph = (struct CUgraph_st *)exec;
  for (int i = 0; i < graph->count; i++) run(&graph->operations[i]);
  return stream == (CUstream)&stream_ ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
CUresult cuGraphExecDestroy(CUgraphExec exec) { return free(exec), state(); }
