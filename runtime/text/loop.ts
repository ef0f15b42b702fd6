import type { Session } from "../session.ts";
import { chooseTokens, takesLogits } from "./choose.ts";
import type { Recording } from "./choose.ts";
import { Feed } from "./feed.ts";
import type { LoopOptions, LoopSettings } from "./settings.ts";
import { TokenRows } from "./token-rows.ts";
import type { Prompts } from "./token-rows.ts";

/** One step of the loop. The arrays are the same ones at each step. */
export interface Step {
  /** 0 for the first new token. */
  readonly index: number;
  /** The token of each row; padding in rows that have ended. */
  readonly tokens: Int32Array;
  /** 1 where the row was still going when this token was chosen. */
  readonly live: Uint8Array;
}

/** Milliseconds: long enough for the work to dominate, short enough for a key press to be noticed. */
const pauseEvery = 20;

type Later = (callback: () => void) => unknown;
/** As a page has it; Node's declarations leave `onmessage` out. */
interface Channel {
  readonly port1: { onmessage: () => void; close(): void };
  readonly port2: { postMessage(message: null): void };
}

/**
 * Resolves when everything that waits has had its turn. A page has no setImmediate, and holds timers of code that keeps asking for them back by
 * 4 ms; a message has neither fault.
 */
function nextTask(): Promise<void> {
  const { setImmediate } = globalThis as { readonly setImmediate?: Later };
  if (setImmediate !== undefined) return new Promise((resolve) => setImmediate(resolve));
  const { port1, port2 } = new MessageChannel() as unknown as Channel;
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Kernels run on this thread: without a pause now and then no signal, timer or output would get its turn. To be called after each step. */
export function eventLoopPauses(): () => Promise<void> {
  let last = performance.now();
  return async () => {
    if (performance.now() - last <= pauseEvery) return;
    await nextTask();
    last = performance.now();
  };
}

/**
 * Greedy search or sampling: feeds the prompts and gives one step after the other until every row has ended (spec bamba e.2). The rows that continue
 * one prompt are neighbours. The session is reset first; afterwards it holds all tokens but the last ones. Leaving the loop early is allowed at any step.
 * @throws UserError when prompts or settings do not fit the session, before it is touched
 */
export async function* generateSteps(
  session: Session,
  prompts: Prompts,
  settings: LoopSettings,
  { signal, recording = { logits: null, scores: null } }: LoopOptions & { readonly recording?: Recording } = {},
): AsyncGenerator<Step, void, void> {
  const { maxNewTokens, numReturnSequences, padTokenId, stopping } = settings;
  const feed = new Feed(session, prompts, {
    perPrompt: numReturnSequences,
    maxNewTokens,
    unconditional: settings.unconditional,
    chunk: settings.prefillChunkSize,
    useCache: settings.useCache,
  });
  const { rows } = feed;
  const texts = new TokenRows(prompts, numReturnSequences, maxNewTokens);
  const choose = chooseTokens(feed, settings, recording);
  const withLogits = takesLogits(settings, recording);
  const tokens = new Int32Array(rows);
  const live = new Uint8Array(rows);
  const open = new Uint8Array(rows).fill(1);
  const step = { index: 0, tokens, live };
  const pause = eventLoopPauses();
  await feed.start();
  for (let index = 0; index < maxNewTokens; index += 1) {
    if (index > 0) await feed.next(tokens, undefined, withLogits);
    live.set(open);
    tokens.fill(padTokenId ?? 0);
    await choose(texts, index, open, tokens);
    texts.append(tokens);
    let left = 0;
    for (let row = 0; row < rows; row += 1) {
      if (open[row] === 0) continue;
      if (stopping.length > 0) {
        const context = texts.context(row);
        if (stopping.some((criterion) => criterion.stops(context))) open[row] = 0;
      }
      left += open[row]!;
    }
    step.index = index;
    yield step;
    if (left === 0 || signal?.aborted === true) return;
    await pause();
  }
}
