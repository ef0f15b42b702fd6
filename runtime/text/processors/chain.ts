import { UserError } from "../../errors.ts";
import type { ResolvedGeneration } from "../generation-config.ts";
import type { LogitsProcessor, ProcessorChain } from "../processor.ts";
import { applyMinP, applyTemperature, applyTopK, applyTopP } from "../sampling.ts";
import {
  badWords,
  beginSuppressTokens,
  forcedBos,
  forcedEos,
  minNewTokens,
  noRepeatNgram,
  prefixAllowedTokens,
  sequenceBias,
  suppressTokens,
} from "./bans.ts";
import { exponentialDecay, removeInvalidValues, renormalize, repetitionPenalty } from "./penalties.ts";
import { applyEpsilon, applyEta, applyTopH, applyTypical } from "./truncation.ts";

/**
 * The processors of a generation, in the order of spec bamba e.2; each is named as its option. Guidance, which needs a second run of the model, comes
 * before them and is the loop's. renormalizeLogits is the last one of all: of `sampling` when sampling, else of `always`. A chain belongs to one
 * generation: its processors may keep scratch memory.
 * @throws UserError for a token that the model does not have.
 */
export function buildProcessors(settings: ResolvedGeneration, vocabSize: number): ProcessorChain {
  checkTokens(settings, vocabSize);
  const always = [...alwaysOf(settings, vocabSize), ...settings.logitsProcessor];
  const sampling = settings.doSample ? samplingOf(settings) : [];
  if (settings.renormalizeLogits) (settings.doSample ? sampling : always).push(renormalize());
  return { always, sampling };
}

function alwaysOf(settings: ResolvedGeneration, vocabSize: number): readonly LogitsProcessor[] {
  const { eosTokenIds, forcedBosTokenId, exponentialDecayLengthPenalty: decay } = settings;
  const ends = eosTokenIds.length > 0;
  const steps: readonly (LogitsProcessor | false)[] = [
    settings.sequenceBias.length > 0 && sequenceBias(settings.sequenceBias),
    settings.repetitionPenalty !== 1 && repetitionPenalty(settings.repetitionPenalty, vocabSize),
    settings.noRepeatNgramSize > 0 && noRepeatNgram(settings.noRepeatNgramSize),
    settings.badWordsIds.length > 0 && badWords(settings.badWordsIds, eosTokenIds),
    settings.minNewTokens > 0 && ends && minNewTokens(settings.minNewTokens, eosTokenIds),
    settings.prefixAllowedTokensFn !== null && prefixAllowedTokens(settings.prefixAllowedTokensFn),
    forcedBosTokenId !== null && forcedBos(forcedBosTokenId),
    settings.forcedEosTokenIds.length > 0 && forcedEos(settings.forcedEosTokenIds, settings.maxNewTokens),
    settings.removeInvalidValues && removeInvalidValues(),
    decay !== null && ends && exponentialDecay(decay, eosTokenIds),
    settings.suppressTokens.length > 0 && suppressTokens(settings.suppressTokens),
    settings.beginSuppressTokens.length > 0 && beginSuppressTokens(settings.beginSuppressTokens, forcedBosTokenId !== null),
  ];
  return steps.filter((step) => step !== false);
}

function samplingOf(settings: ResolvedGeneration): LogitsProcessor[] {
  const { sampling, topH, typicalP, epsilonCutoff, etaCutoff, numBeams, eosTokenIds } = settings;
  // With beams every row must leave enough continuations that do not end it: as many as end tokens, and one more.
  const keep = numBeams === 1 ? 1 : Math.max(1, eosTokenIds.length) + 1;
  const step = (name: string, on: boolean, apply: (scores: Float32Array) => void): LogitsProcessor[] =>
    on ? [{ name, process: apply }] : [];
  return [
    ...step("temperature", sampling.temperature !== 1, (scores) => applyTemperature(scores, sampling.temperature)),
    ...(topH === null ? [] : step("topH", true, (scores) => applyTopH(scores, topH))),
    ...step("topK", sampling.topK > 0, (scores) => applyTopK(scores, sampling.topK, keep)),
    ...step("topP", sampling.topP < 1, (scores) => applyTopP(scores, sampling.topP, keep)),
    ...step("minP", sampling.minP > 0, (scores) => applyMinP(scores, sampling.minP, keep)),
    ...step("typicalP", typicalP < 1, (scores) => applyTypical(scores, typicalP, keep)),
    ...step("epsilonCutoff", epsilonCutoff > 0, (scores) => applyEpsilon(scores, epsilonCutoff, keep)),
    ...step("etaCutoff", etaCutoff > 0, (scores) => applyEta(scores, etaCutoff, keep)),
  ];
}

/** End tokens are not among them: a model may lack some that its tokenizer has. */
function checkTokens(settings: ResolvedGeneration, vocabSize: number): void {
  const named: Readonly<Record<string, readonly number[]>> = {
    sequenceBias: settings.sequenceBias.flatMap(([sequence]) => sequence),
    badWordsIds: settings.badWordsIds.flat(),
    suppressTokens: settings.suppressTokens,
    beginSuppressTokens: settings.beginSuppressTokens,
    forcedBosTokenId: settings.forcedBosTokenId === null ? [] : [settings.forcedBosTokenId],
    forcedEosTokenId: settings.forcedEosTokenIds,
  };
  for (const [name, ids] of Object.entries(named)) {
    const unknown = [...new Set(ids.filter((id) => id >= vocabSize))];
    if (unknown.length > 0)
      throw new UserError(`${name}: the model's vocabulary has ${vocabSize} tokens, and these are none of them: ${unknown.join(", ")}`);
  }
}
