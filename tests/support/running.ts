import { join } from "node:path";
import { openCausalLM } from "../../models/auto/index.ts";
import type { BambaForCausalLM, CausalLMInputs, LoadOptions, Session, Snapshot, Values } from "../../models/auto/index.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { decodeFloats, decodeIntegers } from "../../runtime/numeric.ts";
import { goldenFolder } from "./model-folder.ts";

/** Transformers' outputs for one of the golden models, by name. */
export interface GoldenTensors {
  has(name: string): boolean;
  shape(name: string): readonly number[];
  floats(name: string): Float32Array;
  /** Rows of a [rows, length] tensor. */
  rows(name: string): readonly Int32Array[];
}

export function openGoldenTensors(name: string): GoldenTensors {
  const file = openCheckpoint(join(goldenFolder(name), "golden.safetensors"));
  const shape = (tensor: string): readonly number[] => file.tensors.get(tensor)!.shape;
  return {
    has: (tensor) => file.tensors.has(tensor),
    shape,
    floats: (tensor) => decodeFloats("F32", file.read(tensor)),
    rows: (tensor) => {
      const values = decodeIntegers("I64", file.read(tensor), { min: -(2 ** 31), max: 2 ** 31 - 1 }, tensor);
      const [rows, length] = shape(tensor) as [number, number];
      return Array.from({ length: rows }, (_, row) => values.subarray(row * length, (row + 1) * length));
    },
  };
}

export const openGoldenModel = (name: string, options: LoadOptions = {}): Promise<BambaForCausalLM> =>
  openCausalLM(goldenFolder(name), {
    batch: 2,
    maxLength: 96,
    dtype: "f32",
    // The reference of the bf16 model was cast to bf16 and back as a whole, its rotary frequencies included.
    rotary: name === "bf16" ? "bf16" : "f32",
    ...options,
  });

/** The largest difference; NaN anywhere gives NaN. */
export function farthest(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} and ${b.length} elements`);
  let most = 0;
  for (let i = 0; i < a.length; i += 1) {
    const d = Math.abs(a[i]! - b[i]!);
    if (Number.isNaN(d)) return NaN;
    if (d > most) most = d;
  }
  return most;
}

/** The root of the mean of squared differences. */
export function rms(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} and ${b.length} elements`);
  let squares = 0;
  for (let i = 0; i < a.length; i += 1) squares += (a[i]! - b[i]!) ** 2;
  return Math.sqrt(squares / a.length);
}

/** A state in the layout of Transformers' cache: a convolution's [batch, K, channels] is [batch, channels, K] there. */
export function asTransformers(
  snapshot: Snapshot,
  layer: number,
  kind: "conv_states" | "recurrent_states" | "keys" | "values",
): Float32Array {
  const name = { conv_states: "conv", recurrent_states: "ssm", keys: "keys", values: "values" }[kind];
  const { shape, data } = snapshot.states.get(`layers.${layer}.${name}`)!;
  if (kind !== "conv_states") return data as Float32Array;
  const [rows, width, channels] = shape as [number, number, number];
  const out = new Float32Array(data.length);
  for (let row = 0; row < rows; row += 1)
    for (let k = 0; k < width; k += 1)
      for (let c = 0; c < channels; c += 1) out[(row * channels + c) * width + k] = data[(row * width + k) * channels + c]!;
  return out;
}

export async function lastLogits(session: Session): Promise<Float32Array[]> {
  const rows: Float32Array[] = [];
  for (let row = 0; row < session.rows; row += 1) rows.push((await session.logits(row)).slice());
  return rows;
}

/** What a forward pass gives, as plain arrays. */
export interface Forwarded {
  readonly rows: number;
  /** Positions whose logits are given. */
  readonly kept: number;
  readonly vocabSize: number;
  readonly logits: Float32Array;
  readonly loss: number | null;
  readonly hiddenStates: readonly Float32Array[];
  readonly attentions: readonly Float32Array[];
}

export async function forwarded(model: BambaForCausalLM, inputs: CausalLMInputs): Promise<Forwarded> {
  const { logits, loss, hiddenStates, attentions } = await model.forward(inputs);
  const [rows, kept, vocabSize] = logits.shape as [number, number, number];
  const plain = (values: readonly Values[] | null): readonly Float32Array[] => (values ?? []).map(({ data }) => data);
  return { rows, kept, vocabSize, logits: logits.data, loss, hiddenStates: plain(hiddenStates), attentions: plain(attentions) };
}
