import { UserError } from "../errors.ts";
import { cleanUpSpaces } from "./encoding.ts";
import type { DecodeOptions } from "./tokenizer.ts";

/** What a streamer needs of a tokenizer. */
export interface Decoder {
  decode(ids: readonly number[], options?: DecodeOptions): string;
  /** Whether `decode` takes spaces before punctuation away (cleanUpSpaces); without this function it does not. */
  cleansUp?(options?: DecodeOptions): boolean;
}

/** Is told of tokens while they are made: first the prompt's, then those of each step, a row for each text. Given to `generate` as `streamer`. */
export interface Streamer {
  put(rows: readonly ArrayLike<number>[]): void;
  end(): void;
}

export interface TextStreamerOptions extends DecodeOptions {
  /** Whether the text of the prompt is left out; false unless given. Concerns `put`. */
  readonly skipPrompt?: boolean;
  /** Called with each piece of text, and at the end with what is left, possibly nothing. */
  readonly onFinalizedText?: (text: string, end: boolean) => void;
}

/** A decoder's mark for bytes that are no character, and so for the first bytes of a character whose last ones are still to come. */
const broken = "\ufffd";

/** The most tokens that the bytes of one UTF-8 character are spread over, and with room to spare: such a tail is held back. */
const tail = 4;

/** What `ids` add to the text of the ids before them. A decoder may treat the first token of a text differently, so they are decoded in their place. */
export function decodeContinuation(
  decoder: Decoder,
  prompt: readonly number[],
  ids: readonly number[],
  options: DecodeOptions = {},
): string {
  const { ids: context, text } = contextOf(decoder, prompt, options);
  const added = decoder.decode([...context, ...ids], unclean(options)).slice(text.length);
  return decoder.cleansUp?.(options) === true ? cleanUpSpaces(added) : added;
}

/** The ids that come before a text. Those that end within a character say nothing about what follows. */
function contextOf(
  decoder: Decoder,
  prompt: readonly number[],
  options: DecodeOptions,
): { readonly ids: readonly number[]; readonly text: string } {
  const text = prompt.length === 0 ? "" : decoder.decode(prompt, unclean(options));
  return text.endsWith(broken) ? { ids: [], text: "" } : { ids: prompt, text };
}

const unclean = (options: DecodeOptions): DecodeOptions => ({ ...options, cleanUpTokenizationSpaces: false });

/**
 * Turns ids into text as they come. The pieces joined are exactly `decode` of all ids, and none of them ends in the middle of a character: a
 * tail that decodes to U+FFFD is kept until later ids complete it or show that it never will be complete. Text is given out as soon as it is
 * certain; Transformers' streamer waits for the end of a word (spec bamba e.5), and gives the same text in the end.
 *
 * Ask for the pieces with `push` and `end`, or hand the streamer to `generate`, which calls `put` and `end`, and take them in `onFinalizedText`.
 *
 * Decoding everything again for each token would take quadratic time. Kept are the ids since the last piece (`pending`) and those of the
 * piece before (`context`), since what a token says may depend on whether it is the first one.
 */
export class TextStreamer implements Streamer {
  private readonly decoder: Decoder;
  private readonly options: DecodeOptions;
  private readonly cleanUp: boolean;
  private readonly skipPrompt: boolean;
  private readonly onFinalizedText: ((text: string, end: boolean) => void) | undefined;
  private context: readonly number[] = [];
  private contextText = "";
  private pending: number[] = [];
  /** Certain text that may still lose a space. */
  private held = "";
  private atPrompt = true;

  /** @param options as for the tokenizer's `decode`; special tokens are skipped unless told otherwise. */
  constructor(decoder: Decoder, { skipPrompt = false, onFinalizedText, ...decode }: TextStreamerOptions = {}) {
    this.decoder = decoder;
    this.options = { skipSpecialTokens: true, ...decode };
    this.cleanUp = decoder.cleansUp?.(this.options) ?? false;
    this.skipPrompt = skipPrompt;
    this.onFinalizedText = onFinalizedText;
  }

  /** Begins a text with ids whose own text is known already: what is pushed continues them. */
  begin(prompt: readonly number[]): void {
    const { ids, text } = contextOf(this.decoder, prompt, this.options);
    this.context = ids;
    this.contextText = text;
    this.pending = [];
    this.held = "";
  }

  /** Takes the next id and gives the text that has become certain by it, often none. */
  push(id: number): string {
    this.pending.push(id);
    return this.cleaned(this.advance());
  }

  /** Takes the prompt, at the first call, and then each new token. @throws UserError for more than one row. */
  put(rows: readonly ArrayLike<number>[]): void {
    if (rows.length > 1)
      throw new UserError("TextStreamer only supports batch size 1", { hint: "stream one prompt, without numReturnSequences" });
    const ids = Array.from(rows[0] ?? []);
    const prompt = this.atPrompt;
    this.atPrompt = false;
    if (prompt && this.skipPrompt) this.begin(ids);
    else for (const id of ids) this.finalize(this.push(id), false);
  }

