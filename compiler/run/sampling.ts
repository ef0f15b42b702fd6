import type { Tensor } from "./tensor.ts";

/** The sampling composites, from their definitions (ir/graph.ts), one row after the other. */

export function processLogits(logits: Tensor, seen: Tensor, settings: Tensor): Float64Array {
  const vocab = logits.shape[1]!;
  const out = logits.data.slice();
  for (let row = 0; row < logits.shape[0]!; row++) {
    const scores = out.subarray(row * vocab, (row + 1) * vocab);
    const [penalty, temperature, topK, topP, minP] = [...settings.data.subarray(row * 5, row * 5 + 5)] as [number, number, number, number, number]; // prettier-ignore
    for (let i = 0; i < vocab; i++) {
      const x = scores[i]!;
      const penalised = x < 0 ? x * penalty : x / penalty;
      scores[i] = (seen.data[row * vocab + i] ? penalised : x) / temperature;
    }
    if (topK > 0) removeBeyond(scores, () => 1, topK);
    const top = largestOf(scores);
    const weight = (x: number): number => Math.exp(x - top);
    if (topP < 1) removeBeyond(scores, weight, topP * scores.reduce((sum, x) => sum + weight(x), 0));
    for (let i = 0; i < vocab; i++) if (weight(scores[i]!) < minP) scores[i] = -Infinity;
  }
  return out;
}

/** Removes every score, but the largest, for which the larger ones weigh `limit` or more together. */
function removeBeyond(scores: Float64Array, weight: (x: number) => number, limit: number): void {
  const sorted = scores.slice().sort().reverse();
  let larger = 0;
  for (let i = 1; i < sorted.length; i++) {
    larger += weight(sorted[i - 1]!);
    if (sorted[i] === sorted[i - 1] || larger < limit) continue;
    const threshold = sorted[i - 1]!;
    for (let j = 0; j < scores.length; j++) if (scores[j]! < threshold) scores[j] = -Infinity;
    return;
  }
}

export function sampleToken(scores: Tensor, draw: Tensor): Float64Array {
  const vocab = scores.shape[1]!;
  return draw.data.map((u, row) => tokenOf(scores.data.subarray(row * vocab, (row + 1) * vocab), u));
}

function tokenOf(scores: Float64Array, draw: number): number {
  const top = largestOf(scores);
  if (!Number.isFinite(top)) return -1;
  if (draw < 0) return scores.indexOf(top);
  const weights = scores.map((x) => Math.exp(x - top));
  const target = draw * weights.reduce((a, b) => a + b, 0);
  let running = 0;
  for (let i = 0; i < weights.length; i++) {
    running += weights[i]!;
    if (running > target) return i;
  }
  return weights.findLastIndex((w) => w > 0);
}

/** NaN where there is one. */
const largestOf = (scores: Float64Array): number => scores.reduce((a, b) => Math.max(a, b), -Infinity);
