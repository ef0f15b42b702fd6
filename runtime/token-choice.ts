import { UserError } from "./errors.ts";
import type { Executor, HostArray } from "./executor.ts";
import { moveArrayRows } from "./rows.ts";
import type { RowMove } from "./rows.ts";
import { checkTokenIds } from "./sequences.ts";
import { noDistribution } from "./text/sampling.ts";

/** Numbers of a row that say how its token is chosen, in the order that `Session.choose` names. */
export const settingsPerRow = 6;

/**
 * The program `sample` of a compiled model (models/auto/sample.ts) and what it holds for each row: the tokens seen. Its arrays belong to the executor and
 * stay the same, so choosing a token allocates nothing.
 */
export interface TokenChoice {
  /** Runs the program for the first `rows` rows. @throws UserError for settings out of their ranges, or logits that no token can be chosen from. */
  run(settings: Float32Array, rows: number): Promise<Int32Array>;
  /** Processed scores of a row, as of the last run. */
  scores(row: number): Promise<Float32Array>;
  setLogits(row: number, values: ArrayLike<number>): void;
  markSeen(row: number, ids: ArrayLike<number>): void;
  /** The ids seen in a row, ascending. */
  seen(row: number): Int32Array;
  /** Rows change places (rows.ts). */
  moveSeen(moves: readonly RowMove[]): void;
  /** Forgets what the rows from `first` to `end - 1` have seen. */
  clear(first: number, end: number): void;
}

/** Undefined when the executor has no such program. @param vocabSize of the logits */
export function openTokenChoice(executor: Executor, vocabSize: number): TokenChoice | undefined {
  if (!executor.programs.some(({ name }) => name === "sample")) return undefined;
  const { settings, logits, seen, scores, tokens } = arraysOf(executor, vocabSize);
  const rowOf = <T extends Float32Array | Uint8Array>(array: T, row: number): T =>
    array.subarray(row * vocabSize, (row + 1) * vocabSize) as T;
  const scoreRows = Array.from({ length: tokens.length }, (_, row) => rowOf(scores, row));
  // for each number of rows the same array every time
  const results = Array.from({ length: tokens.length + 1 }, (_, rows) => tokens.subarray(0, rows));
  const symbols = { batch: 1 };

  return {
    async run(values, rows) {
      checkSettings(values, rows);
      settings.set(values);
      executor.wrote("settings", 0, values.length);
      symbols.batch = rows;
      await executor.run("sample", symbols);
      await executor.fetch("token", rows);
      const result = results[rows]!;
      if (result.some((token) => token < 0)) throw noDistribution();
      return result;
    },
    async scores(row) {
      await executor.fetch("scores", (row + 1) * vocabSize);
      return scoreRows[row]!;
    },
    setLogits(row, values) {
      if (values.length !== vocabSize) throw new UserError(`a row of logits has ${vocabSize} elements, got ${values.length}`);
      logits.set(values, row * vocabSize);
      executor.wrote("logits", row * vocabSize, vocabSize);
    },
    markSeen(row, ids) {
      checkTokenIds(ids, vocabSize);
      for (let i = 0; i < ids.length; i += 1) {
        const at = row * vocabSize + ids[i]!;
        if (seen[at] === 1) continue;
        seen[at] = 1;
        executor.wrote("seen", at, 1);
      }
    },
    seen(row) {
      const ids: number[] = [];
      rowOf(seen, row).forEach((flag, id) => {
        if (flag === 1) ids.push(id);
      });
      return Int32Array.from(ids);
    },
    moveSeen(moves) {
      moveArrayRows(seen, moves, { size: vocabSize, runs: 1, length: vocabSize, stride: 0 });
      for (const { to } of moves) if (to >= 0) executor.wrote("seen", to * vocabSize, vocabSize);
    },
    clear(first, end) {
      if (end <= first) return;
      seen.fill(0, first * vocabSize, end * vocabSize);
      executor.wrote("seen", first * vocabSize, (end - first) * vocabSize);
    },
  };
}

/** An artifact is a stranger's: that it calls a program "sample" does not say that this is what the program takes and gives. */
function arraysOf(executor: Executor, vocabSize: number) {
  const tokens = executor.output("token");
  const rows = tokens?.length ?? 0;
  const check = <T extends HostArray>(name: string, array: HostArray | undefined, type: new (...args: never[]) => T, width: number): T => {
    if (array instanceof type && array.length >= rows * width) return array;
    throw new UserError(`program "sample" of the compiled model has no ${name} as this runtime knows it`, {
      hint: "compile the model again",
    });
  };
  return {
    tokens: check("token", tokens, Int32Array, 1),
    scores: check("scores", executor.output("scores"), Float32Array, vocabSize),
    settings: check("settings", executor.input("settings"), Float32Array, settingsPerRow),
    logits: check("logits", executor.input("logits"), Float32Array, vocabSize),
    seen: check("seen", executor.input("seen"), Uint8Array, vocabSize),
  };
}

/** Name, and what is right, of each setting in its place. */
const settingRules: readonly (readonly [name: string, expected: string, holds: (x: number) => boolean])[] = [
  ["repetition penalty", "a number above 0", (x) => x > 0 && x < Infinity],
  ["temperature", "a number above 0", (x) => x > 0 && x < Infinity],
  ["top-k", "a whole number from 0", (x) => Number.isInteger(x) && x >= 0],
  ["top-p", "a number from 0 to 1", (x) => x >= 0 && x <= 1],
  ["min-p", "a number from 0 to 1", (x) => x >= 0 && x <= 1],
  ["draw", "a number below 1; one below 0 takes the likeliest token", (x) => x < 1],
];

function checkSettings(settings: Float32Array, rows: number): void {
  if (settings.length !== rows * settingsPerRow)
    throw new UserError(`${rows} rows have ${rows * settingsPerRow} settings, ${settingsPerRow} each; got ${settings.length}`);
  for (let i = 0; i < settings.length; i += 1) {
    const [name, expected, holds] = settingRules[i % settingsPerRow]!;
    if (!holds(settings[i]!))
      throw new UserError(`${name} of row ${Math.floor(i / settingsPerRow)}: expected ${expected}, got ${settings[i]!}`);
  }
}
