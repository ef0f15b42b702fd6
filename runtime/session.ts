import type { TensorEntry } from "../compiler/artifact.ts";
import { evaluateIntExpr } from "../compiler/artifact.ts";
import { UserError } from "./errors.ts";
import type { Executor, HostArray, ProgramInfo } from "./executor.ts";

/**
 * A conversation with a model: rows of tokens go in, the logits of what comes next come out, and the states in between stay on the device. All rows
 * advance together and share `past`; a shorter prompt is padded on the left and masked.
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
  /** Feeds one token a row. @param positions of these tokens for the rotary embedding; they count on unless given */
  decode(ids: Int32Array, positions?: ArrayLike<number>): Promise<void>;
  /** Logits of the last position of a row: valid until the next call. Only the rows asked for are brought to the host. */
  logits(row: number): Promise<Float32Array>;
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
  /** Position of each token for the rotary embedding, [rows, length]. Unless given, tokens count on from the row's last one and padding has 0. */
  readonly positions?: ArrayLike<number>;
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
  /** [rows, past] */
  readonly mask: Float32Array;
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
  private readonly mask: HostArray | undefined;
  private readonly logitRows: readonly Float32Array[];
  /** Next position of each row. */
  private readonly positions: Int32Array;
  /** The mask of every row so far, which also a program without attention needs for a snapshot. */
  private readonly kept: Float32Array;
  /** Decode programs by their number of rows, ascending. */
  private readonly decodes: readonly (readonly [rows: number, name: string])[];
  private readonly positionAxes: Readonly<Record<string, number>>;
  private readonly onPositions: SessionOptions["onPositions"];
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
    this.mask = executor.input("key_mask");
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
    this.positions = new Int32Array(this.maxRows);
    this.kept = new Float32Array(this.maxRows * this.capacity);
  }

  async prefill(ids: Int32Array, options: PrefillOptions = {}): Promise<void> {
    const { rows = 1, mask, positions, onChunk, extra = {}, logitsFrom = 0 } = options;
    const length = ids.length / rows;
    this.checkCall(rows, length);
    this.checkIds(ids);
    for (const [what, values] of Object.entries({ mask, positions })) {
      if (values !== undefined && values.length !== ids.length)
        throw new UserError(`the ${what} has ${values.length} elements, the ids have ${ids.length}`);
    }
    this.checkPositions(rows, length, mask, positions);
    await this.alone(async () => {
      this.rows = rows;
      for (let first = 0; first < length; first += this.chunk) {
        const count = Math.min(this.chunk, length - first);
        this.fill(first, count, length, ids, mask, positions);
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
    this.checkPositions(rows, 1, undefined, positions);
    if (this.busy) throw new UserError("the session is still at work on another call; wait for it");
    this.busy = true;
    try {
      this.fill(0, 1, 1, ids, undefined, positions);
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

  async reset(): Promise<void> {
    await this.alone(async () => {
      await this.forget();
    });
  }

  async snapshot(): Promise<Snapshot> {
    const { rows, past, capacity } = this;
    const mask = new Float32Array(rows * past);
    for (let row = 0; row < rows; row += 1) mask.set(this.kept.subarray(row * capacity, row * capacity + past), row * past);
    const states = new Map<string, { shape: readonly number[]; data: HostArray }>();
    for (const entry of this.executor.states) {
      const { shape, blocks, length, stride } = this.used(entry, rows, past);
      const data = newArray(entry, blocks * length);
      for (let block = 0; block < blocks; block += 1)
        await this.executor.readState(entry.name, block * stride, data.subarray(block * length, (block + 1) * length));
      states.set(entry.name, { shape, data });
    }
    return { rows, past, positions: this.positions.slice(0, rows), mask, states };
  }

  async restore(snapshot: Snapshot): Promise<void> {
    const { rows, past, positions, mask, states } = snapshot;
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
      for (let row = 0; row < rows; row += 1) {
        this.kept.set(mask.subarray(row * past, (row + 1) * past), row * this.capacity);
        this.mask?.set(mask.subarray(row * past, (row + 1) * past), row * this.capacity);
        this.executor.wrote("key_mask", row * this.capacity, past);
      }
    });
  }

  private async forget(): Promise<void> {
    const used = this.rows > 0;
    this.rows = 0;
    this.past = 0;
    this.positions.fill(0);
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

  /** Positions given before may have run ahead of the caches, so those that follow are looked at too. Notes how far the call reaches. */
  private checkPositions(
    rows: number,
    length: number,
    mask: ArrayLike<number> | undefined,
    positions: ArrayLike<number> | undefined,
  ): void {
    this.reach = 0;
    for (let row = 0; row < rows; row += 1) {
      let next = this.rows === 0 ? 0 : this.positions[row]!;
      for (let i = 0; i < length; i += 1) {
        const at = row * length + i;
        const position = positions?.[at] ?? next;
        if (!Number.isInteger(position) || position < 0 || position >= this.capacity)
          throw new UserError(`position ${position} is outside the compiled model's 0 to ${this.capacity - 1}`, {
            hint: "compile it for more: --max-length on the command line, maxLength in fromPretrained",
          });
        if (mask?.[at] !== 0) next = position + 1;
        // padding without a position of its own has 0
        if (mask?.[at] !== 0 || positions !== undefined) this.reach = Math.max(this.reach, position + 1);
      }
    }
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
    mask: ArrayLike<number> | undefined,
    positions: ArrayLike<number> | undefined,
  ): void {
    const { capacity, past, kept } = this;
    for (let row = 0; row < this.rows; row += 1) {
      for (let i = 0; i < count; i += 1) {
        const from = row * length + first + i;
        const to = row * count + i;
        const keep = mask === undefined || mask[from] !== 0;
        let position = positions?.[from];
        if (position === undefined) position = keep ? this.positions[row]! : 0;
        if (keep) this.positions[row] = position + 1;
        if (this.ids !== undefined) this.ids[to] = ids[from]!;
        if (this.positionIds !== undefined) this.positionIds[to] = position;
        kept[row * capacity + past + i] = keep ? 1 : 0;
        if (this.mask !== undefined) this.mask[row * capacity + past + i] = keep ? 1 : 0;
      }
      this.executor.wrote("key_mask", row * capacity + past, count);
    }
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
