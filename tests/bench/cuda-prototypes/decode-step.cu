// Emulates a whole Bamba-9B decode step at batch 1 with variants of the GEMV, to learn which structure is best.
#include <cuda_runtime.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <algorithm>
#define CK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)
typedef unsigned short u16;
__device__ __forceinline__ float lo(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float hi(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }
__device__ __forceinline__ uint4 ldw(const void* p) { uint4 v; asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p)); return v; }
__device__ __forceinline__ void wait_() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void go_() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ float dot8(uint4 w, float4 a, float4 b, float s) {
  s = fmaf(lo(w.x), a.x, s); s = fmaf(hi(w.x), a.y, s); s = fmaf(lo(w.y), a.z, s); s = fmaf(hi(w.y), a.w, s);
  s = fmaf(lo(w.z), b.x, s); s = fmaf(hi(w.z), b.y, s); s = fmaf(lo(w.w), b.z, s); s = fmaf(hi(w.w), b.w, s); return s;
}
// Warps along N; lanes along k. PERSIST: grid-stride over row groups. NORM: x * gamma, sum of squares alongside, scaled at the end.
template <int ROWS, int U, int WARPS, int MINB, bool NORM, bool PAIR>
__global__ void __launch_bounds__(WARPS * 32, MINB) gemv(const u16* __restrict__ W, const float* x, const u16* __restrict__ gamma, const float* res, float* y, int N, int K) {
  go_();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int groups = N / ROWS;
  bool waited = false;
  for (int g = warp * gridDim.x + blockIdx.x; g < groups; g += gridDim.x * WARPS) {
    const u16* w[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) w[r] = W + (size_t)(PAIR ? (r % 2 ? N / 2 + g * (ROWS / 2) + r / 2 : g * (ROWS / 2) + r / 2) : g * ROWS + r) * K + lane * 8;
    float acc[ROWS] = {}; float ss = 0;
    uint4 v[U][ROWS];
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int r = 0; r < ROWS; ++r) v[u][r] = ldw(w[r] + u * 256);
    if (!waited) { wait_(); waited = true; }
    for (int k = 0; k < K; k += 256 * U) {
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const int at = k + u * 256 + lane * 8;
        float4 a = *(const float4*)(x + at), b = *(const float4*)(x + at + 4);
        if (NORM) {
          ss = fmaf(a.x, a.x, ss); ss = fmaf(a.y, a.y, ss); ss = fmaf(a.z, a.z, ss); ss = fmaf(a.w, a.w, ss);
          ss = fmaf(b.x, b.x, ss); ss = fmaf(b.y, b.y, ss); ss = fmaf(b.z, b.z, ss); ss = fmaf(b.w, b.w, ss);
          uint4 q = *(const uint4*)(gamma + at);
          a.x *= lo(q.x); a.y *= hi(q.x); a.z *= lo(q.y); a.w *= hi(q.y); b.x *= lo(q.z); b.y *= hi(q.z); b.z *= lo(q.w); b.w *= hi(q.w);
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) acc[r] = dot8(v[u][r], a, b, acc[r]);
        if (k + 256 * U < K)
#pragma unroll
          for (int r = 0; r < ROWS; ++r) v[u][r] = ldw(w[r] + k + 256 * U + u * 256);
      }
    }
