import type { LogitsProcessor } from "../processor.ts";
import { softmaxOf } from "../sampling.ts";

/** The processors that move scores, by Transformers' definitions (spec bamba e.2), in float32. */

const largest = Math.fround(3.4028234663852886e38);

/** Makes tokens that the row holds less likely, padding included and each once: negative scores are multiplied, others divided. */
export function repetitionPenalty(penalty: number, vocabSize: number): LogitsProcessor {
  const factor = Math.fround(penalty);
  const seen = new Uint8Array(vocabSize);
  return {
    name: "repetitionPenalty",
    process: (scores, { ids }) => {
      for (const id of ids) {
        if (seen[id] !== 0) continue;
        seen[id] = 1;
        scores[id] = scores[id]! < 0 ? scores[id]! * factor : scores[id]! / factor;
      }
      for (const id of ids) seen[id] = 0;
    },
  };
}

/**
 * Raises the scores of the end tokens from the token after `start` new ones on: by |score| * (factor ** tokens since - 1). An end token that was
 * removed stays removed, where Transformers makes NaN of it.
 */
export function exponentialDecay([start, factor]: readonly [number, number], eosTokenIds: readonly number[]): LogitsProcessor {
  return {
    name: "exponentialDecayLengthPenalty",
    process: (scores, { ids, promptLength }) => {
      const since = ids.length - promptLength - start;
      if (since <= 0) return;
      const growth = Math.fround(factor ** since - 1);
      for (const id of eosTokenIds) {
        const score = scores[id];
        if (score !== undefined && score > -Infinity) scores[id] = score + Math.fround(Math.abs(score) * growth);
      }
    },
  };
}

/** NaN becomes 0, an infinity the largest number of its sign. */
export function removeInvalidValues(): LogitsProcessor {
  return {
    name: "removeInvalidValues",
    process: (scores) => {
      for (let i = 0; i < scores.length; i += 1) {
        const score = scores[i]!;
        scores[i] = Number.isNaN(score) ? 0 : Math.min(largest, Math.max(-largest, score));
      }
    },
  };
}

/** Log-probabilities. @throws UserError when no distribution can be made of the scores. */
export function renormalize(): LogitsProcessor {
  return { name: "renormalizeLogits", process: logSoftmax };
}

function logSoftmax(scores: Float32Array): void {
  const { best, total } = softmaxOf(scores);
  const shift = best + Math.log(total);
  for (let i = 0; i < scores.length; i += 1) scores[i] = scores[i]! - shift;
}
