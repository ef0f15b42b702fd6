// What the programs that tests/bench/cuda-products.ts, cuda-attention.ts and cuda-steps.ts write have in common; it comes first.
#include <cuda_runtime.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
#define CK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)

// numbers like a normal distribution's: a GPU's clock depends on what it multiplies
__global__ void fill(uint16_t* p, int64_t count, unsigned seed, float scale) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    unsigned h = unsigned(i) * 2654435761u + seed;
    float sum = 0;
    for (int j = 0; j < 4; j++) { h ^= h << 13; h ^= h >> 17; h ^= h << 5; sum += float(h >> 8) / 16777216.0f - 0.5f; }
    p[i] = uint16_t(__float_as_uint(sum * 1.7f * scale) >> 16);
  }
}
__device__ float bf16(uint16_t x) { return __uint_as_float(unsigned(x) << 16); }

struct Launch { const void* kernel; unsigned grid[3]; int threads, shared; };

void start(const Launch& l, void** args, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(l.grid[0], l.grid[1], l.grid[2]); config.blockDim = dim3(l.threads); config.dynamicSmemBytes = l.shared; config.stream = stream;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization; early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early; config.numAttrs = 1;
  CK(cudaLaunchKernelExC(&config, l.kernel, args));
}

// Median of several times so many launches, one right after the other, in microseconds each.
template <class F> double time_of(int rounds, int launches, cudaStream_t stream, F launch) {
  static cudaEvent_t from = nullptr, to = nullptr;
  if (!from) { CK(cudaEventCreate(&from)); CK(cudaEventCreate(&to)); }
  std::vector<float> us;
  for (int round = 0; round < rounds; round++) {
    CK(cudaEventRecord(from, stream));
    for (int i = 0; i < launches; i++) launch();
    CK(cudaEventRecord(to, stream)); CK(cudaEventSynchronize(to));
    float ms; CK(cudaEventElapsedTime(&ms, from, to));
    us.push_back(ms * 1000 / launches);
  }
  std::sort(us.begin(), us.end());
  return us[us.size() / 2];
}

void about_device() {
  cudaDeviceProp device;
  CK(cudaGetDeviceProperties(&device, 0));
  int khz = 0;
  CK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
  printf("%s, %d multiprocessors, %.2f GHz at most\n", device.name, device.multiProcessorCount, khz * 1e-6);
}
