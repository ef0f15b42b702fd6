import { shown, UserError } from "../../errors.ts";
import type { PrefixAllowedTokensFn, SequenceBias } from "../generation-options.ts";
import type { LogitsProcessor, RowContext } from "../processor.ts";

/**
 * The processors that forbid or force tokens, by Transformers' definitions (spec bamba e.2): a forbidden token's score becomes -Infinity. Lengths
 * are of whole rows, padding included.
 */

function ban(scores: Float32Array, ids: readonly number[]): void {
  for (const id of ids) if (id < scores.length) scores[id] = -Infinity;
}

/** Leaves the given tokens only, all alike. */
function force(scores: Float32Array, ids: readonly number[]): void {
  scores.fill(-Infinity);
  for (const id of ids) scores[id] = 0;
}

/** Bans each token that would complete a sequence of `size` tokens that the row holds already; with size 1 each token that has occurred. */
export function noRepeatNgram(size: number): LogitsProcessor {
  return {
    name: "noRepeatNgramSize",
    process: (scores, { ids }) => {
      const prefix = size - 1;
      const tail = ids.length - prefix;
      for (let at = 0; at < tail; at += 1) {
        let same = 0;
        while (same < prefix && ids[at + same] === ids[tail + same]) same += 1;
        if (same === prefix) scores[ids[at + prefix]!] = -Infinity;
      }
    },
  };
}

/** Whether one more token of the row could be the last one of `sequence`. Like Transformers' it needs a row of at least the whole length. */
function awaitsLast(sequence: readonly number[], { ids }: RowContext): boolean {
  if (sequence.length > ids.length) return sequence.length === 1;
  const start = ids.length - (sequence.length - 1);
  return sequence.slice(0, -1).every((id, i) => ids[start + i] === id);
}

/**
 * Adds to the score of a sequence's last token where the row ends with all the others; to that of a single token always. A sequence that is given
 * twice counts as it is given last.
 */
export function sequenceBias(biases: SequenceBias): LogitsProcessor {
  const last = new Map(biases.map((entry) => [entry[0].join(), entry]));
  return {
    name: "sequenceBias",
    process: (scores, row) => {
      const sums = new Map<number, number>();
      for (const [sequence, bias] of last.values()) {
        const token = sequence.at(-1)!;
        if (awaitsLast(sequence, row)) sums.set(token, Math.fround((sums.get(token) ?? 0) + Math.fround(bias)));
      }
      for (const [token, sum] of sums) scores[token]! += sum;
    },
  };
}

/** Bans the last token of each sequence whose other tokens end the row. Sequences that are one end token are left out: a row has to end. */
export function badWords(sequences: readonly (readonly number[])[], eosTokenIds: readonly number[]): LogitsProcessor {
  const banned = sequences.filter((sequence) => sequence.length > 1 || !eosTokenIds.includes(sequence[0]!));
  return {
    name: "badWordsIds",
    process: (scores, row) => {
      for (const sequence of banned) if (awaitsLast(sequence, row)) scores[sequence.at(-1)!] = -Infinity;
    },
  };
}

/** Bans the end tokens while the row has fewer than `least` new tokens. minLength is the same, counted from the start of the prompt. */
export function minNewTokens(least: number, eosTokenIds: readonly number[]): LogitsProcessor {
  return {
    name: "minNewTokens",
    process: (scores, { ids, promptLength }) => {
      if (ids.length - promptLength < least) ban(scores, eosTokenIds);
    },
  };
}

/** Bans what `allowed` does not give. @throws UserError, while generating, when it gives nothing or no token of the vocabulary. */
export function prefixAllowedTokens(allowed: PrefixAllowedTokensFn): LogitsProcessor {
  return {
    name: "prefixAllowedTokensFn",
    process: (scores, { ids, prompt }) => {
      const kept = new Map<number, number>();
      for (const id of allowed(prompt, ids)) {
        if (!Number.isInteger(id) || id < 0 || id >= scores.length)
          throw new UserError(
            `prefixAllowedTokensFn: expected token ids from 0 to ${scores.length - 1}, got ${shown(id)} for prompt ${prompt}`,
          );
        kept.set(id, scores[id]!);
      }
      if (kept.size === 0)
        throw new UserError(`prefixAllowedTokensFn: no token is allowed for prompt ${prompt}, so the constraint cannot be satisfied`, {
          hint: "allow an end token where a text is complete",
        });
      scores.fill(-Infinity);
      for (const [id, score] of kept) scores[id] = score;
    },
  };
}

/** Forces the second token of a row that is one token long. */
export function forcedBos(id: number): LogitsProcessor {
  return {
    name: "forcedBosTokenId",
    process: (scores, { ids }) => {
      if (ids.length === 1) force(scores, [id]);
    },
  };
}

/** Forces the last of `maxNewTokens` to be one of the given. */
export function forcedEos(eosIds: readonly number[], maxNewTokens: number): LogitsProcessor {
  return {
    name: "forcedEosTokenId",
    process: (scores, { ids, promptLength }) => {
      if (ids.length === promptLength + maxNewTokens - 1) force(scores, eosIds);
    },
  };
}

export function suppressTokens(banned: readonly number[]): LogitsProcessor {
  return { name: "suppressTokens", process: (scores) => ban(scores, banned) };
}

/** Bans tokens as the first new one; after a prompt of one token that a forced one follows, as the second. */
export function beginSuppressTokens(banned: readonly number[], forcesBos: boolean): LogitsProcessor {
  return {
    name: "beginSuppressTokens",
    process: (scores, { ids, promptLength }) => {
      const begin = forcesBos && promptLength <= 1 ? promptLength + 1 : promptLength;
      if (ids.length === begin) ban(scores, banned);
    },
  };
}
