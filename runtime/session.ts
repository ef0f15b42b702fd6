import type { TensorEntry } from "../compiler/artifact.ts";
import { evaluateIntExpr } from "../compiler/artifact.ts";
import { UserError } from "./errors.ts";
import type { Executor, HostArray, ProgramInfo } from "./executor.ts";
import { moveArrayRows, rowMoves } from "./rows.ts";
import type { RowPart } from "./rows.ts";
import type { Placement } from "./sequences.ts";
import { checkPosition, placeTokens } from "./sequences.ts";
import { openTokenChoice } from "./token-choice.ts";
import type { TokenChoice } from "./token-choice.ts";

/**
 * A conversation with a model: rows of tokens go in, the logits of what comes next come out, and the states in between stay on the device. All rows
 * advance together and share `past`; a shorter prompt is padded and masked. Padding leaves no trace in the states, on either side; only padding between
 * tokens of one sequence in one call takes the place of inputs of the convolution (as zeros), as in Transformers. Padded on the left, a row's last
 * position is a token's, whose logits say what comes next.
 */
export interface Session {
  readonly executor: Executor;
  /** Positions that the caches have room for, padding included. */
  readonly capacity: number;
  /** Most rows. */
  readonly maxRows: number;
  /** Most tokens a row that go through one call of the prefill program; a longer prompt goes in chunks of this. */
  readonly chunk: number;
  readonly vocabSize: number;
  /** Rows in use: 0 before the first prefill. */
  readonly rows: number;
  /** Positions that the caches hold. */
  readonly past: number;
  /** The likeliest next token of each row. */
  readonly next: Int32Array;
  /** Feeds `rows` rows of tokens of one length, [rows, length] row-major. States continue from what they are. */
  prefill(ids: Int32Array, options?: PrefillOptions): Promise<void>;
  /** Feeds one token a row, which continues its sequence. @param positions of these tokens for the rotary embedding; they count on unless given */
  decode(ids: Int32Array, positions?: ArrayLike<number>): Promise<void>;
  /** Logits of the last position of a row: valid until the next call. Only the rows asked for are brought to the host. */
  logits(row: number): Promise<Float32Array>;
  /**
   * Row i becomes what row source[i] is, in everything: states, positions, sequences, padding, seen tokens, logits and `next`. There are then as many rows as `source` has,
   * so this also repeats rows and drops them. All copies are made on the device.
   */
  reorder(source: ArrayLike<number>): Promise<void>;
  /** Replaces the logits of a row, [vocab], before `choose`: for processors that run on the host. They may be what `logits` gave, changed in place. */
  setLogits(row: number, values: ArrayLike<number>): void;
  /** Tells that tokens occur in a row; the repetition penalty is theirs until `reset`. */
  markSeen(row: number, ids: ArrayLike<number>): void;
  /**
   * Chooses the next token of each row from its logits (spec bamba e.2). The same array each time.
   * @param settings [rows, 6]: repetition penalty (1 = none), temperature, top-k (0 = all), top-p (1 = all), min-p (0 = all), and the draw, in [0, 1), or
   * below 0 for the likeliest token
   * @throws UserError for settings out of their ranges, when the logits of a row hold NaN or infinity or allow no token, and when the model was compiled
   * without the program.
   */
  choose(settings: Float32Array): Promise<Int32Array>;
  /** Scores of a row that the last `choose` took its token from, what was removed at -Infinity. Valid until the next call. */
  scores(row: number): Promise<Float32Array>;
  /** Of a row, the label of its last token (see PrefillOptions.sequences) and the position that its next one has unless told otherwise. */
  lastOf(row: number): { readonly label: number; readonly nextPosition: number };
  /** Whether a position that the caches hold was padding. */
  isPadding(row: number, at: number): boolean;
  /** Forgets everything. */
  reset(): Promise<void>;
  /** The states, as far as they are in use, as a value. */
  snapshot(): Promise<Snapshot>;
  /** Goes back to a snapshot of a session of the same model. */
  restore(snapshot: Snapshot): Promise<void>;
}

