import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import { definedOnly } from "../defined.ts";
import { UserError } from "../errors.ts";
import type { GenerationOptions } from "../text/generation-config.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { anyNumber, numberList, wholeNumber } from "./options.ts";

/** What the commands that generate take beside the prompt. */
export interface GenerationFlags {
  readonly maxNewTokens?: number;
  readonly minNewTokens?: number;
  readonly maxTime?: number;
  readonly stop?: readonly string[];
  readonly eos?: readonly number[];
  readonly sample?: boolean;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly topH?: number;
  readonly typicalP?: number;
  readonly epsilonCutoff?: number;
  readonly etaCutoff?: number;
  readonly seed?: number;
  readonly repetitionPenalty?: number;
  readonly noRepeatNgram?: number;
  readonly badWord?: readonly string[];
  readonly bias?: readonly Bias[];
  readonly suppress?: readonly number[];
  readonly beginSuppress?: readonly number[];
  readonly forcedBos?: number;
  readonly forcedEos?: readonly number[];
  readonly decay?: readonly [number, number];
  readonly guidance?: number;
  readonly negativePrompt?: string;
  readonly renormalize?: boolean;
  readonly removeInvalid?: boolean;
  readonly beams?: number;
  readonly lengthPenalty?: number;
  readonly earlyStopping?: boolean | "never";
  readonly returnSequences?: number;
  /** False with --no-states. */
  readonly states: boolean;
}

interface Bias {
  readonly text: string;
  readonly bias: number;
}

const listed = (text: string, before: readonly string[] = []): readonly string[] => [...before, text];

/** "word=-2.5" */
function textBias(text: string, before: readonly Bias[] = []): readonly Bias[] {
  const at = text.lastIndexOf("=");
  if (at < 1) throw new InvalidArgumentError('Expected text=number, such as "perhaps=-2.5".');
  return [...before, { text: text.slice(0, at), bias: anyNumber(text.slice(at + 1)) }];
}

/** "8,1.2" */
function startAndFactor(text: string): readonly [number, number] {
  const [start, factor, ...rest] = text.split(",");
  if (start === undefined || factor === undefined || rest.length > 0)
    throw new InvalidArgumentError("Expected start,factor such as 8,1.2.");
  return [wholeNumber(start), anyNumber(factor)];
}

/** `--early-stopping`, or `--early-stopping never` */
function stopping(text: string): "never" {
  if (text !== "never") throw new InvalidArgumentError("It is given alone, or with the word never.");
  return "never";
}

export function addGenerationFlags(command: Command): Command {
  command.optionsGroup("How long:");
  command
    .option("--max-new-tokens <n>", "tokens to generate at most", wholeNumber)
    .option("--min-new-tokens <n>", "no end of text before this many new tokens", wholeNumber)
    .option("--max-time <seconds>", "begin no further token after this time", anyNumber)
    .option("--stop <text>", "end where the new text has this in it; may be given several times", listed)
    .option("--eos <ids>", "token ids that end a text, instead of the model's own", numberList);
  command.optionsGroup("Sampling:");
  command
    .option("--sample", "draw tokens instead of taking the likeliest one each time")
    .option("--temperature <t>", "above 1 is more varied, below 1 less", anyNumber)
    .option("--top-k <k>", "draw from the k likeliest (0: from all)", wholeNumber)
    .option("--top-p <p>", "draw from the likeliest whose probabilities reach p together", anyNumber)
    .option("--min-p <p>", "leave out what is less than p times as likely as the likeliest", anyNumber)
    .option("--top-h <h>", "keep as many of the likeliest as hold this share of the entropy", anyNumber)
    .option("--typical-p <p>", "draw from what is nearest to the expected surprise, up to a probability of p", anyNumber)
    .option("--epsilon-cutoff <p>", "leave out what is less likely than p", anyNumber)
    .option("--eta-cutoff <p>", "the same with a bound that sinks where the model is unsure", anyNumber)
    .option("--seed <n>", "the same seed draws the same tokens again", wholeNumber)
    .option("--return-sequences <n>", "so many texts for each prompt", wholeNumber);
  command.optionsGroup("Beam search:");
  command
    .option("--beams <n>", "follow the n best texts at once and give the best in the end", wholeNumber)
    .option("--length-penalty <x>", "above 0 favours long texts, below 0 short ones (default: 1)", anyNumber)
    .option("--early-stopping [never]", "stop at the first n ended texts; never: go on while a better one is possible", stopping);
  command.optionsGroup("What may be said:");
  command
    .option("--repetition-penalty <x>", "above 1: tokens that were there before become less likely", anyNumber)
    .option("--no-repeat-ngram <n>", "no run of n tokens twice", wholeNumber)
    .option("--bad-word <text>", "never this text; may be given several times", listed)
    .option("--bias <text=x>", "add x to the score of a text; may be given several times", textBias)
    .option("--suppress <ids>", "never these tokens: 5,17", numberList)
    .option("--begin-suppress <ids>", "not these tokens at the beginning", numberList)
    .option("--forced-bos <id>", "the first token of a text", wholeNumber)
    .option("--forced-eos <ids>", "the last token where the length runs out", numberList)
    .option("--decay <start,factor>", "after start new tokens the end becomes likelier by factor with each one", startAndFactor)
    .option("--guidance <x>", "above 1: follow the prompt more (classifier-free guidance)", anyNumber)
    .option("--negative-prompt <text>", "with --guidance: what to keep away from")
    .option("--renormalize", "make probabilities of the scores again after all of that")
    .option("--remove-invalid", "replace scores that are no number");
  command.optionsGroup("Options:");
  return command.option("--no-states", "compute the whole text anew for each token (slow, for comparisons)");
}

