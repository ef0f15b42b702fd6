import * as base from "../../runtime/text/generation-config.ts";
import type { ProcessorChain, StoppingCriterion } from "../../runtime/text/processor.ts";
import { applyMinP, applyTemperature, applyTopK, applyTopP } from "../../runtime/text/sampling.ts";

type TokenLists = readonly (readonly number[])[];
interface Extra {
  readonly numBeams?: number;
  readonly numReturnSequences?: number;
  readonly lengthPenalty?: number;
  readonly earlyStopping?: boolean | "never";
  readonly guidanceScale?: number | null;
  readonly negativePromptIds?: TokenLists;
  readonly prefillChunkSize?: number | null;
  readonly useCache?: boolean;
  readonly outputScores?: boolean;
  readonly outputLogits?: boolean;
  readonly returnDictInGenerate?: boolean;
  readonly negativePromptAttentionMask?: TokenLists;
  readonly seed?: number | readonly number[];
}
export type GenerationOptions = base.GenerationOptions & Extra;
export type ResolvedGeneration = base.ResolvedGeneration &
  Required<Omit<Extra, "negativePromptIds" | "negativePromptAttentionMask" | "seed">> & {
    readonly negativePromptIds: TokenLists | null;
    readonly negativePromptAttentionMask: TokenLists | null;
  };

export function resolveGeneration(
  call: GenerationOptions,
  file: base.GenerationFile | undefined,
  model: base.ModelDefaults,
  promptLength: number,
): ResolvedGeneration {
  return {
    ...base.resolveGeneration(call, file, model, promptLength),
    numBeams: call.numBeams ?? 1,
    numReturnSequences: call.numReturnSequences ?? 1,
    lengthPenalty: call.lengthPenalty ?? 1,
    earlyStopping: call.earlyStopping ?? false,
    guidanceScale: call.guidanceScale === 1 ? null : (call.guidanceScale ?? null),
    negativePromptIds: call.negativePromptIds ?? null,
    negativePromptAttentionMask: call.negativePromptAttentionMask ?? null,
    prefillChunkSize: call.prefillChunkSize ?? null,
    useCache: call.useCache ?? true,
    outputScores: call.outputScores ?? false,
    outputLogits: call.outputLogits ?? false,
    returnDictInGenerate: call.returnDictInGenerate ?? false,
  };
}
export function buildProcessors({ sampling: s }: ResolvedGeneration, _vocab: number): ProcessorChain {
  return {
    always: [],
    sampling: [
      { name: "temperature", process: (x) => applyTemperature(x, s.temperature) },
      { name: "topK", process: (x) => applyTopK(x, s.topK) },
      { name: "topP", process: (x) => applyTopP(x, s.topP) },
      { name: "minP", process: (x) => applyMinP(x, s.minP) },
    ],
  };
}
export function buildStopping({ eosTokenIds }: ResolvedGeneration): readonly StoppingCriterion[] {
  return [{ name: "eos", stops: ({ ids }) => eosTokenIds.includes(ids.at(-1)!) }];
}
export function resolveSeeds(seed: GenerationOptions["seed"], prompts: number): readonly number[] {
  if (typeof seed === "object" && seed.length !== prompts)
    throw new Error(`seed: expected one seed, or one for each of the ${prompts} prompts, got ${seed.length}`);
  return Array.from({ length: prompts }, (_, i) => (typeof seed === "object" ? seed[i]! : (seed ?? base.randomSeed())));
}
