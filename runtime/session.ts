import type { TensorEntry } from "../compiler/artifact.ts";
import type { Executor, HostArray } from "./executor.ts";

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
  /** Feeds one token a row, which continues its sequence. */
  decode(ids: Int32Array, options?: StepOptions): Promise<void>;
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

export interface StepOptions {
  /** Positions of these tokens for the rotary embedding; they count on unless given. */
  readonly positions?: ArrayLike<number>;
  /** false where only `next` is wanted: then `logits` and `choose` refuse until the next call, and the device may be spared storing them. true unless given. */
  readonly logits?: boolean;
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
  readonly states: ReadonlyMap<string, StateValue>;
}

/** The used part of a state, as it lies on the device: 16-bit floats are bit patterns. */
export interface StateValue {
  readonly dtype: TensorEntry["dtype"];
  readonly shape: readonly number[];
  readonly data: HostArray;
}

export interface SessionOptions {
  /** The axis that runs over positions, for states that have one (key/value caches). The others are whole at any position. */
  readonly positionAxes?: Readonly<Record<string, number>>;
  /**
   * States that hold each row's last inputs, [rows, length, ...], while what they belong to stays behind: decode programs put an input into them at the symbol `held`, the one that
   * fills them empties them, and before anything else reads the states the program `settle` does. None unless given.
   */
  readonly ringStates?: readonly string[];
  /** Program that takes many tokens: "prefill" unless given. */
  readonly prefill?: string;
  /** Begins as if so many tokens had been fed to each row, with the states as they lie in memory: for measuring what comes after a long text without feeding one. */
  readonly startAt?: { readonly rows: number; readonly past: number };
  /** Tokens there are, for programs that give no logits. */
  readonly vocabSize?: number;
  /**
   * Called before each run, when the inputs are written: the positions of the run's `count` tokens, one more than the greatest position of the whole
   * call (which may be longer than this run), and what the caches hold. For inputs that follow from the positions. It must not allocate.
   */
  readonly onPositions?: (positions: HostArray, count: number, length: number, past: number) => void;
}
