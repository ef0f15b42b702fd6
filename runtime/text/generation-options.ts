import type { Check } from "./option-checks.ts";
import {
  boolean,
  count,
  func,
  integerIn,
  listOf,
  nonEmpty,
  numberIn,
  numbers,
  objectWith,
  oneOrMore,
  pairOf,
  tokenId,
} from "./option-checks.ts";
import { shown, UserError } from "../errors.ts";
import type { LogitsProcessor, StoppingCriterion } from "./processor.ts";

/** Which tokens may follow a text. `ids` are the prompt (padding included) and the new tokens; they are valid during the call only. */
export type PrefixAllowedTokensFn = (prompt: number, ids: Int32Array) => Iterable<number>;

/** Token ids of a sequence, and what is added to the score of its last one where that would complete the sequence. */
export type SequenceBias = readonly (readonly [sequence: readonly number[], bias: number])[];

/**
 * What a caller may say about a generation: Transformers' arguments in camel case (spec bamba e.1 to e.4). What is left out comes from
 * generation_config.json, then the model, then the defaults. Lengths are in tokens.
 */
export interface GenerationOptions {
  /** New tokens at most. */
  readonly maxNewTokens?: number | undefined;
  /** Prompt and new tokens at most; maxNewTokens wins over it. */
  readonly maxLength?: number | undefined;
  /** New tokens before a row may end. */
  readonly minNewTokens?: number | undefined;
  /** Prompt and new tokens before a row may end; minNewTokens wins over it. */
  readonly minLength?: number | undefined;
  /** Seconds after which every row ends with its current token. */
  readonly maxTime?: number | undefined;
  /** Texts that end a row; they stay in it. */
  readonly stopStrings?: string | readonly string[] | undefined;
  /** End a row as these say, beside what else ends it. */
  readonly stoppingCriteria?: readonly StoppingCriterion[] | undefined;

  /** Draw tokens instead of taking the best one; false unless given. */
  readonly doSample?: boolean | undefined;
  /** Texts of a prompt that are followed at once (beam search); 1 unless given. */
  readonly numBeams?: number | undefined;
  /** Results of each prompt: as many draws, or the best of the beams. */
  readonly numReturnSequences?: number | undefined;
  /** The power of the length that a beam's score is divided by: above 0 favours long texts. */
  readonly lengthPenalty?: number | undefined;
  /** With beams: end with as many finished texts as beams (true), when better ones are unlikely (false), or when they are impossible ("never"). */
  readonly earlyStopping?: boolean | "never" | undefined;
  /** Of the draws: one integer from 0 to 2^53 - 1 for all prompts, or one for each. */
  readonly seed?: number | readonly number[] | undefined;

  /** When sampling: what the scores are divided by, above 0; 1 unless given. */
  readonly temperature?: number | undefined;
  /** When sampling: of the 100 best those whose entropy together is at most this share, in (0, 1], of theirs. */
  readonly topH?: number | undefined;
  /** When sampling: how many of the best are kept; 0 keeps all, 50 unless given. */
  readonly topK?: number | undefined;
  /** When sampling: the best whose probability together reaches this, in (0, 1], are kept; 1 unless given. */
  readonly topP?: number | undefined;
  /** When sampling: what has at least this share, in [0, 1], of the best one's probability is kept; 0 unless given. */
  readonly minP?: number | undefined;
  /** When sampling: what is nearest to the expected surprise is kept, until its probability reaches this, in (0, 1]; 1 unless given. */
  readonly typicalP?: number | undefined;
  /** When sampling: what is at least this probable, in [0, 1), is kept; 0 unless given. */
  readonly epsilonCutoff?: number | undefined;
  /** The same with a threshold that falls with the entropy, in [0, 1); 0 unless given. */
  readonly etaCutoff?: number | undefined;

  /** Above 1 makes tokens that have occurred less likely. */
  readonly repetitionPenalty?: number | undefined;
  /** No sequence of so many tokens occurs twice; 0 is off. */
  readonly noRepeatNgramSize?: number | undefined;
  /** Sequences of tokens that are never completed. */
  readonly badWordsIds?: readonly (readonly number[])[] | undefined;
  /** What is added to the scores of tokens that would complete a sequence. */
  readonly sequenceBias?: SequenceBias | undefined;
  /** Tokens that are never chosen. */
  readonly suppressTokens?: readonly number[] | undefined;
  /** Tokens that are not chosen first. */
  readonly beginSuppressTokens?: readonly number[] | undefined;
  /** The second token of a text that is one token long. */
  readonly forcedBosTokenId?: number | undefined;
  /** The last token when the length runs out. */
  readonly forcedEosTokenId?: number | readonly number[] | undefined;
  /** After `start` new tokens the scores of the end tokens grow by `factor` to the power of the tokens since. */
  readonly exponentialDecayLengthPenalty?: readonly [start: number, factor: number] | undefined;
  /** Makes log-probabilities of the processed scores. */
  readonly renormalizeLogits?: boolean | undefined;
  /** Replaces NaN by 0 and infinities by the largest finite numbers. */
  readonly removeInvalidValues?: boolean | undefined;
  /** Leaves only the tokens that the function gives for a text. */
  readonly prefixAllowedTokensFn?: PrefixAllowedTokensFn | undefined;
  /** Further processors, applied in this order before those of sampling. */
  readonly logitsProcessor?: readonly LogitsProcessor[] | undefined;

  /** Classifier-free guidance: above 1 moves the scores away from those of the negative prompt. */
  readonly guidanceScale?: number | undefined;
  /** The negative prompt of guidance: one for all prompts, or a row for each, of one length; the prompt's last token unless given. */
  readonly negativePromptIds?: ArrayLike<number> | readonly ArrayLike<number>[] | undefined;
  /** 1 for a token, 0 for padding, in the shape of negativePromptIds. */
  readonly negativePromptAttentionMask?: ArrayLike<number> | readonly ArrayLike<number>[] | undefined;

