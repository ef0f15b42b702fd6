import { shown, UserError } from "../../runtime/errors.ts";
import type { Chat, ChatMessage } from "../../runtime/text/chat-template.ts";
import { decodeContinuation, TextStreamer } from "../../runtime/text/streamer.ts";
import type { DecodeOptions, Tokenizer } from "../../runtime/text/tokenizer.ts";
import type {
  GeneratedChat,
  GeneratedText,
  GeneratedTokens,
  PipelineInput,
  PipelineModel,
  TextGenerationOptions,
  TextGenerationPipeline,
} from "./text-generation-options.ts";
import { generationFor, promptFor } from "./text-generation-prompt.ts";
import type { Prompt } from "./text-generation-prompt.ts";

type Result = GeneratedText | GeneratedChat | GeneratedTokens;

/** A pipeline over a model that is open. Source: spec bamba e.7. */
export function textGenerationPipeline<Defaults extends TextGenerationOptions>(
  model: PipelineModel,
  tokenizer: Tokenizer,
  defaults: Defaults,
): TextGenerationPipeline<Defaults> {
  // A wrong default is told of where it was given.
  checkReturns(defaults);
  const merged = (given: TextGenerationOptions): TextGenerationOptions => {
    checkReturns(given);
    return { ...(saysReturn(given) ? withoutReturn(defaults) : defaults), ...given };
  };

  async function run(prompts: readonly Prompt[], options: TextGenerationOptions): Promise<readonly (readonly Result[])[]> {
    // generate ends what it has begun; nothing further is begun.
    options.signal?.throwIfAborted();
    const { ids, attentionMask, length } = tokenizer.pack(
      prompts.map((prompt) => prompt.ids),
      { side: "left" },
    );
    const rows = (values: Int32Array): readonly Int32Array[] => prompts.map((_, i) => values.subarray(i * length, (i + 1) * length));
    const { newTokens } = await model.generate(
      { inputIds: rows(ids), attentionMask: rows(attentionMask) },
      generationFor(options, model, tokenizer),
    );
    // The sequences of one prompt are neighbours.
    const each = newTokens.length / prompts.length;
    return prompts.map((prompt, i) =>
      newTokens.slice(i * each, (i + 1) * each).map((tokens) => resultOf(prompt, [...tokens], options, tokenizer)),
    );
  }

  async function* inBatches(
    prompts: Iterable<Prompt> | AsyncIterable<Prompt>,
    options: TextGenerationOptions,
  ): AsyncGenerator<readonly Result[], void, void> {
    const { batchSize = 1 } = options;
    let batch: Prompt[] = [];
    for await (const prompt of prompts) {
      batch.push(prompt);
      if (batch.length < batchSize) continue;
      yield* await run(batch, options);
      batch = [];
    }
    if (batch.length > 0) yield* await run(batch, options);
  }

  async function* lazily(
    inputs: Iterable<PipelineInput> | AsyncIterable<PipelineInput>,
    given: TextGenerationOptions,
  ): AsyncGenerator<readonly Result[], void, void> {
    const options = merged(given);
    checkBatch(options, tokenizer);
    yield* inBatches(
      mapped(inputs, (input) => promptFor(input, options, model, tokenizer)),
      options,
    );
  }

  async function all(inputs: readonly PipelineInput[], given: TextGenerationOptions): Promise<readonly (readonly Result[])[]> {
    const options = merged(given);
    checkBatch(options, tokenizer);
    // All of a list is there: what cannot be run at its end is refused before the first prompt is.
    const prompts = inputs.map((input) => promptFor(input, options, model, tokenizer));
    const results: (readonly Result[])[] = [];
    for await (const result of inBatches(prompts, options)) results.push(result);
    return results;
  }

  async function single(input: PipelineInput, given: TextGenerationOptions): Promise<readonly Result[]> {
    const options = merged(given);
    return (await run([promptFor(input, options, model, tokenizer)], options))[0]!;
  }

  function call(input: unknown, given: TextGenerationOptions = {}): unknown {
    if (typeof input === "string" || isChat(input)) return single(input, given);
    if (Array.isArray(input)) return all(input as readonly PipelineInput[], given);
    if (isIterable(input)) return lazily(input, given);
    return Promise.reject(new UserError(`pipeline: expected a text, a chat, a list or an iterable of them, got ${shown(input)}`));
  }

  async function* stream(input: PipelineInput, given: TextGenerationOptions = {}): AsyncGenerator<string, void, void> {
    const options = merged(given);
    const prompt = promptFor(input, options, model, tokenizer);
    const streamer = new TextStreamer(tokenizer, decodeOptions(options));
    streamer.begin(prompt.ids);
    for await (const { tokens } of model.stream(prompt.ids, generationFor(options, model, tokenizer))) {
      const text = streamer.push(tokens[0]!);
      if (text !== "") yield text;
    }
    const rest = streamer.end();
    if (rest !== "") yield rest;
  }

  const members = { task: "text-generation", model, tokenizer, stream, close: () => model.close() } as const;
  return Object.assign(call, members) as unknown as TextGenerationPipeline<Defaults>;
}

