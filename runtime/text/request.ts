import { UserError } from "../errors.ts";
import type { Session } from "../session.ts";
import { generateTokens } from "./generate.ts";
import type { Generated } from "./generate.ts";
import { resolveGeneration, resolveSeeds } from "./generation-config.ts";
import type { GenerationFile, GenerationOptions, ModelDefaults, ResolvedGeneration } from "./generation-config.ts";
import type { Step } from "./loop.ts";
import { buildProcessors } from "./processors/chain.ts";
import type { LoopSettings } from "./settings.ts";
import { stack } from "./stack.ts";
import { buildStopping } from "./stopping.ts";
import { startStreamer } from "./streamer.ts";
import type { Decoder, Streamer } from "./streamer.ts";
import type { Prompts } from "./token-rows.ts";

/** What a generation needs to know of the model; a BambaConfig has these fields. */
export interface TextModel extends ModelDefaults {
  readonly vocabSize: number;
}

/** Token ids: one prompt, several of one length, or [rows, length] with a mask for the padding. An empty prompt is the beginning of a text. */
export type GenerateInput =
  | ArrayLike<number>
  | readonly ArrayLike<number>[]
  | {
      readonly inputIds: ArrayLike<number> | readonly ArrayLike<number>[];
      readonly attentionMask?: ArrayLike<number> | readonly ArrayLike<number>[] | undefined;
    };

export interface GenerateOptions extends GenerationOptions {
  /** The model's tokenizer, with which stop strings are found. */
  readonly tokenizer?: Decoder;
  readonly signal?: AbortSignal;
  /** Called with the tokens of each step as soon as they are known. Not with beams: theirs are known at the end. */
  readonly onStep?: (step: Step) => void;
  /** Told of the prompt and of each new token, as in Transformers; a TextStreamer makes text of them. Not with beams. */
  readonly streamer?: Streamer;
}

export interface GenerateResult extends Generated {
  /** What repeats this result: one number, or one for each prompt where they differ. */
  readonly seed: number | readonly number[];
  readonly warnings: readonly string[];
}

/** A call of `generate`, checked and settled. */
export interface GenerationRequest {
  readonly prompts: Prompts;
  readonly settings: LoopSettings;
  /** Rows that the session needs. */
  readonly rows: number;
  readonly outputScores: boolean;
  readonly outputLogits: boolean;
  readonly seed: number | readonly number[];
  readonly warnings: readonly string[];
}

/** Settles a call: prompts, masks, seeds and settings. @throws UserError for ids or settings that make no sense. */
export function prepareGeneration(
  input: GenerateInput,
  options: GenerateOptions,
  file: GenerationFile | undefined,
  config: TextModel,
): GenerationRequest {
  const given = promptsOf(input, options.bosTokenId ?? file?.options.bosTokenId ?? config.bosTokenId);
  const resolved = resolveGeneration(options, file, config, given.ids.length / given.rows);
  const { numBeams, numReturnSequences, guidanceScale, returnDictInGenerate, outputScores, outputLogits } = resolved;
  const prompts = given.mask === undefined ? withMask(given, resolved.padTokenId, resolved.eosTokenIds) : given;
  const unconditional = guidanceScale === null ? null : unconditionalPrompts(prompts, resolved);
  const seeds = resolveSeeds(options.seed, prompts.rows);
  const settings: LoopSettings = {
    ...resolved,
    unconditional,
    processors: buildProcessors(resolved, config.vocabSize),
    stopping: buildStopping(resolved, options.tokenizer),
    seeds,
  };
  if (numBeams > 1 && options.onStep !== undefined) throw noStreaming("onStep");
  return {
    prompts,
    settings,
    rows: prompts.rows * Math.max(numBeams, numReturnSequences) * (unconditional === null ? 1 : 2),
    outputScores: returnDictInGenerate && outputScores,
    outputLogits: returnDictInGenerate && outputLogits,
    seed: new Set(seeds).size === 1 ? seeds[0]! : seeds,
    warnings: resolved.warnings,
  };
}