export interface PrefillOptions {
  /** Rows in `ids`; 1 unless given. */
  readonly rows?: number;
  /** 1 for a token, 0 for padding, [rows, length]; all ones unless given. */
  readonly mask?: ArrayLike<number>;
  /**
   * A label for each token, [rows, length], any 32-bit integers: several sequences in one row (packing). A token whose label differs from that of the token
   * before it, in this call or the last one, begins a sequence, which sees nothing of those before. Unless given, every token continues its row's sequence
   * (whose label is 0 if none was ever given). Labels of padding do not matter.
   */
  readonly sequences?: ArrayLike<number>;
  /**
   * Position of each token for the rotary embedding, [rows, length]. Unless given, tokens count on from the row's last one, from 0 where a sequence begins,
   * and padding has 0.
   */
  readonly positions?: ArrayLike<number>;
  /** Most tokens a row that go through one call; the session's `chunk` unless given, and never more. */
  readonly chunk?: number;
  /**
   * First token of a row whose logits are wanted, for programs that compute as many as are asked for; 0 unless given. A chunk before it computes those
   * of its last token only.
   */
  readonly logitsFrom?: number;
  /**
   * Called after each chunk, while outputs hold that chunk's values: position of its first token in `ids`, its length, and of how many of its last
   * tokens a program that is asked for a number has computed logits.
   */
  readonly onChunk?: (first: number, length: number, kept: number) => void | Promise<void>;
  /** Other inputs, by name, [rows, length, width] row-major: `inputs_embeds`, `labels`. Cut into chunks as the ids are. */
  readonly extra?: Readonly<Record<string, Float32Array | Int32Array>>;
}

/** What a session holds at a position. Plain data: it outlives the session that it was taken from. */
export interface Snapshot {
  readonly rows: number;
  readonly past: number;
  /** Next position of each row. */
  readonly positions: Int32Array;
  /** Label of each row's last token. */
  readonly labels: Int32Array;
  /** Sequence of each position, and whether it is padding, [rows, past]: see sequences.ts. */
  readonly sequenceIds: Int32Array;
  /** Of each row the tokens that `markSeen` told of. */
  readonly seen: readonly Int32Array[];
  /** The used part of each state: `shape` has the rows in use, and `past` on an axis that runs over positions. */
  readonly states: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: HostArray }>;
}

export interface SessionOptions {
  /** The axis that runs over positions, for states that have one (key/value caches). The others are whole at any position. */
  readonly positionAxes?: Readonly<Record<string, number>>;
  /** Program that takes many tokens: "prefill" unless given. */
  readonly prefill?: string;
  /** Tokens there are, for programs that give no logits. */
  readonly vocabSize?: number;
  /**
   * Called before each run, when the inputs are written: the positions of the run's `count` tokens, one more than the greatest position of the whole
   * call (which may be longer than this run), and what the caches hold. For inputs that follow from the positions. It must not allocate.
   */
  readonly onPositions?: (positions: HostArray, count: number, length: number, past: number) => void;
}

/** Starts a session on an executor, which must be its own: two sessions would share the states. */
export function createSession(executor: Executor, options: SessionOptions = {}): Session {
  return new ModelSession(executor, options);
}

class ModelSession implements Session {
  readonly executor: Executor;
  readonly capacity: number;
  readonly maxRows: number;
  readonly chunk: number;
  readonly vocabSize: number;
  rows = 0;
  past = 0;
  readonly next: Int32Array;
  private readonly main: string;
  private readonly ids: HostArray | undefined;
  private readonly positionIds: HostArray | undefined;
  /** Of every row so far, [maxRows, capacity]. */
  private readonly sequenceIds: HostArray;
  private readonly ends: HostArray | undefined;
  private readonly logitRows: readonly Float32Array[];
  /** Next position of each row. */
  private readonly positions: Int32Array;
  /** Label of each row's last token. */
  private readonly labels: Int32Array;
  /** Outputs that have one position a row, and how many elements that is. */
  private readonly rowOutputs: readonly (readonly [name: string, size: number])[];
  /** Decode programs by their number of rows, ascending. */
  private readonly decodes: readonly (readonly [rows: number, name: string])[];
  private readonly positionAxes: Readonly<Record<string, number>>;
  private readonly onPositions: SessionOptions["onPositions"];
  private readonly choice: TokenChoice | undefined;
  private readonly symbols = { batch: 1, seq: 1, past: 0, kept: 1 };
  /** One more than the greatest position of the call at work. */
  private reach = 0;
  private busy = false;

