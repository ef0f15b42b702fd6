import { UserError } from "../errors.ts";

/**
 * The processors that run in every step of a sampled generation, on the host: the compiled program does them (compiler/templates/process-logits.ts)
 * unless a processor that it does not have comes after them, or beams do. By Transformers' definitions (spec bamba e.2); each changes `scores`
 * [vocab] in place and sets what it removes to -Infinity.
 */

export interface SamplingOptions {
  /** Divides the scores; above 0. */
  readonly temperature: number;
  /** How many of the best are kept; 0 keeps all. */
  readonly topK: number;
  /** The best of this total probability are kept; 1 keeps all. */
  readonly topP: number;
  /** What has at least this share of the best one's probability is kept; 0 keeps all. */
  readonly minP: number;
}

/** Scores divided by a temperature above 0, in float32. */
export function applyTemperature(scores: Float32Array, temperature: number): void {
  const divisor = Math.fround(temperature);
  for (let i = 0; i < scores.length; i += 1) scores[i] = scores[i]! / divisor;
}

/** Removes what is below a threshold. */
function removeBelow(scores: Float32Array, threshold: number): void {
  for (let i = 0; i < scores.length; i += 1) if (scores[i]! < threshold) scores[i] = -Infinity;
}

/**
 * Keeps the `k` best; scores equal to the k-th are kept too.
 * @param keep least number of scores that stay: more than 1 with beams, so that enough continuations remain
 */
export function applyTopK(scores: Float32Array, k: number, keep = 1): void {
  if (k > 0) removeBelow(scores, kthLargest(scores, Math.max(k, keep)));
}

/** The k-th largest score; -Infinity when there are not more than k. */
export function kthLargest(scores: Float32Array, k: number): number {
  return k >= scores.length ? -Infinity : heapSelect(scores, k);
}

/** By a heap of the k largest so far, smallest on top: nearly all scores are dismissed by one comparison. */
function heapSelect(scores: Float32Array, k: number): number {
  const heap = scores.slice(0, k).sort();
  for (let i = k; i < scores.length; i += 1) {
    const value = scores[i]!;
    if (value <= heap[0]!) continue;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= k) break;
      if (child + 1 < k && heap[child + 1]! < heap[child]!) child += 1;
      if (heap[child]! >= value) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = value;
  }
  return heap[0]!;
}

/**
 * Keeps the smallest set of the best whose probability reaches `topP`: a score stays if those above it have less than `topP` together. Equal
 * scores stay or go together, so the result does not depend on how a sort breaks ties (Transformers keeps only some of them). The best always stay.
 * @param keep as in applyTopK
 */
export function applyTopP(scores: Float32Array, topP: number, keep = 1): void {
  if (topP >= 1) return;
  const { best, total } = softmaxOf(scores);
  const ordered = scores.slice().sort();
  let above = 0;
  let threshold = best;
  for (let place = ordered.length - 1; place >= 0 && above < topP * total; place -= 1) {
    threshold = ordered[place]!;
    above += Math.exp(threshold - best);
  }
  removeBelow(scores, Math.min(threshold, ordered[Math.max(0, ordered.length - keep)]!));
}

/** Keeps what is at least `minP` times as probable as the best. @param keep as in applyTopK */
export function applyMinP(scores: Float32Array, minP: number, keep = 1): void {
  if (minP <= 0) return;
  const { best } = softmaxOf(scores);
  const least = keep > 1 ? kthLargest(scores, keep) : best;
  for (let i = 0; i < scores.length; i += 1) {
    if (Math.exp(scores[i]! - best) < minP && scores[i]! < least) scores[i] = -Infinity;
  }
}

/** The best score and the sum of exp(score - best). @throws UserError when no distribution can be made of the scores. */
export function softmaxOf(scores: Float32Array): { readonly best: number; readonly total: number } {
  let best = -Infinity;
  for (const score of scores) if (score > best || Number.isNaN(score)) best = score;
  let total = 0;
  for (const score of scores) total += Math.exp(score - best);
  // The best one alone contributes 1: less is no score at all, and NaN compares with nothing.
  if (!(total >= 1 && total < Infinity)) throw noDistribution();
  return { best, total };
}

/** Log-probabilities in place of scores. @throws UserError when no distribution can be made of the scores. */
export function logSoftmax(scores: Float32Array): void {
  const { best, total } = softmaxOf(scores);
  const shift = best + Math.log(total);
  for (let i = 0; i < scores.length; i += 1) scores[i] = scores[i]! - shift;
}

/** No token can be chosen from such scores. */
export const noDistribution = (): UserError =>
  new UserError("sampling: the logits hold NaN or infinity, or allow no token", {
    hint: "the model has overflowed; check the checkpoint, or run it with another --dtype",
  });