  /** The rest of the text, broken or not. The streamer can then be used for another sequence. */
  end(): string {
    const rest = this.held + this.textOf(this.pending);
    const text = this.cleanUp ? cleanUpSpaces(rest) : rest;
    this.begin([]);
    this.atPrompt = true;
    this.finalize(text, true);
    return text;
  }

  private finalize(text: string, end: boolean): void {
    if (text !== "" || end) this.onFinalizedText?.(text, end);
  }

  /** All but what later text could still change: no pattern of cleanUpSpaces reaches further than three characters behind its space. */
  private cleaned(text: string): string {
    if (!this.cleanUp) return text;
    const all = this.held + text;
    let cut = all.length;
    for (;;) {
      const space = all.slice(Math.max(0, cut - 3), cut).lastIndexOf(" ");
      if (space < 0) break;
      cut = Math.max(0, cut - 3) + space;
    }
    this.held = all.slice(cut);
    return cleanUpSpaces(all.slice(0, cut));
  }

  private advance(): string {
    const text = this.textOf(this.pending);
    if (!text.endsWith(broken)) return this.emit(this.pending.length, text);
    // A long run of broken bytes: all but the tail is certain if the tail is a sequence of its own.
    if (this.pending.length < 4 * tail) return "";
    for (let cut = this.pending.length - tail; cut >= tail; cut -= 1) {
      const head = this.textOf(this.pending.slice(0, cut));
      const rest = this.decode(this.pending.slice(cut));
      if (rest !== "" && head + rest === text) return this.emit(cut, head);
    }
    return "";
  }

  private decode(ids: readonly number[]): string {
    return this.decoder.decode(ids, unclean(this.options));
  }

  /** The text of `ids` where they stand, that is after the context. */
  private textOf(ids: readonly number[]): string {
    return this.decode([...this.context, ...ids]).slice(this.contextText.length);
  }

  private emit(count: number, text: string): string {
    const ids = this.pending.slice(0, count);
    this.pending = this.pending.slice(count);
    // Ids without text (skipped special tokens) are no context by themselves: what follows them still follows the piece before.
    if (text !== "") this.context = ids;
    else if (this.contextText === "") this.context = [...this.context, ...ids];
    this.contextText = this.decode(this.context);
    return text;
  }
}

/**
 * The text of a generation as an async iterable: `const done = model.generate(ids, { streamer }); for await (const text of streamer) ...; await done`.
 * `pipe.stream` and `model.stream` do it in one, and end the generation when the loop is left.
 */
export class TextIteratorStreamer extends TextStreamer implements AsyncIterable<string> {
  private readonly queue: string[];
  private readonly state: { ended: boolean; wake: (() => void) | undefined };
  private readonly timeout: number | undefined;

  /** @param options as for TextStreamer; `timeout`: milliseconds to wait for a piece before giving up, for ever unless given. */
  constructor(
    decoder: Decoder,
    { timeout, ...options }: Omit<TextStreamerOptions, "onFinalizedText"> & { readonly timeout?: number } = {},
  ) {
    const queue: string[] = [];
    const state: TextIteratorStreamer["state"] = { ended: false, wake: undefined };
    const onFinalizedText = (text: string, end: boolean): void => {
      if (text !== "") queue.push(text);
      state.ended = end;
      state.wake?.();
    };
    super(decoder, { ...options, onFinalizedText });
    this.queue = queue;
    this.state = state;
    this.timeout = timeout;
  }

  /** The pieces up to the end of the text. @throws UserError when none comes within the time allowed. */
  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, void> {
    for (;;) {
      const text = this.queue.shift();
      if (text !== undefined) yield text;
      else if (this.state.ended) break;
      else await this.more();
    }
    this.state.ended = false;
  }

  private more(): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = (): void => reject(new UserError(`TextIteratorStreamer: no text within ${this.timeout} ms`));
      const timer = this.timeout === undefined ? undefined : setTimeout(late, this.timeout);
      this.state.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/**
 * Tells a streamer of a generation's prompts and gives the function for its steps.
 * @throws UserError with beams, of which none is certain before the end, and what the streamer throws at several rows.
 */
export function startStreamer(
  streamer: Streamer,
  { ids, rows }: { readonly ids: Int32Array; readonly rows: number },
  numBeams = 1,
): (step: { readonly tokens: Int32Array }) => void {
  if (numBeams > 1) {
    throw new UserError("`streamer` cannot be used with beam search (yet!). Make sure that `num_beams` is set to 1.", {
      hint: "leave numBeams out, or read the text when it is complete",
    });
  }
  const length = ids.length / rows;
  streamer.put(Array.from({ length: rows }, (_, row) => ids.subarray(row * length, (row + 1) * length)));
  return ({ tokens }) => streamer.put(Array.from(tokens, (token) => [token]));
}