  constructor(executor: Executor, { positionAxes = {}, prefill = "prefill", vocabSize = 0, onPositions }: SessionOptions) {
    this.executor = executor;
    this.main = prefill;
    this.positionAxes = positionAxes;
    this.onPositions = onPositions;
    const program = executor.programs.find(({ name }) => name === prefill);
    if (program === undefined)
      throw new UserError(`the compiled model has no program "${prefill}", only ${executor.programs.map(({ name }) => name).join(", ")}`);
    const largest = (symbol: string): number => symbolOf(program, symbol)?.max ?? 1;
    this.capacity = largest("past") + 1;
    this.maxRows = largest("batch");
    this.chunk = largest("seq");
    this.decodes = executor.programs
      .flatMap(({ name }): [number, string][] => {
        const rows = /^decode\.(\d+)$/.exec(name)?.[1];
        return rows === undefined ? [] : [[Number(rows), name]];
      })
      .sort(([a], [b]) => a - b);
    this.ids = executor.input("input_ids");
    this.positionIds = executor.input("position_ids");
    this.sequenceIds = executor.input("sequence_ids") ?? new Int32Array(this.maxRows * this.capacity);
    this.ends = executor.input("sequence_ends");
    const logits = executor.output("logits");
    const last = program.outputs.find(({ name }) => name === "logits")?.shape.at(-1);
    this.vocabSize = typeof last === "number" ? last : vocabSize;
    if (this.vocabSize === 0) throw new UserError(`program "${prefill}" of the compiled model gives no logits`);
    this.logitRows =
      logits instanceof Float32Array
        ? Array.from({ length: this.maxRows }, (_, row) => logits.subarray(row * this.vocabSize, (row + 1) * this.vocabSize))
        : [];
    const next = executor.output("argmax");
    this.next = next instanceof Int32Array ? next : new Int32Array(this.maxRows);
    this.rowOutputs = program.outputs.flatMap(({ name, shape }): [string, number][] => {
      const size = shape[1] ?? 1;
      return shape[0] === "batch" && shape.length <= 2 && typeof size === "number" ? [[name, size]] : [];
    });
    this.choice = openTokenChoice(executor, this.vocabSize);
    this.positions = new Int32Array(this.maxRows);
    this.labels = new Int32Array(this.maxRows);
  }

  async prefill(ids: Int32Array, options: PrefillOptions = {}): Promise<void> {
    const { rows = 1, mask, sequences, positions, onChunk, extra = {}, logitsFrom = 0 } = options;
    const chunk = Math.min(options.chunk ?? this.chunk, this.chunk);
    const length = ids.length / rows;
    this.checkCall(rows, length);
    this.checkIds(ids);
    for (const [what, values] of Object.entries({ mask, "list of sequence labels": sequences, positions })) {
      if (values !== undefined && values.length !== ids.length)
        throw new UserError(`the ${what} has ${values.length} elements, the ids have ${ids.length}`);
    }
    const placement = placeTokens(
      { sequence: (row) => this.sequenceOf(row), label: (row) => this.labels[row]!, position: (row) => this.positions[row]! },
      { rows, length, mask, sequences, positions },
      this.capacity,
    );
    await this.alone(async () => {
      this.rows = rows;
      this.reach = placement.positions.reduce((reach, position) => Math.max(reach, position + 1), 0);
      for (let first = 0; first < length; first += chunk) {
        const count = Math.min(chunk, length - first);
        this.fill(first, count, length, ids, placement, sequences);
        for (const [name, values] of Object.entries(extra)) this.fillExtra(name, values, first, count, length);
        const kept = Math.max(1, Math.min(count, first + count - logitsFrom));
        await this.run(this.main, count, kept);
        await onChunk?.(first, count, kept);
      }
      await this.executor.fetch("argmax", rows);
    });
  }

  async decode(ids: Int32Array, positions?: ArrayLike<number>): Promise<void> {
    const { rows } = this;
    if (rows === 0) throw new UserError("a session starts with a prefill; there is no prompt yet");
    if (ids.length !== rows) throw new UserError(`the session has ${rows} rows, got ${ids.length} tokens`);
    this.checkCall(rows, 1);
    this.checkIds(ids);
    let reach = 0;
    for (let row = 0; row < rows; row += 1)
      reach = Math.max(reach, checkPosition(positions?.[row] ?? this.positions[row]!, this.capacity) + 1);
    if (this.busy) throw new UserError("the session is still at work on another call; wait for it");
    this.busy = true;
    try {
      this.reach = reach;
      this.fillStep(ids, positions);
      await this.run(this.decodeProgram(rows), 1);
      await this.executor.fetch("argmax", rows);
    } finally {
      this.busy = false;
    }
  }

