import { shown, UserError } from "../errors.ts";
import type { SamplingOptions } from "./sampling.ts";

/** What a caller may say about a generation. What is left out comes from generation_config.json, then the model, then the defaults. */
export interface GenerationOptions {
  /** New tokens at most. */
  readonly maxNewTokens?: number | undefined;
  /** Prompt and new tokens at most; maxNewTokens wins over it. */
  readonly maxLength?: number | undefined;
  /** Draw tokens instead of taking the best one. */
  readonly doSample?: boolean | undefined;
  readonly temperature?: number | undefined;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  readonly minP?: number | undefined;
  readonly eosTokenId?: number | readonly number[] | undefined;
  readonly padTokenId?: number | undefined;
  readonly bosTokenId?: number | undefined;
}

/** What the model's own configuration says; a BambaConfig has these fields. */
export interface ModelDefaults {
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  readonly maxPositionEmbeddings: number;
}

/** A checked generation_config.json. */
export interface GenerationFile {
  readonly options: GenerationOptions;
  /** Settings that the file makes and that have no effect here, one sentence each. */
  readonly warnings: readonly string[];
}

/** Everything a generation needs to know. */
export interface ResolvedGeneration {
  readonly doSample: boolean;
  readonly sampling: SamplingOptions;
  /** At least 1. */
  readonly maxNewTokens: number;
  /** A row ends after any of these; empty when nothing but the length ends it. */
  readonly eosTokenIds: readonly number[];
  /** What fills a row that has ended; null when there is neither pad nor eos. */
  readonly padTokenId: number | null;
  readonly bosTokenId: number | null;
  readonly warnings: readonly string[];
}

/** Transformers' defaults (spec bamba e.1). */
const defaults = { maxLength: 20, temperature: 1, topK: 50, topP: 1, minP: 0 } as const;

/** Fields of generation_config.json that change the output and that we do not follow yet, with the values at which they do nothing. */
const unsupported: Readonly<Record<string, readonly unknown[]>> = {
  num_beams: [1],
  num_return_sequences: [1],
  min_length: [0],
  min_new_tokens: [0],
  repetition_penalty: [1],
  no_repeat_ngram_size: [0],
  typical_p: [1],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  top_h: [],
  bad_words_ids: [],
  sequence_bias: [],
  suppress_tokens: [],
  begin_suppress_tokens: [],
  forced_bos_token_id: [],
  forced_eos_token_id: [],
  exponential_decay_length_penalty: [],
  guidance_scale: [1],
  stop_strings: [],
};

interface Rule {
  readonly integer?: boolean;
  readonly min?: number;
  readonly above?: number;
  readonly max?: number;
}

const count: Rule = { integer: true, min: 1, max: Number.MAX_SAFE_INTEGER };
const tokenId: Rule = { integer: true, min: 0, max: 2 ** 31 - 1 };
const rules = {
  temperature: { above: 0, max: Number.MAX_VALUE },
  topK: { integer: true, min: 0, max: Number.MAX_SAFE_INTEGER },
  topP: { min: 0, max: 1 },
  minP: { min: 0, max: 1 },
} as const satisfies Readonly<Record<string, Rule>>;

function number(value: unknown, rule: Rule, field: string, hint?: string): number {
  const { integer, min, above, max } = rule;
  const fine =
    typeof value === "number" &&
    (integer !== true || Number.isSafeInteger(value)) &&
    value >= (min ?? -Infinity) &&
    value <= (max ?? Infinity) &&
    value > (above ?? -Infinity);
  if (fine) return value;
  const low = above === undefined ? ` from ${min ?? "-Infinity"}` : ` above ${above}`;
  const high = max !== undefined && max < 2 ** 31 ? ` to ${max}` : "";
  throw new UserError(
    `${field}: expected ${integer === true ? "an integer" : "a number"}${low}${high}, got ${shown(value)}`,
    hint === undefined ? {} : { hint },
  );
}

function tokenIds(value: unknown, field: string): readonly number[] {
  return (Array.isArray(value) ? (value as unknown[]) : [value]).map((id) => number(id, tokenId, field));
}

/**
 * Checks a parsed generation_config.json. Null means not set, as everywhere in that file.
 * @param where the file, for messages
 * @throws UserError naming file and field.
 */
