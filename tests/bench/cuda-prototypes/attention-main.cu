// What checks and times the kernels that tests/bench/cuda-attention.ts writes in front of this, beside rings that copy the same keys and values and do nothing with them.
struct Variant {
  const char* label;
  Launch launch;
  int64_t rows, past, capacity;
  int parts;
};
static const Variant variants[] = {
  // variants
};
static const int HEADS = 32, KV_HEADS = 8, DIM = 128;

// Some rows begin with padding, some with another sequence.
__global__ void number(int* ids, int64_t capacity) {
  const int b = blockIdx.x;
  for (int64_t j = threadIdx.x; j < capacity; j += blockDim.x) ids[b * capacity + j] = b % 16 == 1 && j < 37 ? -1 : b % 16 == 2 && j >= 50 ? 2 : 1;
}

// A block is one query head; of the parts' sums, what they come to together. The largest difference, relative to the size of a value.
__global__ void check(const float* q, const uint16_t* k, const uint16_t* v, const int* ids, const float* out, int64_t past, int64_t capacity, int parts, int step, float* worst) {
  extern __shared__ float weights[];
  __shared__ float part[128];
  const int64_t b = blockIdx.y * int64_t(step), h = blockIdx.x, row = b * HEADS + h, first = (b * KV_HEADS + h / (HEADS / KV_HEADS)) * capacity * DIM;
  auto all = [&](float x, bool most) {
    __syncthreads();
    part[threadIdx.x] = x;
    __syncthreads();
    for (int i = 0; i < 128; i++) x = i == 0 ? part[0] : most ? fmaxf(x, part[i]) : x + part[i];
    return x;
  };
  float top = -INFINITY, total = 0;
  for (int64_t j = threadIdx.x; j <= past; j += 128) {
    float dot = 0;
    for (int d = 0; d < DIM; d++) dot += q[row * DIM + d] * bf16(k[first + j * DIM + d]);
    weights[j] = ids[b * capacity + j] == ids[b * capacity + past] ? dot * 0.0883883476f : -INFINITY;
    top = fmaxf(top, weights[j]);
  }
  top = all(top, true);
  for (int64_t j = threadIdx.x; j <= past; j += 128) total += weights[j] = expf(weights[j] - top);
  total = all(total, false);
  float want = 0;
  for (int64_t j = 0; j <= past; j++) want += weights[j] / total * bf16(v[first + j * DIM + threadIdx.x]);
  float got = out[row * DIM + threadIdx.x];
  if (parts > 1) {
    const float* p = out + row * parts * (DIM + 2);
    float most = -INFINITY, sum = 0;
    for (int i = 0; i < parts; i++) most = fmaxf(most, p[i * (DIM + 2) + DIM]);
    got = 0;
    for (int i = 0; i < parts; i++, p += DIM + 2) { const float w = exp2f(p[DIM] - most); got += w * p[threadIdx.x]; sum += w * p[DIM + 1]; }
    got /= sum;
  }
  const float off = got == got ? fabsf(got - want) / (0.02f + fabsf(want)) : INFINITY;
  atomicMax((int*)worst, __float_as_int(off));
}

// A warp a block: keys and values through a ring, by copies of 16 bytes a lane or of whole tiles.
template <int KEYS, int STAGES, bool WHOLE>
__global__ void __launch_bounds__(32) copies(const uint16_t* k, const uint16_t* v, float* out, int64_t keys, int64_t capacity) {
  extern __shared__ __align__(128) uint16_t ring[];
  __shared__ __align__(8) uint64_t full[STAGES];
  constexpr int TILE = KEYS * DIM;
  const int64_t tiles = (keys + KEYS - 1) / KEYS, share = (tiles + gridDim.x - 1) / gridDim.x, first = blockIdx.x * share;
  const int count = int(max(min(share, tiles - first), int64_t(0)));
  const int64_t from = ((blockIdx.z * int64_t(KV_HEADS) + blockIdx.y) * capacity + first * KEYS) * DIM;
  auto shared = [](const void* p) { return unsigned(__cvta_generic_to_shared(p)); };
  auto copy = [&](int turn) {
    for (int which = 0; which < 2; which++) {
      const uint16_t* src = (which ? v : k) + from + int64_t(turn) * TILE;
      uint16_t* dst = ring + (turn % STAGES * 2 + which) * TILE;
      if constexpr (WHOLE) {
        if (threadIdx.x == 0) {
          if (which == 0) asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared(&full[turn % STAGES])), "r"(TILE * 4) : "memory");
          asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared(dst)), "l"(src), "r"(TILE * 2), "r"(shared(&full[turn % STAGES])) : "memory");
        }
      } else {
#pragma unroll
        for (int i = threadIdx.x * 8; i < TILE; i += 256)
          asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared(dst + i)), "l"(src + i) : "memory");
      }
    }
  };
  auto commit = [] { asm volatile("cp.async.commit_group;" ::: "memory"); };
  if (WHOLE && threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared(&full[s])) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncwarp();
  for (int turn = 0; turn < STAGES - 1; turn++) { if (turn < count) copy(turn); commit(); }
  float sum = 0;
  for (int turn = 0; turn < count; turn++) {
    if constexpr (WHOLE) {
      unsigned done = 0;
      while (!done) asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(shared(&full[turn % STAGES])), "r"(turn / STAGES & 1) : "memory");
    } else asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
    __syncwarp();
    if (turn + STAGES - 1 < count) copy(turn + STAGES - 1);
    commit();
    for (int i = threadIdx.x; i < 2 * TILE; i += 1024) sum += bf16(ring[turn % STAGES * 2 * TILE + i]);
  }
  if (sum == 12345.0f) out[0] = sum;
}
struct Ring { const char* label; const void* kernel; int shared; };
#define RING(keys, stages, whole) {whole ? "whole tiles of " #keys " keys in " #stages : "16 bytes a lane, " #keys " keys in " #stages, (const void*)copies<keys, stages, whole>, keys * stages * 512 + 4096}
static const Ring rings[] = {RING(16, 3, false), RING(32, 3, false), RING(16, 6, false), RING(32, 2, false), RING(64, 2, false), RING(16, 3, true), RING(32, 3, true), RING(64, 2, true)};

