import { UserError } from "../errors.ts";

export type Side = "left" | "right";

export interface EncodeOptions {
  /** Whether the tokenizer's own special tokens (the beginning of text) are added; true unless given. */
  readonly addSpecialTokens?: boolean;
}

export interface EncodingOptions extends EncodeOptions {
  /** true or "longest": to the longest row; "maxLength": to maxLength. False unless given. */
  readonly padding?: boolean | "longest" | "maxLength";
  /** Whether rows longer than maxLength are cut; false unless given. */
  readonly truncation?: boolean;
  /** Ids of a row at most, special tokens included; the tokenizer's own limit unless given. */
  readonly maxLength?: number;
  /** Whether there is a mask in the result; true unless given. */
  readonly returnAttentionMask?: boolean;
  readonly paddingSide?: Side;
  readonly truncationSide?: Side;
}

/** The ids of a text, or of each of several, and 1 for a token, 0 for padding. */
export interface Encoding<Ids extends readonly number[] | readonly (readonly number[])[]> {
  readonly inputIds: Ids;
  readonly attentionMask?: Ids;
}

/** A row of ids of which the special tokens in front and behind are never cut. */
export interface EncodedText {
  readonly before: readonly number[];
  readonly text: readonly number[];
  readonly after: readonly number[];
}

/** Takes the special tokens of a row apart from its text. */
export function splitSpecial(whole: readonly number[], text: readonly number[]): EncodedText {
  const added = whole.length - text.length;
  const matches = (at: number): boolean => text.every((id, i) => whole[at + i] === id);
  for (let at = 0; at <= added; at += 1) if (matches(at)) return { before: whole.slice(0, at), text, after: whole.slice(at + text.length) };
  return { before: [], text: whole, after: [] };
}

/** The ids of a row, its text cut on one side so that there are `most` at the most. @throws UserError when the special tokens alone are more. */
export function truncated({ before, text, after }: EncodedText, most: number, side: Side): readonly number[] {
  const room = most - before.length - after.length;
  if (room < 0) throw new UserError(`maxLength ${most} has no room for the ${before.length + after.length} special tokens`);
  const kept = text.length <= room ? text : side === "right" ? text.slice(0, room) : text.slice(text.length - room);
  return [...before, ...kept, ...after];
}

/** A row and its mask, `count` ids of padding added on one side. */
export function padded(
  row: readonly number[],
  count: number,
  padId: number,
  side: Side,
): { readonly ids: readonly number[]; readonly mask: readonly number[] } {
  const [padding, blank] = [new Array<number>(count).fill(padId), new Array<number>(count).fill(0)];
  const ones = row.map(() => 1);
  return side === "left"
    ? { ids: [...padding, ...row], mask: [...blank, ...ones] }
    : { ids: [...row, ...padding], mask: [...ones, ...blank] };
}

/**
 * Takes away the spaces before punctuation and before the short forms of English that some tokenizers put there, as Transformers'
 * clean_up_tokenization does. Every pattern is a space and at most three characters: a text that ends with three others is cleaned by itself.
 */
export function cleanUpSpaces(text: string): string {
  return text
    .replace(/ ([.?!,])/g, "$1")
    .replaceAll(" ' ", "'")
    .replace(/ (n't|'m|'s|'ve|'re)/g, "$1");
}