export function parseGenerationConfig(json: unknown, where: string): GenerationFile {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new UserError(`${where}: expected a JSON object, got ${shown(json)}`);
  }
  const fields = new Map<string, unknown>(Object.entries(json).filter(([, value]) => value !== null));
  const read = <T>(name: string, check: (value: unknown, field: string) => T): T | undefined =>
    fields.has(name) ? check(fields.get(name), `${where}: ${name}`) : undefined;
  const numeric = (rule: Rule) => (value: unknown, field: string) => number(value, rule, field);
  const doSample = read("do_sample", (value, field) => {
    if (typeof value !== "boolean") throw new UserError(`${field}: expected true or false, got ${shown(value)}`);
    return value;
  });
  const options: GenerationOptions = {
    maxNewTokens: read("max_new_tokens", numeric(count)),
    maxLength: read("max_length", numeric(count)),
    doSample,
    // Greedy files often carry a temperature of 0, which then means nothing.
    temperature: doSample === true ? read("temperature", numeric(rules.temperature)) : read("temperature", (value) => positive(value)),
    topK: read("top_k", numeric(rules.topK)),
    topP: read("top_p", numeric(rules.topP)),
    minP: read("min_p", numeric(rules.minP)),
    eosTokenId: read("eos_token_id", tokenIds),
    padTokenId: read("pad_token_id", numeric(tokenId)),
    bosTokenId: read("bos_token_id", numeric(tokenId)),
  };
  const warnings = [...fields].flatMap(([name, value]) => {
    const neutral = Object.hasOwn(unsupported, name) ? unsupported[name]! : undefined;
    return neutral === undefined || neutral.includes(value)
      ? []
      : [`${where}: ${name} ${shown(value)} is not supported yet and has no effect`];
  });
  return { options, warnings };
}

function positive(value: unknown): number | undefined {
  return typeof value === "number" && value > 0 && value < Infinity ? value : undefined;
}

/**
 * Settles every setting of a generation. Source: spec bamba e.1.
 * @param call what the caller asks for; it wins
 * @param file the model's generation_config.json, or undefined without one
 * @param promptLength tokens of the padded prompt
 * @throws UserError naming the option that makes no sense, or when the prompt already is as long as the result may be.
 */
export function resolveGeneration(
  call: GenerationOptions,
  file: GenerationFile | undefined,
  model: ModelDefaults,
  promptLength: number,
): ResolvedGeneration {
  const own = file?.options ?? {};
  const warnings = [...(file?.warnings ?? [])];
  const doSample = call.doSample ?? own.doSample ?? false;
  const eosTokenIds = [...new Set(tokenIds(call.eosTokenId ?? own.eosTokenId ?? model.eosTokenIds, "eosTokenId"))];
  const pad = call.padTokenId ?? own.padTokenId ?? model.padTokenId ?? eosTokenIds[0] ?? null;
  const bos = call.bosTokenId ?? own.bosTokenId ?? model.bosTokenId;
  return {
    doSample,
    sampling: resolveSampling(call, own, doSample),
    maxNewTokens: resolveLength(call, own, model, promptLength, warnings),
    eosTokenIds,
    padTokenId: pad === null ? null : number(pad, tokenId, "padTokenId"),
    bosTokenId: bos === null ? null : number(bos, tokenId, "bosTokenId"),
    warnings,
  };
}

function resolveSampling(call: GenerationOptions, own: GenerationOptions, doSample: boolean): SamplingOptions {
  const { topK, topP, minP } = defaults;
  // A greedy choice divides by nothing; a temperature of 0 given for it is what other programs call greedy.
  const temperature = doSample
    ? number(
        call.temperature ?? own.temperature ?? defaults.temperature,
        rules.temperature,
        "temperature",
        "for the best token at each step, turn sampling off",
      )
    : defaults.temperature;
  return {
    temperature,
    topK: number(call.topK ?? own.topK ?? topK, rules.topK, "topK"),
    topP: number(call.topP ?? own.topP ?? topP, rules.topP, "topP"),
    minP: number(call.minP ?? own.minP ?? minP, rules.minP, "minP"),
  };
}

function resolveLength(
  call: GenerationOptions,
  own: GenerationOptions,
  model: ModelDefaults,
  promptLength: number,
  warnings: string[],
): number {
  const maxNewTokens = call.maxNewTokens ?? own.maxNewTokens;
  const maxLength = call.maxLength ?? own.maxLength;
  if (maxNewTokens !== undefined) {
    if (maxLength !== undefined) warnings.push(`both maxNewTokens ${maxNewTokens} and maxLength ${maxLength} are set; maxNewTokens counts`);
    return number(maxNewTokens, count, "maxNewTokens");
  }
  const length =
    maxLength === undefined
      ? Math.min(promptLength + defaults.maxLength, model.maxPositionEmbeddings)
      : number(maxLength, count, "maxLength");
  if (promptLength >= length) {
    const limit = maxLength === undefined ? "the model's max_position_embeddings" : "maxLength";
    throw new UserError(`the prompt has ${promptLength} tokens and ${limit} is ${length}: there is no room for a new token`, {
      hint: "set maxNewTokens, or shorten the prompt",
    });
  }
  return length - promptLength;
}

/** A seed for a run that was given none, to be reported so that the run can be repeated. */
export function randomSeed(): number {
  return globalThis.crypto.getRandomValues(new Uint32Array(1))[0]!;
}
