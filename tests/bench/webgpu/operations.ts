import type { Graph } from "../../../compiler/ir/graph.ts";
import type { AnyTensor, Float } from "../../../dsl/index.ts";
import {
  attention,
  causalConv1d,
  input,
  kvCache,
  linear,
  model,
  neg,
  param,
  scope,
  softplus,
  split,
  ssdScan,
  ssmState,
  symbol,
} from "../../../dsl/index.ts";
import type { BambaConfig } from "../../../models/bamba/config.ts";
import type { MadeTensor } from "./weights.ts";

/** What an operation is, for whoever measures another implementation of it (peers/webgpu_ops.py). */
export type Shape =
  | { readonly kind: "product"; readonly m: number; readonly n: number; readonly k: number; readonly dtype: Float }
  | {
      readonly kind: "scan";
      readonly seq: number;
      readonly heads: number;
      readonly size: number;
      readonly groups: number;
      readonly state: number;
    }
  /** `seq` queries, the last of `length` positions. */
  | {
      readonly kind: "attention";
      readonly seq: number;
      readonly length: number;
      readonly heads: number;
      readonly kvHeads: number;
      readonly size: number;
    }
  | { readonly kind: "convolution"; readonly seq: number; readonly channels: number; readonly width: number };

/** One operation at one size, several times over on memory of its own, so that no cache holds what it reads. */
export interface Operation {
  readonly name: string;
  readonly shape: Shape;
  /** What limits it: GB/s of memory or FLOP/s. */
  readonly bound: "memory" | "arithmetic";
  readonly copies: number;
  readonly graph: Graph;
  readonly weights: readonly MadeTensor[];
  readonly dtype: Float;
  readonly symbols: Readonly<Record<string, number>>;
  /** Floating-point operations, and the fewest bytes that have to be read and written, of one copy. */
  readonly flops: number;
  readonly bytes: number;
}

const copiesFor = (bytes: number, cache: number): number => Math.max(1, Math.min(40, Math.ceil(cache / bytes)));

const times = (copies: number, make: (i: number) => AnyTensor): Record<string, AnyTensor> =>
  Object.fromEntries(Array.from({ length: copies }, (_, i) => [`y${i}`, scope(`c${i}`, () => make(i))]));

/**
 * y = x W^T with x in f32.
 * @param cache bytes that the copies should amount to
 */
export function product(
  name: string,
  { m, n, k, dtype }: { readonly m: number; readonly n: number; readonly k: number; readonly dtype: Float },
  cache: number,
): Operation {
  const size = dtype === "f32" ? 4 : 2;
  const bytes = n * k * size + (m * k + m * n) * 4;
  const copies = m === 1 ? copiesFor(n * k * size, cache) : 3;
  const graph = model(`${m}x${n}x${k}`, { dims: { m, n, k }, weights: dtype }, () =>
    times(copies, (i) => linear(input(`x${i}`, ["m", "k"]), "w", { out: "n" })),
  );
  const weights = Array.from({ length: copies }, (_, i): MadeTensor => ({
    name: `c${i}.w.weight`,
    shape: [n, k],
    init: { kind: "normal", std: 0.02 },
  }));
  return {
    name,
    shape: { kind: "product", m, n, k, dtype },
    bound: m === 1 ? "memory" : "arithmetic",
    copies,
    graph,
    weights,
    dtype,
    symbols: {},
    flops: 2 * m * n * k,
    bytes,
  };
}

/** Every matrix that a decode step of a model multiplies with, one of each shape. */
export function gemvs(model: string, c: BambaConfig, cache: number): readonly Operation[] {
  const kv = c.numKeyValueHeads * c.headDim;
  const q = c.numAttentionHeads * c.headDim;
  const shapes: readonly (readonly [string, number, number])[] = [
    ["in_proj", c.projectionSize, c.hiddenSize],
    ["out_proj", c.hiddenSize, c.innerSize],
    ["gate_up", 2 * c.intermediateSize, c.hiddenSize],
    ["down", c.hiddenSize, c.intermediateSize],
    ["qkv", q + 2 * kv, c.hiddenSize],
    ["o", c.hiddenSize, q],
    ["head", c.vocabSize, c.hiddenSize],
  ];
  return shapes.map(([name, n, k]) => product(`${model} ${name} ${k}->${n} bf16`, { m: 1, n, k, dtype: "bf16" }, cache));
}

