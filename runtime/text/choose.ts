import { settingsPerRow } from "../token-choice.ts";
import type { Feed } from "./feed.ts";
import { uniform } from "./philox.ts";
import type { LogitsProcessor } from "./processor.ts";
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

/** Whether nothing but the likeliest token of each row counts. */
const isPlain = ({ doSample, processors, guidanceScale }: LoopSettings, { scores }: Recording): boolean =>
  !doSample && processors.always.length === 0 && guidanceScale === null && scores === null;

/** Whether anybody looks at the logits of a step. */
export const takesLogits = (settings: LoopSettings, recording: Recording): boolean =>
  recording.logits !== null || !isPlain(settings, recording);

/** The draw that takes the likeliest token. */
const likeliest = -1;

/** A chain cut in two: what runs on the host, and behind it what the compiled program does, as its first five settings. */
interface Division {
  readonly host: readonly LogitsProcessor[];
  readonly compiled: readonly [repetitionPenalty: number, temperature: number, topK: number, topP: number, minP: number];
}

/** Gives the compiled program as much of the end of the chain as it can do: it has an order of its own, which is that of the chain. */
function divide({ processors, doSample, sampling, repetitionPenalty }: LoopSettings): Division {
  const { always } = processors;
  const last = doSample ? processors.sampling : [];
  const order = ["temperature", "topK", "topP", "minP"];
  let first = last.length;
  while (first > 0 && order.includes(last[first - 1]!.name)) {
    order.splice(order.indexOf(last[first - 1]!.name));
    first -= 1;
  }
  const taken = new Set(last.slice(first).map(({ name }) => name));
  // A penalty that is on is in the chain, so if there is one processor it is this one, and no stranger of the same name.
  const penalty = first === 0 && always.length === 1 && repetitionPenalty !== 1;
  return {
    host: [...(penalty ? [] : always), ...last.slice(0, first)],
    compiled: [
      penalty ? repetitionPenalty : 1,
      taken.has("temperature") ? sampling.temperature : 1,
      taken.has("topK") ? sampling.topK : 0,
      taken.has("topP") ? sampling.topP : 1,
      taken.has("minP") ? sampling.minP : 0,
    ],
  };
}

/**
 * The best token or a draw, by the scores that the processors leave (spec bamba e.2). The processors that run every step are compiled; those before one
 * that is not run on the host. A draw belongs to the prompt's seed, the step and the number of the sample.
 */
export function chooseTokens(feed: Feed, settings: LoopSettings, recording: Recording): ChooseTokens {
  const { doSample, guidanceScale, seeds, numReturnSequences, useCache } = settings;
  const { host, compiled } = divide(settings);
  const onHost = host.length > 0 || guidanceScale !== null;
  const penalizes = compiled[0] !== 1;
  const plain = isPlain(settings, recording);
  const scoreRow = scoreRows(feed, { processors: host, guidanceScale, logProbabilities: false });
  const { rows, sessionRows, session } = feed;
  const { vocabSize } = session;
  const work = new Float32Array(onHost ? vocabSize : 0);
  const numbers = Float32Array.from({ length: sessionRows * settingsPerRow }, (_, at) => compiled[at % settingsPerRow] ?? likeliest);
  return async (texts, step, open, tokens) => {
    await recordLogits(feed, recording);
    if (plain) {
      for (let row = 0; row < rows; row += 1) if (open[row] === 1) tokens[row] = session.next[row]!;
      return;
    }
    const scores = newStep(recording.scores, rows * vocabSize);
    for (let row = 0; row < rows; row += 1) {
      if (penalizes) session.markSeen(row, useCache && step > 0 ? texts.row(row).subarray(-1) : texts.row(row));
      if (onHost && (open[row] === 1 || scores !== null)) {
        await scoreRow(texts.context(row), work);
        session.setLogits(row, work);
      }
      if (doSample) numbers[row * settingsPerRow + compiled.length] = uniform(seeds[texts.promptOf(row)]!, row % numReturnSequences, step);
    }
    const chosen = await session.choose(numbers);
    for (let row = 0; row < rows; row += 1) {
      if (open[row] === 1) tokens[row] = chosen[row]!;
      scores?.set(await session.scores(row), row * vocabSize);
    }
  };
}

/** Keeps the raw logits of all rows when they were asked for. */
export async function recordLogits({ rows, session }: Feed, { logits }: Recording): Promise<void> {
  const { vocabSize } = session;
  const step = newStep(logits, rows * vocabSize);
  if (step !== null) for (let row = 0; row < rows; row += 1) step.set(await session.logits(row), row * vocabSize);
}

/** Room for one more step; null when steps are not kept. */
export function newStep(steps: Float32Array[] | null, length: number): Float32Array | null {
  if (steps === null) return null;
  const step = new Float32Array(length);
  steps.push(step);
  return step;
}