int main() {
  about_device();
  int64_t longest = int64_t(1) << 27, queries = 0, results = 0, places = 0;
  for (const Variant& v : variants) {
    longest = std::max(longest, v.rows * KV_HEADS * v.capacity * DIM);
    queries = std::max(queries, v.rows * HEADS * DIM);
    results = std::max(results, v.rows * HEADS * v.parts * (DIM + 2));
    places = std::max(places, v.rows * v.capacity);
  }
  uint16_t *k, *v;
  float *q, *out, *worst;
  int *ids, *symbols;
  CK(cudaMalloc(&k, longest * 2)); CK(cudaMalloc(&v, longest * 2)); CK(cudaMalloc(&q, queries * 4)); CK(cudaMalloc(&out, results * 4));
  CK(cudaMalloc(&ids, places * 4)); CK(cudaMalloc(&symbols, 4)); CK(cudaMalloc(&worst, 4));
  fill<<<4096, 256>>>(k, longest, 1, 1.0f);
  fill<<<4096, 256>>>(v, longest, 2, 1.0f);
  std::vector<float> some(queries);
  for (int64_t i = 0; i < queries; i++) some[i] = float(i * 2654435761u % 1000) / 500.0f - 1.0f;
  CK(cudaMemcpy(q, some.data(), queries * 4, cudaMemcpyHostToDevice));
  CK(cudaFuncSetAttribute((const void*)check, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10));
  cudaStream_t stream;
  CK(cudaStreamCreate(&stream));
  int64_t rows = 0, past = 0;
  int wrong = 0;
  for (const Variant& at : variants) {
    const int64_t size = at.rows * KV_HEADS * at.capacity * DIM, banks = longest / size;
    const double bytes = 4.0 * at.rows * KV_HEADS * (at.past + 1) * DIM;
    const int launches = std::max(3, std::min(48, int(4e9 / bytes)));
    auto print = [&](const Launch& l, double us, const char* note, const char* label, int parts) {
      int resident = 0;
      CK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, l.kernel, l.threads, l.shared));
      printf("  %8.2f us %5.0f GB/s  %2d parts, %5u blocks, %2d a multiprocessor  %s  %s\n", us, bytes / us * 1e-3, parts, l.grid[0] * l.grid[1] * l.grid[2], resident, note, label);
      fflush(stdout);
    };
    if (at.rows != rows || at.past != past) {
      printf("%lld rows at %lld\n", (long long)(rows = at.rows), (long long)(past = at.past));
      number<<<unsigned(rows), 256>>>(ids, at.capacity);
      for (const Ring& ring : rings)
        for (int parts : {1, 2, 8, 16}) {
          if (parts > 1 && parts * rows > 300) continue;
          if (parts * rows < 16 && parts < 16) continue;
          const Launch l = {ring.kernel, {unsigned(parts), KV_HEADS, unsigned(rows)}, 32, ring.shared};
          CK(cudaFuncSetAttribute(ring.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ring.shared));
          int turn = 0;
          print(l, time_of(5, launches, stream, [&] {
            const uint16_t *keys = k + turn % banks * size, *held = v + turn++ % banks * size;
            int64_t count = past + 1, capacity = at.capacity;
            void* args[] = {&keys, &held, &out, &count, &capacity};
            start(l, args, stream);
          }), "copies alone", ring.label, parts);
        }
    }
    const int position = int(at.past);
    CK(cudaMemcpy(symbols, &position, 4, cudaMemcpyHostToDevice));
    CK(cudaFuncSetAttribute(at.launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, at.launch.shared));
    int turn = 0;
    auto launch = [&] {
      const uint16_t *keys = k + turn % banks * size, *held = v + turn++ % banks * size;
      void* args[] = {&q, &keys, &held, &ids, &out, &symbols};
      start(at.launch, args, stream);
    };
    printf("  %2d parts  %s\r", at.parts, at.label); fflush(stdout);
    CK(cudaMemset(out, 0xff, results * 4)); CK(cudaMemset(worst, 0, 4)); CK(cudaDeviceSynchronize());
    launch();
    CK(cudaStreamSynchronize(stream));
    const int step = std::max(1, int(rows / 16));
    check<<<dim3(HEADS, unsigned((rows + step - 1) / step)), 128, (past + 1) * 4>>>(q, k, v, ids, out, past, at.capacity, at.parts, step, worst);
    float off = 0;
    CK(cudaMemcpy(&off, worst, 4, cudaMemcpyDeviceToHost));
    const bool ok = off < 2e-2f;
    wrong += !ok;
    char note[32];
    snprintf(note, sizeof note, "off %.1e %s", off, ok ? "ok" : "WRONG");
    print(at.launch, time_of(5, launches, stream, launch), note, at.label, at.parts);
  }
  printf("%d of %zu are wrong\n", wrong, sizeof(variants) / sizeof(variants[0]));
  return wrong > 0;
}
