import { shown, UserError } from "../errors.ts";
import type { CheckedOptions, GenerationOptions, OptionName, PrefixAllowedTokensFn, SequenceBias } from "./generation-options.ts";
import { callOnly, checkOptions, optionNames, pythonName, temperature } from "./generation-options.ts";
import type { LogitsProcessor, StoppingCriterion } from "./processor.ts";
import type { SamplingOptions } from "./sampling.ts";
import { checkOptionNames, whyUnsupported } from "./unsupported-options.ts";

export type { GenerationOptions } from "./generation-options.ts";

/** What the model's own configuration says; a BambaConfig has these fields. */
export interface ModelDefaults {
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  readonly maxPositionEmbeddings: number;
}

/** A checked generation_config.json. */
export interface GenerationFile {
  readonly options: CheckedOptions;
  /** Settings that the file makes and that have no effect here, one sentence each. */
  readonly warnings: readonly string[];
}

/** Everything a generation needs to know. Lists are empty, numbers neutral or null where a setting is off. */
export interface ResolvedGeneration {
  readonly doSample: boolean;
  /** What runs in every step of a sampled generation. */
  readonly sampling: SamplingOptions;
  /** In (0, 1]. */
  readonly topH: number | null;
  /** In (0, 1]; 1 is off. */
  readonly typicalP: number;
  /** In [0, 1); 0 is off. */
  readonly epsilonCutoff: number;
  /** In [0, 1); 0 is off. */
  readonly etaCutoff: number;
  /** At least 1. */
  readonly numBeams: number;
  /** At least 1; with beams at most as many. */
  readonly numReturnSequences: number;
  readonly lengthPenalty: number;
  readonly earlyStopping: boolean | "never";
  /** At least 1. */
  readonly maxNewTokens: number;
  /** New tokens before a row may end; 0 is off. */
  readonly minNewTokens: number;
  /** Seconds. */
  readonly maxTime: number | null;
  readonly stopStrings: readonly string[];
  readonly stoppingCriteria: readonly StoppingCriterion[];
  /** Above 0; 1 is off. */
  readonly repetitionPenalty: number;
  /** 0 is off. */
  readonly noRepeatNgramSize: number;
  readonly badWordsIds: readonly (readonly number[])[];
  readonly sequenceBias: SequenceBias;
  readonly suppressTokens: readonly number[];
  readonly beginSuppressTokens: readonly number[];
  readonly forcedBosTokenId: number | null;
  readonly forcedEosTokenIds: readonly number[];
  readonly exponentialDecayLengthPenalty: readonly [start: number, factor: number] | null;
  readonly renormalizeLogits: boolean;
  readonly removeInvalidValues: boolean;
  readonly prefixAllowedTokensFn: PrefixAllowedTokensFn | null;
  readonly logitsProcessor: readonly LogitsProcessor[];
  /** Null is off. */
  readonly guidanceScale: number | null;
  /** One row for all prompts or one for each, of one length. */
  readonly negativePromptIds: readonly (readonly number[])[] | null;
  /** In the shape of negativePromptIds. */
  readonly negativePromptAttentionMask: readonly (readonly number[])[] | null;
  readonly useCache: boolean;
  /** At least 1. */
  readonly prefillChunkSize: number | null;
  readonly returnDictInGenerate: boolean;
  readonly outputScores: boolean;
  readonly outputLogits: boolean;
  /** A row ends after any of these; empty when nothing but the length ends it. */
  readonly eosTokenIds: readonly number[];
  /** What fills a row that has ended; null when there is neither pad nor eos. */
  readonly padTokenId: number | null;
  readonly bosTokenId: number | null;
  /** Settings that contradict each other or do nothing, one sentence each. */
  readonly warnings: readonly string[];
}

/** New tokens when no length is given (spec bamba e.1). */
const defaultNewTokens = 20;

/**
 * Checks a parsed generation_config.json. Null means not set, as everywhere in that file; fields that Transformers does not know are left alone.
 * @param where the file, for messages
 * @throws UserError naming file and field.
 */
export function parseGenerationConfig(json: unknown, where: string): GenerationFile {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new UserError(`${where}: expected a JSON object, got ${shown(json)}`);
  }
  const fields = new Map<string, unknown>(Object.entries(json));
  // Greedy files often carry a temperature of 0, which then means nothing.
  if (fields.get("do_sample") !== true && fields.get("temperature") === 0) fields.delete("temperature");
  const options = checkOptions((name) => ({
    value: callOnly.has(name) ? undefined : fields.get(pythonName(name)),
    field: `${where}: ${pythonName(name)}`,
  }));
  if (options.doSample === true && options.temperature !== undefined) temperature(options.temperature, `${where}: temperature`);
  const misplaced = new Set([...callOnly].map(pythonName));
  const warnings = [...fields].flatMap(([name, value]) => {
    const reason = misplaced.has(name) && value !== null ? "it is an argument of generate" : whyUnsupported(name, value);
    return reason === undefined ? [] : [`${where}: ${name} ${shown(value)} has no effect: ${reason}`];
  });
  return { options, warnings };
}