#pragma unroll
    for (int o = 16; o; o >>= 1) {
#pragma unroll
      for (int r = 0; r < ROWS; ++r) acc[r] += __shfl_xor_sync(~0u, acc[r], o);
      if (NORM) ss += __shfl_xor_sync(~0u, ss, o);
    }
    const float inv = NORM ? rsqrtf(ss / K + 1e-5f) : 1.f;
    if (lane == 0) {
      if (PAIR) {
#pragma unroll
        for (int r = 0; r < ROWS / 2; ++r) { float a = acc[2 * r] * inv; y[g * (ROWS / 2) + r] = a / (1.f + __expf(-a)) * (acc[2 * r + 1] * inv); }
      } else
#pragma unroll
        for (int r = 0; r < ROWS; ++r) y[g * ROWS + r] = acc[r] * inv + (res ? res[g * ROWS + r] : 0.f);
    }
  }
  if (!waited) wait_();
}
// state step: block per (head, quarter of P)
__global__ void __launch_bounds__(128) state(float* st, const float* xbc, float* y) {
  go_(); 
  const int h = blockIdx.x / 4, p0 = (blockIdx.x % 4) * 16, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float4* s = (float4*)(st + ((size_t)h * 64 + p0 + warp * 4) * 128) + lane;
  float4 c[4];
  for (int i = 0; i < 4; ++i) c[i] = s[i * 32];
  wait_();
  float4 B = *(const float4*)(xbc + 8192 + lane * 4), C = *(const float4*)(xbc + 8320 + lane * 4);
  float dt = xbc[8448 + h], dec = __expf(-dt * dt * 1e-3f);
  for (int i = 0; i < 4; ++i) {
    float xv = xbc[h * 64 + p0 + warp * 4 + i] * 0.01f;
    c[i].x = c[i].x * dec + xv * B.x; c[i].y = c[i].y * dec + xv * B.y; c[i].z = c[i].z * dec + xv * B.z; c[i].w = c[i].w * dec + xv * B.w;
    s[i * 32] = c[i];
    float o = c[i].x * C.x + c[i].y * C.y + c[i].z * C.z + c[i].w * C.w;
    for (int m = 16; m; m >>= 1) o += __shfl_xor_sync(~0u, o, m);
    if (lane == 0) y[h * 64 + p0 + warp * 4 + i] = o;
  }
}
__global__ void fill(u16* p, size_t n) { for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) { uint32_t r = (uint32_t)i * 2654435761u; r ^= r >> 15; p[i] = (u16)(0x3c00 | (r & 0x80ff) ) ; } }
__global__ void fillf(float* p, size_t n) { for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) p[i] = 0.001f * (int)((i * 7919) % 2001) - 1.f; }
cudaStream_t st_; bool pdl = true; int sms;
template <class F, class... A> void launch(F f, int grid, int block, A... a) {
  cudaLaunchConfig_t c = {}; c.gridDim = dim3(grid); c.blockDim = dim3(block); c.stream = st_;
  cudaLaunchAttribute at[1]; at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization; at[0].val.programmaticStreamSerializationAllowed = 1;
  c.attrs = at; c.numAttrs = pdl ? 1 : 0; CK(cudaLaunchKernelEx(&c, f, a...));
}
struct Layer { u16 *in, *out, *gu, *down, *g; float* s; bool attn; };
u16 *head; std::vector<Layer> L; float *h0, *zx, *yy, *mid, *logits;
template <int R, int U, int W, int MB, bool NORM, bool PAIR> void mv(const u16* w, const float* x, const u16* g, const float* res, float* y, int N, int K, int per) {
  const int groups = N / R, blocks = (groups + W - 1) / W;
  launch(gemv<R, U, W, MB, NORM, PAIR>, per ? std::min(blocks, sms * per) : blocks, W * 32, w, x, g, res, y, N, K);
}
float median(cudaGraphExec_t ge, int reps) {
  cudaEvent_t a, b; CK(cudaEventCreate(&a)); CK(cudaEventCreate(&b)); std::vector<float> t;
  for (int i = 0; i < reps + 3; ++i) { CK(cudaEventRecord(a, st_)); CK(cudaGraphLaunch(ge, st_)); CK(cudaEventRecord(b, st_)); CK(cudaStreamSynchronize(st_)); float ms; CK(cudaEventElapsedTime(&ms, a, b)); if (i >= 3) t.push_back(ms); }
  std::sort(t.begin(), t.end()); return t[t.size() / 2];
}
template <class F> float graph(F f, int reps = 15) {
  cudaGraph_t g; cudaGraphExec_t ge; CK(cudaStreamBeginCapture(st_, cudaStreamCaptureModeThreadLocal)); f(); CK(cudaStreamEndCapture(st_, &g)); CK(cudaGraphInstantiate(&ge, g, 0));
  float r = median(ge, reps); CK(cudaGraphExecDestroy(ge)); CK(cudaGraphDestroy(g)); return r;
}
template <int R, int U, int W, int MB> void variant(const char* n, int per) {
  for (int p = 1; p >= 0; --p) {
    pdl = p;
    float step = graph([&] {
      for (auto& l : L) {
        if (l.attn) { mv<R, U, W, MB, true, false>(l.in, h0, l.g, nullptr, zx, 6144, 4096, per); mv<R, U, W, MB, false, false>(l.out, zx, nullptr, h0, h0, 4096, 4096, per); }
        else { mv<R, U, W, MB, true, false>(l.in, h0, l.g, nullptr, zx, 16768, 4096, per); launch(state, 512, 128, l.s, zx, yy); mv<R, U, W, MB, true, false>(l.out, yy, l.g, h0, h0, 4096, 8192, per); }
        mv<R, U, W, MB, true, true>(l.gu, h0, l.g, nullptr, mid, 28672, 4096, per); mv<R, U, W, MB, false, false>(l.down, mid, nullptr, h0, h0, 4096, 14336, per);
      }
      mv<R, U, W, MB, true, false>(head, h0, L[0].g, nullptr, logits, 128256, 4096, per);
    });
    auto one = [&](auto f) { return graph([&] { for (auto& l : L) if (!l.attn) f(l); }) / 29 * 1000; };
    float a = one([&](Layer& l) { mv<R, U, W, MB, true, false>(l.in, h0, l.g, nullptr, zx, 16768, 4096, per); });
    float b = one([&](Layer& l) { mv<R, U, W, MB, true, false>(l.out, yy, l.g, h0, h0, 4096, 8192, per); });
    float c = one([&](Layer& l) { mv<R, U, W, MB, true, true>(l.gu, h0, l.g, nullptr, mid, 28672, 4096, per); });
    float d = one([&](Layer& l) { mv<R, U, W, MB, false, false>(l.down, mid, nullptr, h0, h0, 4096, 14336, per); });
    float s = one([&](Layer& l) { launch(state, 512, 128, l.s, zx, yy); });
    printf("%-22s per %d pdl %d: step %.3f ms (%.0f GB/s) in %.1f (%.0f) out %.1f (%.0f) gu %.1f (%.0f) down %.1f (%.0f) state %.1f us\n", n, per, p, step, 18.51e3 / step, a, 137.4e3 / a, b, 67.1e3 / b, c, 234.9e3 / c, d, 117.4e3 / d, s); fflush(stdout);
  }
}


