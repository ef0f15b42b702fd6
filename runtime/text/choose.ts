import type { Feed } from "./feed.ts";
import { uniform } from "./philox.ts";
import { argmax, pick } from "./sampling.ts";
import { scoreRows } from "./scores.ts";
import type { LoopSettings } from "./settings.ts";
import type { TokenRows } from "./token-rows.ts";

/** What is kept of each step, [rows, vocab]; null for what nobody asked for. */
export interface Recording {
  /** Raw logits. */
  readonly logits: Float32Array[] | null;
  /** As the processors left them. */
  readonly scores: Float32Array[] | null;
}

/** Chooses a token for each open row at a step. With a recording the scores of the other rows are computed too. */
export type ChooseTokens = (texts: TokenRows, step: number, open: Uint8Array, tokens: Int32Array) => Promise<void>;

/** The best token or a draw, by the scores that the processors leave (spec bamba e.2). A draw belongs to the prompt's seed, the step and the number of the sample. */
export function chooseTokens(feed: Feed, settings: LoopSettings, recording: Recording): ChooseTokens {
  const { doSample, guidanceScale, seeds, numReturnSequences } = settings;
  const processors = doSample ? [...settings.processors.always, ...settings.processors.sampling] : settings.processors.always;
  const plain = !doSample && processors.length === 0 && guidanceScale === null && recording.scores === null;
  const scoreRow = scoreRows(feed, { processors, guidanceScale, logProbabilities: false });
  const { rows, vocabSize } = feed;
  const work = new Float32Array(plain ? 0 : vocabSize);
  return async (texts, step, open, tokens) => {
    await recordLogits(feed, recording);
    const scores = newStep(recording.scores, rows * vocabSize);
    for (let row = 0; row < rows; row += 1) {
      if (plain) {
        if (open[row] === 1) tokens[row] = feed.likeliest[row]!;
        continue;
      }
      if (open[row] === 0 && scores === null) continue;
      const own = scores === null ? work : scores.subarray(row * vocabSize, (row + 1) * vocabSize);
      await scoreRow(texts.context(row), own);
      if (open[row] === 0) continue;
      tokens[row] = doSample ? pick(own, uniform(seeds[texts.promptOf(row)]!, row % numReturnSequences, step)) : argmax(own);
    }
  };
}

/** Keeps the raw logits of all rows when they were asked for. */
export async function recordLogits(feed: Feed, { logits }: Recording): Promise<void> {
  const { rows, vocabSize } = feed;
  const step = newStep(logits, rows * vocabSize);
  if (step !== null) for (let row = 0; row < rows; row += 1) step.set(await feed.logits(row), row * vocabSize);
}

/** Room for one more step; null when steps are not kept. */
export function newStep(steps: Float32Array[] | null, length: number): Float32Array | null {
  if (steps === null) return null;
  const step = new Float32Array(length);
  steps.push(step);
  return step;
}