/** The scan of a prompt, or one step of it, for the heads of a model. */
export function scan(model_: string, c: BambaConfig, seq: number, cache: number): Operation {
  const { mambaHeads: heads, mambaHeadDim: size, mambaGroups: groups, mambaStateSize: state, chunkSize } = c;
  const stateBytes = heads * size * state * 4;
  const streamed = seq * (2 * heads * size + heads + 2 * groups * state) * 4;
  const copies = seq === 1 ? copiesFor(2 * stateBytes, cache) : 2;
  const graph = model("scan", { dims: { batch: 1, seq, heads, size, groups, state, xBC: heads * size + 2 * groups * state } }, () =>
    times(copies, (i) =>
      ssdScan({
        // One tensor, as the convolution gives it.
        ...split(input(`xBC${i}`, ["batch", "seq", "xBC"]), "xBC", {
          x: ["heads", "size"],
          B: ["groups", "state"],
          C: ["groups", "state"],
        }),
        dt: input(`dt${i}`, ["batch", "seq", "heads"]),
        dtBias: param("dt_bias", ["heads"]),
        A: neg(softplus(param("A", ["heads"]))),
        D: param("D", ["heads"]),
        chunk: chunkSize,
        state: ssmState(["batch", "heads", "size", "state"]),
      }),
    ),
  );
  const weights = Array.from({ length: copies }, (_, i) =>
    ["dt_bias", "A", "D"].map((name): MadeTensor => ({ name: `c${i}.${name}`, shape: [heads], init: { kind: "constant", value: -1 } })),
  ).flat();
  // Per token and head: decay and update the state (3), and read it (2), P x N each.
  return {
    name: `${model_} scan of ${seq}`,
    shape: { kind: "scan", seq, heads, size, groups, state },
    bound: "memory",
    copies,
    graph,
    weights,
    dtype: "f32",
    symbols: {},
    flops: 5 * seq * heads * size * state,
    bytes: streamed + 2 * stateBytes,
  };
}

/** Attention of the last `seq` positions to all of `length`, keys and values appended to their caches. */
export function attend(model_: string, c: BambaConfig, seq: number, length: number, cache: number): Operation {
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim: size } = c;
  const cacheBytes = 2 * kvHeads * length * size * 4;
  const copies = seq === 1 ? copiesFor(cacheBytes, cache) : 2;
  const graph = model(
    "attention",
    { dims: { batch: 1, seq, heads, kvHeads, size, capacity: length }, symbols: { past: [0, length - seq] } },
    () => {
      const past = symbol("past");
      return times(copies, (i) =>
        attention(
          input(`q${i}`, ["batch", "seq", "heads", "size"]),
          input(`k${i}`, ["batch", "seq", "kvHeads", "size"]),
          input(`v${i}`, ["batch", "seq", "kvHeads", "size"]),
          { cache: kvCache(["batch", "kvHeads", "capacity", "size"], past) },
        ),
      );
    },
  );
  const pairs = seq * (length - seq) + (seq * (seq + 1)) / 2;
  return {
    name: `${model_} attention of ${seq} to ${length}`,
    shape: { kind: "attention", seq, length, heads, kvHeads, size },
    bound: seq === 1 ? "memory" : "arithmetic",
    copies,
    graph,
    weights: [],
    dtype: "f32",
    symbols: { past: length - seq },
    flops: 4 * pairs * heads * size,
    bytes: cacheBytes + 2 * seq * (heads + kvHeads) * size * 4,
  };
}

export function convolution(model_: string, c: BambaConfig, seq: number): Operation {
  const { convChannels: channels, mambaConvWidth: width } = c;
  const copies = 3;
  const graph = model("convolution", { dims: { batch: 1, seq, channels } }, () =>
    times(copies, (i) => causalConv1d(input(`x${i}`, ["batch", "seq", "channels"]), "conv", { width, bias: true, activation: "silu" })),
  );
  const weights = Array.from({ length: copies }, (_, i): MadeTensor[] => [
    { name: `c${i}.conv.weight`, shape: [channels, width], init: { kind: "normal", std: 0.5 } },
    { name: `c${i}.conv.bias`, shape: [channels], init: { kind: "normal", std: 0.02 } },
  ]).flat();
  return {
    name: `${model_} convolution of ${seq} x ${channels}`,
    shape: { kind: "convolution", seq, channels, width },
    bound: "memory",
    copies,
    graph,
    weights,
    dtype: "f32",
    symbols: {},
    flops: seq * channels * (2 * width + 4),
    bytes: 2 * seq * channels * 4,
  };
}