__device__ __forceinline__ uint4 ldp(const void* p) { uint4 v; asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p)); return v; }
__device__ __forceinline__ const u16* rowOf(const u16* W, int t, int r, int R, int N, int K, bool PAIR) { return W + (size_t)(PAIR ? (r % 2 ? N / 2 + t * (R / 2) + r / 2 : t * (R / 2) + r / 2) : t * R + r) * K; }
// one block an SM; all W warps along k; x in registers; tiles of R rows; double-buffered partial sums. RING: through cp.async, S stages; else registers
template <int R, int W, int V, int S, bool NORM, bool PAIR, int MINB>
__global__ void __launch_bounds__(W * 32, MINB) tile(const u16* __restrict__ w, const float* x, const u16* __restrict__ gamma, const float* res, float* y, const int N) {
  constexpr int K = W * V * 256;
  extern __shared__ __align__(128) uint8_t sm[];
  __shared__ float part[2][R + 1][W];
  go_();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, at = threadIdx.x * 8;
  const int tiles = N / R;
  uint4 v[S ? 1 : R][V];
  int issued = blockIdx.x, slot = 0;
  const uint32_t ring = (uint32_t)__cvta_generic_to_shared(sm) + threadIdx.x * 16;
  auto issue = [&](int t, int s) {
    if (t < tiles)
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int u = 0; u < V; ++u) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(ring + ((s * R + r) * V + u) * W * 512), "l"(rowOf(w, t, r, R, N, K, PAIR) + at + u * W * 256));
    asm volatile("cp.async.commit_group;");
  };
  if (S) { for (int s = 0; s < S - 1; ++s) issue(blockIdx.x + s * gridDim.x, s); }
  else if (blockIdx.x < tiles)
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int u = 0; u < V; ++u) v[r][u] = ldp(rowOf(w, blockIdx.x, r, R, N, K, PAIR) + at + u * W * 256);
  uint4 q[V];
  if (NORM)
#pragma unroll
    for (int u = 0; u < V; ++u) q[u] = *(const uint4*)(gamma + at + u * W * 256);
  wait_();
  float4 a[V], b[V]; float ss = 0;
