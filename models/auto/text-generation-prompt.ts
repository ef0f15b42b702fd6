import { definedOnly } from "../../runtime/defined.ts";
import { shown, UserError } from "../../runtime/errors.ts";
import type { Chat } from "../../runtime/text/chat-template.ts";
import type { EncodingOptions } from "../../runtime/text/encoding.ts";
import type { Tokenizer } from "../../runtime/text/tokenizer.ts";
import type { GenerateOptions } from "../../runtime/text/request.ts";
import type { PipelineInput, PipelineModel, TextGenerationOptions } from "./text-generation-options.ts";

/** A prompt as the model gets it. */
export interface Prompt {
  readonly input: PipelineInput;
  readonly ids: readonly number[];
  /** Whether the answer goes on with a chat's last message. */
  readonly continued: boolean;
}

/** What a pipeline generates with where neither the caller nor generation_config.json says anything (spec e.7). */
const defaults = { maxNewTokens: 256, doSample: true, temperature: 0.7 } as const;

/** `max_length` of a configuration that was never asked: what Transformers writes and takes for "not set". */
const unsetMaxLength = 20;

/**
 * The ids of a text or a chat.
 * @throws UserError for what is neither, for a chat without template, and for a prompt that leaves no room.
 */
export function promptFor(input: PipelineInput, options: TextGenerationOptions, model: PipelineModel, tokenizer: Tokenizer): Prompt {
  const { truncation, maxLength, addSpecialTokens, tokenizerEncodeOptions = {} } = options;
  const encoding: EncodingOptions = {
    ...definedOnly({ truncation, maxLength }),
    ...tokenizerEncodeOptions,
  };
  let prompt: Prompt;
  if (typeof input === "string") {
    const { inputIds } = tokenizer.call((options.prefix ?? "") + input, { ...definedOnly({ addSpecialTokens }), ...encoding });
    prompt = { input, ids: inputIds, continued: false };
  } else {
    prompt = chatPrompt(input, options, encoding, tokenizer);
  }
  const ids = options.handleLongGeneration === undefined ? prompt.ids : withHole(prompt.ids, options, model, tokenizer);
  return { ...prompt, ids: ids.length > 0 ? ids : [beginning(options, model)] };
}

function chatPrompt(chat: Chat, options: TextGenerationOptions, encoding: EncodingOptions, tokenizer: Tokenizer): Prompt {
  const messages: unknown = chat;
  if (!Array.isArray(messages) || messages.length === 0)
    throw new UserError(`pipeline: expected a text or a chat (a list of { role, content }), got ${shown(chat)}`);
  for (const message of messages as readonly unknown[]) {
    if (typeof message !== "object" || message === null || !("role" in message) || !("content" in message))
      throw new UserError(`When passing chat dicts as input, each dict must have a 'role' and 'content' key, got ${shown(message)}`);
  }
  const { tools, documents, chatTemplate, templateVariables } = options;
  // Few models were trained on two assistant messages in a row: the last one is taken for the beginning of the answer.
  const continued = options.continueFinalMessage ?? chat.at(-1)!.role === "assistant";
  const { inputIds } = tokenizer.applyChatTemplate(chat, {
    ...encoding,
    addGenerationPrompt: !continued,
    continueFinalMessage: continued,
    ...definedOnly({ tools, documents, chatTemplate, templateVariables }),
  });
  return { input: chat, ids: inputIds, continued };
}

/** An empty prompt is the beginning of a text. */
function beginning(options: TextGenerationOptions, model: PipelineModel): number {
  const bos = options.bosTokenId ?? model.generationConfig?.options.bosTokenId ?? model.config.bosTokenId;
  if (bos !== null) return bos;
  throw new UserError("`bos_token_id` has to be defined when no `input_ids` are provided", {
    hint: "give a prompt, or bosTokenId: the model names no token that begins a text",
  });
}