  async logits(row: number): Promise<Float32Array> {
    const view = row < this.rows ? this.logitRows[row] : undefined;
    if (view === undefined) throw new UserError(`there is no row ${row}; the session has ${this.rows}`);
    await this.executor.fetch("logits", (row + 1) * this.vocabSize);
    return view;
  }

  async reorder(source: ArrayLike<number>): Promise<void> {
    const rows = source.length;
    if (this.rows === 0) throw new UserError("a session starts with a prefill; there are no rows yet");
    if (rows < 1 || rows > this.maxRows)
      throw new UserError(`${rows} rows at once, but the model was compiled for 1 to ${this.maxRows}`, {
        hint: "compile it for more: --batch on the command line, batch in fromPretrained",
      });
    for (let row = 0; row < rows; row += 1) {
      const from = source[row]!;
      if (!(Number.isInteger(from) && from >= 0 && from < this.rows))
        throw new UserError(`row ${row} cannot become row ${from}: the session has rows 0 to ${this.rows - 1}`);
    }
    await this.alone(async () => {
      const moves = rowMoves(source);
      for (const entry of this.executor.states) await this.executor.moveRows(entry.name, moves, this.rowOf(entry));
      for (const [name, size] of this.rowOutputs) await this.executor.moveRows(name, moves, { size, runs: 1, length: size, stride: 0 });
      const { capacity, past } = this;
      for (const array of [this.positions, this.labels]) moveArrayRows(array, moves, { size: 1, runs: 1, length: 1, stride: 0 });
      moveArrayRows(this.sequenceIds, moves, { size: capacity, runs: 1, length: past, stride: 0 });
      for (const { to } of moves) if (to >= 0) this.executor.wrote("sequence_ids", to * capacity, past);
      this.choice?.moveSeen(moves);
      this.choice?.clear(rows, this.rows);
      this.rows = rows;
      await this.executor.fetch("argmax", rows);
    });
  }

  setLogits(row: number, values: ArrayLike<number>): void {
    this.choiceOf(row).setLogits(row, values);
  }

  markSeen(row: number, ids: ArrayLike<number>): void {
    this.choiceOf(row).markSeen(row, ids);
  }

  async choose(settings: Float32Array): Promise<Int32Array> {
    const choice = this.choiceOf(0);
    this.busy = true;
    try {
      return await choice.run(settings, this.rows);
    } finally {
      this.busy = false;
    }
  }

  async scores(row: number): Promise<Float32Array> {
    return this.choiceOf(row).scores(row);
  }

  /** Where the token of a row that is in use is chosen, when nothing else is under way. */
  private choiceOf(row: number): TokenChoice {
    if (this.busy) throw new UserError("the session is still at work on another call; wait for it");
    if (this.choice === undefined)
      throw new UserError('the compiled model has no program "sample", which chooses tokens', {
        hint: "it was compiled to give the logits of every position; generation compiles one that also chooses",
      });
    if (!Number.isInteger(row) || row < 0 || row >= this.rows) throw new UserError(`there is no row ${row}; the session has ${this.rows}`);
    return this.choice;
  }

  lastOf(row: number): { readonly label: number; readonly nextPosition: number } {
    return { label: this.labels[row]!, nextPosition: this.positions[row]! };
  }

  isPadding(row: number, at: number): boolean {
    return this.sequenceIds[row * this.capacity + at]! <= 0;
  }

  async reset(): Promise<void> {
    await this.alone(async () => {
      await this.forget();
    });
  }

  async snapshot(): Promise<Snapshot> {
    const { rows, past, capacity } = this;
    const sequenceIds = new Int32Array(rows * past);
    for (let row = 0; row < rows; row += 1) sequenceIds.set(this.sequenceIds.subarray(row * capacity, row * capacity + past), row * past);
    const states = new Map<string, { shape: readonly number[]; data: HostArray }>();
    for (const entry of this.executor.states) {
      const { shape, blocks, length, stride } = this.used(entry, rows, past);
      const data = newArray(entry, blocks * length);
      for (let block = 0; block < blocks; block += 1)
        await this.executor.readState(entry.name, block * stride, data.subarray(block * length, (block + 1) * length));
      states.set(entry.name, { shape, data });
    }
    const seen = Array.from({ length: rows }, (_, row) => this.choice?.seen(row) ?? new Int32Array(0));
    return { rows, past, positions: this.positions.slice(0, rows), labels: this.labels.slice(0, rows), sequenceIds, seen, states };
  }

