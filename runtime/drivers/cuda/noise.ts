import type { DType } from "../../../compiler/artifact.ts";
import { BYTES } from "../../../compiler/artifact.ts";
import type { DeviceBuffer } from "../../driver.ts";
import { UserError } from "../../errors.ts";
import { hashString } from "../../random.ts";
import type { CudaDevice } from "./device.ts";
import type { CompileCuda } from "./own-kernels.ts";
import { loadOwnKernels, OWN_THREADS } from "./own-kernels.ts";

/** Fills memory with numbers that look drawn from a normal distribution, at the speed of the memory: weights of a model that lies on no disk. */
export interface Noise {
  /**
   * @param offset in bytes
   * @param name what the numbers are a function of, with their place
   * @throws UserError for a type that holds no fractions
   */
  fill(buffer: DeviceBuffer, offset: number, count: number, dtype: DType, std: number, name: string): Promise<void>;
  free(): void;
}

/** Elements of a thread. */
const EACH = 8;

/** The type's place among the branches of the kernel. */
const TYPES: Readonly<Partial<Record<DType, number>>> = { f32: 0, bf16: 1, f16: 2 };

// A sum of four bytes of a hash is near enough to normal: -2 to 2 with a deviation of 1 / sqrt(3).
const SOURCE = `
extern "C" __global__ void __launch_bounds__(${OWN_THREADS}) culm_noise(void* to, const int* symbols) {
  const int type = symbols[0], count = symbols[1];
  const unsigned seed = unsigned(symbols[2]);
  const float scale = __int_as_float(symbols[3]);
  for (int j = 0; j < ${EACH}; ++j) {
    const long long i = (long long)blockIdx.x * ${OWN_THREADS * EACH} + j * ${OWN_THREADS} + threadIdx.x;
    if (i >= count) return;
    unsigned h = unsigned(i) * 0x9e3779b1u + seed;
    h = (h ^ (h >> 16)) * 0x21f0aaadu;
    h = (h ^ (h >> 15)) * 0x735a2d97u;
    h ^= h >> 15;
    const float x = (float((h & 255u) + ((h >> 8) & 255u) + ((h >> 16) & 255u) + (h >> 24)) - 510.0f) * (1.0f / 256.0f) * scale;
    if (type == 0) ((float*)to)[i] = x;
    else if (type == 1) {
      const unsigned bits = __float_as_uint(x);
      ((unsigned short*)to)[i] = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    } else {
      unsigned short half;
      asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
      ((unsigned short*)to)[i] = half;
    }
  }
}
`;

export async function openNoise(device: CudaDevice, compile?: CompileCuda): Promise<Noise> {
  const kernels = await loadOwnKernels(device, SOURCE, { culm_noise: 4 }, compile);
  return {
    async fill(buffer, offset, count, dtype, std, name) {
      const type = TYPES[dtype];
      if (type === undefined) throw new UserError(`random numbers are made in ${Object.keys(TYPES).join(", ")}, not in ${dtype}`);
      if (offset + count * BYTES[dtype] > buffer.bytes)
        throw new RangeError(`${count} elements of ${dtype} at byte ${offset} of a buffer of ${buffer.bytes}`);
      const scale = new Int32Array(Float32Array.of(std * Math.sqrt(3)).buffer)[0]!;
      const list = kernels.step(
        "culm_noise",
        Math.ceil(count / (OWN_THREADS * EACH)),
        [{ buffer, offset }],
        Int32Array.of(type, count, hashString(name), scale),
      );
      await list.run();
      list.free();
    },
    free: () => kernels.free(),
  };
}
