#include <cuda_runtime.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <algorithm>
#define CK(x) do { cudaError_t e_ = (x); if (e_ != cudaSuccess) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(1); } } while (0)
__device__ __forceinline__ void wait_() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void go_() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
template <int H> __device__ __forceinline__ uint4 ldw(const void* p) { uint4 v;
  if (H == 0) asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  if (H == 1) asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  if (H == 2) { uint64_t pol; asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(pol)); asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p), "l"(pol)); }
  return v; }
// tiles of T*U*16 bytes, interleaved over blocks; each thread U loads a tile, next tile prefetched
template <int T, int U, int H, bool CONTIG> __global__ void __launch_bounds__(T, 1) rd(const char* w, size_t bytes, unsigned* out) {
  go_();
  const size_t tile = (size_t)T * U * 16, tiles = bytes / tile;
  size_t t = CONTIG ? tiles * blockIdx.x / gridDim.x : blockIdx.x; const size_t end = CONTIG ? tiles * (blockIdx.x + 1) / gridDim.x : tiles, inc = CONTIG ? 1 : gridDim.x;
  uint4 v[U]; unsigned s = 0;
  if (t < end) for (int u = 0; u < U; ++u) v[u] = ldw<H>(w + t * tile + (u * T + threadIdx.x) * 16);
  wait_();
  for (; t < end; t += inc) {
#pragma unroll
    for (int u = 0; u < U; ++u) { s ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w; if (t + inc < end) v[u] = ldw<H>(w + (t + inc) * tile + (u * T + threadIdx.x) * 16); }
  }
  if (s == 0x12345) out[threadIdx.x] = s;
}
__device__ __forceinline__ uint32_t su32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void mbar_init(uint32_t b, uint32_t n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
__device__ __forceinline__ void mbar_expect(uint32_t b, uint32_t bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes) : "memory"); }
__device__ __forceinline__ void mbar_arrive(uint32_t b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
__device__ __forceinline__ void mbar_wait(uint32_t b, uint32_t ph) { asm volatile("{\n .reg .pred P;\nL1:\n mbarrier.try_wait.parity.shared::cta.b64 P, [%0], %1;\n @P bra L2;\n bra L1;\nL2:\n}" ::"r"(b), "r"(ph) : "memory"); }
template <bool POL> __device__ __forceinline__ void bulk(uint32_t dst, const void* src, uint32_t bytes, uint32_t bar, uint64_t pol) {
  if (POL) asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(dst), "l"(src), "r"(bytes), "r"(bar), "l"(pol) : "memory");
  else asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst), "l"(src), "r"(bytes), "r"(bar) : "memory");
}
// ring of S stages of C bytes; W consumer warps read all of a stage together
template <int W, int C, int S, bool POL, bool CONTIG> __global__ void __launch_bounds__((W + 1) * 32, 1) ring(const char* w, size_t bytes, unsigned* out) {
  extern __shared__ __align__(128) uint8_t sm[];
  const uint32_t base = su32(sm), full = base + C * S, empty = full + S * 8;
  go_();
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 0) { for (int s = 0; s < S; ++s) { mbar_init(full + 8 * s, 1); mbar_init(empty + 8 * s, W); } asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
  __syncthreads();
  const size_t tiles = bytes / C;
  const size_t t0 = CONTIG ? tiles * blockIdx.x / gridDim.x : blockIdx.x, end = CONTIG ? tiles * (blockIdx.x + 1) / gridDim.x : tiles, inc = CONTIG ? 1 : gridDim.x;
  if (warp == W) {
    if (threadIdx.x % 32 == 0) {
      uint64_t pol; asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(pol));
      int s = 0, ph = 0;
      for (size_t t = t0; t < end; t += inc) { mbar_wait(empty + 8 * s, ph ^ 1); mbar_expect(full + 8 * s, C); bulk<POL>(base + s * C, w + t * C, C, full + 8 * s, pol); if (++s == S) { s = 0; ph ^= 1; } }
    }
    wait_();
  } else {
    wait_();
    int s = 0, ph = 0; unsigned x = 0;
    for (size_t t = t0; t < end; t += inc) {
      mbar_wait(full + 8 * s, ph);
#pragma unroll
      for (int i = 0; i < C / (W * 512); ++i) { uint4 v; asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(base + s * C + i * W * 512 + threadIdx.x * 16)); x ^= v.x ^ v.y ^ v.z ^ v.w; }
      __syncwarp(); if (threadIdx.x % 32 == 0) mbar_arrive(empty + 8 * s);
      if (++s == S) { s = 0; ph ^= 1; }
    }
    if (x == 0x12345) out[threadIdx.x] = x;
  }
}
__global__ void fill(unsigned* p, size_t n) { for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) p[i] = (unsigned)i * 2654435761u; }
cudaStream_t st_; int sms; char* buf; unsigned* out; const size_t TOTAL = 8ull << 30;
template <class F> void run(const char* name, F f, int block, int smem, int per) {
  CK(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  printf("%-34s", name);
  for (size_t bytes : {67108864ull, 117440512ull, 234881024ull, 1073741824ull}) {
    cudaGraph_t g; cudaGraphExec_t ge; CK(cudaStreamBeginCapture(st_, cudaStreamCaptureModeThreadLocal)); int n = 0;
    for (size_t at = 0; at + bytes <= TOTAL && n < 30; at += bytes, ++n) {
      cudaLaunchConfig_t c = {}; c.gridDim = dim3(sms * per); c.blockDim = dim3(block); c.stream = st_; c.dynamicSmemBytes = smem;
      cudaLaunchAttribute a[1]; a[0].id = cudaLaunchAttributeProgrammaticStreamSerialization; a[0].val.programmaticStreamSerializationAllowed = 1; c.attrs = a; c.numAttrs = 1;
      CK(cudaLaunchKernelEx(&c, f, (const char*)(buf + at), bytes, out));
    }
    CK(cudaStreamEndCapture(st_, &g)); CK(cudaGraphInstantiate(&ge, g, 0));
    cudaEvent_t a, b; CK(cudaEventCreate(&a)); CK(cudaEventCreate(&b)); std::vector<float> t;
    for (int i = 0; i < 10; ++i) { CK(cudaEventRecord(a, st_)); CK(cudaGraphLaunch(ge, st_)); CK(cudaEventRecord(b, st_)); CK(cudaStreamSynchronize(st_)); float ms; CK(cudaEventElapsedTime(&ms, a, b)); if (i >= 3) t.push_back(ms); }
    std::sort(t.begin(), t.end()); printf(" %6.0f", bytes * (double)n / t[t.size() / 2] / 1e6);
    CK(cudaGraphExecDestroy(ge)); CK(cudaGraphDestroy(g));
  }
  printf("\n"); fflush(stdout);
}
int main() {
  cudaDeviceProp pr; CK(cudaGetDeviceProperties(&pr, 0)); sms = pr.multiProcessorCount; CK(cudaStreamCreate(&st_));
  CK(cudaMalloc(&buf, TOTAL)); CK(cudaMalloc(&out, 4096 * 4)); fill<<<2048, 256>>>((unsigned*)buf, TOTAL / 4); CK(cudaDeviceSynchronize());
  printf("GB/s                                67 MB  117 MB 235 MB 1 GB\n");
  run("reg T512 U4 256B interleaved", rd<512, 4, 0, false>, 512, 0, 1);
  run("reg T512 U8 256B interleaved", rd<512, 8, 0, false>, 512, 0, 1);
  run("reg T512 U8 plain interleaved", rd<512, 8, 1, false>, 512, 0, 1);
  run("reg T512 U8 evict_first", rd<512, 8, 2, false>, 512, 0, 1);
  run("reg T512 U8 256B contiguous", rd<512, 8, 0, true>, 512, 0, 1);
  run("reg T256 U8 256B 2/SM interleaved", rd<256, 8, 0, false>, 256, 0, 2);
  run("reg T256 U4 256B 4/SM interleaved", rd<256, 4, 0, false>, 256, 0, 4);
  run("reg T512 U4 256B 2/SM interleaved", rd<512, 4, 0, false>, 512, 0, 2);
  run("reg T1024 U4 plain", rd<1024, 4, 1, false>, 1024, 0, 1);
  run("ring W8 C8K S8 pol", ring<8, 8192, 8, true, false>, 288, 8192 * 8 + 256, 1);
  run("ring W8 C8K S12 pol", ring<8, 8192, 12, true, false>, 288, 8192 * 12 + 256, 1);
  run("ring W8 C8K S12 nopol", ring<8, 8192, 12, false, false>, 288, 8192 * 12 + 256, 1);
  run("ring W8 C8K S12 contig", ring<8, 8192, 12, true, true>, 288, 8192 * 12 + 256, 1);
  run("ring W8 C16K S6 pol", ring<8, 16384, 6, true, false>, 288, 16384 * 6 + 256, 1);
  run("ring W8 C16K S6 contig", ring<8, 16384, 6, true, true>, 288, 16384 * 6 + 256, 1);
  run("ring W16 C16K S6 pol", ring<16, 16384, 6, true, false>, 544, 16384 * 6 + 256, 1);
  run("ring W8 C4K S24 pol", ring<8, 4096, 24, true, false>, 288, 4096 * 24 + 256, 1);
  run("ring W16 C32K S3 pol", ring<16, 32768, 3, true, false>, 544, 32768 * 3 + 256, 1);
  run("ring W16 C32K S6 pol (one a SM)", ring<16, 32768, 6, true, false>, 544, 32768 * 6 + 256, 1);
  run("ring W8 C8K S6 2/SM", ring<8, 8192, 6, true, false>, 288, 8192 * 6 + 256, 2);
  return 0;
}