/**
 * Settles every setting of a generation. Source: spec bamba e.1 to e.4.
 * @param call what the caller asks for; it wins
 * @param file the model's generation_config.json, or undefined without one
 * @param promptLength tokens of the padded prompt
 * @throws UserError naming the option that is unknown, makes no sense or contradicts another, or when the prompt already is as long as the
 * result may be.
 */
export function resolveGeneration(
  call: GenerationOptions,
  file: GenerationFile | undefined,
  model: ModelDefaults,
  promptLength: number,
): ResolvedGeneration {
  checkOptionNames(call);
  const given = checkOptions((name) => ({ value: call[name], field: name }));
  const own = file?.options ?? {};
  const set: CheckedOptions = { ...own, ...given };
  const doSample = set.doSample ?? false;
  const numBeams = set.numBeams ?? 1;
  const { guidanceScale = 1 } = set;
  const length = resolveLength(set, model, promptLength);
  const eosTokenIds = [...new Set(set.eosTokenId ?? model.eosTokenIds)];
  return {
    doSample,
    sampling: {
      // A greedy choice divides by nothing; a temperature of 0 given for it is what other programs call greedy.
      temperature: doSample ? temperature(set.temperature ?? 1, "temperature") : 1,
      topK: set.topK ?? 50,
      topP: set.topP ?? 1,
      minP: set.minP ?? 0,
    },
    topH: set.topH ?? null,
    typicalP: set.typicalP ?? 1,
    epsilonCutoff: set.epsilonCutoff ?? 0,
    etaCutoff: set.etaCutoff ?? 0,
    numBeams,
    numReturnSequences: resolveReturns(set.numReturnSequences ?? 1, numBeams, doSample),
    lengthPenalty: set.lengthPenalty ?? 1,
    earlyStopping: set.earlyStopping ?? false,
    maxNewTokens: length.max,
    minNewTokens: length.min,
    maxTime: set.maxTime ?? null,
    stopStrings: set.stopStrings ?? [],
    stoppingCriteria: set.stoppingCriteria ?? [],
    repetitionPenalty: set.repetitionPenalty ?? 1,
    noRepeatNgramSize: set.noRepeatNgramSize ?? 0,
    badWordsIds: set.badWordsIds ?? [],
    sequenceBias: set.sequenceBias ?? [],
    suppressTokens: set.suppressTokens ?? [],
    beginSuppressTokens: set.beginSuppressTokens ?? [],
    forcedBosTokenId: set.forcedBosTokenId ?? null,
    forcedEosTokenIds: set.forcedEosTokenId ?? [],
    exponentialDecayLengthPenalty: set.exponentialDecayLengthPenalty ?? null,
    renormalizeLogits: set.renormalizeLogits ?? false,
    removeInvalidValues: set.removeInvalidValues ?? false,
    prefixAllowedTokensFn: set.prefixAllowedTokensFn ?? null,
    logitsProcessor: set.logitsProcessor ?? [],
    guidanceScale: guidanceScale === 1 ? null : guidanceScale,
    ...resolveNegativePrompt(set),
    useCache: set.useCache ?? true,
    prefillChunkSize: set.prefillChunkSize ?? null,
    returnDictInGenerate: set.returnDictInGenerate ?? false,
    outputScores: set.outputScores ?? false,
    outputLogits: set.outputLogits ?? false,
    eosTokenIds,
    padTokenId: set.padTokenId ?? model.padTokenId ?? eosTokenIds[0] ?? null,
    bosTokenId: set.bosTokenId ?? model.bosTokenId,
    warnings: [...(file?.warnings ?? []), ...length.warnings, ...idle(given, own)],
  };
}

function resolveReturns(wanted: number, numBeams: number, doSample: boolean): number {
  if (wanted > 1 && numBeams === 1 && !doSample)
    throw new UserError(`numReturnSequences: greedy generation gives one sequence, and ${wanted} were asked for`, {
      hint: `set doSample to true, or numBeams to ${wanted} or more`,
    });
  if (wanted > numBeams && numBeams > 1)
    throw new UserError(`numReturnSequences: expected at most numBeams, ${numBeams}, got ${wanted}`, {
      hint: `set numBeams to ${wanted} or more`,
    });
  return wanted;
}

function resolveNegativePrompt(set: CheckedOptions): Pick<ResolvedGeneration, "negativePromptIds" | "negativePromptAttentionMask"> {
  const { negativePromptIds: ids, negativePromptAttentionMask: mask } = set;
  const lengths = ids?.map((row) => row.length) ?? [];
  if (new Set(lengths).size > 1)
    throw new UserError(`negativePromptIds: the rows have different lengths (${lengths.join(", ")})`, {
      hint: "pad the shorter ones on the left and give negativePromptAttentionMask",
    });
  if (mask !== undefined && (mask.length !== lengths.length || mask.some((row) => row.length !== lengths[0])))
    throw new UserError("negativePromptAttentionMask: expected the shape of negativePromptIds", {
      hint: "give 1 for each token and 0 for each padding, row by row",
    });
  return { negativePromptIds: ids ?? null, negativePromptAttentionMask: mask ?? null };
}