/** Runs a settled call on the session that it needs. @throws UserError when the prompts do not fit the session. */
export async function runGeneration(
  session: () => Promise<Session>,
  { prompts, settings, outputScores, outputLogits, seed, warnings }: GenerationRequest,
  { streamer, onStep, signal }: GenerateOptions,
): Promise<GenerateResult> {
  try {
    const feed = streamer === undefined ? undefined : startStreamer(streamer, prompts, settings.numBeams);
    const told = (step: Step): void => {
      feed?.(step);
      onStep?.(step);
    };
    const result = await generateTokens(await session(), prompts, settings, {
      onStep: told,
      outputScores,
      outputLogits,
      ...(signal === undefined ? {} : { signal }),
    });
    return { ...result, seed, warnings };
  } finally {
    // Whoever reads from it waits for the end, whether that was planned or not.
    streamer?.end();
  }
}

/** The error of whoever wants the tokens of beams one by one. */
export function noStreaming(what: string): UserError {
  return new UserError(`${what}: beam search knows its tokens only at the end, so they cannot be streamed`, {
    hint: "set numBeams to 1, or use generate() without onStep",
  });
}

function isRows(values: ArrayLike<number> | readonly ArrayLike<number>[]): values is readonly ArrayLike<number>[] {
  return typeof values[0] === "object";
}

/** Rows without a token begin with the token that begins a text. */
function promptsOf(input: GenerateInput, bosTokenId: number | null): Prompts {
  const { inputIds, attentionMask } = "inputIds" in input ? input : { inputIds: input, attentionMask: undefined };
  const rows = isRows(inputIds) ? inputIds : [inputIds];
  const ids = stack(rows, "inputIds");
  if (ids.length === 0) {
    if (bosTokenId === null)
      throw new UserError("the prompt has no tokens, and the model has no token that begins a text", { hint: "give bosTokenId" });
    return { ids: new Int32Array(rows.length).fill(bosTokenId), rows: rows.length };
  }
  if (attentionMask === undefined) return { ids, rows: rows.length };
  const mask = stack(isRows(attentionMask) ? attentionMask : [attentionMask], "attentionMask");
  if (mask.length !== ids.length) throw new UserError(`attentionMask: has ${mask.length} elements, inputIds has ${ids.length}`);
  return { ids, rows: rows.length, mask };
}

/** Without a mask, padding is what equals the pad token, unless that may also end a text (spec bamba e.1). */
function withMask(prompts: Prompts, padTokenId: number | null, eosTokenIds: readonly number[]): Prompts {
  const { ids, rows } = prompts;
  if (padTokenId === null || eosTokenIds.includes(padTokenId) || !ids.includes(padTokenId)) return prompts;
  return { ids, rows, mask: Int32Array.from(ids, (id) => (id === padTokenId ? 0 : 1)) };
}

/** What guidance compares each prompt with: the negative prompt, one for all or one for each, or without one the prompt's last token alone. */
function unconditionalPrompts(
  { ids, rows }: Prompts,
  { negativePromptIds, negativePromptAttentionMask }: Pick<ResolvedGeneration, "negativePromptIds" | "negativePromptAttentionMask">,
): Prompts {
  if (negativePromptIds === null) {
    const length = ids.length / rows;
    return { ids: Int32Array.from({ length: rows }, (_, row) => ids[(row + 1) * length - 1]!), rows };
  }
  const given = negativePromptIds.length;
  if (given !== 1 && given !== rows)
    throw new UserError(`negativePromptIds: expected one row, or one for each of the ${rows} prompts, got ${given}`);
  const forEach = <T>(list: readonly T[]): readonly T[] => (given === rows ? list : Array.from({ length: rows }, () => list[0]!));
  return {
    ids: stack(forEach(negativePromptIds), "negativePromptIds"),
    rows,
    ...(negativePromptAttentionMask === null ? {} : { mask: stack(forEach(negativePromptAttentionMask), "negativePromptAttentionMask") }),
  };
}
