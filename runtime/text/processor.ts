/** What a processor or a stopping criterion may look at: one row's tokens so far. */
export interface RowContext {
  /** Prompt (padding included) and new tokens of the row; valid during the call only. */
  readonly ids: Int32Array;
  /** Tokens of the padded prompt. */
  readonly promptLength: number;
  /** Number of the row in the call; the beams or samples of one prompt are neighbours. */
  readonly row: number;
  /** Number of the prompt that the row continues. */
  readonly prompt: number;
}

/** Changes a row's scores [vocab] in place. */
export interface LogitsProcessor {
  readonly name: string;
  process(scores: Float32Array, row: RowContext): void;
}

/** Whether a row has ended with its last token. */
export interface StoppingCriterion {
  readonly name: string;
  stops(row: RowContext): boolean;
}

/** The processors of a generation in the order of spec e.2, those that are off left out. */
export interface ProcessorChain {
  /** 2 to 16: apply to greedy, sampling and beams alike. */
  readonly always: readonly LogitsProcessor[];
  /** 17 to 26: when sampling. */
  readonly sampling: readonly LogitsProcessor[];
}
