// What checks and times the kernels that tests/bench/cuda-f32.ts writes in front of this.
struct Variant {
  const char* tile;
  Launch launch;
  int64_t m, n, k;
  double allowed;  // the largest difference, of sums that are about 1
};
static const Variant variants[] = {
  // variants
};

__global__ void fill_f32(float* p, int64_t count, unsigned seed, float scale) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    unsigned h = unsigned(i) * 2654435761u + seed;
    float sum = 0;
    for (int j = 0; j < 4; j++) { h ^= h << 13; h ^= h >> 17; h ^= h << 5; sum += float(h >> 8) / 16777216.0f - 0.5f; }
    p[i] = sum * 1.7f * scale;
  }
}

// One result a thread, of every `step`-th row, in double precision.
__global__ void check(const float* x, const float* w, const float* y, int64_t m, int64_t n, int64_t k, int step, float* worst, double* squares) {
  const int64_t col = blockIdx.x * int64_t(blockDim.x) + threadIdx.x, row = blockIdx.y * int64_t(step);
  if (col >= n || row >= m) return;
  double want = 0;
  for (int64_t i = 0; i < k; i++) want += double(x[row * k + i]) * w[col * k + i];
  const double off = y[row * n + col] - want;
  atomicMax((int*)worst, __float_as_int(off == off ? float(fabs(off)) : INFINITY));
  atomicAdd(squares, off * off);
}

int main() {
  about_device();
  int64_t rows = 0, size = 0, widest = 0;
  for (const Variant& v : variants) { rows = std::max(rows, v.m * v.k); size = std::max(size, v.n * v.k); widest = std::max(widest, v.m * v.n); }
  const int64_t places = std::max(int64_t(1), (int64_t(1) << 28) / size);  // weights for far more than the cache holds
  float *w, *x, *y, *worst;
  double* squares;
  CK(cudaMalloc(&w, places * size * 4)); CK(cudaMalloc(&x, rows * 4)); CK(cudaMalloc(&y, widest * 4)); CK(cudaMalloc(&worst, 4)); CK(cudaMalloc(&squares, 8));
  cudaStream_t stream;
  CK(cudaStreamCreate(&stream));
  int wrong = 0;
  for (const Variant& v : variants) {
    fill_f32<<<4096, 256>>>(x, v.m * v.k, 2, 1.0f);
    fill_f32<<<4096, 256>>>(w, places * v.n * v.k, 1, 1.0f / sqrtf(float(v.k)));
    CK(cudaFuncSetAttribute(v.launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.launch.shared));
    int turn = 0;
    auto launch = [&] {
      const float *a = x, *b = w + turn++ % places * v.n * v.k;
      void* args[] = {&a, &b, &y};
      start(v.launch, args, stream);
    };
    CK(cudaMemset(y, 0xff, widest * 4)); CK(cudaMemset(worst, 0, 4)); CK(cudaMemset(squares, 0, 8)); CK(cudaDeviceSynchronize());
    launch();
    CK(cudaStreamSynchronize(stream));
    const int step = std::max(1, int(v.m / 32));
    const dim3 blocks((v.n + 127) / 128, (v.m + step - 1) / step);
    check<<<blocks, 128>>>(x, w, y, v.m, v.n, v.k, step, worst, squares);
    float off = 0;
    double sum = 0;
    CK(cudaMemcpy(&off, worst, 4, cudaMemcpyDeviceToHost)); CK(cudaMemcpy(&sum, squares, 8, cudaMemcpyDeviceToHost));
    const double median = time_of(5, 12, stream, launch), flops = 2.0 * v.m * v.n * v.k;
    const bool ok = off < v.allowed;
    wrong += !ok;
    printf("%8.1f us %6.1f TFLOP/s  off %.1e at most, %.1e mostly %s  %s\n", median, flops / median * 1e-6, off, sqrt(sum / (double(blocks.y) * v.n)), ok ? "ok" : "WRONG", v.tile);
    fflush(stdout);
  }
  printf("%d of %zu are wrong\n", wrong, sizeof(variants) / sizeof(variants[0]));
  return wrong > 0;
}
