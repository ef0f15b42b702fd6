import type { DecodeOptions } from "./tokenizer.ts";

/** What a streamer needs of a tokenizer. */
export interface Decoder {
  decode(ids: readonly number[], options?: DecodeOptions): string;
}

/** A decoder's mark for bytes that are no character, and so for the first bytes of a character whose last ones are still to come. */
const broken = "\ufffd";

/** The most tokens that the bytes of one UTF-8 character are spread over, and with room to spare: such a tail is held back. */
const tail = 4;

/**
 * Turns ids into text as they come. The pieces joined are exactly `decode` of all ids, and none of them ends in the middle of a character: a
 * tail that decodes to U+FFFD is kept until later ids complete it or show that it never will be complete.
 *
 * Decoding everything again for each token would take quadratic time. Kept are the ids since the last piece (`pending`) and those of the
 * piece before (`context`), since what a token says may depend on whether it is the first one.
 */
export class TextStreamer {
  private readonly decoder: Decoder;
  private readonly options: DecodeOptions;
  private context: number[] = [];
  private contextText = "";
  private pending: number[] = [];

  /** @param options as for the tokenizer's `decode`; special tokens are skipped unless told otherwise. */
  constructor(decoder: Decoder, options: DecodeOptions = { skipSpecialTokens: true }) {
    this.decoder = decoder;
    this.options = options;
  }

  /** Takes the next id and gives the text that has become certain by it, often none. */
  push(id: number): string {
    this.pending.push(id);
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

  /** The rest of the text, broken or not. The streamer can then be used for another sequence. */
  end(): string {
    const text = this.textOf(this.pending);
    this.context = [];
    this.contextText = "";
    this.pending = [];
    return text;
  }

  private decode(ids: readonly number[]): string {
    return this.decoder.decode(ids, this.options);
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
    else if (this.contextText === "") this.context.push(...ids);
    this.contextText = this.decode(this.context);
    return text;
  }
}
