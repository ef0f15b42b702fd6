// What compares and times the kernels that tests/bench/cuda-steps.ts writes in front of this.
#include <cuda_runtime.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>
#define CK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)

struct Param { int bytes; bool written; int64_t elements; };
struct Variant { const char* label; const void* kernel; unsigned grid[3]; int threads, shared; };
struct Group { int rows, replay, symbols, held; std::vector<Param> params; std::vector<Variant> variants; };
static const Group groups[] = {
  // groups
};

__device__ float drawn(int64_t i, unsigned seed) {
  unsigned h = unsigned(i) * 2654435761u + seed;
  h ^= h << 13; h ^= h >> 17; h ^= h << 5; h *= 2246822519u; h ^= h >> 15;
  return float(h >> 8) / 16777216.0f - 0.5f;
}
__global__ void fill(void* p, int bytes, int64_t count, unsigned seed) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x)
    if (bytes == 2) ((uint16_t*)p)[i] = uint16_t(__float_as_uint(drawn(i, seed)) >> 16); else ((float*)p)[i] = drawn(i, seed);
}
__device__ float valueOf(const void* p, int bytes, int64_t i) {
  return bytes == 2 ? __uint_as_float(unsigned(((const uint16_t*)p)[i]) << 16) : ((const float*)p)[i];
}
// The largest difference, relative where values are large.
__global__ void compare(const void* a, const void* b, int bytes, int64_t count, float* worst) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    const float x = valueOf(a, bytes, i), y = valueOf(b, bytes, i);
    const float off = x == x && y == y ? fabsf(x - y) / (1.0f + fabsf(x)) : INFINITY;
    if (off > 0) atomicMax((int*)worst, __float_as_int(off));
  }
}

int main() {
  cudaStream_t stream; cudaEvent_t from, to; float* worst;
  CK(cudaStreamCreate(&stream)); CK(cudaEventCreate(&from)); CK(cudaEventCreate(&to)); CK(cudaMalloc(&worst, 4));
  int wrong = 0;
  for (const Group& g : groups) {
    const int turns = std::max(1, g.replay);
    int64_t total = 0;
    for (const Param& p : g.params) total += p.bytes * p.elements;
    // sets of buffers in turn, as layers are: the cache holds none of them
    const int sets = int(std::max<int64_t>(1, (int64_t(400) << 20) / total));
    std::vector<std::vector<void*>> memory(sets + 1, std::vector<void*>(g.params.size()));
    for (auto& set : memory) for (size_t i = 0; i < g.params.size(); i++) CK(cudaMalloc(&set[i], g.params[i].bytes * g.params[i].elements + 256));
    std::vector<int> symbols;
    for (int held = 0; held < turns; held++) for (int s = 0; s < std::max(1, g.symbols); s++) symbols.push_back(s == g.held ? held : 1);
    int* set_of; CK(cudaMalloc(&set_of, symbols.size() * 4)); CK(cudaMemcpy(set_of, symbols.data(), symbols.size() * 4, cudaMemcpyHostToDevice));
    // the largest that is written is the state: read each time, stored once in a ring
    int64_t state = 0;
    for (const Param& p : g.params) if (p.written) state = std::max(state, p.bytes * p.elements);
    const double bytes = state * (1.0 + 1.0 / turns);
    printf("%d rows, replay %d: %.0f MB of states a step\n", g.rows, g.replay, bytes / 1e6);
    auto launch = [&](const Variant& v, std::vector<void*>& set, int held) {
      std::vector<void*> args;
      for (void*& p : set) args.push_back(&p);
      int* at = set_of + held * std::max(1, g.symbols);
      if (g.symbols > 0) args.push_back(&at);
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(v.grid[0], v.grid[1], v.grid[2]); config.blockDim = dim3(v.threads); config.dynamicSmemBytes = v.shared; config.stream = stream;
      cudaLaunchAttribute early = {};
      early.id = cudaLaunchAttributeProgrammaticStreamSerialization; early.val.programmaticStreamSerializationAllowed = 1;
      config.attrs = &early; config.numAttrs = 1;
      CK(cudaLaunchKernelExC(&config, v.kernel, args.data()));
    };
    auto refill = [&](std::vector<void*>& set) { for (size_t i = 0; i < g.params.size(); i++) fill<<<2048, 256, 0, stream>>>(set[i], g.params[i].bytes, g.params[i].elements, 77 * unsigned(i)); };
    for (const Variant& v : g.variants) CK(cudaFuncSetAttribute(v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.shared));
    for (const Variant& v : g.variants) {
      float off = 0;
      for (int held : {0, turns / 2, turns - 1}) {
        refill(memory[0]); refill(memory[sets]);
        launch(g.variants[0], memory[sets], held); launch(v, memory[0], held);
        CK(cudaMemsetAsync(worst, 0, 4, stream));
        for (size_t i = 0; i < g.params.size(); i++) if (g.params[i].written) compare<<<2048, 256, 0, stream>>>(memory[sets][i], memory[0][i], g.params[i].bytes, g.params[i].elements, worst);
        float here; CK(cudaMemcpyAsync(&here, worst, 4, cudaMemcpyDeviceToHost, stream)); CK(cudaStreamSynchronize(stream));
        off = std::max(off, here);
      }
      for (auto& set : memory) refill(set);
      int turn = 0;
      auto one = [&](int held) {
        for (int s = 0; s < 3; s++) launch(v, memory[turn++ % sets], held);
        CK(cudaEventRecord(from, stream));
        for (int s = 0; s < 20; s++) launch(v, memory[turn++ % sets], held);
        CK(cudaEventRecord(to, stream)); CK(cudaEventSynchronize(to));
        float ms; CK(cudaEventElapsedTime(&ms, from, to));
        return ms * 50;
      };
      const float empty = one(0), full = one(std::max(0, turns - 2)), last = one(turns - 1);
      auto cycle = [&] { for (int held = 0; held < turns; held++) for (int s = 0; s < std::max(sets, 16 / turns); s++) launch(v, memory[turn++ % sets], held); };
      cycle();
      std::vector<float> times;
      int blocks = 0;
      CK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, v.kernel, v.threads, v.shared));
      for (int r = 0; r < 5; r++) {
        const int before = turn;
        CK(cudaEventRecord(from, stream)); cycle(); CK(cudaEventRecord(to, stream)); CK(cudaEventSynchronize(to));
        float ms; CK(cudaEventElapsedTime(&ms, from, to)); times.push_back(ms * 1000 / (turn - before));
      }
      std::sort(times.begin(), times.end());
      const float us = times[2];
      const bool right = off < 0.01f;
      wrong += !right;
      printf("  %8.2f us (empty %.1f, full %.1f, stored %.1f)  %5.0f GB/s  off %.1e %s  %d blocks of %d threads each, %ux%ux%u  %s\n", us, empty, full, last, bytes / us * 1e-3, off, right ? "ok" : "WRONG", blocks, v.threads, v.grid[0], v.grid[1], v.grid[2], v.label);
    }
    for (auto& set : memory) for (void* p : set) CK(cudaFree(p));
    CK(cudaFree(set_of));
  }
  printf("%d are wrong\n", wrong);
  return wrong > 0;
}
