import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encodeFloats } from "../numeric.ts";
import { hash32, hashString, normalQuantile, words } from "../random.ts";
import { CheckpointError, tensorBytes } from "../safetensors.ts";
import type { StorageDType } from "../safetensors.ts";
import { writeSafetensors } from "./write-safetensors.ts";
import type { TensorToWrite } from "./write-safetensors.ts";

/** How a tensor is drawn; `bambaTensors` of the model gives these with names and shapes. */
export type RandomInit =
  | { readonly kind: "normal"; readonly std: number }
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "log-index" }
  | { readonly kind: "inverse-softplus"; readonly low: number; readonly high: number };

export interface RandomTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly init: RandomInit;
}

export interface RandomCheckpoint {
  /** The parsed config.json; it is copied with its dtype replaced. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: readonly RandomTensor[];
  /** An integer from 0 to 2^53 - 1. */
  readonly seed: number;
  readonly dtype: "f32" | "bf16" | "f16";
  /** The folder to write; made when it is missing. */
  readonly folder: string;
}

const storage = { f32: "F32", bf16: "BF16", f16: "F16" } as const;
const torchNames = { f32: "float32", bf16: "bfloat16", f16: "float16" } as const;

/** Elements that are made and written at a time. Part of the generator: the counter starts anew in each block. */
const blockElements = 1 << 20;

/**
 * Writes a model of random weights: `model.safetensors`, `config.json` and `generation_config.json`. Memory stays at a few megabytes whatever
 * the size of the model.
 *
 * The generator: element i of a tensor lies in block b = floor(i / 2^20) at pair c = floor((i mod 2^20) / 2). Two keys come from the seed, the
 * tensor's name and b; `draw` hashes c with them to 32 bits, whose low half is the even element and high half the odd one. Such a 16-bit u
 * stands for the probability (u + 1/2) / 2^16, and the element is the quantile of its distribution there, rounded to the dtype. So a value
 * depends on nothing but seed, name and place: not on the order of tensors, and on the dtype only by rounding.
 *
 * @returns the number of parameters and of bytes of tensor data.
 * @throws CheckpointError when the seed is no integer from 0 to 2^53 - 1 or a shape cannot be counted.
 */
export function writeRandomCheckpoint(options: RandomCheckpoint): { readonly parameters: number; readonly bytes: number } {
  const { config, tensors, seed, dtype, folder } = options;
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new CheckpointError(`random checkpoint: seed: expected an integer from 0 to 2^53 - 1, got ${seed}`);
  }
  mkdirSync(folder, { recursive: true });
  const quantiles = new QuantileTables(storage[dtype]);
  const files = tensors.map((tensor): TensorToWrite => ({
    name: tensor.name,
    dtype: storage[dtype],
    shape: tensor.shape,
    data: randomData(tensor, storage[dtype], seed, quantiles),
  }));
  writeSafetensors(join(folder, "model.safetensors"), files, { format: "pt" });
  writeJson(join(folder, "generation_config.json"), generationConfig(config));
  const { torch_dtype: _, ...rest } = config;
  writeJson(join(folder, "config.json"), { ...rest, dtype: torchNames[dtype] });
  const bytes = tensors.reduce((sum, { shape }) => sum + (tensorBytes(storage[dtype], shape) ?? 0), 0);
  return { parameters: bytes / (dtype === "f32" ? 4 : 2), bytes };
}

function writeJson(file: string, value: unknown): void {
  writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`);
}

/** What Transformers writes beside a model that has no generation settings of its own (spec bamba e.8). */
function generationConfig(config: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const names = ["bos_token_id", "eos_token_id", "pad_token_id", "use_cache"].filter((name) => config[name] !== undefined);
  return { _from_model_config: true, ...Object.fromEntries(names.map((name) => [name, config[name]])) };
}

type Elements = Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
type FloatStorage = Extract<StorageDType, "F32" | "BF16" | "F16">;

const view = (dtype: FloatStorage, bytes: Uint8Array): Elements =>
  dtype === "F32" ? new Uint32Array(bytes.slice().buffer) : new Uint16Array(bytes.slice().buffer);

/** For each distribution the 65 536 values that an element can have, as bit patterns of the dtype. */
class QuantileTables {
  private readonly dtype: FloatStorage;
  private readonly tables = new Map<string, Elements>();

  constructor(dtype: FloatStorage) {
    this.dtype = dtype;
  }

  of(init: Exclude<RandomInit, { kind: "log-index" }>): Elements {
    const key = JSON.stringify(init);
    let table = this.tables.get(key);
    if (table === undefined) {
      const quantile = quantileOf(init);
      const values = Float32Array.from({ length: 65_536 }, (_, u) => quantile((u + 0.5) / 65_536));
      table = view(this.dtype, encodeFloats(this.dtype, values));
      this.tables.set(key, table);
    }
    return table;
  }
}

function quantileOf(init: Exclude<RandomInit, { kind: "log-index" }>): (p: number) => number {
  switch (init.kind) {
    case "normal":
      return (p) => init.std * normalQuantile(p);
    case "constant":
      return () => init.value;
    case "inverse-softplus":
      // softplus(x) = y exactly when x = ln(e^y - 1).
      return (p) => Math.log(Math.expm1(init.low * (init.high / init.low) ** p));
  }
}

/** Element i of `count` values that go through what they are spread over in order. */
export function valuesInOrder(init: RandomInit, count: number): (i: number) => number {
  if (init.kind === "log-index") return (i) => Math.log(i + 1);
  const quantile = quantileOf(init);
  return (i) => quantile((i + 0.5) / count);
}

function* randomData(tensor: RandomTensor, dtype: FloatStorage, seed: number, quantiles: QuantileTables): Generator<Uint8Array> {
  const count = tensor.shape.reduce((product, size) => product * size, 1);
  // One buffer for all blocks: a piece is written before the next one is asked for.
  const block: Elements =
    dtype === "F32" ? new Uint32Array(Math.min(count, blockElements)) : new Uint16Array(Math.min(count, blockElements));
  const name = hashString(tensor.name);
  const [low, high] = words(seed);
  for (let start = 0, index = 0; start < count; start += blockElements, index += 1) {
    const target = block.subarray(0, Math.min(blockElements, count - start));
    if (tensor.init.kind === "log-index") {
      const values = Float32Array.from(target, (_, i) => Math.log(start + i + 1));
      target.set(view(dtype, encodeFloats(dtype, values)));
    } else {
      const key = hash32(hash32(hash32(low) ^ high) ^ name) ^ index;
      draw(target, quantiles.of(tensor.init), hash32(key), hash32(~key));
    }
    yield new Uint8Array(target.buffer, 0, target.byteLength);
  }
}

/** The two keys enter at two places of the hash, so that the counters of two blocks never run in step. */
function draw(target: Elements, table: Elements, first: number, second: number): void {
  const pairs = target.length >>> 1;
  for (let c = 0; c < pairs; c += 1) {
    const bits = mixed(c, first, second);
    target[2 * c] = table[bits & 0xffff]!;
    target[2 * c + 1] = table[bits >>> 16]!;
  }
  if (target.length % 2 === 1) target[2 * pairs] = table[mixed(pairs, first, second) & 0xffff]!;
}

/** hash32 with a key before each multiplication. */
function mixed(counter: number, first: number, second: number): number {
  let x = (Math.imul(counter, 0x9e3779b1) + first) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad) ^ second;
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
}
