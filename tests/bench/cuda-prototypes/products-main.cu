// What checks and times the kernels that tests/bench/cuda-products.ts writes in front of this.
struct Variant {
  const char *product, *tile;
  Launch launch;
  int64_t m, n, k;
  int weights, parts;
  double cycles;  // what the compiler's model says
};
static const Variant variants[] = {
  // variants
};

// One result a thread, of every `step`-th row; the largest difference, relative to the size of a sum of k products.
__global__ void check(const uint16_t* x, const uint16_t* w0, const uint16_t* w1, const float* y, int64_t m, int64_t n, int64_t k, int parts, int step, float* worst) {
  const int64_t col = blockIdx.x * int64_t(blockDim.x) + threadIdx.x, row = blockIdx.y * int64_t(step);
  if (col >= n || row >= m) return;
  float a = 0, b = 0, got = 0;
  for (int64_t i = 0; i < k; i++) { a += bf16(x[row * k + i]) * bf16(w0[col * k + i]); if (w1) b += bf16(x[row * k + i]) * bf16(w1[col * k + i]); }
  const float want = w1 ? a / (1.0f + expf(-a)) * b : a;
  for (int p = 0; p < parts; p++) got += y[(p * m + row) * n + col];
  const float off = got == got ? fabsf(got - want) / (1.0f + fabsf(want)) : INFINITY;
  atomicMax((int*)worst, __float_as_int(off));
}

// The first tile of each product and target, which is the compiler's choice, beside the fastest, where whoever reads parts has to read 4.4 TB/s. Tiles without the fence do not count.
static void summarize(const std::vector<double>& us) {
  struct Row { const Variant *chosen, *best; std::string target; double first, least; };
  std::vector<Row> rows;
  for (size_t i = 0; i < us.size(); i++) {
    const Variant& v = variants[i];
    if (strstr(v.tile, "no fence")) continue;
    const std::string target(v.tile, strcspn(v.tile, " "));
    const double total = us[i] + (v.parts > 1 ? 4.0 * v.parts * v.m * v.n / 4.4e6 : 0);
    const bool same = !rows.empty() && rows.back().target == target && rows.back().chosen->m == v.m && !strcmp(rows.back().chosen->product, v.product);
    if (!same) rows.push_back({&v, &v, target, total, total});
    if (total < rows.back().least) { rows.back().least = total; rows.back().best = &v; }
  }
  for (const Row& r : rows)
    printf("| %lld | %s | %s | %.1f us | %.1f us | %.1f %% |\n", (long long)r.chosen->m, r.chosen->product, r.chosen->tile, us[r.chosen - variants], us[r.best - variants], (r.first / r.least - 1) * 100);
}

int main() {
  about_device();
  const int64_t bank = int64_t(1) << 30;  // elements of weights: far more than the cache holds
  uint16_t *w, *x;
  float *y, *worst;
  int64_t widest = 0, longest = 0;
  for (const Variant& v : variants) { widest = std::max(widest, v.parts * v.m * v.n); longest = std::max(longest, v.m * v.k); }
  CK(cudaMalloc(&w, bank * 2)); CK(cudaMalloc(&x, longest * 2)); CK(cudaMalloc(&y, widest * 4)); CK(cudaMalloc(&worst, 4));
  fill<<<4096, 256>>>(w, bank, 1, 0.05f);
  fill<<<4096, 256>>>(x, longest, 2, 1.0f);
  cudaStream_t stream;
  CK(cudaStreamCreate(&stream));
  const char* last = "";
  int64_t lastRows = 0;
  int wrong = 0;
  std::vector<double> medians;
  for (const Variant& v : variants) {
    if (last != v.product || lastRows != v.m) printf("%s, %lld rows\n", last = v.product, (long long)(lastRows = v.m));
    CK(cudaFuncSetAttribute(v.launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.launch.shared));
    const int64_t size = v.n * v.k, places = bank / (size * v.weights);
    int turn = 0;
    auto launch = [&] {
      const uint16_t *a = x, *w0 = w + turn++ % places * size * v.weights, *w1 = w0 + size;
      void *one[] = {&a, &w0, &y}, *two[] = {&a, &w0, &w1, &y};
      start(v.launch, v.weights > 1 ? two : one, stream);
    };
    CK(cudaMemset(y, 0xff, widest * 4)); CK(cudaMemset(worst, 0, 4)); CK(cudaDeviceSynchronize());
    launch();
    CK(cudaStreamSynchronize(stream));
    const int step = std::max(1, int(v.m / 64));
    check<<<dim3((v.n + 127) / 128, (v.m + step - 1) / step), 128>>>(x, w, v.weights > 1 ? w + size : nullptr, y, v.m, v.n, v.k, v.parts, step, worst);
    float off = 0;
    CK(cudaMemcpy(&off, worst, 4, cudaMemcpyDeviceToHost));
    const double median = time_of(7, v.m > 512 ? 8 : 24, stream, launch), flops = 2.0 * v.m * v.n * v.k * v.weights;
    medians.push_back(median);
    const bool ok = off < 2e-2f;
    wrong += !ok;
    printf("  %8.1f us %6.0f TFLOP/s %6.0f GB/s of weights  model %8.1f us  off %.1e %s  %s\n", median, flops / median * 1e-6,
           2.0 * size * v.weights / median * 1e-3, v.cycles / 1.7e3, off, ok ? "ok" : "WRONG", v.tile);
    fflush(stdout);
  }
  summarize(medians);
  printf("%d of %zu are wrong\n", wrong, sizeof(variants) / sizeof(variants[0]));
  return wrong > 0;
}