/** Cuts the beginning of a prompt so that it and the new tokens fit what the tokenizer and the compiled model allow. */
function withHole(ids: readonly number[], options: TextGenerationOptions, model: PipelineModel, tokenizer: Tokenizer): readonly number[] {
  if (options.handleLongGeneration === null) return ids;
  if ((options.handleLongGeneration as string) !== "hole") {
    throw new UserError(
      `${shown(options.handleLongGeneration)} is not a valid value for \`handle_long_generation\` parameter expected [None, 'hole']`,
    );
  }
  const { maxNewTokens, maxLength } = lengthsFor(options, model, tokenizer);
  const room = Math.min(tokenizer.maxLength, model.plan.capacity);
  const made = maxNewTokens ?? maxLength! - ids.length;
  if (made < 0) throw new UserError("We cannot infer how many new tokens are expected", { hint: "give maxNewTokens" });
  if (ids.length + made <= room) return ids;
  if (made >= room) {
    throw new UserError(
      "We cannot use `hole` to handle this generation the number of desired tokens exceeds the models max length: " +
        `${made} new tokens of ${room}`,
      { hint: "ask for fewer with maxNewTokens" },
    );
  }
  return ids.slice(made - room);
}

/** How long the text may become: maxNewTokens when anyone has named it or no one has named a length, else maxLength, to which a prefix adds. */
function lengthsFor(
  options: TextGenerationOptions,
  model: PipelineModel,
  tokenizer: Tokenizer,
): Pick<GenerateOptions, "maxNewTokens" | "maxLength"> {
  const own = model.generationConfig?.options ?? {};
  const ownMaxLength = own.maxLength === unsetMaxLength ? undefined : own.maxLength;
  const maxNewTokens = options.maxNewTokens ?? own.maxNewTokens;
  // Both are for generate to judge.
  if (maxNewTokens !== undefined) return { maxNewTokens, maxLength: options.maxLength };
  const maxLength = options.maxLength ?? ownMaxLength;
  if (maxLength === undefined) return { maxNewTokens: defaults.maxNewTokens };
  const { prefix = "", addSpecialTokens = false } = options;
  return { maxLength: maxLength + (prefix === "" ? 0 : tokenizer.encode(prefix, { addSpecialTokens }).length) };
}

/** What `generate` is asked for: everything of the options that is not the pipeline's own, and the pipeline's defaults. */
export function generationFor(options: TextGenerationOptions, model: PipelineModel, tokenizer: Tokenizer): GenerateOptions {
  const own = model.generationConfig?.options ?? {};
  const generation: GenerateOptions = Object.fromEntries(Object.entries(options).filter(([name]) => !Object.hasOwn(pipelineOptions, name)));
  const { maxNewTokens, maxLength } = lengthsFor(options, model, tokenizer);
  const doSample = options.doSample ?? own.doSample ?? defaults.doSample;
  const temperature = options.temperature ?? own.temperature ?? defaults.temperature;
  const stopStrings = options.stopStrings ?? own.stopStrings;
  const pad = options.padTokenId ?? own.padTokenId ?? model.config.padTokenId ?? tokenizer.pad?.id ?? null;
  return {
    ...generation,
    maxNewTokens,
    maxLength,
    doSample,
    ...(doSample ? { temperature } : {}),
    ...(pad === null ? {} : { padTokenId: pad }),
    ...(stopStrings === undefined ? {} : { tokenizer }),
    ...(options.stopSequence === undefined ? {} : { eosTokenId: stopTokens(options.stopSequence, tokenizer) }),
  };
}

function stopTokens(text: string, tokenizer: Tokenizer): readonly number[] {
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  if (ids.length === 0)
    throw new UserError(`stopSequence ${shown(text)} has no tokens`, { hint: "give a text that has some, or eosTokenId" });
  return ids;
}

/** Of TextGenerationOptions those that `generate` does not know; the type has all of them be here. */
const pipelineOptions: Readonly<Record<Exclude<keyof TextGenerationOptions, keyof GenerateOptions>, true>> = {
  returnFullText: true,
  returnTensors: true,
  returnText: true,
  batchSize: true,
  prefix: true,
  stopSequence: true,
  handleLongGeneration: true,
  truncation: true,
  addSpecialTokens: true,
  skipSpecialTokens: true,
  cleanUpTokenizationSpaces: true,
  tokenizerEncodeOptions: true,
  continueFinalMessage: true,
  tools: true,
  documents: true,
  chatTemplate: true,
  templateVariables: true,
};
