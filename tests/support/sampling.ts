import { applyMinP, applyTemperature, applyTopK, applyTopP, softmaxOf } from "../../runtime/text/sampling.ts";
import type { SamplingOptions } from "../../runtime/text/sampling.ts";

/** What a draw is, written plainly: the reference of the compiled program that chooses tokens. */

/** Applies temperature, top-k, top-p and min-p in Transformers' order. */
export function applyAll(scores: Float32Array, options: SamplingOptions): void {
  if (options.temperature !== 1) applyTemperature(scores, options.temperature);
  applyTopK(scores, options.topK);
  applyTopP(scores, options.topP);
  applyMinP(scores, options.minP);
}

/** The index of the largest score, the first one among equals. */
export const argmax = (scores: Float32Array): number => scores.reduce((best, score, i) => (score > scores[best]! ? i : best), 0);

/** The index that `draw` in [0, 1) falls on, by the cumulative softmax of the scores in order of index. */
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