#pragma unroll
  for (int u = 0; u < V; ++u) {
    a[u] = *(const float4*)(x + at + u * W * 256); b[u] = *(const float4*)(x + at + u * W * 256 + 4);
    if (NORM) {
      ss = fmaf(a[u].x, a[u].x, ss); ss = fmaf(a[u].y, a[u].y, ss); ss = fmaf(a[u].z, a[u].z, ss); ss = fmaf(a[u].w, a[u].w, ss);
      ss = fmaf(b[u].x, b[u].x, ss); ss = fmaf(b[u].y, b[u].y, ss); ss = fmaf(b[u].z, b[u].z, ss); ss = fmaf(b[u].w, b[u].w, ss);
      a[u].x *= lo(q[u].x); a[u].y *= hi(q[u].x); a[u].z *= lo(q[u].y); a[u].w *= hi(q[u].y); b[u].x *= lo(q[u].z); b[u].y *= hi(q[u].z); b[u].z *= lo(q[u].w); b[u].w *= hi(q[u].w);
    }
  }
  if (NORM) {
#pragma unroll
    for (int o = 16; o; o >>= 1) ss += __shfl_xor_sync(~0u, ss, o);
    if (lane == 0) part[0][R][warp] = ss;
  }
  float inv = 1; bool first = true; int buf = 0, cur = 0;
  for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
    float acc[R] = {};
    if (S) {
      issue(t + (S - 1) * gridDim.x, (cur + S - 1) % S);
      asm volatile("cp.async.wait_group %0;" ::"n"(S - 1 > 0 ? S - 1 : 0));
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int u = 0; u < V; ++u) { uint4 z; asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(z.x), "=r"(z.y), "=r"(z.z), "=r"(z.w) : "r"(ring + ((cur * R + r) * V + u) * W * 512)); acc[r] = dot8(z, a[u], b[u], acc[r]); }
      cur = (cur + 1) % S;
    } else {
      const int nt = t + gridDim.x; const bool more = nt < tiles;
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int u = 0; u < V; ++u) { acc[r] = dot8(v[r][u], a[u], b[u], acc[r]); if (more) v[r][u] = ldp(rowOf(w, nt, r, R, N, K, PAIR) + at + u * W * 256); }
    }
#pragma unroll
    for (int o = 16; o; o >>= 1)
#pragma unroll
      for (int r = 0; r < R; ++r) acc[r] += __shfl_xor_sync(~0u, acc[r], o);
    if (lane == 0)
