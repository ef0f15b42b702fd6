import { applyUnary } from "../ir/operators.ts";
import type { Activation, Attrs } from "../ir/graph.ts";
import type { Tensor } from "./tensor.ts";
import { around } from "./tensor.ts";

/**
 * What the composites do to numbers, written from their definitions and not from their decompositions, so that the two check each other.
 * Like the primitives they do not round.
 */

/** The activation functions on one number. */
export function activate(fn: Activation, x: number): number {
  switch (fn) {
    case "silu":
      return x / (1 + Math.exp(-x));
    case "gelu":
      return 0.5 * x * (1 + applyUnary("erf", x / Math.SQRT2));
    case "geluTanh":
      return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
    case "relu":
      return Math.max(x, 0);
    case "softplus":
      return softplus(x);
    case "sigmoid":
      return 1 / (1 + Math.exp(-x));
    case "tanh":
      return Math.tanh(x);
  }
}

/** PyTorch's: linear above 20, where log1p(exp(x)) no longer differs from x in f32 and soon overflows. */
const softplus = (x: number): number => (x > 20 ? x : Math.log1p(Math.exp(x)));

export function activation(x: Tensor, fn: Activation): Float64Array {
  const out = new Float64Array(x.data.length);
  for (let i = 0; i < out.length; i++) out[i] = activate(fn, x.data[i]!);
  return out;
}

export function softmax(x: Tensor, axis: number): Float64Array {
  const { outer, n, inner } = around(x.shape, axis);
  const out = new Float64Array(x.data.length);
  for (let o = 0; o < outer; o++)
    for (let k = 0; k < inner; k++) {
      const first = o * n * inner + k;
      let top = -Infinity;
      for (let i = 0; i < n; i++) top = Math.max(top, x.data[first + i * inner]!);
      let total = 0;
      for (let i = 0; i < n; i++) total += out[first + i * inner] = Math.exp(x.data[first + i * inner]! - top);
      for (let i = 0; i < n; i++) out[first + i * inner]! /= total;
    }
  return out;
}

/** With `gate`, x * silu(gate) is normalised in place of x. */
export function rmsNorm(x: Tensor, gate: Tensor | null, weight: Tensor, eps: number): Float64Array {
  const D = weight.data.length;
  const out = x.data.slice();
  if (gate) for (let i = 0; i < out.length; i++) out[i]! *= activate("silu", gate.data[i]!);
  for (let row = 0; row < out.length; row += D) {
    let squares = 0;
    for (let d = 0; d < D; d++) squares += out[row + d]! * out[row + d]!;
    const factor = 1 / Math.sqrt(squares / D + eps);
    for (let d = 0; d < D; d++) out[row + d]! *= factor * weight.data[d]!;
  }
  return out;
}

/** `outside`: a position that the tables do not have. */
export function rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, rotary: number): Float64Array | { readonly outside: number } {
  const [, , heads, D] = x.shape as [number, number, number, number];
  const half = rotary / 2;
  const out = x.data.slice();
  for (const [i, position] of positions.data.entries()) {
    if (!(position >= 0 && position < cos.shape[0]!)) return { outside: position };
    for (let h = 0; h < heads; h++)
      for (let j = 0; j < half; j++) {
        const at = (i * heads + h) * D + j;
        const c = cos.data[position * half + j]!;
        const s = sin.data[position * half + j]!;
        const a = x.data[at]!;
        const b = x.data[at + half]!;
        out[at] = a * c - b * s;
        out[at + half] = b * c + a * s;
      }
  }
  return out;
}

/** The sequence id at position t of this call of a row; at t = -1 that of the position before it. */
export type IdAt = (row: number, t: number) => number;

export const idsFrom =
  (ids: Tensor, past: number): IdAt =>
  (row, t) =>
    ids.data[row * ids.shape[1]! + Math.max(past + t, 0)]!;

/**
 * y[t] = activation(bias + sum over k of weight[k] * full[t + 1 + k]) over full = state ++ x, whose last `width` inputs are the new state. With
 * sequences, inputs of another one read as 0, and the new state is that after the first `ends` positions.
 */
