import { UserError } from "../errors.ts";
import { optionNames, pythonName } from "./generation-options.ts";

interface Unsupported {
  /** Values at which the option does nothing; null and undefined always are such. */
  readonly neutral: readonly unknown[];
  readonly reason: string;
}

const because = (reason: string, ...neutral: readonly unknown[]): Unsupported => ({ neutral, reason });

const assisted = because("assisted generation is not supported with stateful models, such as BambaForCausalLM");
const constrained = because("constrained beam search is not supported");
const group = "group beam search is not supported";
const encoder = "it is for encoder-decoder models";

/** Arguments and fields of Transformers that are not followed, by their Python name, with Transformers' reason where it has one. */
const unsupported: Readonly<Record<string, Unsupported>> = {
  assistant_model: assisted,
  prompt_lookup_num_tokens: assisted,
  assistant_early_exit: assisted,
  force_words_ids: constrained,
  constraints: constrained,
  num_beam_groups: because(group, 1),
  diversity_penalty: because(group, 0),
  penalty_alpha: because("contrastive search is not supported", 0),
  dola_layers: because("DoLa decoding is not supported"),
  custom_generate: because("it would run the code of a stranger"),
  watermarking_config: because("watermarking is not supported"),
  token_healing: because("token healing is not supported", false),
  cache_implementation: because(
    "a QuantizedCache is only supported for models with only full attention layers, and others are not known",
    "dynamic",
    "static",
    "offloaded",
    "offloaded_static",
  ),
  encoder_repetition_penalty: because(encoder, 1),
  encoder_no_repeat_ngram_size: because(encoder, 0),
  decoder_start_token_id: because(encoder),
  forced_decoder_ids: because(encoder),
  output_attentions: because("a compiled program keeps no attention weights", false),
  output_hidden_states: because("generation keeps no hidden states; forward gives them", false),
  synced_gpus: because("a generation runs on one device", false),
  generation_config: because("its fields are options of the call"),
};

/** What a call takes that is no setting of the generation. */
const ofTheCall: ReadonlySet<string> = new Set(["signal", "onStep", "streamer", "tokenizer"]);

function effective(name: string, value: unknown): Unsupported | undefined {
  if (value === undefined || value === null) return undefined;
  const entry = Object.hasOwn(unsupported, name) ? unsupported[name]! : undefined;
  return entry?.neutral.includes(value) === true ? undefined : entry;
}

/** Why a field of generation_config.json has no effect here; undefined where it has one, or says nothing. */
export function whyUnsupported(field: string, value: unknown): string | undefined {
  return effective(field, value)?.reason;
}

/**
 * Refuses names that are no options, and options of Transformers that are not followed.
 * @throws UserError with the nearest known name, or the reason.
 */
export function checkOptionNames(options: object): void {
  for (const [name, value] of Object.entries(options)) {
    if ((optionNames as readonly string[]).includes(name) || ofTheCall.has(name)) continue;
    const known = pythonName(name);
    const refused = effective(known, value);
    if (refused !== undefined) throw new UserError(`${name}: ${refused.reason}`, { hint: "leave the option out" });
    if (Object.hasOwn(unsupported, known)) continue;
    throw new UserError(`${name}: there is no such generation option`, { hint: `did you mean ${nearest(name)}?` });
  }
}

/** The known name that takes the fewest edits; capitals and underscores do not count, so that a Python name finds its own. */
function nearest(name: string): string {
  const plain = (text: string): string => text.replaceAll("_", "").toLowerCase();
  const distances = optionNames.map((known) => editDistance(plain(name).slice(0, 100), plain(known)));
  return optionNames[distances.indexOf(Math.min(...distances))]!;
}

/** Levenshtein's: insertions, deletions and replacements that turn one text into the other. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}