#pragma unroll
      for (int r = 0; r < R; ++r) part[buf][r][warp] = acc[r];
    __syncthreads();
    if (NORM && first && warp == 0) { float z = 0; for (int i = 0; i < W; ++i) z += part[0][R][i]; inv = rsqrtf(z / K + 1e-5f); } first = false;
    if (PAIR ? threadIdx.x < R / 2 : threadIdx.x < R) {
      float z = 0, z2 = 0; const int r = threadIdx.x;
      if (PAIR) { for (int i = 0; i < W; ++i) { z += part[buf][2 * r][i]; z2 += part[buf][2 * r + 1][i]; } z *= inv; y[t * (R / 2) + r] = z / (1.f + __expf(-z)) * (z2 * inv); }
      else { for (int i = 0; i < W; ++i) z += part[buf][r][i]; y[t * R + r] = z * inv + (res ? res[t * R + r] : 0.f); }
    }
    buf ^= 1;
  }
}
template <class F, class... A> void launchS(F f, int grid, int block, int smem, A... a) {
  CK(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  cudaLaunchConfig_t c = {}; c.gridDim = dim3(grid); c.blockDim = dim3(block); c.stream = st_; c.dynamicSmemBytes = smem;
  cudaLaunchAttribute at[1]; at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization; at[0].val.programmaticStreamSerializationAllowed = 1;
  c.attrs = at; c.numAttrs = pdl ? 1 : 0; CK(cudaLaunchKernelEx(&c, f, a...));
}
// R: rows of a tile for K = 4096; S stages of a ring or 0
template <int R4, int R8, int R14, int S, int MINB> void tileVariant(const char* n) {
  auto sm = [](int R, int W, int V) { return S * R * W * V * 512; };
  auto in = [&](Layer& l) { launchS(tile<R4, 16, 1, S, true, false, MINB>, sms, 512, sm(R4, 16, 1), l.in, h0, l.g, (const float*)nullptr, zx, l.attn ? 6144 : 16768); };
  auto o4 = [&](Layer& l) { launchS(tile<R4, 16, 1, S, false, false, MINB>, sms, 512, sm(R4, 16, 1), l.out, zx, (const u16*)nullptr, (const float*)h0, h0, 4096); };
  auto o8 = [&](Layer& l) { launchS(tile<R8, 16, 2, S, true, false, MINB>, sms, 512, sm(R8, 16, 2), l.out, yy, l.g, (const float*)h0, h0, 4096); };
  auto gu = [&](Layer& l) { launchS(tile<R4, 16, 1, S, true, true, MINB>, sms, 512, sm(R4, 16, 1), l.gu, h0, l.g, (const float*)nullptr, mid, 28672); };
  auto dn = [&](Layer& l) { launchS(tile<R14, 14, 4, S, false, false, MINB>, sms, 448, sm(R14, 14, 4), l.down, mid, (const u16*)nullptr, (const float*)h0, h0, 4096); };
  for (int p = 1; p >= (S ? 1 : 0); --p) {
    pdl = p;
    float step = graph([&] {
      for (auto& l : L) { in(l); if (l.attn) o4(l); else { launch(state, 512, 128, l.s, zx, yy); o8(l); } gu(l); dn(l); }
      launchS(tile<R4, 16, 1, S, true, false, MINB>, sms, 512, sm(R4, 16, 1), head, h0, L[0].g, (const float*)nullptr, logits, 128256);
    });
    auto one = [&](auto f) { return graph([&] { for (auto& l : L) if (!l.attn) f(l); }) / 29 * 1000; };
    float a = one(in), b = one(o8), c = one(gu), d = one(dn);
    cudaFuncAttributes fa; CK(cudaFuncGetAttributes(&fa, tile<R14, 14, 4, S, false, false, MINB>)); float hd = graph([&] { launchS(tile<R4, 16, 1, S, true, false, MINB>, sms, 512, sm(R4, 16, 1), head, h0, L[0].g, (const float*)nullptr, logits, 128256); }) * 1000;
    float gud = graph([&] { for (auto& l : L) if (!l.attn) { gu(l); dn(l); } }) / 29 * 1000;
    printf("%-18s %d regs pdl %d: step %.3f ms (%.0f GB/s) in %.1f (%.0f) out %.1f (%.0f) gu %.1f (%.0f) down %.1f (%.0f) gu+down %.1f (%.0f) head %.1f (%.0f)\n", n, fa.numRegs, p, step, 18.51e3 / step, a, 137.4e3 / a, b, 67.1e3 / b, c, 234.9e3 / c, d, 117.4e3 / d, gud, 352.3e3 / gud, hd, 1050.7e3 / hd); fflush(stdout);
  }
}
int main() {
  cudaDeviceProp pr; CK(cudaGetDeviceProperties(&pr, 0)); sms = pr.multiProcessorCount; CK(cudaStreamCreate(&st_));
  auto weights = [&](size_t n) { u16* p; CK(cudaMalloc(&p, n * 2)); fill<<<2048, 256>>>(p, n); return p; };
  auto floats = [&](size_t n) { float* p; CK(cudaMalloc(&p, n * 4)); fillf<<<256, 256>>>(p, n); return p; };
  for (int i = 0; i < 32; ++i) { Layer l; l.attn = i == 9 || i == 18 || i == 27; l.in = weights((size_t)(l.attn ? 6144 : 16768) * 4096); l.out = weights((size_t)4096 * (l.attn ? 4096 : 8192)); l.gu = weights((size_t)28672 * 4096); l.down = weights((size_t)4096 * 14336); l.g = weights(8192); l.s = floats(128 * 64 * 128); L.push_back(l); }
  head = weights((size_t)128256 * 4096); h0 = floats(4096); zx = floats(16768); yy = floats(8192); mid = floats(14336); logits = floats(128256);
  CK(cudaDeviceSynchronize());
  { float *a = floats(1 << 28), *b = floats(1 << 28); float ms = graph([&] { CK(cudaMemcpyAsync(b, a, 1ull << 30, cudaMemcpyDeviceToDevice, st_)); }); printf("copy %.0f GB/s\n", 2 * 1073.7 / ms); cudaFree(a); cudaFree(b); }
  tileVariant<8, 4, 2, 0, 1>("reg 8/4/2 mb1"); 
  tileVariant<2, 1, 1, 4, 2>("ring 2/1/1 S4"); tileVariant<4, 2, 1, 3, 2>("ring 4/2/1 S3"); tileVariant<4, 2, 1, 2, 2>("ring 4/2/1 S2"); tileVariant<4, 4, 2, 3, 1>("ring 4/4/2 S3"); tileVariant<8, 4, 2, 2, 1>("ring 8/4/2 S2"); tileVariant<8, 4, 2, 3, 1>("ring 8/4/2 S3"); tileVariant<2, 2, 1, 6, 2>("ring 2/2/1 S6");tileVariant<2, 1, 1, 6, 1>("ring 2/1/1 S6");
  CK(cudaDeviceSynchronize()); return 0;
}