export function causalConv1d(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  state: Tensor,
  { width, activation: fn }: Attrs["causalConv1d"],
  sequences: { readonly idAt: IdAt; readonly ends: Tensor } | null,
): [y: Float64Array, state: Float64Array] {
  const [batch, seq, C] = x.shape as [number, number, number];
  const y = new Float64Array(x.data.length);
  const next = new Float64Array(state.data.length);
  for (let b = 0; b < batch; b++) {
    const full = new Float64Array((width + seq) * C);
    full.set(state.data.subarray(b * width * C, (b + 1) * width * C));
    full.set(x.data.subarray(b * seq * C, (b + 1) * seq * C), width * C);
    /** Whether full[i] is a token of the sequence that position t continues. */
    const belongs = (i: number, t: number): boolean => {
      if (!sequences) return true;
      const { idAt } = sequences;
      return (i < width ? Math.abs(idAt(b, -1)) : idAt(b, i - width)) === Math.abs(idAt(b, t));
    };
    const end = sequences ? sequences.ends.data[b]! : seq;
    for (let k = 0; k < width; k++)
      if (belongs(end + k, end - 1)) next.set(full.subarray((end + k) * C, (end + k + 1) * C), (b * width + k) * C);
    for (let t = 0; t < seq; t++)
      for (let c = 0; c < C; c++) {
        let sum = bias ? bias.data[c]! : 0;
        for (let k = 0; k < width; k++) if (belongs(t + 1 + k, t)) sum += weight.data[c * width + k]! * full[(t + 1 + k) * C + c]!;
        y[(b * seq + t) * C + c] = fn ? activate(fn, sum) : sum;
      }
  }
  return [y, next];
}

/**
 * The recurrence S_t = exp(dt A) S_{t-1} + (dt x) (outer) B, y_t = S_t C + D x, one position at a time. S is zero where a sequence begins, and padding
 * leaves it alone.
 */
export function ssdScan(inputs: readonly Tensor[], attrs: Attrs["ssdScan"], idAt: IdAt | null): [y: Float64Array, state: Float64Array] {
  const [x, dt, A, B, C, D, dtBias] = inputs.map((t) => t.data) as [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array, Float64Array, Float64Array]; // prettier-ignore
  const { softplus: soft, dtMin, dtMax } = attrs;
  const [batch, seq, H, P] = inputs[0]!.shape as [number, number, number, number];
  const [G, N] = inputs[3]!.shape.slice(2) as [number, number];
  const y = new Float64Array(x.length);
  const S = inputs.at(-1)!.data.slice();
  for (let b = 0; b < batch; b++)
    for (let t = 0; t < seq; t++) {
      const padding = idAt !== null && idAt(b, t) <= 0;
      if (idAt && Math.abs(idAt(b, t)) !== Math.abs(idAt(b, t - 1))) S.fill(0, b * H * P * N, (b + 1) * H * P * N);
      for (let h = 0; h < H; h++) {
        const at = (b * seq + t) * H + h;
        const raw = dt[at]! + dtBias[h]!;
        const delta = Math.min(Math.max(soft ? softplus(raw) : raw, dtMin), dtMax);
        const decay = Math.exp(delta * A[h]!);
        const group = ((b * seq + t) * G + Math.floor((h * G) / H)) * N;
        for (let p = 0; p < P; p++) {
          const value = x[at * P + p]!;
          const row = ((b * H + h) * P + p) * N;
          let sum = D[h]! * value;
          for (let n = 0; n < N; n++) {
            if (!padding) S[row + n] = decay * S[row + n]! + delta * value * B[group + n]!;
            sum += S[row + n]! * C[group + n]!;
          }
          y[at * P + p] = sum;
        }
      }
    }
  return [y, S];
}

