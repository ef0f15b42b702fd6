import { UserError } from "./errors.ts";

/**
 * Which tokens of a row belong together. A row's tokens have the number n = 1, 2, ... of their sequence within the row; padding has -n of the last token
 * before it, or -1 when there was none. Programs take these ids by absolute position (`sequence_ids`).
 */

/** What rows continue from: one element a row. */
export interface RowEnds {
  /** Sequence number; 0 before the first token. */
  readonly sequence: (row: number) => number;
  /** Label of the last token. */
  readonly label: (row: number) => number;
  /** Position of the next token for the rotary embedding. */
  readonly position: (row: number) => number;
}

/** Tokens of a call: everything [rows, length]. */
export interface CallTokens {
  readonly rows: number;
  readonly length: number;
  readonly mask?: ArrayLike<number> | undefined;
  readonly sequences?: ArrayLike<number> | undefined;
  readonly positions?: ArrayLike<number> | undefined;
}

export interface Placement {
  /** [rows, length] */
  readonly ids: Int32Array;
  /** [rows, length] */
  readonly positions: Int32Array;
  /** For each row, how many positions of the call there are up to its last token; 0 when all are padding. */
  readonly ends: Int32Array;
}

/**
 * Gives each token of a call its sequence id and position. A token whose label differs from that of the token before it begins a sequence, at position 0;
 * without labels everything continues. Padding has position 0.
 *
 * @param capacity positions that the compiled model has
 * @throws UserError when a label is no 32-bit integer or a position is outside the model's
 */
export function placeTokens(before: RowEnds, call: CallTokens, capacity: number): Placement {
  const { rows, length, mask, sequences, positions: given } = call;
  const ids = new Int32Array(rows * length);
  const positions = new Int32Array(rows * length);
  const ends = new Int32Array(rows);
  for (let row = 0; row < rows; row += 1) {
    let sequence = before.sequence(row);
    let label = before.label(row);
    let next = before.position(row);
    for (let i = 0; i < length; i += 1) {
      const at = row * length + i;
      if (mask !== undefined && mask[at] === 0) {
        ids[at] = -Math.max(sequence, 1);
        positions[at] = checkPosition(given?.[at] ?? 0, capacity);
        continue;
      }
      const own = sequences === undefined ? label : checkLabel(sequences[at]!);
      if (sequence === 0) sequence = 1;
      else if (own !== label) {
        sequence += 1;
        next = 0;
      }
      label = own;
      const position = checkPosition(given?.[at] ?? next, capacity);
      next = position + 1;
      ids[at] = sequence;
      positions[at] = position;
      ends[row] = i + 1;
    }
  }
  return { ids, positions, ends };
}

/** @throws UserError when the model has no such position */
export function checkPosition(position: number, capacity: number): number {
  if (Number.isInteger(position) && position >= 0 && position < capacity) return position;
  throw new UserError(`position ${position} is outside the compiled model's 0 to ${capacity - 1}`, {
    hint: "compile it for more: --max-length on the command line, maxLength in fromPretrained",
  });
}

/** @throws UserError when a token is not of the vocabulary */
export function checkTokenIds(ids: ArrayLike<number>, vocabSize: number): void {
  for (let i = 0; i < ids.length; i += 1) {
    const id = ids[i]!;
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize)
      throw new UserError(`token id ${id} (number ${i}) is outside the vocabulary of ${vocabSize} tokens`);
  }
}

function checkLabel(label: number): number {
  if ((label | 0) === label) return label;
  throw new UserError(`the sequence label ${label} is no 32-bit integer`, {
    hint: "number the sequences of each row, for example 0, 0, 1, 1, 1",
  });
}
