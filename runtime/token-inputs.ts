import type { Executor, HostArray } from "./executor.ts";
import { moveArrayRows } from "./rows.ts";
import type { RowMove } from "./rows.ts";
import type { Snapshot } from "./session.ts";
import type { Placement, RowEnds } from "./sequences.ts";

/** The tokens of one call: everything [rows, length]. */
export interface CallInputs {
  readonly rows: number;
  readonly length: number;
  readonly ids: Int32Array;
  readonly placement: Placement;
  /** Labels, where the caller gave some (PrefillOptions.sequences). */
  readonly sequences: ArrayLike<number> | undefined;
}

/**
 * The inputs that say which tokens a run takes and where they belong, and what of it later runs need: the sequence of every position so far, and where
 * each row goes on. The arrays are the executor's and stay the same, so writing one token a row allocates nothing.
 */
export interface TokenInputs {
  /** Positions of the run's tokens, [rows, count]; undefined when no program reads them. */
  readonly positionIds: HostArray | undefined;
  /** Label of a row's last token; 0 if none was ever given. */
  label(row: number): number;
  /** Position of a row's next token, unless the caller says another. */
  nextPosition(row: number): number;
  /** What rows continue from when the caches hold `past` positions. */
  rowEnds(past: number): RowEnds;
  isPadding(row: number, at: number): boolean;
  /** Writes tokens `first` to `first + count - 1` of each row of a call, behind `past` positions. */
  fill(call: CallInputs, first: number, count: number, past: number): void;
  /** Writes one token a row, which continues its sequence. Allocates nothing. @param positions the rows' next ones unless given */
  fillStep(ids: Int32Array, rows: number, past: number, positions: ArrayLike<number> | undefined): void;
  /** Cuts the same tokens from another of the executor's inputs, [rows, length, width]. */
  fillExtra(name: string, values: Float32Array | Int32Array, call: CallInputs, first: number, count: number): void;
  /** Rows change places (rows.ts). */
  moveRows(moves: readonly RowMove[], past: number): void;
  snapshot(rows: number, past: number): Pick<Snapshot, "positions" | "labels" | "sequenceIds">;
  restore(snapshot: Pick<Snapshot, "rows" | "past" | "positions" | "labels" | "sequenceIds">): void;
  /** Where all rows go on is the beginning again. */
  clear(): void;
}

/** Positions for which a row's sequence is written at once; nobody looks at those that hold no token yet. */
const AHEAD = 64;

export function openTokenInputs(executor: Executor, maxRows: number, capacity: number): TokenInputs {
  const tokens = executor.input("input_ids");
  const positionIds = executor.input("position_ids");
  /** Of every position so far, [maxRows, capacity], the same as in the device's memory. */
  const sequenceIds = executor.input("sequence_ids") ?? new Int32Array(maxRows * capacity);
  const ends = executor.input("sequence_ends");
  /** Next position of each row. */
  const positions = new Int32Array(maxRows);
  /** Label of each row's last token. */
  const labels = new Int32Array(maxRows);

  // a token moves the position on, so at 0 there was none
  const sequenceOf = (row: number, past: number): number => (positions[row] === 0 ? 0 : Math.abs(sequenceIds[row * capacity + past - 1]!));

  const label = (row: number): number => labels[row]!;
  const nextPosition = (row: number): number => positions[row]!;

  const place = (to: number, token: number, position: number): void => {
    if (tokens !== undefined) tokens[to] = token;
    if (positionIds !== undefined) positionIds[to] = position;
  };

  const wroteTokens = (count: number): void => {
    executor.wrote("input_ids", 0, count);
    executor.wrote("position_ids", 0, count);
  };

  /** What is written ahead is what most rows go on with, and what a GPU's memory then has already: each write is a copy that a token waits for. */
  const continueSequence = (row: number, past: number, sequence: number): void => {
    const at = row * capacity + past;
    if (sequenceIds[at] === sequence) return;
    const count = Math.min(AHEAD, capacity - past);
    sequenceIds.fill(sequence, at, at + count);
    executor.wrote("sequence_ids", at, count);
  };

  return {
    positionIds,
    label,
    nextPosition,
    rowEnds: (past) => ({ sequence: (row) => sequenceOf(row, past), label, position: nextPosition }),
    isPadding: (row, at) => sequenceIds[row * capacity + at]! <= 0,
    fill({ rows, length, ids, placement, sequences }, first, count, past) {
      for (let row = 0; row < rows; row += 1) {
        for (let i = 0; i < count; i += 1) {
          const from = row * length + first + i;
          const sequence = placement.ids[from]!;
          const position = placement.positions[from]!;
          place(row * count + i, ids[from]!, position);
          sequenceIds[row * capacity + past + i] = sequence;
          if (sequence > 0) {
            positions[row] = position + 1;
            labels[row] = sequences?.[from] ?? labels[row]!;
          }
        }
        // Padding before later tokens of the row is part of this chunk's inputs, as it is when the chunks are one call; padding after the last is not.
        if (ends !== undefined) ends[row] = Math.min(Math.max(placement.ends[row]! - first, 0), count);
      }
      for (let row = 0; row < rows; row += 1) executor.wrote("sequence_ids", row * capacity + past, count);
      executor.wrote("sequence_ends", 0, rows);
      wroteTokens(rows * count);
    },
    fillStep(ids, rows, past, given) {
      let endsChanged = false;
      for (let row = 0; row < rows; row += 1) {
        const position = given?.[row] ?? positions[row]!;
        place(row, ids[row]!, position);
        continueSequence(row, past, sequenceOf(row, past) || 1);
        positions[row] = position + 1;
        if (ends !== undefined && ends[row] !== 1) {
          ends[row] = 1;
          endsChanged = true;
        }
      }
      if (endsChanged) executor.wrote("sequence_ends", 0, rows);
      wroteTokens(rows);
    },
    fillExtra(name, values, { rows, length }, first, count) {
      const target = executor.input(name)!;
      const width = values.length / (rows * length);
      for (let row = 0; row < rows; row += 1) {
        const from = (row * length + first) * width;
        target.set(values.subarray(from, from + count * width), row * count * width);
      }
      executor.wrote(name, 0, rows * count * width);
    },
    moveRows(moves, past) {
      for (const array of [positions, labels]) moveArrayRows(array, moves, { size: 1, runs: 1, length: 1, stride: 0 });
      moveArrayRows(sequenceIds, moves, { size: capacity, runs: 1, length: past, stride: 0 });
      for (const { to } of moves) if (to >= 0) executor.wrote("sequence_ids", to * capacity, past);
    },
    snapshot(rows, past) {
      const used = new Int32Array(rows * past);
      for (let row = 0; row < rows; row += 1) used.set(sequenceIds.subarray(row * capacity, row * capacity + past), row * past);
      return { positions: positions.slice(0, rows), labels: labels.slice(0, rows), sequenceIds: used };
    },
    restore(snapshot) {
      const { rows, past } = snapshot;
      positions.set(snapshot.positions);
      labels.set(snapshot.labels);
      for (let row = 0; row < rows; row += 1) {
        sequenceIds.set(snapshot.sequenceIds.subarray(row * past, (row + 1) * past), row * capacity);
        executor.wrote("sequence_ids", row * capacity, past);
      }
    },
    clear() {
      positions.fill(0);
      labels.fill(0);
    },
  };
}
