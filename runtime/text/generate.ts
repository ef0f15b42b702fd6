import { UserError } from "../errors.ts";
import type { Session } from "../session.ts";
import type { ResolvedGeneration } from "./generation-config.ts";
import { Sampler } from "./sampling.ts";

/** Rows of token ids of one length; shorter prompts are padded on the left and masked. */
export interface Prompts {
  /** [rows, length] */
  readonly ids: Int32Array;
  readonly rows: number;
  /** [rows, length]: 1 for a token, 0 for padding; all ones unless given. */
  readonly mask?: ArrayLike<number>;
}

/** How to go on from a prompt, everything decided (generation-config.ts decides). */
export interface LoopSettings extends Pick<ResolvedGeneration, "maxNewTokens" | "eosTokenIds" | "padTokenId" | "doSample" | "sampling"> {
  /** Of the draws, when sampling. */
  readonly seed: number;
}

/** Why a row ended: an end token, the number of tokens asked for, or the caller. */
export type FinishReason = "eos" | "length" | "aborted";

/** One step of the loop. The arrays are the same ones at each step. */
export interface Step {
  /** 0 for the first new token. */
  readonly index: number;
  /** The token of each row; padding in rows that have ended. */
  readonly tokens: Int32Array;
  /** 1 where the row was still going when this token was chosen. */
  readonly live: Uint8Array;
}

export interface Generated {
  readonly rows: number;
  /** New tokens of each row, padding included. */
  readonly length: number;
  /** Of each row the prompt as it was given, padding included, then the new tokens, all of one length. */
  readonly sequences: readonly Int32Array[];
  /** The new tokens of each row, its end token included, without padding. */
  readonly newTokens: readonly Int32Array[];
  readonly finish: readonly FinishReason[];
  readonly timing: Timing;
}

/** Milliseconds. `first` is from the call to the first new token. */
export interface Timing {
  readonly first: number;
  readonly total: number;
  /** Tokens a second and row after the first one; 0 when there was only one. */
  readonly tokensPerSecond: number;
}

export interface LoopOptions {
  readonly signal?: AbortSignal;
}

/** Long enough for the work to dominate, short enough for a key press to be noticed. */
const breathEvery = 20;

/**
 * Feeds the prompts and gives one step after the other until every row has ended (spec bamba e.2). The session is reset first; afterwards it holds
 * all tokens but the last ones. Leaving the loop early is allowed at any step.
 */
export async function* generateSteps(
  session: Session,
  prompts: Prompts,
  settings: LoopSettings,
  { signal }: LoopOptions = {},
): AsyncGenerator<Step, void, void> {
  const { ids, rows, mask } = prompts;
  const { maxNewTokens, eosTokenIds, padTokenId } = settings;
  checkRoom(session, ids.length / rows, maxNewTokens);
  await session.reset();
  await session.prefill(ids, mask === undefined ? { rows } : { rows, mask });

  const sampler = settings.doSample ? new Sampler(settings.sampling, settings.seed) : null;
  const tokens = new Int32Array(rows);
  const live = new Uint8Array(rows);
  const open = new Uint8Array(rows).fill(1);
  const step = { index: 0, tokens, live };
  let breath = performance.now();
  for (let index = 0; index < maxNewTokens; index += 1) {
    if (index > 0) await session.decode(tokens);
    let left = 0;
    for (let row = 0; row < rows; row += 1) {
      live[row] = open[row]!;
      if (open[row] === 0) tokens[row] = padTokenId ?? 0;
      else {
        tokens[row] = sampler === null ? session.next[row]! : sampler.next(await session.logits(row), 0, index);
        if (eosTokenIds.includes(tokens[row]!)) open[row] = 0;
      }
      left += open[row]!;
    }
    step.index = index;
    yield step;
    if (left === 0 || signal?.aborted === true) return;
    // Kernels run on this thread: without a pause no signal, timer or output would get its turn.
    if (performance.now() - breath > breathEvery) {
      await new Promise((resolve) => setImmediate(resolve));
      breath = performance.now();
    }
  }
}

function checkRoom(session: Session, length: number, maxNewTokens: number): void {
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 1)
    throw new UserError(`maxNewTokens: expected a whole number from 1, got ${maxNewTokens}`);
  const { capacity } = session;
  const hint = "compile it for more: --max-length on the command line, maxLength in fromPretrained";
  if (length > capacity)
    throw new UserError(`the prompt has ${length} tokens, but the model was compiled for at most ${capacity} positions`, { hint });
  // The last token is chosen and not fed.
  if (length + maxNewTokens - 1 > capacity)
    throw new UserError(
      `the prompt has ${length} tokens and ${maxNewTokens} more were asked for, but the model was compiled for at most ${capacity} positions`,
      { hint: `${hint}; or ask for fewer` },
    );
}

/** Runs the loop to its end and collects what came out. */
export async function generateTokens(
  session: Session,
  prompts: Prompts,
  settings: LoopSettings,
  options: LoopOptions & { readonly onStep?: (step: Step) => void } = {},
): Promise<Generated> {
  const { ids, rows } = prompts;
  const length = ids.length / rows;
  const columns: Int32Array[] = [];
  const counts = new Int32Array(rows);
  const finish = new Array<FinishReason>(rows).fill("length");
  const started = performance.now();
  let first = 0;
  for await (const step of generateSteps(session, prompts, settings, options)) {
    if (step.index === 0) first = performance.now() - started;
    columns.push(step.tokens.slice());
    for (let row = 0; row < rows; row += 1) {
      counts[row]! += step.live[row]!;
      if (step.live[row] === 1 && settings.eosTokenIds.includes(step.tokens[row]!)) finish[row] = "eos";
    }
    options.onStep?.(step);
  }
  const total = performance.now() - started;
  const made = columns.length;
  if (made < settings.maxNewTokens && options.signal?.aborted === true)
    finish.forEach((reason, row) => (finish[row] = reason === "eos" ? "eos" : "aborted"));
  const sequences = finish.map((_, row) => {
    const sequence = new Int32Array(length + made);
    sequence.set(ids.subarray(row * length, (row + 1) * length));
    for (let i = 0; i < made; i += 1) sequence[length + i] = columns[i]![row]!;
    return sequence;
  });
  const newTokens = sequences.map((sequence, row) => sequence.slice(length, length + counts[row]!));
  const tokensPerSecond = made > 1 ? ((made - 1) / (total - first)) * 1000 : 0;
  return { rows, length: made, sequences, newTokens, finish, timing: { first, total, tokensPerSecond } };
}
