// What compares and times the kernels that tests/bench/cuda-steps.ts writes in front of this.
struct Param { int bytes; bool written; int64_t elements; };
struct Variant { int rows, replay, symbols, held; std::vector<Param> params; const char* label; Launch launch; };
static const Variant variants[] = {
  // variants
};

__device__ float drawn(int64_t i, unsigned seed) {
  unsigned h = unsigned(i) * 2654435761u + seed;
  h ^= h << 13; h ^= h >> 17; h ^= h << 5; h *= 2246822519u; h ^= h >> 15;
  return float(h >> 8) / 16777216.0f - 0.5f;
}
__global__ void draw(void* p, int bytes, int64_t count, unsigned seed) {
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

// A kernel's buffers, some times over, so that the cache holds none of them; the last set is for the first variant's results.
struct Memory {
  std::vector<std::vector<void*>> sets;
  int* symbols = nullptr;  // of each filling of the ring
};

static Memory memory_of(const Variant& v, int turns) {
  Memory memory;
  int64_t total = 0;
  for (const Param& p : v.params) total += p.bytes * p.elements;
  memory.sets.resize(std::max<int64_t>(1, (int64_t(400) << 20) / total) + 1);
  for (auto& set : memory.sets) for (const Param& p : v.params) { void* at; CK(cudaMalloc(&at, p.bytes * p.elements + 256)); set.push_back(at); }
  const int each = std::max(1, v.symbols);
  std::vector<int> symbols;
  for (int held = 0; held < turns; held++) for (int s = 0; s < each; s++) symbols.push_back(s == v.held ? held : 1);
  CK(cudaMalloc(&memory.symbols, symbols.size() * 4));
  CK(cudaMemcpy(memory.symbols, symbols.data(), symbols.size() * 4, cudaMemcpyHostToDevice));
  return memory;
}

static void release(Memory& memory) {
  for (auto& set : memory.sets) for (void* p : set) CK(cudaFree(p));
  CK(cudaFree(memory.symbols));
  memory = {};
}

int main() {
  about_device();
  cudaStream_t stream; float* worst;
  CK(cudaStreamCreate(&stream)); CK(cudaMalloc(&worst, 4));
  int wrong = 0;
  Memory memory;
  const Variant* first = nullptr;
  for (const Variant& v : variants) {
    const int turns = std::max(1, v.replay);
    // the largest that is written is the state: read each time, stored once in a ring
    int64_t state = 0;
    for (const Param& p : v.params) if (p.written) state = std::max(state, p.bytes * p.elements);
    const double bytes = state * (1.0 + 1.0 / turns);
    if (!first || first->rows != v.rows || first->replay != v.replay) {
      if (first) release(memory);
      memory = memory_of(*(first = &v), turns);
      printf("%d rows, replay %d: %.0f MB of states a step\n", v.rows, v.replay, bytes / 1e6);
    }
    const int sets = int(memory.sets.size()) - 1;
    auto launch = [&](const Variant& which, std::vector<void*>& set, int held) {
      std::vector<void*> args;
      for (void*& p : set) args.push_back(&p);
      int* at = memory.symbols + held * std::max(1, v.symbols);
      if (v.symbols > 0) args.push_back(&at);
      start(which.launch, args.data(), stream);
    };
    auto refill = [&](std::vector<void*>& set) { for (size_t i = 0; i < set.size(); i++) draw<<<2048, 256, 0, stream>>>(set[i], v.params[i].bytes, v.params[i].elements, 77 * unsigned(i)); };
    CK(cudaFuncSetAttribute(v.launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.launch.shared));
    float off = 0;
    for (int held : {0, turns / 2, turns - 1}) {
      refill(memory.sets[0]); refill(memory.sets[sets]);
      launch(*first, memory.sets[sets], held); launch(v, memory.sets[0], held);
      CK(cudaMemsetAsync(worst, 0, 4, stream));
      for (size_t i = 0; i < v.params.size(); i++) if (v.params[i].written) compare<<<2048, 256, 0, stream>>>(memory.sets[sets][i], memory.sets[0][i], v.params[i].bytes, v.params[i].elements, worst);
      float here; CK(cudaMemcpyAsync(&here, worst, 4, cudaMemcpyDeviceToHost, stream)); CK(cudaStreamSynchronize(stream));
      off = std::max(off, here);
    }
    for (auto& set : memory.sets) refill(set);
    int turn = 0;
    auto at = [&](int held) { return time_of(3, 20, stream, [&] { launch(v, memory.sets[turn++ % sets], held); }); };
    const double empty = at(0), full = at(std::max(0, turns - 2)), stored = at(turns - 1);
    const double us = ((turns - 1) * (empty + full) / 2 + stored) / turns;
    const bool right = off < 0.01f;
    wrong += !right;
    int blocks = 0;
    CK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, v.launch.kernel, v.launch.threads, v.launch.shared));
    printf("  %8.2f us (empty %.1f, full %.1f, stored %.1f)  %5.0f GB/s  off %.1e %s  %d blocks of %d threads each, %ux%ux%u  %s\n", us, empty, full, stored, bytes / us * 1e-3, off, right ? "ok" : "WRONG",
           blocks, v.launch.threads, v.launch.grid[0], v.launch.grid[1], v.launch.grid[2], v.label);
  }
  printf("%d are wrong\n", wrong);
  return wrong > 0;
}
