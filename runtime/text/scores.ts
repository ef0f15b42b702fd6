import type { LogitsProcessor, RowContext } from "./processor.ts";
import type { Feed } from "./feed.ts";
import { logSoftmax } from "./sampling.ts";

/**
 * Classifier-free guidance (Sanchez et al. 2023, "Stay on topic with classifier-free guidance"), processor 1 of spec bamba e.2: moves the
 * log-probabilities away from those of the same text without its prompt, scale * (conditional - unconditional) + unconditional.
 * @param scores the conditional scores, changed in place
 * @param unconditional changed too: it becomes log-probabilities
 */
function guide(scores: Float32Array, unconditional: Float32Array, scale: number): void {
  logSoftmax(scores);
  logSoftmax(unconditional);
  for (let i = 0; i < scores.length; i += 1) scores[i] = scale * (scores[i]! - unconditional[i]!) + unconditional[i]!;
}

export interface ScoreSettings {
  readonly processors: readonly LogitsProcessor[];
  /** Beams add up log-probabilities, so the processors change those. */
  readonly logProbabilities: boolean;
  /** null without guidance. */
  readonly guidanceScale: number | null;
}

/** Gives the scores of a row as its processors leave them. The arrays that it works in are the same ones for each row. */
export type ScoreRow = (context: RowContext, target: Float32Array) => Promise<void>;

export function scoreRows({ rows, session }: Feed, { processors, logProbabilities, guidanceScale }: ScoreSettings): ScoreRow {
  const unconditional = new Float32Array(guidanceScale === null ? 0 : session.vocabSize);
  return async (context, target) => {
    target.set(await session.logits(context.row));
    if (logProbabilities) logSoftmax(target);
    if (guidanceScale !== null) {
      unconditional.set(await session.logits(rows + context.row));
      guide(target, unconditional, guidanceScale);
    }
    for (const processor of processors) processor.process(target, context);
  };
}
