import type { LoopSettings } from "../../runtime/text/settings.ts";

/** A greedy generation of up to 6 tokens with nothing else on: no processors, no end tokens. */
export const plainSettings: LoopSettings = {
  doSample: false,
  sampling: { temperature: 1, topK: 0, topP: 1, minP: 0 },
  repetitionPenalty: 1,
  maxNewTokens: 6,
  numBeams: 1,
  numReturnSequences: 1,
  lengthPenalty: 1,
  earlyStopping: false,
  eosTokenIds: [],
  padTokenId: null,
  processors: { always: [], sampling: [] },
  stopping: [],
  guidanceScale: null,
  unconditional: null,
  prefillChunkSize: null,
  useCache: true,
  seeds: [],
};

/** End tokens, and what ends a row at one. */
export const endingWith = (eosTokenIds: readonly number[]): Pick<LoopSettings, "eosTokenIds" | "stopping"> => ({
  eosTokenIds,
  stopping: [{ name: "eos", stops: ({ ids }) => eosTokenIds.includes(ids.at(-1)!) }],
});