  async restore(snapshot: Snapshot): Promise<void> {
    const { rows, past, positions, labels, sequenceIds, seen, states } = snapshot;
    if (rows > this.maxRows || past > this.capacity)
      throw new UserError(
        `the snapshot has ${rows} rows and ${past} positions, the session has room for ${this.maxRows} and ${this.capacity}`,
      );
    for (const entry of this.executor.states) {
      const { shape } = this.used(entry, rows, past);
      const held = states.get(entry.name);
      if (held?.shape.length !== shape.length || !shape.every((size, i) => size === held.shape[i]))
        throw new UserError(
          `the snapshot is of another model: state ${entry.name} is [${held?.shape.join(", ") ?? "missing"}], expected [${shape.join(", ")}]`,
        );
    }
    await this.alone(async () => {
      await this.forget();
      for (const entry of this.executor.states) {
        const { blocks, length, stride } = this.used(entry, rows, past);
        const { data } = states.get(entry.name)!;
        for (let block = 0; block < blocks; block += 1)
          await this.executor.writeState(entry.name, block * stride, data.subarray(block * length, (block + 1) * length));
      }
      this.rows = rows;
      this.past = past;
      this.positions.set(positions);
      this.labels.set(labels);
      for (let row = 0; row < rows; row += 1) {
        this.sequenceIds.set(sequenceIds.subarray(row * past, (row + 1) * past), row * this.capacity);
        this.executor.wrote("sequence_ids", row * this.capacity, past);
        this.choice?.markSeen(row, seen[row]!);
      }
    });
  }

  private async forget(): Promise<void> {
    const used = this.rows > 0;
    this.choice?.clear(0, this.rows);
    this.rows = 0;
    this.past = 0;
    this.positions.fill(0);
    this.labels.fill(0);
    if (!used) return;
    // Of a state that runs over positions nothing beyond `past` is ever read. Clearing it would touch memory that may never be needed.
    for (const { name } of this.executor.states) if (this.positionAxes[name] === undefined) await this.executor.clearState(name);
  }

  /** One call at a time: the states are one thing, and a second caller would read them half written. */
  private async alone(body: () => Promise<void>): Promise<void> {
    if (this.busy) throw new UserError("the session is still at work on another call; wait for it");
    this.busy = true;
    try {
      await body();
    } finally {
      this.busy = false;
    }
  }

  private checkCall(rows: number, length: number): void {
    if (!Number.isInteger(rows) || rows < 1 || !Number.isInteger(length) || length < 1)
      throw new UserError(`expected a whole number of tokens in each of ${rows} rows, at least one`);
    if (rows > this.maxRows)
      throw new UserError(`${rows} prompts at once, but the model was compiled for at most ${this.maxRows}`, {
        hint: "compile it for more: --batch on the command line, batch in fromPretrained",
      });
    if (this.rows !== 0 && rows !== this.rows)
      throw new UserError(`the session has ${this.rows} rows, got ${rows}`, { hint: "reset() the session before another batch" });
    if (this.past + length > this.capacity) {
      const total =
        this.past === 0 ? `the prompt has ${length} tokens` : `${this.past} tokens and ${length} more are ${this.past + length}`;
      throw new UserError(`${total}, but the model was compiled for at most ${this.capacity} positions`, {
        hint: "compile it for more: --max-length on the command line, maxLength in fromPretrained",
      });
    }
  }

  private checkIds(ids: Int32Array): void {
    for (let i = 0; i < ids.length; i += 1) {
      const id = ids[i]!;
      if (id < 0 || id >= this.vocabSize)
        throw new UserError(`token id ${id} (number ${i}) is outside the vocabulary of ${this.vocabSize} tokens`);
    }
  }

  /** The sequence that a row's next token continues; 0 before its first one. */
  private sequenceOf(row: number): number {
    // a token moves the position on, so at 0 there was none
    return this.positions[row] === 0 ? 0 : Math.abs(this.sequenceIds[row * this.capacity + this.past - 1]!);
  }

  /**
   * The program for the least number of rows that is enough. Rows beyond ours repeat what their inputs held last, on states of their own that nobody
   * reads. A larger batch than any program's goes through prefill, one token long.
   */
  private decodeProgram(rows: number): string {
    for (const [most, name] of this.decodes) if (most >= rows) return name;
    return this.main;
  }