/**
 * Flags as the options of `generate`. Texts become token ids by the tokenizer, without its special tokens.
 * @throws UserError for flags that contradict each other.
 */
export function generationOptions(flags: GenerationFlags, tokenizer: Tokenizer): GenerationOptions & { readonly seed?: number } {
  const idsOf = (text: string): readonly number[] => tokenizer.encode(text, { addSpecialTokens: false });
  if (flags.negativePrompt !== undefined && flags.guidance === undefined)
    throw new UserError("--negative-prompt does nothing without --guidance", { hint: "add --guidance 1.5, for instance" });
  return definedOnly({
    maxNewTokens: flags.maxNewTokens,
    minNewTokens: flags.minNewTokens,
    maxTime: flags.maxTime,
    stopStrings: flags.stop,
    eosTokenId: flags.eos,
    doSample: flags.sample ?? false,
    temperature: flags.temperature,
    topK: flags.topK,
    topP: flags.topP,
    minP: flags.minP,
    topH: flags.topH,
    typicalP: flags.typicalP,
    epsilonCutoff: flags.epsilonCutoff,
    etaCutoff: flags.etaCutoff,
    seed: flags.seed,
    numReturnSequences: flags.returnSequences,
    numBeams: flags.beams,
    lengthPenalty: flags.lengthPenalty,
    earlyStopping: flags.earlyStopping,
    repetitionPenalty: flags.repetitionPenalty,
    noRepeatNgramSize: flags.noRepeatNgram,
    badWordsIds: flags.badWord?.flatMap((text) => wordForms(text, idsOf)),
    sequenceBias: flags.bias?.flatMap(({ text, bias }) => wordForms(text, idsOf).map((ids) => [ids, bias] as const)),
    suppressTokens: flags.suppress,
    beginSuppressTokens: flags.beginSuppress,
    forcedBosTokenId: flags.forcedBos,
    forcedEosTokenId: flags.forcedEos,
    exponentialDecayLengthPenalty: flags.decay,
    guidanceScale: flags.guidance,
    negativePromptIds: flags.negativePrompt === undefined ? undefined : tokenizer.encode(flags.negativePrompt),
    renormalizeLogits: flags.renormalize,
    removeInvalidValues: flags.removeInvalid,
    useCache: flags.states ? undefined : false,
  });
}

/** A word has other ids at the beginning of a text than after a space: both are meant. */
function wordForms(text: string, idsOf: (text: string) => readonly number[]): readonly (readonly number[])[] {
  const forms = [text, ...(text.startsWith(" ") ? [] : [` ${text}`])].map(idsOf).filter((ids) => ids.length > 0);
  return [...new Map(forms.map((ids) => [ids.join(","), ids])).values()];
}