/** The new tokens at most and at least. */
function resolveLength(
  set: CheckedOptions,
  model: ModelDefaults,
  promptLength: number,
): { readonly max: number; readonly min: number; readonly warnings: readonly string[] } {
  const { maxNewTokens, maxLength, minNewTokens, minLength } = set;
  const warnings: string[] = [];
  if (maxNewTokens !== undefined && maxLength !== undefined)
    warnings.push(`both maxNewTokens ${maxNewTokens} and maxLength ${maxLength} are set; maxNewTokens counts`);
  if (minNewTokens !== undefined && (minLength ?? 0) > 0)
    warnings.push(`both minNewTokens ${minNewTokens} and minLength ${minLength!} are set; minNewTokens counts`);
  const total = maxLength ?? Math.min(promptLength + defaultNewTokens, model.maxPositionEmbeddings);
  if (maxNewTokens === undefined && promptLength >= total) {
    const limit = maxLength === undefined ? "the model's max_position_embeddings" : "maxLength";
    throw new UserError(`the prompt has ${promptLength} tokens and ${limit} is ${total}: there is no room for a new token`, {
      hint: "set maxNewTokens, or shorten the prompt",
    });
  }
  const max = maxNewTokens ?? total - promptLength;
  const min = minNewTokens ?? Math.max(0, (minLength ?? 0) - promptLength);
  if (min > max) {
    const asked = minNewTokens === undefined ? `minLength ${minLength!}` : `minNewTokens ${minNewTokens}`;
    warnings.push(`${asked} cannot be reached: there is room for ${max} new tokens, and generation stops there`);
  }
  return { max, min, warnings };
}

/** What only some ways to generate look at, with the value at which it does nothing anyway. */
const samplingOnly: Readonly<Partial<Record<OptionName, unknown>>> = {
  temperature: 1,
  topH: null,
  topK: 50,
  topP: 1,
  minP: 0,
  typicalP: 1,
  epsilonCutoff: 0,
  etaCutoff: 0,
};
const beamsOnly: typeof samplingOnly = { lengthPenalty: 1, earlyStopping: false };
const dictOnly: typeof samplingOnly = { outputScores: false, outputLogits: false };
const guidanceOnly: typeof samplingOnly = { negativePromptIds: null };

/**
 * Warnings about options that nothing looks at, as Transformers gives them. A file that samples says nothing wrong when a caller asks for a greedy
 * generation, so of its options only those count that its own or the default way to generate ignores.
 */
function idle(given: CheckedOptions, own: CheckedOptions): readonly string[] {
  const set = { ...own, ...given };
  const warn = (active: boolean, neutral: typeof samplingOnly, mode: OptionName, fix: string): readonly string[] =>
    active
      ? []
      : optionNames.flatMap((name) => {
          const asked = Object.hasOwn(given, name) || given[mode] === undefined;
          const value = set[name];
          const idles = Object.hasOwn(neutral, name) && value !== undefined && value !== neutral[name] && asked;
          return idles ? [`${name} ${shown(value)} has no effect: ${fix}`] : [];
        });
  const { doSample = false, numBeams = 1, returnDictInGenerate = false, guidanceScale = 1 } = set;
  return [
    ...warn(doSample, samplingOnly, "doSample", "it is used when doSample is true"),
    ...warn(numBeams > 1, beamsOnly, "numBeams", "it is used when numBeams is above 1"),
    ...warn(returnDictInGenerate, dictOnly, "returnDictInGenerate", "it is used when returnDictInGenerate is true"),
    ...warn(guidanceScale !== 1, guidanceOnly, "guidanceScale", "it is used when guidanceScale is set"),
  ];
}

/** A seed for a run that was given none, to be reported so that the run can be repeated. */
export function randomSeed(): number {
  return globalThis.crypto.getRandomValues(new Uint32Array(1))[0]!;
}

/**
 * The seed of each prompt: the one that was given for all of them, those that were given one by one, or random ones.
 * @throws UserError for what is no integer from 0 to 2^53 - 1, and for another number of seeds than prompts.
 */
export function resolveSeeds(seed: GenerationOptions["seed"], prompts: number): readonly number[] {
  if (seed === undefined) return Array.from({ length: prompts }, randomSeed);
  const { seed: seeds = [] } = checkOptions((name) => ({ value: name === "seed" ? seed : undefined, field: name }));
  if (Array.isArray(seed) && seeds.length !== prompts)
    throw new UserError(`seed: expected one seed, or one for each of the ${prompts} prompts, got ${seeds.length}`);
  return Array.from({ length: prompts }, (_, i) => seeds[i] ?? seeds[0]!);
}
