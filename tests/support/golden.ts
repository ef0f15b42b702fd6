import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { DType } from "../../compiler/ir/dtype.ts";
import type { Tensor } from "../../compiler/run/graph.ts";
import { tensor } from "../../compiler/run/graph.ts";
import type { BambaConfig } from "../../models/bamba/index.ts";
import { parseBambaConfig, parseConfigJson } from "../../models/bamba/index.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { decodeFloats, decodeIntegers, isFloatDType } from "../../runtime/numeric.ts";

const folder = fileURLToPath(new URL("../reference/golden/", import.meta.url));

/** The models that Transformers' outputs are kept of. */
export const goldenModels: readonly string[] = readdirSync(folder).sort();

/** One of them: configuration, weights in their stored dtype, and the outputs by name. */
export interface Golden {
  readonly config: BambaConfig;
  readonly weights: "f32" | "bf16";
  readonly params: Readonly<Record<string, Tensor>>;
  has(name: string): boolean;
  /** I64 becomes i32. */
  get(name: string): Tensor;
  readonly names: readonly string[];
}

const DTYPE: Readonly<Record<string, DType>> = { F32: "f32", F16: "f16", BF16: "bf16", I64: "i32", I32: "i32" };

/** Every tensor of a safetensors file or folder, as the interpreter holds it. */
export function readTensors(path: string): ReadonlyMap<string, Tensor> {
  const file = openCheckpoint(path);
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape }] of file.tensors) {
    const bytes = file.read(name);
    const values = isFloatDType(dtype)
      ? decodeFloats(dtype, bytes)
      : decodeIntegers(dtype as "I64", bytes, { min: -(2 ** 31), max: 2 ** 31 - 1 }, name);
    tensors.set(name, tensor(DTYPE[dtype]!, shape, values));
  }
  file.close();
  return tensors;
}

/** The weights as the graph declares them: a convolution's [channels, 1, width] is [channels, width] there. */
export const asParams = (tensors: ReadonlyMap<string, Tensor>): Record<string, Tensor> =>
  Object.fromEntries(
    [...tensors].map(([name, t]) => [name, name.endsWith("conv1d.weight") ? { ...t, shape: [t.shape[0]!, t.shape[2]!] } : t]),
  );

export function openGolden(name: string): Golden {
  const path = `${folder}${name}`;
  const config = parseBambaConfig(
    parseConfigJson(readFileSync(`${path}/config.json`, "utf8"), `${path}/config.json`),
    `${name}/config.json`,
  );
  const params = asParams(readTensors(path));
  const values = readTensors(`${path}/golden.safetensors`);
  const get = (key: string): Tensor => {
    const t = values.get(key);
    if (t) return t;
    throw new Error(`golden ${name} has no '${key}'`);
  };
  return {
    config,
    weights: config.dtype === "bf16" ? "bf16" : "f32",
    params,
    has: (key) => values.has(key),
    get,
    names: [...values.keys()],
  };
}

/** The largest absolute difference; NaN anywhere gives NaN, different sizes throw. */
export function distance(a: Tensor, b: Tensor): number {
  if (a.shape.join() !== b.shape.join()) throw new Error(`shapes [${a.shape.join(", ")}] and [${b.shape.join(", ")}] differ`);
  let most = 0;
  for (let i = 0; i < a.data.length; i++) {
    const d = Math.abs(a.data[i]! - b.data[i]!);
    if (!(d <= most)) most = d;
    if (Number.isNaN(most)) return NaN;
  }
  return most;
}

/** Positions from .. from + count - 1 of axis 1. */
export function columns(t: Tensor, from: number, count: number): Tensor {
  const [rows, total, ...rest] = t.shape as [number, number, ...number[]];
  const inner = rest.reduce((a, b) => a * b, 1);
  const data = new Float64Array(rows * count * inner);
  for (let r = 0; r < rows; r++)
    data.set(t.data.subarray((r * total + from) * inner, (r * total + from + count) * inner), r * count * inner);
  return { dtype: t.dtype, shape: [rows, count, ...rest], data };
}

/**
 * Whether Transformers' quirks show in the reference, which then only strict mode reproduces: padding that a bias of in_proj lets into the convolution, or a
 * limit of the time steps that single steps forget.
 */
export const showsQuirks = (config: BambaConfig): boolean => config.mambaProjBias || config.timeStepLimit[1] < Infinity;
