import { UserError } from "../errors.ts";
import type { ResolvedGeneration } from "./generation-config.ts";
import type { StoppingCriterion } from "./processor.ts";
import type { Decoder } from "./streamer.ts";

/**
 * What ends a row besides its length, which is the loop's: an end token, a stop string, the time, the caller's own criteria (spec bamba e.4). Any of
 * them is enough. The time counts from this call on.
 * @param decoder the tokenizer; needed with stop strings
 * @throws UserError when there are stop strings and no decoder.
 */
export function buildStopping(settings: ResolvedGeneration, decoder?: Decoder): readonly StoppingCriterion[] {
  const { eosTokenIds, stopStrings, maxTime, stoppingCriteria } = settings;
  return [
    ...(eosTokenIds.length > 0 ? [endToken(eosTokenIds)] : []),
    ...(stopStrings.length > 0 ? [stopString(stopStrings, decoder)] : []),
    ...(maxTime === null ? [] : [timeLimit(maxTime)]),
    ...stoppingCriteria,
  ];
}

function endToken(eosTokenIds: readonly number[]): StoppingCriterion {
  return { name: "eos", stops: ({ ids }) => eosTokenIds.includes(ids.at(-1)!) };
}

function timeLimit(seconds: number): StoppingCriterion {
  const started = performance.now();
  return { name: "maxTime", stops: () => performance.now() - started > seconds * 1000 };
}

/** Tokens decoded before those that can hold the string: the first one of a text can read differently from one in its middle. */
const context = 4;

/**
 * Whether a stop string ends in the text of the last token, be it at its end or inside. The string may begin anywhere before, in the prompt too.
 * One that was complete before the last token does not count again.
 */
function stopString(strings: readonly string[], decoder: Decoder | undefined): StoppingCriterion {
  if (decoder === undefined)
    throw new UserError(
      "stopStrings: there are stop strings, in the options or in the model's generation_config.json, and no tokenizer to find them with",
      { hint: "give generate the model's tokenizer as `tokenizer`" },
    );
  // No token of a text is shorter than a byte.
  const encoder = new TextEncoder();
  const longest = Math.max(...strings.map((string) => encoder.encode(string).length)) + context;
  return {
    name: "stopStrings",
    stops: ({ ids }) => {
      const tail = [...ids.subarray(Math.max(0, ids.length - longest))];
      const text = decoder.decode(tail);
      // What the last token adds. The text without it may end in the mark of an incomplete character, which the token then replaces.
      const known = commonPrefix(text, decoder.decode(tail.slice(0, -1)));
      return strings.some((string) => text.indexOf(string, Math.max(0, known - string.length + 1)) >= 0);
    },
  };
}

function commonPrefix(a: string, b: string): number {
  const most = Math.min(a.length, b.length);
  let same = 0;
  while (same < most && a[same] === b[same]) same += 1;
  return same;
}
