import { valuesInOrder } from "../../../runtime/node/random-checkpoint.ts";
import type { RandomInit } from "../../../runtime/node/random-checkpoint.ts";
import { encodeFloats } from "../../../runtime/numeric.ts";
import { hashString, normalQuantile } from "../../../runtime/random.ts";
import type { StorageDType } from "../../../runtime/safetensors.ts";
import type { WeightSource } from "../../../runtime/weights.ts";

export interface MadeTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly init: RandomInit;
}

/** Elements of noise that are made; a larger tensor repeats them, each from a place of its own. A prime, so that rows do not repeat. */
const NOISE = 4_194_301;

/** Weights that lie nowhere and are made when they are read, at the speed of a copy: ten billion of them take seconds. */
export function madeWeights(tensors: readonly MadeTensor[], dtype: "f32" | "bf16" | "f16"): WeightSource {
  const storage = ({ f32: "F32", bf16: "BF16", f16: "F16" } as const)[dtype];
  const width = dtype === "f32" ? 4 : 2;
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const noise = new Map<number, Uint8Array>();
  const noiseOf = (std: number): Uint8Array => {
    const made = noise.get(std) ?? encode(storage, normalNoise(std));
    noise.set(std, made);
    return made;
  };
  return {
    path: "made weights",
    tensors: new Map(tensors.map(({ name, shape }) => [name, { dtype: storage, shape, file: "made weights" }])),
    readInto(name, target, offset) {
      const { init, shape } = byName.get(name)!;
      if (init.kind !== "normal") {
        const count = shape.reduce((a, b) => a * b, 1);
        const value = valuesInOrder(init, count);
        const values = Float32Array.from({ length: count }, (_, i) => value(i));
        const all = encode(storage, values);
        target.set(all.subarray(offset, offset + target.length));
        return;
      }
      const bytes = noiseOf(init.std);
      let at = ((((hashString(name) >>> 0) % NOISE) * width + offset) % bytes.length) | 0;
      for (let done = 0; done < target.length;) {
        const piece = bytes.subarray(at, at + target.length - done);
        target.set(piece, done);
        done += piece.length;
        at = 0;
      }
    },
  };
}

function normalNoise(std: number): Float32Array {
  const table = Float32Array.from({ length: 65_536 }, (_, u) => std * normalQuantile((u + 0.5) / 65_536));
  let state = 1;
  return Float32Array.from({ length: NOISE }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return table[state >>> 16]!;
  });
}

function encode(dtype: Extract<StorageDType, "F32" | "BF16" | "F16">, values: Float32Array): Uint8Array {
  return encodeFloats(dtype, values);
}
