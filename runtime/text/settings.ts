import type { ResolvedGeneration } from "./generation-config.ts";
import type { ProcessorChain, StoppingCriterion } from "./processor.ts";
import type { Prompts } from "./token-rows.ts";

/** Of the settings that generation-config.ts decides on, those that the loop itself looks at; the others are in the processors and criteria. */
type Decided = Pick<
  ResolvedGeneration,
  | "doSample"
  | "sampling"
  | "repetitionPenalty"
  | "maxNewTokens"
  | "numBeams"
  | "numReturnSequences"
  | "lengthPenalty"
  | "earlyStopping"
  | "eosTokenIds"
  | "padTokenId"
  | "guidanceScale"
  | "prefillChunkSize"
  | "useCache"
>;

/** How to go on from the prompts. */
export interface LoopSettings extends Decided {
  readonly processors: ProcessorChain;
  /** What ends a row beside its length, the end tokens included. */
  readonly stopping: readonly StoppingCriterion[];
  /** With guidance: a text for each prompt that stands for the absence of one. */
  readonly unconditional: Prompts | null;
  /** Of the draws: one for each prompt. */
  readonly seeds: readonly number[];
}

export interface LoopOptions {
  readonly signal?: AbortSignal;
}
