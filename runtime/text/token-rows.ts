import type { RowContext } from "./processor.ts";

/** Rows of token ids of one length; shorter prompts are padded on the left and masked. */
export interface Prompts {
  /** [rows, length] */
  readonly ids: Int32Array;
  readonly rows: number;
  /** [rows, length]: 1 for a token, 0 for padding; all ones unless given. */
  readonly mask?: ArrayLike<number>;
}

/** The texts of a generation, which grow by one token a step: each row begins with its prompt. Memory for all of it is taken once. */
export class TokenRows {
  readonly rows: number;
  readonly promptLength: number;
  /** Tokens of each row, prompt and padding included. */
  length: number;
  private readonly perPrompt: number;
  private readonly room: number;
  private ids: Int32Array;
  private other: Int32Array;

  /**
   * @param perPrompt rows that continue each prompt; they are neighbours
   * @param more tokens that a row may grow by
   */
  constructor({ ids, rows }: Prompts, perPrompt: number, more: number) {
    this.rows = rows * perPrompt;
    this.perPrompt = perPrompt;
    this.promptLength = ids.length / rows;
    this.length = this.promptLength;
    this.room = this.promptLength + more;
    this.ids = new Int32Array(this.rows * this.room);
    this.other = new Int32Array(0);
    for (let row = 0; row < this.rows; row += 1) {
      const prompt = this.promptOf(row);
      this.ids.set(ids.subarray(prompt * this.promptLength, (prompt + 1) * this.promptLength), row * this.room);
    }
  }

  promptOf(row: number): number {
    return Math.floor(row / this.perPrompt);
  }

  /** The tokens of a row: valid until the rows change. */
  row(row: number): Int32Array {
    return this.ids.subarray(row * this.room, row * this.room + this.length);
  }

  append(tokens: ArrayLike<number>): void {
    for (let row = 0; row < this.rows; row += 1) this.ids[row * this.room + this.length] = tokens[row]!;
    this.length += 1;
  }

  /** Row i becomes what row source[i] is. */
  reorder(source: ArrayLike<number>): void {
    if (this.other.length === 0) this.other = new Int32Array(this.ids.length);
    for (let row = 0; row < this.rows; row += 1) this.other.set(this.row(source[row]!), row * this.room);
    [this.ids, this.other] = [this.other, this.ids];
  }

  context(row: number): RowContext {
    return { ids: this.row(row), promptLength: this.promptLength, row, prompt: this.promptOf(row) };
  }

  /** As if `token` came next in the row. */
  contextWith(row: number, token: number): RowContext {
    this.ids[row * this.room + this.length] = token;
    const ids = this.ids.subarray(row * this.room, row * this.room + this.length + 1);
    return { ids, promptLength: this.promptLength, row, prompt: this.promptOf(row) };
  }
}