function resultOf(prompt: Prompt, newTokens: readonly number[], options: TextGenerationOptions, tokenizer: Tokenizer): Result {
  if (options.returnTensors === true) return { generatedTokenIds: [...prompt.ids, ...newTokens] };
  const text = decodeContinuation(tokenizer, prompt.ids, newTokens, decodeOptions(options));
  if (options.returnFullText === false) return { generatedText: text };
  const { input } = prompt;
  if (typeof input === "string") return { generatedText: input + text };
  if (!prompt.continued) return { generatedText: [...input, { role: "assistant", content: text }] };
  return { generatedText: [...input.slice(0, -1), extended(input.at(-1)!, text)] };
}

/** A message with text after its own: that of its last part of text, when it has parts. */
function extended(message: ChatMessage, text: string): ChatMessage {
  const { content } = message;
  if (content === null || typeof content === "string") return { ...message, content: (content ?? "") + text };
  const at = content.findLastIndex((part) => typeof part["text"] === "string");
  return { ...message, content: content.map((part, i) => (i === at ? { ...part, text: String(part["text"]) + text } : part)) };
}

/** Clean-up is on in a pipeline, whatever the tokenizer says (spec e.7). */
const decodeOptions = ({ skipSpecialTokens = true, cleanUpTokenizationSpaces = true }: TextGenerationOptions): DecodeOptions => ({
  skipSpecialTokens,
  cleanUpTokenizationSpaces,
});

const saysReturn = (options: TextGenerationOptions): boolean =>
  options.returnFullText !== undefined || options.returnTensors !== undefined || options.returnText !== undefined;

function withoutReturn({ returnFullText: _, returnTensors: __, returnText: ___, ...rest }: TextGenerationOptions): TextGenerationOptions {
  return rest;
}

function checkReturns({ returnFullText, returnTensors, returnText }: TextGenerationOptions): void {
  const [full, tensors, text] = [returnFullText, returnTensors, returnText].map((value) => value !== undefined);
  const exclusive = (a: string, b: string): UserError => new UserError(`\`${a}\` is mutually exclusive with \`${b}\``);
  if (full && text) throw exclusive("return_text", "return_full_text");
  if (full && tensors) throw exclusive("return_full_text", "return_tensors");
  if (tensors && text) throw exclusive("return_text", "return_tensors");
}

/** @throws UserError for a size that is none, and as Transformers for several prompts without a token to pad them with. */
function checkBatch({ batchSize = 1 }: TextGenerationOptions, tokenizer: Tokenizer): void {
  if (!Number.isSafeInteger(batchSize) || batchSize < 1)
    throw new UserError(`batchSize: expected a whole number from 1, got ${shown(batchSize)}`);
  if (batchSize > 1 && (tokenizer.pad?.id ?? null) === null) {
    throw new UserError("Pipeline with tokenizer without pad_token cannot do batching", {
      hint: "set one: pipe.tokenizer.pad = pipe.tokenizer.eos, for example; or leave batchSize out",
    });
  }
}

/** A list of messages, and not of prompts. */
function isChat(input: unknown): input is Chat {
  return Array.isArray(input) && typeof input[0] === "object" && input[0] !== null && !Array.isArray(input[0]);
}

function isIterable(input: unknown): input is Iterable<PipelineInput> | AsyncIterable<PipelineInput> {
  return typeof input === "object" && input !== null && (Symbol.iterator in input || Symbol.asyncIterator in input);
}

async function* mapped<A, B>(items: Iterable<A> | AsyncIterable<A>, change: (item: A) => B): AsyncGenerator<B, void, void> {
  for await (const item of items) yield change(item);
}
