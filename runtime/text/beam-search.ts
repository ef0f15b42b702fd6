import type { Recording } from "./choose.ts";
import { newStep, recordLogits } from "./choose.ts";
import { Feed } from "./feed.ts";
import { eventLoopPauses } from "./loop.ts";
import { uniform } from "./philox.ts";
import { scoreRows } from "./scores.ts";
import type { Session } from "../session.ts";
import type { LoopOptions, LoopSettings } from "./settings.ts";
import { TokenRows } from "./token-rows.ts";
import type { Prompts } from "./token-rows.ts";

/** A new token and all before it. */
interface Link {
  readonly before: Link | null;
  readonly token: number;
  /** The row that the token was a continuation of. */
  readonly beam: number;
}

/** A continuation of the prompt. */
export interface Hypothesis {
  readonly tokens: Int32Array;
  /** Of each token the row, among all prompts' beams, that it was a continuation of. */
  readonly beams: Int32Array;
  /** Sum of the log-probabilities, divided by length ** lengthPenalty. */
  readonly score: number;
}

/** A running beam, or a finished one with its final score. */
interface Beam {
  readonly link: Link | null;
  readonly length: number;
  readonly score: number;
}

/** A running beam with one token more. */
interface Candidate extends Beam {
  readonly link: Link;
  readonly ended: boolean;
}

interface Search {
  /** Best first. */
  readonly running: readonly Beam[];
  /** Best first, as many as there are beams at most. */
  readonly finished: readonly Beam[];
  /** Whether a running beam may still become better than the finished ones. */
  readonly improving: boolean;
}

/** The score of what has no chance: Transformers' number, so that sums with it round alike. */
const hopeless = -1e9;

/**
 * Beam search, or beam sampling, with Transformers' rules (spec bamba e.3).
 * @returns for each prompt its `numReturnSequences` best continuations, best first
 */
export async function beamSearch(
  session: Session,
  prompts: Prompts,
  settings: LoopSettings,
  recording: Recording,
  { signal, onFirst = () => undefined }: LoopOptions & { readonly onFirst?: () => void } = {},
): Promise<readonly (readonly Hypothesis[])[]> {
  const { numBeams, numReturnSequences, maxNewTokens, guidanceScale, doSample, stopping, processors, seeds } = settings;
  const feed = new Feed(session, prompts, {
    perPrompt: numBeams,
    maxNewTokens,
    unconditional: settings.unconditional,
    chunk: settings.prefillChunkSize,
    useCache: settings.useCache,
  });
  const { vocabSize } = session;
  const { rows } = feed;
  const texts = new TokenRows(prompts, numBeams, maxNewTokens);
  const scoreRow = scoreRows(feed, {
    processors: doSample ? [...processors.always, ...processors.sampling] : processors.always,
    guidanceScale,
    logProbabilities: true,
  });
  const width = Math.min(Math.max(2, 1 + settings.eosTokenIds.length) * numBeams, numBeams * vocabSize);
  const sums = new Float32Array(numBeams * vocabSize);
  const tokens = new Int32Array(rows);
  const parents = new Int32Array(rows);
  const pause = eventLoopPauses();

  let searches: readonly Search[] = Array.from({ length: prompts.rows }, () => ({
    // Only the first beam counts at first: otherwise all would find the same tokens.
    running: Array.from({ length: numBeams }, (_, beam) => ({ link: null, length: 0, score: beam === 0 ? 0 : hopeless })),
    finished: [],
    improving: true,
  }));
  await feed.start();
  for (let step = 0; ; step += 1) {
    const aborted = signal?.aborted === true;
    await recordLogits(feed, recording);
    const kept = newStep(recording.scores, rows * vocabSize);
    const next: Search[] = [];
    let allEnded = true;
    for (const [prompt, search] of searches.entries()) {
      const first = prompt * numBeams;
      for (const [beam, { score }] of search.running.entries()) {
        const row = sums.subarray(beam * vocabSize, (beam + 1) * vocabSize);
        await scoreRow(texts.context(first + beam), row);
        kept?.set(row, (first + beam) * vocabSize);
        for (let i = 0; i < vocabSize; i += 1) row[i] = row[i]! + score;
      }
      const chosen = doSample ? drawn(sums, width, (draw) => uniform(seeds[prompt]!, draw, step)) : largest(sums, width);
      const candidates = chosen.map((index): Candidate => {
        const beam = Math.floor(index / vocabSize);
        const token = index % vocabSize;
        const text = texts.contextWith(first + beam, token);
        const ended = aborted || step + 1 === maxNewTokens || stopping.some((criterion) => criterion.stops(text));
        const link = { before: search.running[beam]!.link, token, beam: first + beam };
        return { link, length: step + 1, score: sums[index]!, ended };
      });
      if (!candidates.every(({ ended }) => ended)) allEnded = false;
      next.push(advance(search, candidates, settings));
    }
    searches = next;
    if (step === 0) onFirst();
    const full = searches.every(({ finished }) => finished.length === numBeams);
    if (allEnded || !searches.some(({ improving }) => improving) || (settings.earlyStopping === true && full)) break;
    for (const [row, { link }] of searches.flatMap(({ running }) => running).entries()) {
      tokens[row] = link!.token;
      parents[row] = link!.beam;
    }
    texts.reorder(parents);
    texts.append(tokens);
    await feed.next(tokens, parents);
    await pause();
  }
  return searches.map(({ finished }) => finished.slice(0, numReturnSequences).map(hypothesis));
}

