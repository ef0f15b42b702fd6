import { UserError } from "../errors.ts";
import { uniform } from "./philox.ts";

/**
 * Choosing the next token from one row of logits, on the host. The processors follow Transformers' definitions (spec bamba e.2); each changes
 * `scores` in place and sets what it removes to -Infinity. Random numbers are our own (philox.ts): the distribution is Transformers', the draws are not.
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

/** No token can be chosen from such scores. */
export const noDistribution = (): UserError =>
  new UserError("sampling: the logits hold NaN or infinity, or allow no token", {
    hint: "the model has overflowed; check the checkpoint, or run it with another --dtype",
  });

/**
 * The index that `draw` in [0, 1) falls on, by the cumulative softmax of the scores in order of index.
 * @throws UserError when no distribution can be made of the scores.
 */
export function pick(scores: Float32Array, draw: number): number {
  const { best, total } = softmaxOf(scores);
  let rest = draw * total;
  let last = -1;
  for (let i = 0; i < scores.length; i += 1) {
    if (scores[i]! === -Infinity) continue;
    last = i;
    rest -= Math.exp(scores[i]! - best);
    if (rest < 0) return i;
  }
  // Reached by rounding only: the subtraction above can leave a trace of the total.
  return last;
}

/** The index of the largest score, the first one among equals. @throws UserError when a score is NaN or there are none. */
export function argmax(scores: Float32Array): number {
  let best = -1;
  let value = -Infinity;
  for (let i = 0; i < scores.length; i += 1) {
    const score = scores[i]!;
    if (score > value || best < 0) {
      best = i;
      value = score;
    }
    if (Number.isNaN(score)) best = scores.length;
  }
  if (best < 0 || best >= scores.length) {
    throw new UserError("greedy choice: the logits hold NaN, or there are none", {
      hint: "the model has overflowed; check the checkpoint, or run it with another --dtype",
    });
  }
  return best;
}

/** Applies temperature, top-k, top-p and min-p in Transformers' order. */
export function applyAll(scores: Float32Array, options: SamplingOptions): void {
  if (options.temperature !== 1) applyTemperature(scores, options.temperature);
  applyTopK(scores, options.topK);
  applyTopP(scores, options.topP);
  applyMinP(scores, options.minP);
}

/** Draws tokens. One depends on the row's own logits, the seed, the return index and the step, and on nothing else. */
export class Sampler {
  private readonly options: SamplingOptions;
  private readonly seed: number;
  private scores = new Float32Array(0);

  /** @param seed an integer from 0 to 2^53 - 1. */
  constructor(options: SamplingOptions, seed: number) {
    this.options = options;
    this.seed = seed;
  }

  /**
   * The token at step `step`.
   * @param logits [vocab], left as they are
   * @param returnIndex which of the sequences returned for one prompt this is, from 0
   * @throws UserError when the logits hold NaN or infinity.
   */
  next(logits: Float32Array, returnIndex: number, step: number): number {
    if (this.scores.length !== logits.length) this.scores = new Float32Array(logits.length);
    this.scores.set(logits);
    applyAll(this.scores, this.options);
    return pick(this.scores, uniform(this.seed, returnIndex, step));
  }
}
