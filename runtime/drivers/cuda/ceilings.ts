import type { CudaDevice } from "./device.ts";
import type { CompileCuda } from "./own-kernels.ts";
import { loadOwnKernels, OWN_THREADS } from "./own-kernels.ts";

/**
 * What this GPU can do at best, by kernels as plain as can be: copying and reading memory from end to end, multiply-adds in f32, and products of the
 * hardware for matrices. Speeds are given as shares of these, measured in the same run.
 */
export interface CudaCeilings {
  /** One measurement; bytes a second, read and written counted. */
  copyBandwidth(): Promise<number>;
  /** One measurement; bytes a second. */
  readBandwidth(): Promise<number>;
  /** One measurement; floating-point operations a second in f32. */
  fmaRate(): Promise<number>;
  /** One measurement; floating-point operations a second of mma.sync with bf16 operands and f32 sums. */
  mmaRate(): Promise<number>;
  free(): void;
}

/** Vectors of 16 bytes that a thread has under way. */
const VECTORS = 8;
const BLOCK_BYTES = OWN_THREADS * VECTORS * 16;
/** Independent multiply-adds of a thread, and products of a warp: enough to hide their latency. */
const CHAINS = 16;
const PRODUCTS = 8;
const ROUNDS = 2048;
/** Of m16n8k16. */
const PRODUCT_FLOPS = 2 * 16 * 8 * 16;
/** Blocks a multiprocessor for arithmetic: all of its warps. */
const BLOCKS_EACH = 8;

const SOURCE = `
struct __align__(16) Vector { unsigned x, y, z, w; };
extern "C" __global__ void __launch_bounds__(${OWN_THREADS}) culm_copy(const Vector* __restrict__ from, Vector* __restrict__ to) {
  const size_t at = size_t(blockIdx.x) * ${OWN_THREADS * VECTORS} + threadIdx.x;
  Vector v[${VECTORS}];
  #pragma unroll
  for (int i = 0; i < ${VECTORS}; ++i) v[i] = from[at + i * ${OWN_THREADS}];
  #pragma unroll
  for (int i = 0; i < ${VECTORS}; ++i) to[at + i * ${OWN_THREADS}] = v[i];
}
// What is read is stored in a case that does not happen, which the compiler does not know.
extern "C" __global__ void __launch_bounds__(${OWN_THREADS}) culm_read(const Vector* __restrict__ from, unsigned* to) {
  const size_t at = size_t(blockIdx.x) * ${OWN_THREADS * VECTORS} + threadIdx.x;
  Vector v[${VECTORS}];
  #pragma unroll
  for (int i = 0; i < ${VECTORS}; ++i) v[i] = from[at + i * ${OWN_THREADS}];
  unsigned all = 0xffffffffu;
  #pragma unroll
  for (int i = 0; i < ${VECTORS}; ++i) all &= v[i].x & v[i].y & v[i].z & v[i].w;
  if (all == 0x89abcdefu) to[threadIdx.x] = all;
}
extern "C" __global__ void __launch_bounds__(${OWN_THREADS}) culm_fma(float* to) {
  const float x = threadIdx.x * 0.001f;
  float a[${CHAINS}];
  #pragma unroll
  for (int i = 0; i < ${CHAINS}; ++i) a[i] = x + i;
  for (int round = 0; round < ${ROUNDS}; ++round) {
    #pragma unroll
    for (int i = 0; i < ${CHAINS}; ++i) a[i] = __fmaf_rn(a[i], x, 0.25f);
  }
  float sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < ${CHAINS}; ++i) sum += a[i];
  if (sum < 0.0f) to[threadIdx.x] = sum;
}
extern "C" __global__ void __launch_bounds__(${OWN_THREADS}) culm_mma(float* to) {
  const unsigned a = 0x3c003c00u + threadIdx.x, b = 0x3d003d00u + threadIdx.x;
  float c[${PRODUCTS}][4];
  #pragma unroll
  for (int i = 0; i < ${PRODUCTS}; ++i) c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0.0f;
  for (int round = 0; round < ${ROUNDS}; ++round) {
    #pragma unroll
    for (int i = 0; i < ${PRODUCTS}; ++i)
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3]) : "r"(a), "r"(b), "r"(a), "r"(b), "r"(b), "r"(a));
  }
  float sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < ${PRODUCTS}; ++i) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
  if (sum < 0.0f) to[threadIdx.x] = sum;
}
`;

/** @param megabytes of each of the two buffers at most; what a device's caches hold should be little of it */
export async function openCudaCeilings(device: CudaDevice, megabytes = 1024, compile?: CompileCuda): Promise<CudaCeilings> {
  const room = Math.min(megabytes * 2 ** 20, device.freeBytes!() / 4);
  const blocks = Math.max(1, Math.floor(room / BLOCK_BYTES));
  const bytes = blocks * BLOCK_BYTES;
  const kernels = await loadOwnKernels(device, SOURCE, { culm_copy: 0, culm_read: 0, culm_fma: 0, culm_mma: 0 }, compile);
  const [from, to] = [device.alloc(bytes, "io"), device.alloc(bytes, "io")].map((buffer) => ({ buffer, offset: 0 })) as [
    { buffer: ReturnType<CudaDevice["alloc"]>; offset: number },
    { buffer: ReturnType<CudaDevice["alloc"]>; offset: number },
  ];
  const busy = device.workers * BLOCKS_EACH;
  const copy = kernels.step("culm_copy", blocks, [from, to]);
  const read = kernels.step("culm_read", blocks, [from, to]);
  const fma = kernels.step("culm_fma", busy, [to]);
  const mma = kernels.step("culm_mma", busy, [to]);
  const rate = async (work: number, list: typeof copy): Promise<number> => (work / (await device.milliseconds(() => list.run()))) * 1000;
  return {
    copyBandwidth: () => rate(2 * bytes, copy),
    readBandwidth: () => rate(bytes, read),
    fmaRate: () => rate(2 * busy * OWN_THREADS * ROUNDS * CHAINS, fma),
    mmaRate: () => rate((busy * OWN_THREADS * ROUNDS * PRODUCTS * PRODUCT_FLOPS) / 32, mma),
    free: () => {
      for (const list of [copy, read, fma, mma]) list.free();
      for (const { buffer } of [from, to]) buffer.free();
      kernels.free();
    },
  };
}
