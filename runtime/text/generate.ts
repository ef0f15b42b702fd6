import type { Session } from "../session.ts";
import { beamSearch } from "./beam-search.ts";
import type { Recording } from "./choose.ts";
import { generateSteps } from "./loop.ts";
import type { Step } from "./loop.ts";
import type { LoopOptions, LoopSettings } from "./settings.ts";
import type { Prompts } from "./token-rows.ts";

/** Why a row ended: an end token, another stopping criterion, the number of tokens asked for, or the caller. */
export type FinishReason = "eos" | "stop" | "length" | "aborted";

/** What the prompts became. The results of one prompt are neighbours, best first with beams. */
export interface Generated {
  /** Prompts times results for each. */
  readonly rows: number;
  /** New tokens of each row, padding included. */
  readonly length: number;
  /** Of each row the prompt as it was given, padding included, then the new tokens, all of one length. */
  readonly sequences: readonly Int32Array[];
  /** The new tokens of each row, its end token included, without padding. */
  readonly newTokens: readonly Int32Array[];
  readonly finish: readonly FinishReason[];
  /** Of each step [rows, vocab] as the processors left them, when asked for; with beams, log-probabilities of all beams. */
  readonly scores?: readonly Float32Array[];
  /** Of each step [rows, vocab] as the model gave them, when asked for; with beams, of all beams. */
  readonly logits?: readonly Float32Array[];
  /** With beams: the sum of log-probabilities of each row over length ** lengthPenalty. */
  readonly sequencesScores?: Float32Array;
  /** With beams: of each new token the beam, counted over all prompts, that it continued; -1 where the row has ended. */
  readonly beamIndices?: readonly Int32Array[];
  readonly timing: Timing;
}

/** Milliseconds. `first` is from the call to the first new token. */
export interface Timing {
  readonly first: number;
  readonly total: number;
  /** Tokens a second and row after the first one; 0 when there was only one. */
  readonly tokensPerSecond: number;
}

export interface CollectOptions extends LoopOptions {
  /** Called with the tokens of each step as soon as they are known. Not with beams: theirs are known at the end. */
  readonly onStep?: (step: Step) => void;
  readonly outputScores?: boolean;
  readonly outputLogits?: boolean;
}

/** Runs a generation to its end and collects what came out. @throws UserError when prompts or settings do not fit the session. */
export async function generateTokens(
  session: Session,
  prompts: Prompts,
  settings: LoopSettings,
  options: CollectOptions = {},
): Promise<Generated> {
  const recording: Recording = {
    logits: options.outputLogits === true ? [] : null,
    scores: options.outputScores === true ? [] : null,
  };
  const collect = settings.numBeams > 1 ? collectBeams : collectSteps;
  const made = await collect(session, prompts, settings, recording, options);
  return {
    ...made,
    ...(recording.scores === null ? {} : { scores: recording.scores }),
    ...(recording.logits === null ? {} : { logits: recording.logits }),
  };
}

async function collectSteps(
  session: Session,
  prompts: Prompts,
  settings: LoopSettings,
  recording: Recording,
  { signal, onStep }: CollectOptions,
): Promise<Generated> {
  const rows = prompts.rows * settings.numReturnSequences;
  const columns: Int32Array[] = [];
  const counts = new Int32Array(rows);
  const clock = startClock();
  for await (const step of generateSteps(session, prompts, settings, { recording, ...(signal === undefined ? {} : { signal }) })) {
    clock.token();
    columns.push(step.tokens.slice());
    for (let row = 0; row < rows; row += 1) counts[row]! += step.live[row]!;
    onStep?.(step);
  }
  const timing = clock.stop(columns.length);
  const newTokens = Array.from(counts, (count, row) => Int32Array.from({ length: count }, (_, i) => columns[i]![row]!));
  return { ...rowsOf(prompts, settings, newTokens, columns.length, settings.padTokenId ?? 0, signal), timing };
}

async function collectBeams(
  session: Session,
  prompts: Prompts,
  settings: LoopSettings,
  recording: Recording,
  { signal }: CollectOptions,
): Promise<Generated> {
  const clock = startClock();
  const best = (
    await beamSearch(session, prompts, settings, recording, { onFirst: clock.token, ...(signal === undefined ? {} : { signal }) })
  ).flat();
  const length = Math.max(...best.map(({ tokens }) => tokens.length));
  const timing = clock.stop(length);
  const newTokens = best.map(({ tokens }) => tokens);
  return {
    ...rowsOf(prompts, settings, newTokens, length, beamFiller(settings), signal),
    sequencesScores: Float32Array.from(best, ({ score }) => score),
    beamIndices: best.map(({ beams }) => {
      const padded = new Int32Array(length).fill(-1);
      padded.set(beams);
      return padded;
    }),
    timing,
  };
}

/** Transformers' `pad or eos[0]`, in which a pad token of 0 counts as none; without end tokens there is nothing to fill but what an own criterion ended. */
function beamFiller({ padTokenId, eosTokenIds }: LoopSettings): number {
  const [eos] = eosTokenIds;
  if (eos === undefined) return -1;
  return padTokenId === null || padTokenId === 0 ? eos : padTokenId;
}

function rowsOf(
  { ids, rows: prompts }: Prompts,
  { numReturnSequences, eosTokenIds, maxNewTokens }: LoopSettings,
  newTokens: readonly Int32Array[],
  length: number,
  filler: number,
  signal: AbortSignal | undefined,
): Omit<Generated, "timing"> {
  const promptLength = ids.length / prompts;
  const sequences = newTokens.map((tokens, row) => {
    const prompt = Math.floor(row / numReturnSequences);
    const sequence = new Int32Array(promptLength + length).fill(filler);
    sequence.set(ids.subarray(prompt * promptLength, (prompt + 1) * promptLength));
    sequence.set(tokens, promptLength);
    return sequence;
  });
  const finish = newTokens.map((tokens): FinishReason => {
    if (eosTokenIds.includes(tokens.at(-1)!)) return "eos";
    if (tokens.length === maxNewTokens) return "length";
    return tokens.length === length && signal?.aborted === true ? "aborted" : "stop";
  });
  return { rows: newTokens.length, length, sequences, newTokens, finish };
}

function startClock(): { readonly token: () => void; readonly stop: (tokens: number) => Timing } {
  const started = performance.now();
  let first = 0;
  return {
    token: () => {
      if (first === 0) first = performance.now() - started;
    },
    stop: (tokens) => {
      const total = performance.now() - started;
      return { first, total, tokensPerSecond: tokens > 1 ? ((tokens - 1) / (total - first)) * 1000 : 0 };
    },
  };
}
