import { kthLargest, softmaxOf } from "../sampling.ts";

/**
 * The truncations that are rarely used, by Transformers' definitions (spec bamba e.2). Each sets what it removes to -Infinity, in place; what was
 * removed before stays removed. Sums are made in float64. `keep` is the least number of scores that stay: 1, or more with beams; scores equal to
 * the last of them stay too. All throw the UserError of softmaxOf when no distribution can be made of the scores.
 */

/** How many of the best top-h looks at. */
const topHCandidates = 100;

/**
 * Keeps the best whose entropy together stays within `topH` times that of the 100 best, as a distribution of their own. The best one always stays.
 * Source: Nguyen et al., "Top-H decoding: adapting the creativity and coherence with bounded entropy in text generation" (2025).
 */
export function applyTopH(scores: Float32Array, topH: number): void {
  const { best } = softmaxOf(scores);
  const candidates = topIndices(scores, topHCandidates);
  const weights = candidates.map((index) => Math.exp(scores[index]! - best));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const terms = weights.map((weight) => (weight > 0 ? (-weight / total) * Math.log(weight / total) : 0));
  const most = topH * terms.reduce((sum, term) => sum + term, 0);
  const kept = new Map<number, number>();
  let entropy = 0;
  for (const [place, index] of candidates.entries()) {
    entropy += terms[place]!;
    if (place > 0 && entropy > most) break;
    kept.set(index, scores[index]!);
  }
  scores.fill(-Infinity);
  for (const [index, score] of kept) scores[index] = score;
}

/** The indices of the `count` best that have not been removed, the best first, the lower index first among equals. */
function topIndices(scores: Float32Array, count: number): readonly number[] {
  const least = kthLargest(scores, count);
  const indices: number[] = [];
  for (let i = 0; i < scores.length; i += 1) if (scores[i]! >= least && scores[i]! > -Infinity) indices.push(i);
  return indices.sort((a, b) => scores[b]! - scores[a]! || a - b).slice(0, count);
}

/**
 * Keeps those whose surprise (-log p) is nearest to the expected one, the entropy, until their probability reaches `mass`.
 * Source: Meister et al., "Locally typical sampling" (2022).
 */
export function applyTypical(scores: Float32Array, mass: number, keep: number): void {
  if (mass >= 1) return;
  const { best, total, entropy } = distributionOf(scores);
  const logTotal = Math.log(total);
  const distance = (score: number): number => Math.fround(Math.abs(best + logTotal - score - entropy));
  const order = indicesBy(scores, distance);
  let cumulative = 0;
  let last = 0;
  for (; last < order.length - 1; last += 1) {
    cumulative += Math.exp(scores[order[last]!]! - best) / total;
    if (cumulative >= mass) break;
  }
  const most = distance(scores[order[Math.min(order.length - 1, Math.max(last, keep - 1))]!]!);
  for (let i = 0; i < scores.length; i += 1) if (distance(scores[i]!) > most) scores[i] = -Infinity;
}

/** Keeps what is at least as probable as `epsilon`. Source: Hewitt et al., "Truncation sampling as language model desmoothing" (2022). */
export function applyEpsilon(scores: Float32Array, epsilon: number, keep: number): void {
  const { best, total } = softmaxOf(scores);
  removeImprobable(scores, epsilon, best, total, keep);
}

/** As epsilon, with a threshold that falls with the entropy: min(eta, sqrt(eta) * exp(-entropy)). Source as of epsilon. */
export function applyEta(scores: Float32Array, eta: number, keep: number): void {
  const { best, total, entropy } = distributionOf(scores);
  removeImprobable(scores, Math.min(eta, Math.sqrt(eta) * Math.exp(-entropy)), best, total, keep);
}

function removeImprobable(scores: Float32Array, least: number, best: number, total: number, keep: number): void {
  const threshold = keep > 1 ? kthLargest(scores, keep) : best;
  for (let i = 0; i < scores.length; i += 1) {
    if (Math.exp(scores[i]! - best) / total < least && scores[i]! < threshold) scores[i] = -Infinity;
  }
}

/** softmaxOf, and the entropy in nats. */
function distributionOf(scores: Float32Array): { readonly best: number; readonly total: number; readonly entropy: number } {
  const { best, total } = softmaxOf(scores);
  let weighted = 0;
  for (const score of scores) if (score > -Infinity) weighted += Math.exp(score - best) * (score - best);
  return { best, total, entropy: Math.log(total) - weighted / total };
}

/** Vocabulary sizes that a sorting key has room for. */
const mostScores = 2 ** 21;

const bitsF32 = new Float32Array(1);
const bitsU32 = new Uint32Array(bitsF32.buffer);

/**
 * The indices of the scores that have not been removed, by ascending key and index. A key is a float32 from 0, whose bits order as it does: with the
 * index below them they make one exact double, and a typed array of doubles sorts many times faster than indices by a comparison.
 */
function indicesBy(scores: Float32Array, keyOf: (score: number) => number): Uint32Array {
  if (scores.length > mostScores) throw new RangeError(`at most ${mostScores} scores can be sorted, got ${scores.length}`);
  const keys = new Float64Array(scores.length);
  let count = 0;
  for (let i = 0; i < scores.length; i += 1) {
    if (scores[i] === -Infinity) continue;
    bitsF32[0] = keyOf(scores[i]!);
    keys[count++] = bitsU32[0]! * mostScores + i;
  }
  return Uint32Array.from(keys.subarray(0, count).sort(), (key) => key % mostScores);
}
