import type { Manifest, WeightEntry } from "../../compiler/artifact.ts";
import { BYTES } from "../../compiler/artifact.ts";
import type { CudaDevice } from "../../runtime/drivers/cuda/device.ts";
import { openNoise } from "../../runtime/drivers/cuda/noise.ts";
import type { DeviceBuffer } from "../../runtime/driver.ts";
import { valuesInOrder } from "../../runtime/node/random-checkpoint.ts";
import { encodeFloats } from "../../runtime/numeric.ts";
import { bankKey } from "../../runtime/steps.ts";
import type { WeightBank } from "../../runtime/steps.ts";
import type { WeightSource } from "../../runtime/weights.ts";
import type { BambaConfig } from "../bamba/config.ts";
import type { BambaTensor } from "../bamba/weights.ts";
import { bambaTensors } from "../bamba/weights.ts";

const STORAGE = { f32: "F32", bf16: "BF16", f16: "F16" } as const;

/** Tensors that are there by name alone: those of a model whose weights are made on the device. */
export function absentWeights(config: BambaConfig, dtype: keyof typeof STORAGE): WeightSource {
  const path = "random weights";
  return {
    path,
    tensors: new Map(bambaTensors(config).map(({ name, shape }) => [name, { dtype: STORAGE[dtype], shape, file: path }])),
    readInto: (name) => {
      throw new Error(`${name} is read, though it lies nowhere: weights are made on the device`);
    },
  };
}

/** Makes weights on the device that an artifact asks for and the bank does not have: of realistic size, matrices as noise. */
export async function makeWeights(device: CudaDevice, { weights }: Manifest, config: BambaConfig, bank: WeightBank): Promise<void> {
  const tensors = new Map(bambaTensors(config).map((tensor) => [tensor.name, tensor]));
  const noise = await openNoise(device);
  try {
    for (const entry of weights) {
      if (bank.has(bankKey(entry))) continue;
      const buffer = device.alloc(entry.bytes, "weights");
      let offset = 0;
      for (const part of entry.parts) {
        const { init, name, shape } = tensors.get(part.tensor)!;
        const count = shape.reduce((product, size) => product * size, 1);
        if (init.kind === "normal") await noise.fill(buffer, offset, count, entry.dtype, init.std, name);
        else writeSmall(buffer, offset, entry, init, count);
        offset += count * BYTES[entry.dtype];
      }
      bank.set(bankKey(entry), buffer);
    }
  } finally {
    noise.free();
  }
}

/** Vectors whose values matter: norms, and what the step size and the decay of a state are made from. */
function writeSmall(buffer: DeviceBuffer, offset: number, { dtype }: WeightEntry, init: BambaTensor["init"], count: number): void {
  const value = valuesInOrder(init, count);
  const values = Float32Array.from({ length: count }, (_, i) => value(i));
  buffer.write(encodeFloats(STORAGE[dtype as keyof typeof STORAGE], values), offset);
}
