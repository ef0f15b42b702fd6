import { UserError } from "./errors.ts";
import type { Executor, ProgramInfo } from "./executor.ts";
import { rowMoves } from "./rows.ts";
import { checkPosition, checkTokenIds, placeTokens } from "./sequences.ts";
import type { StepOptions, PrefillOptions, Session, SessionOptions, Snapshot } from "./session.ts";
import { openStates } from "./states.ts";
import type { States } from "./states.ts";
import { openTokenChoice } from "./token-choice.ts";
import type { TokenChoice } from "./token-choice.ts";
import { openTokenInputs } from "./token-inputs.ts";
import type { TokenInputs } from "./token-inputs.ts";

/** Starts a session on an executor, which must be its own: two sessions would share the states. */
export function createSession(executor: Executor, options: SessionOptions = {}): Session {
  return new ModelSession(executor, options);
}

/** The program that empties the rings. */
const settling = "settle";

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
  /** Decode programs by their number of rows, ascending. */
  private readonly decodes: readonly (readonly [rows: number, name: string])[];
  private readonly inputs: TokenInputs;
  private readonly states: States;
  private readonly choice: TokenChoice | undefined;
  private readonly logitRows: readonly Float32Array[];
  /** Outputs that have one position a row, and how many elements that is. */
  private readonly rowOutputs: readonly (readonly [name: string, size: number])[];
  private readonly onPositions: SessionOptions["onPositions"];
  private readonly symbols = { batch: 1, seq: 1, past: 0, kept: 1, with_logits: 1, held: 0 };
  /** Inputs that the rings of decode programs have room for; 0: they have no rings. */
  private readonly ring: number;
  /** Inputs in the rings, which the other states do not know of yet. */
  private held = 0;
  /** One more than the greatest position of the call at work. */
  private reach = 0;
  private busy = false;

  constructor(executor: Executor, options: SessionOptions) {
    const { positionAxes = {}, ringStates = [], prefill = "prefill", vocabSize = 0, onPositions, startAt } = options;
    this.executor = executor;
    this.main = prefill;
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
    this.inputs = openTokenInputs(executor, this.maxRows, this.capacity);
    this.states = openStates(executor, this.maxRows, positionAxes, new Set(ringStates));
    const held = executor.programs.flatMap(({ name, symbols }) => (name === settling ? [] : symbols.filter((s) => s.name === "held")));
    this.ring = held[0] === undefined ? 0 : held[0].max + 1;
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
    if (startAt !== undefined) this.startAt(startAt.rows, startAt.past);
  }

  private startAt(rows: number, past: number): void {
    this.checkCall(rows, past);
    this.rows = rows;
    this.past = past;
    this.inputs.restore({
      rows,
      past,
      positions: new Int32Array(rows).fill(past),
      labels: new Int32Array(rows),
      sequenceIds: new Int32Array(rows * past).fill(1),
    });
  }

  async prefill(ids: Int32Array, options: PrefillOptions = {}): Promise<void> {
    const { rows = 1, mask, sequences, positions, onChunk, extra = {}, logitsFrom = 0 } = options;
    const chunk = Math.min(options.chunk ?? this.chunk, this.chunk);
    const length = ids.length / rows;
    this.checkCall(rows, length);
    checkTokenIds(ids, this.vocabSize);
    for (const [what, values] of Object.entries({ mask, "list of sequence labels": sequences, positions })) {
      if (values !== undefined && values.length !== ids.length)
        throw new UserError(`the ${what} has ${values.length} elements, the ids have ${ids.length}`);
    }
    for (const name of Object.keys(extra))
      if (this.executor.input(name) === undefined) throw new UserError(`the compiled model has no input ${name}`);
    const placement = placeTokens(this.inputs.rowEnds(this.past), { rows, length, mask, sequences, positions }, this.capacity);
    const call = { rows, length, ids, placement, sequences };
    await this.alone(async () => {
      this.rows = rows;
      this.reach = placement.positions.reduce((reach, position) => Math.max(reach, position + 1), 0);
      for (let first = 0; first < length; first += chunk) {
        const count = Math.min(chunk, length - first);
        this.inputs.fill(call, first, count, this.past);
        for (const [name, values] of Object.entries(extra)) this.inputs.fillExtra(name, values, call, first, count);
        const kept = Math.max(1, Math.min(count, first + count - logitsFrom));
        await this.run(this.main, count, kept, true);
        await onChunk?.(first, count, kept);
      }
      await this.executor.fetch("argmax", rows);
    });
  }

  async decode(ids: Int32Array, { positions, logits = true }: StepOptions = {}): Promise<void> {
    const { rows } = this;
    if (rows === 0) throw new UserError("a session starts with a prefill; there is no prompt yet");
    if (ids.length !== rows) throw new UserError(`the session has ${rows} rows, got ${ids.length} tokens`);
    this.checkCall(rows, 1);
    checkTokenIds(ids, this.vocabSize);
    let reach = 0;
    for (let row = 0; row < rows; row += 1)
      reach = Math.max(reach, checkPosition(positions?.[row] ?? this.inputs.nextPosition(row), this.capacity) + 1);
    this.begin();
    try {
      this.reach = reach;
      this.inputs.fillStep(ids, rows, this.past, positions);
      await this.run(this.decodeProgram(rows), 1, 1, logits);
      await this.executor.fetch("argmax", rows);
    } finally {
      this.busy = false;
    }
  }

  async logits(row: number): Promise<Float32Array> {
    const view = row < this.rows ? this.logitRows[row] : undefined;
    if (view === undefined) throw new UserError(`there is no row ${row}; the session has ${this.rows}`);
    this.checkLogits();
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
      await this.states.moveRows(moves, this.past, this.held);
      for (const [name, size] of this.rowOutputs) await this.executor.moveRows(name, moves, { size, runs: 1, length: size, stride: 0 });
      this.inputs.moveRows(moves, this.past);
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
    this.checkLogits();
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
    this.checkIdle();
    if (this.choice === undefined)
      throw new UserError('the compiled model has no program "sample", which chooses tokens', {
        hint: "it was compiled to give the logits of every position; generation compiles one that also chooses",
      });
    if (!Number.isInteger(row) || row < 0 || row >= this.rows) throw new UserError(`there is no row ${row}; the session has ${this.rows}`);
    return this.choice;
  }

  lastOf(row: number): { readonly label: number; readonly nextPosition: number } {
    return { label: this.inputs.label(row), nextPosition: this.inputs.nextPosition(row) };
  }

  isPadding(row: number, at: number): boolean {
    return this.inputs.isPadding(row, at);
  }

  async reset(): Promise<void> {
    await this.alone(() => this.forget());
  }

  async snapshot(): Promise<Snapshot> {
    if (this.held > 0) await this.alone(() => this.settle());
    const { rows, past } = this;
    const tokens = this.inputs.snapshot(rows, past);
    const states = await this.states.read(rows, past);
    const seen = Array.from({ length: rows }, (_, row) => this.choice?.seen(row) ?? new Int32Array(0));
    return { rows, past, ...tokens, seen, states };
  }

  async restore(snapshot: Snapshot): Promise<void> {
    const { rows, past, seen, states } = snapshot;
    if (rows > this.maxRows || past > this.capacity)
      throw new UserError(
        `the snapshot has ${rows} rows and ${past} positions, the session has room for ${this.maxRows} and ${this.capacity}`,
        { hint: "compile it for more: --batch and --max-length on the command line, batch and maxLength in fromPretrained" },
      );
    this.states.check(states, rows, past);
    await this.alone(async () => {
      await this.forget();
      await this.states.write(states, rows, past);
      this.rows = rows;
      this.past = past;
      this.inputs.restore(snapshot);
      for (let row = 0; row < rows; row += 1) this.choice?.markSeen(row, seen[row]!);
    });
  }

  private async forget(): Promise<void> {
    const used = this.rows > 0;
    this.choice?.clear(0, this.rows);
    this.rows = 0;
    this.past = 0;
    this.held = 0;
    this.inputs.clear();
    if (used) await this.states.clear();
  }

  /** One call at a time: the states are one thing, and a second caller would read them half written. */
  private async alone(body: () => Promise<void>): Promise<void> {
    this.begin();
    try {
      await body();
    } finally {
      this.busy = false;
    }
  }

  private begin(): void {
    this.checkIdle();
    this.busy = true;
  }

  private checkIdle(): void {
    if (this.busy) throw new UserError("the session is still at work on another call; wait for it");
  }

  private checkLogits(): void {
    if (this.symbols.with_logits === 0)
      throw new UserError("the last token was fed for the likeliest next one only, and there are no logits", {
        hint: "decode it with logits: leave out the argument that goes without them",
      });
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

  /**
   * The program for the least number of rows that is enough. Rows beyond ours repeat what their inputs held last, on states of their own that nobody
   * reads. A larger batch than any program's goes through prefill, one token long.
   */
  private decodeProgram(rows: number): string {
    for (const [most, name] of this.decodes) if (most >= rows) return name;
    return this.main;
  }

  /** Brings the states to where the inputs in the rings lead. */
  private async settle(): Promise<void> {
    this.symbols.batch = this.rows;
    this.symbols.held = this.held;
    await this.executor.run(settling, this.symbols);
    this.held = 0;
  }

  private async run(program: string, count: number, kept: number, withLogits: boolean): Promise<void> {
    if (this.held > 0 && program === this.main) await this.settle();
    const { positionIds } = this.inputs;
    if (positionIds !== undefined) this.onPositions?.(positionIds, this.rows * count, this.reach, this.past);
    this.symbols.batch = this.rows;
    this.symbols.seq = count;
    this.symbols.past = this.past;
    this.symbols.kept = kept;
    this.symbols.with_logits = withLogits ? 1 : 0;
    this.symbols.held = this.held;
    await this.executor.run(program, this.symbols);
    this.past += count;
    if (this.ring > 0 && program !== this.main) this.held = (this.held + 1) % this.ring;
  }
}

const symbolOf = (program: ProgramInfo, name: string): ProgramInfo["symbols"][number] | undefined =>
  program.symbols.find((s) => s.name === name);