  /** Writes the inputs of one call: tokens `first` to `first + count - 1` of rows of `length`. */
  private fill(
    first: number,
    count: number,
    length: number,
    ids: Int32Array,
    placement: Placement,
    sequences: ArrayLike<number> | undefined,
  ): void {
    for (let row = 0; row < this.rows; row += 1) {
      for (let i = 0; i < count; i += 1) {
        const from = row * length + first + i;
        const id = placement.ids[from]!;
        const position = placement.positions[from]!;
        this.place(row, i, count, ids[from]!, id, position);
        if (id > 0) {
          this.positions[row] = position + 1;
          this.labels[row] = sequences?.[from] ?? this.labels[row]!;
        }
      }
      // Padding before later tokens of the row is part of this chunk's inputs, as it is when the chunks are one call; padding after the last is not.
      if (this.ends !== undefined) this.ends[row] = Math.min(Math.max(placement.ends[row]! - first, 0), count);
    }
    this.wrote(count);
  }

  /** The same for one token a row. Allocates nothing. */
  private fillStep(ids: Int32Array, positions: ArrayLike<number> | undefined): void {
    for (let row = 0; row < this.rows; row += 1) {
      const position = positions?.[row] ?? this.positions[row]!;
      this.place(row, 0, 1, ids[row]!, this.sequenceOf(row) || 1, position);
      this.positions[row] = position + 1;
      if (this.ends !== undefined) this.ends[row] = 1;
    }
    this.wrote(1);
  }

  private place(row: number, i: number, count: number, token: number, sequenceId: number, position: number): void {
    const to = row * count + i;
    if (this.ids !== undefined) this.ids[to] = token;
    if (this.positionIds !== undefined) this.positionIds[to] = position;
    this.sequenceIds[row * this.capacity + this.past + i] = sequenceId;
  }

  private wrote(count: number): void {
    for (let row = 0; row < this.rows; row += 1) this.executor.wrote("sequence_ids", row * this.capacity + this.past, count);
    this.executor.wrote("sequence_ends", 0, this.rows);
    this.executor.wrote("input_ids", 0, this.rows * count);
    this.executor.wrote("position_ids", 0, this.rows * count);
  }

  private fillExtra(name: string, values: Float32Array | Int32Array, first: number, count: number, length: number): void {
    const target = this.executor.input(name);
    const width = values.length / (this.rows * length);
    if (target === undefined) throw new UserError(`the compiled model has no input ${name}`);
    for (let row = 0; row < this.rows; row += 1) {
      const from = (row * length + first) * width;
      target.set(values.subarray(from, from + count * width), row * count * width);
    }
    this.executor.wrote(name, 0, this.rows * count * width);
  }

  private async run(program: string, count: number, kept = 1): Promise<void> {
    if (this.positionIds !== undefined) this.onPositions?.(this.positionIds, this.rows * count, this.reach, this.past);
    this.symbols.batch = this.rows;
    this.symbols.seq = count;
    this.symbols.past = this.past;
    this.symbols.kept = kept;
    await this.executor.run(program, this.symbols);
    this.past += count;
  }

  /** Where the part in use lies in each row of a state. */
  private rowOf(entry: TensorEntry): RowPart {
    const { blocks, length, stride } = this.used(entry, 1, this.past);
    const size = entry.shape.slice(1).reduce<number>((n, extent) => n * evaluateIntExpr(extent, { batch: this.maxRows }), 1);
    return { size, runs: blocks, length, stride };
  }

  /** The part of a state in use: `blocks` runs of `length` elements, `stride` apart. */
  private used(entry: TensorEntry, rows: number, past: number): { shape: number[]; blocks: number; length: number; stride: number } {
    const full = entry.shape.map((size) => evaluateIntExpr(size, { batch: this.maxRows }));
    const shape = [rows, ...full.slice(1)];
    const axis = this.positionAxes[entry.name];
    const product = (sizes: readonly number[]): number => sizes.reduce((n, size) => n * size, 1);
    if (axis === undefined) return { shape, blocks: 1, length: product(shape), stride: 0 };
    const inner = product(full.slice(axis + 1));
    shape[axis] = past;
    return { shape, blocks: product(shape.slice(0, axis)), length: past * inner, stride: full[axis]! * inner };
  }
}

const symbolOf = (program: ProgramInfo, name: string): ProgramInfo["symbols"][number] | undefined =>
  program.symbols.find((s) => s.name === name);

function newArray(entry: TensorEntry, length: number): HostArray {
  switch (entry.dtype) {
    case "f32":
      return new Float32Array(length);
    case "i32":
      return new Int32Array(length);
    case "f16":
    case "bf16":
      return new Uint16Array(length);
    case "bool":
      return new Uint8Array(length);
  }
}
