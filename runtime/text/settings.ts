import type { ProcessorChain, StoppingCriterion } from "./processor.ts";
import type { Prompts } from "./token-rows.ts";

/** How to go on from the prompts, everything decided (generation-config.ts decides). */
export interface LoopSettings {
  readonly doSample: boolean;
  readonly maxNewTokens: number;
  /** 1 is greedy search or sampling; more is beam search. */
  readonly numBeams: number;
  /** Results for each prompt. */
  readonly numReturnSequences: number;
  readonly lengthPenalty: number;
  readonly earlyStopping: boolean | "never";
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  readonly processors: ProcessorChain;
  /** What ends a row beside its length, the end tokens included. */
  readonly stopping: readonly StoppingCriterion[];
  /** null without guidance. */
  readonly guidanceScale: number | null;
  /** With guidance: a text for each prompt that stands for the absence of one. */
  readonly unconditional: Prompts | null;
  readonly prefillChunkSize: number | null;
  readonly useCache: boolean;
  /** Of the draws: one for each prompt. */
  readonly seeds: readonly number[];
}

export interface LoopOptions {
  readonly signal?: AbortSignal;
}