/** One step of one prompt's search, from the candidates in the order in which they were chosen. */
function advance({ finished: before, improving: wasImproving }: Search, candidates: readonly Candidate[], settings: LoopSettings): Search {
  const { numBeams, lengthPenalty, earlyStopping, maxNewTokens } = settings;
  const running = candidates
    .map((candidate) => (candidate.ended ? { ...candidate, score: Math.fround(candidate.score + hopeless) } : candidate))
    .sort((a, b) => b.score - a.score)
    .slice(0, numBeams);
  const { length } = running[0]!;
  const normalized = (score: number, over: number): number => Math.fround(score / Math.fround(over ** lengthPenalty));
  let finished = before;
  // The candidates after the first `numBeams` are only there so that enough beams go on.
  if (wasImproving && !(earlyStopping === true && before.length === numBeams)) {
    const ended = candidates.slice(0, numBeams).filter((candidate) => candidate.ended);
    finished = [...before, ...ended.map(({ link, score }) => ({ link, length, score: normalized(score, length) }))]
      .sort((a, b) => b.score - a.score)
      .slice(0, numBeams);
  }
  const best = normalized(running[0]!.score, earlyStopping === "never" && lengthPenalty > 0 ? maxNewTokens : length);
  const worst = finished.length === numBeams ? finished.at(-1)!.score : hopeless;
  return { running, finished, improving: wasImproving && best > worst };
}

function hypothesis({ link, length, score }: Beam): Hypothesis {
  const tokens = new Int32Array(length);
  const beams = new Int32Array(length);
  let at = length;
  for (let here = link; here !== null; here = here.before) {
    at -= 1;
    tokens[at] = here.token;
    beams[at] = here.beam;
  }
  return { tokens, beams, score };
}

/** Where the `count` largest values are, largest first; of equal ones the first. */
function largest(values: Float32Array, count: number): number[] {
  const places: number[] = [];
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i]!;
    if (places.length === count && !(value > values[places[count - 1]!]!)) continue;
    let at = places.length === count ? count - 1 : places.length;
    for (; at > 0 && value > values[places[at - 1]!]!; at -= 1) places[at] = places[at - 1]!;
    places[at] = i;
  }
  return places;
}

/**
 * `count` places drawn one after the other by the softmax of the values, none of them twice. Where fewer than that have a probability at all, the
 * largest of the others follow.
 * @param uniformAt the number in [0, 1) of each draw
 */
function drawn(values: Float32Array, count: number, uniformAt: (draw: number) => number): number[] {
  let best = -Infinity;
  for (const value of values) if (value > best) best = value;
  const open: number[] = [];
  const weights: number[] = [];
  values.forEach((value, i) => {
    const weight = Math.exp(value - best);
    if (!(weight > 0)) return;
    open.push(i);
    weights.push(weight);
  });
  const places: number[] = [];
  while (places.length < count && open.length > 0) {
    let rest = uniformAt(places.length) * weights.reduce((sum, weight) => sum + weight, 0);
    // Rounding can leave a trace of the total: then it is the last one.
    let at = weights.findIndex((weight) => (rest -= weight) < 0);
    if (at < 0) at = weights.length - 1;
    places.push(open[at]!);
    open.splice(at, 1);
    weights.splice(at, 1);
  }
  if (places.length === count) return places;
  const others = values.slice();
  for (const place of places) others[place] = -Infinity;
  const rest = largest(others, count).filter((place) => !places.includes(place));
  return [...places, ...rest.slice(0, count - places.length)];
}