  /** Whether a step is given only the last token; without, every step works on the whole text. */
  readonly useCache?: boolean | undefined;
  /** Tokens of a prompt that are worked on at once. */
  readonly prefillChunkSize?: number | undefined;
  /** Whether outputScores and outputLogits have an effect; false unless given. The result is an object in any case. */
  readonly returnDictInGenerate?: boolean | undefined;
  /** Give the scores of each step as the processors left them, [rows, vocab]. */
  readonly outputScores?: boolean | undefined;
  /** Give the logits of each step as the model gave them, [rows, vocab]. */
  readonly outputLogits?: boolean | undefined;

  /** What ends a row; it stays in it. */
  readonly eosTokenId?: number | readonly number[] | undefined;
  /** What fills rows that have ended; the first end token where there is none. */
  readonly padTokenId?: number | undefined;
  /** What an empty prompt begins with. */
  readonly bosTokenId?: number | undefined;
}

const greedyHint = "for the likeliest token at each step, set doSample to false";
/** A temperature that can be used. It is checked only when sampling: files of greedy models often carry a 0. */
export const temperature = numberIn({ above: 0 }, greedyHint);

const text: Check<string> = (value, field) => {
  if (typeof value !== "string" || value === "") throw new UserError(`${field}: expected a text, got ${shown(value)}`);
  return value;
};

const share = numberIn({ above: 0, max: 1 });
const cutoff = numberIn({ min: 0, below: 1 });
const amount = integerIn({ min: 0, max: Number.MAX_SAFE_INTEGER });
const mask = integerIn({ min: 0, max: 1 });
const tokens = listOf(tokenId);
const sequence = nonEmpty(tokens);

const bias: Check<number> = (value, field) => (value === -Infinity ? value : numberIn()(value, field));

/** One list, or a list of lists: always the latter. */
const rows =
  (item: Check<number>): Check<readonly (readonly number[])[]> =>
  (value, field) => {
    const nested = Array.isArray(value) && typeof value[0] === "object";
    return nested ? listOf(nonEmpty(numbers(item)))(value, field) : [nonEmpty(numbers(item))(value, field)];
  };

const earlyStopping: Check<boolean | "never"> = (value, field) => {
  if (value === "never" || typeof value === "boolean") return value;
  throw new UserError(`${field}: expected true, false or "never", got ${shown(value)}`);
};

/** How each option is checked, and what it is then. In the order of the options above. */
const checks = {
  maxNewTokens: count,
  maxLength: count,
  minNewTokens: amount,
  minLength: amount,
  maxTime: numberIn({ above: 0 }),
  stopStrings: oneOrMore(text),
  stoppingCriteria: listOf(objectWith<StoppingCriterion>("stops")),
  doSample: boolean,
  numBeams: count,
  numReturnSequences: count,
  lengthPenalty: numberIn(),
  earlyStopping,
  seed: oneOrMore(amount),
  temperature: numberIn({}, greedyHint),
  topH: share,
  topK: amount,
  topP: share,
  minP: numberIn({ min: 0, max: 1 }),
  typicalP: share,
  epsilonCutoff: cutoff,
  etaCutoff: cutoff,
  repetitionPenalty: numberIn({ above: 0 }),
  noRepeatNgramSize: amount,
  badWordsIds: listOf(sequence),
  sequenceBias: listOf(pairOf(sequence, bias)),
  suppressTokens: tokens,
  beginSuppressTokens: tokens,
  forcedBosTokenId: tokenId,
  forcedEosTokenId: nonEmpty(oneOrMore(tokenId)),
  exponentialDecayLengthPenalty: pairOf(amount, numberIn({ above: 0 })),
  renormalizeLogits: boolean,
  removeInvalidValues: boolean,
  prefixAllowedTokensFn: func<PrefixAllowedTokensFn>(),
  logitsProcessor: listOf(objectWith<LogitsProcessor>("process")),
  guidanceScale: numberIn(),
  negativePromptIds: rows(tokenId),
  negativePromptAttentionMask: rows(mask),
  useCache: boolean,
  prefillChunkSize: count,
  returnDictInGenerate: boolean,
  outputScores: boolean,
  outputLogits: boolean,
  eosTokenId: oneOrMore(tokenId),
  padTokenId: tokenId,
  bosTokenId: tokenId,
} as const satisfies Readonly<Record<keyof GenerationOptions, Check<unknown>>>;

export type OptionName = keyof typeof checks;

/** The options after the check: what may be one or several is a list, and what is not set is not there. */
export type CheckedOptions = { readonly [K in OptionName]?: ReturnType<(typeof checks)[K]> };

export const optionNames = Object.keys(checks) as readonly OptionName[];

/** What belongs to a call and cannot stand in a file. */
export const callOnly: ReadonlySet<OptionName> = new Set([
  "stoppingCriteria",
  "logitsProcessor",
  "prefixAllowedTokensFn",
  "negativePromptIds",
  "negativePromptAttentionMask",
  "seed",
] as const);

/**
 * Checks each option that is set; null and undefined are not set.
 * @param value the value of an option, and what messages call it
 * @throws UserError that names the option.
 */
export function checkOptions(value: (name: OptionName) => { readonly value: unknown; readonly field: string }): CheckedOptions {
  const set = optionNames.flatMap((name) => {
    const { value: given, field } = value(name);
    return given === undefined || given === null ? [] : [[name, checks[name](given, field)]];
  });
  return Object.fromEntries(set) as CheckedOptions;
}

/** The name in Python and in generation_config.json: topK is top_k there. */
export const pythonName = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