/** The last position of a scan over the ring's first `held` inputs and this one, from the ring's state. */
export function ssdReplay(inputs: readonly Tensor[], attrs: Attrs["ssdReplay"], held: number): Float64Array[] {
  const [x, dt, A, B, C, D, dtBias, state, xs, Bs, dts] = inputs as readonly [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]; // prettier-ignore
  const { softplus: soft, dtMin, dtMax } = attrs;
  const [batch, length, H] = dts.shape as [number, number, number];
  const delta = dt.data.map((value, i) => {
    const raw = value + dtBias.data[i % H]!;
    return Math.min(Math.max(soft ? softplus(raw) : raw, dtMin), dtMax);
  });
  /** Of each row the first `count` inputs of a ring, with the row's own as number `held`. */
  const withOwn = (ring: Tensor, own: Float64Array, count: number): Tensor => {
    const width = own.length / batch;
    const data = new Float64Array(batch * count * width);
    for (let b = 0; b < batch; b++) {
      data.set(ring.data.subarray(b * length * width, (b * length + count) * width), b * count * width);
      data.set(own.subarray(b * width, (b + 1) * width), (b * count + held) * width);
    }
    return { ...ring, shape: [batch, count, ...ring.shape.slice(2)], data };
  };
  const seq = held + 1;
  const scanned = [withOwn(xs, x.data, seq), withOwn(dts, delta, seq), A, withOwn(Bs, B.data, seq)];
  const read = withOwn({ ...Bs, data: new Float64Array(Bs.data.length) }, C.data, seq);
  const bias = { ...dtBias, data: new Float64Array(H) };
  const asGiven = { softplus: false, dtMin: -Infinity, dtMax: Infinity, chunk: 1, past: null };
  const [ys, after] = ssdScan([...scanned, read, D, bias, state], asGiven, null);
  const width = x.data.length / batch;
  const y = new Float64Array(x.data.length);
  for (let b = 0; b < batch; b++) y.set(ys.subarray((b * seq + held) * width, (b + 1) * seq * width), b * width);
  const rings = [withOwn(xs, x.data, length), withOwn(Bs, B.data, length), withOwn(dts, delta, length)];
  return [y, seq === length ? after : state.data.slice(), ...rings.map(({ data }) => data)];
}

export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  ids: Tensor | null,
  { scale, causal }: Attrs["attention"],
  past: number,
): Float64Array {
  const [batch, seq, H, D] = q.shape as [number, number, number, number];
  const [, Hkv, T] = k.shape as [number, number, number, number];
  const out = new Float64Array(q.data.length);
  const weights = new Float64Array(T);
  for (let b = 0; b < batch; b++)
    for (let t = 0; t < seq; t++)
      for (let h = 0; h < H; h++) {
        const query = ((b * seq + t) * H + h) * D;
        const keys = (b * Hkv + Math.floor((h * Hkv) / H)) * T * D;
        const end = Math.min(T, causal ? past + t + 1 : past + seq);
        const sequence = ids ? Math.abs(ids.data[b * T + past + t]!) : 0;
        let top = -Infinity;
        for (let j = 0; j < end; j++) {
          let dot = 0;
          for (let d = 0; d < D; d++) dot += q.data[query + d]! * k.data[keys + j * D + d]!;
          weights[j] = ids && ids.data[b * T + j] !== sequence ? -Infinity : dot * scale;
          top = Math.max(top, weights[j]!);
        }
        if (top === -Infinity) continue; // no key is seen: zeros
        let total = 0;
        for (let j = 0; j < end; j++) total += weights[j] = Math.exp(weights[j]! - top);
        for (let j = 0; j < end; j++) {
          const w = weights[j]! / total;
          // a key that is not seen must not matter even where memory holds a NaN
          if (w !== 0) for (let d = 0; d < D; d++) out[query + d]! += w * v.data[keys + j * D + d]!;
        }
      }
  return out;
}

/** `outside`: a label that is neither in the vocabulary nor `ignoreIndex`. */
export function crossEntropy(logits: Tensor, labels: Tensor, ignoreIndex: number): Float64Array | { readonly outside: number } {
  const V = logits.shape[2]!;
  let total = 0;
  let counted = 0;
  for (const [i, label] of labels.data.entries()) {
    if (label === ignoreIndex) continue;
    if (!(label >= 0 && label < V)) return { outside: label };
    let top = -Infinity;
    for (let j = 0; j < V; j++) top = Math.max(top, logits.data[i * V + j]!);
    let sum = 0;
    for (let j = 0; j < V; j++) sum += Math.exp(logits.data[i * V + j]! - top);
    total += Math.log(sum) + top - logits.data[i * V + label]!;
    counted++;
  }
  return Float64Array.of(total / counted);
}
