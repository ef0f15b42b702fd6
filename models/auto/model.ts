import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../runtime/errors.ts";
import type { HubOptions } from "../../runtime/hub/options.ts";
import { resolveModel } from "../../runtime/hub/resolve.ts";
import type { Session } from "../../runtime/session.ts";
import { generateSteps, generateTokens } from "../../runtime/text/generate.ts";
import type { Generated, LoopSettings, Prompts, Step } from "../../runtime/text/generate.ts";
import { parseGenerationConfig, resolveGeneration, resolveSeeds } from "../../runtime/text/generation-config.ts";
import type { GenerationFile, GenerationOptions } from "../../runtime/text/generation-config.ts";
import { startStreamer } from "../../runtime/text/streamer.ts";
import type { Streamer } from "../../runtime/text/streamer.ts";
import type { BambaConfig } from "../bamba/config.ts";
import type { CompiledModel } from "./compiled.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import { openEngine } from "./engines.ts";
import { createForwardSession } from "./forward.ts";
import type { ForwardInput, ForwardResult, ForwardSession } from "./forward.ts";
import { planModel } from "./plan.ts";
import type { ModelPlan, PlanOptions } from "./plan.ts";
import { saveModel } from "./save.ts";
import type { Saved, SaveOptions } from "./save.ts";
import { createModelSession } from "./sessions.ts";
import { openModelSource } from "./source.ts";
import type { ModelSource } from "./source.ts";

export interface LoadOptions extends PlanOptions, EngineOptions, HubOptions {
  /** "llvm" (compiled, the default) or "interpret". */
  readonly backend?: string;
}

/** Token ids: one prompt, several of one length, or [rows, length] with a mask for the padding. */
export type GenerateInput =
  | ArrayLike<number>
  | readonly ArrayLike<number>[]
  | {
      readonly inputIds: ArrayLike<number> | readonly ArrayLike<number>[];
      readonly attentionMask?: ArrayLike<number> | readonly ArrayLike<number>[];
    };

export interface GenerateOptions extends GenerationOptions {
  readonly signal?: AbortSignal;
  /** Called with the tokens of each step as soon as they are known. */
  readonly onStep?: (step: Step) => void;
  /** Told of the prompt and of each new token, as in Transformers; a TextStreamer makes text of them. */
  readonly streamer?: Streamer;
}

export interface GenerateResult extends Generated {
  readonly seed: number;
  readonly warnings: readonly string[];
}

/** The tensors of one forward pass, as lists of rows. */
export interface ForwardArguments {
  readonly inputIds?: readonly ArrayLike<number>[];
  readonly inputsEmbeds?: { readonly rows: number; readonly length: number; readonly data: Float32Array };
  readonly attentionMask?: readonly ArrayLike<number>[];
  readonly positionIds?: readonly ArrayLike<number>[];
  /** -100 does not count. Position t predicts label t + 1. */
  readonly labels?: readonly ArrayLike<number>[];
  /** In place of `labels`: position t predicts label t. */
  readonly shiftLabels?: readonly ArrayLike<number>[];
  /** With labels: what the sum of the losses is divided by; unless given, the number of labels that count. */
  readonly numItemsInBatch?: number;
  /** The logits of how many of the last positions, 0 for all; or of which positions, below zero from the end. 0 unless given. */
  readonly logitsToKeep?: number | readonly number[];
  readonly hiddenStates?: boolean;
  /** The weights of every attention layer too. Memory for them is reserved at the full capacity: heads * prefillChunk * maxLength numbers a row and layer. */
  readonly attentions?: boolean;
  /** False leaves out the head, as Transformers' BambaModel: `lastHiddenState` in place of logits. */
  readonly head?: boolean;
}

/** A causal language model, opened: it generates, and gives the logits of a text. Programs are compiled and weights loaded when they are first needed. */
export class CausalLM {
  readonly source: ModelSource;
  readonly plan: ModelPlan;
  readonly backend: string;
  private readonly engine: Engine;
  /** generation_config.json of the model's folder; undefined without one. */
  readonly file: GenerationFile | undefined;
  private readonly forwards = new Map<string, Promise<ForwardSession>>();
  private opened: Promise<Session> | undefined;
  private compiledModel: CompiledModel | null = null;

  constructor(source: ModelSource, plan: ModelPlan, backend: string, engine: Engine, file: GenerationFile | undefined) {
    this.source = source;
    this.plan = plan;
    this.backend = backend;
    this.engine = engine;
    this.file = file;
  }

  get config(): BambaConfig {
    return this.source.config;
  }

  /** What was compiled for generation, and how long that took; null before, and with the interpreter. */
  get compiled(): CompiledModel | null {
    return this.compiledModel;
  }

  /** The session that `generate` uses. */
  session(): Promise<Session> {
    this.opened ??= this.openSession();
    return this.opened;
  }

  private async openSession(): Promise<Session> {
    const { executor, compiled } = await this.engine.open(this.plan);
    this.compiledModel = compiled;
    return createModelSession(executor, this.config, this.plan.rotary);
  }

  /** Continues the prompts. @throws UserError for ids, settings or lengths that do not fit the model. */
  async generate(input: GenerateInput, options: GenerateOptions = {}): Promise<GenerateResult> {
    const { prompts, settings, warnings } = this.prepare(input, options);
    const { streamer, onStep } = options;
    try {
      const feed = streamer === undefined ? undefined : startStreamer(streamer, prompts);
      const told = (step: Step): void => {
        feed?.(step);
        onStep?.(step);
      };
      const result = await generateTokens(await this.session(), prompts, settings, { ...options, onStep: told });
      return { ...result, seed: settings.seed, warnings };
    } finally {
      // Whoever reads from it waits for the end, whether that was planned or not.
      streamer?.end();
    }
  }

  /** As `generate`, step by step: `for await (const { tokens } of model.stream(ids)) ...`. Leaving the loop stops the work. */
  async *stream(input: GenerateInput, options: GenerateOptions = {}): AsyncGenerator<Step, void, void> {
    const { prompts, settings } = this.prepare(input, options);
    yield* generateSteps(await this.session(), prompts, settings, options);
  }

  private prepare(
    input: GenerateInput,
    options: GenerateOptions,
  ): { prompts: Prompts; settings: LoopSettings; warnings: readonly string[] } {
    const given = promptsOf(input);
    const resolved = resolveGeneration(options, this.file, this.config, given.ids.length / given.rows);
    const prompts = given.mask === undefined ? withMask(given, resolved.padTokenId, resolved.eosTokenIds) : given;
    return { prompts, settings: { ...resolved, seed: resolveSeeds(options.seed, 1)[0]! }, warnings: resolved.warnings };
  }

  /**
   * The logits of every position, or of those asked for, and what else is asked for. Each call starts anew; `forwardSession` keeps states.
   * @throws UserError for inputs that do not fit each other or the model.
   */
  async forward(input: ForwardArguments): Promise<ForwardResult> {
    const { inputIds, inputsEmbeds: embeds, attentionMask, positionIds, labels, shiftLabels } = input;
    const { numItemsInBatch, logitsToKeep, hiddenStates = false, attentions = false, head = true } = input;
    if ((inputIds === undefined) === (embeds === undefined))
      throw new UserError("You must specify exactly one of input_ids or inputs_embeds");
    if (labels !== undefined && shiftLabels !== undefined) throw new UserError("give labels or shift_labels, not both");
    const loss = labels !== undefined || shiftLabels !== undefined;
    if (loss && !head) throw new UserError("a loss needs the logits; leave out head: false");
    const ids = inputIds === undefined ? new Int32Array(embeds!.rows * embeds!.length) : stack(inputIds, "inputIds");
    const rows = inputIds?.length ?? embeds!.rows;
    const length = ids.length / rows;
    const asked: ForwardInput = {
      ids,
      rows,
      ...(embeds === undefined ? {} : { embeds: embeds.data }),
      ...(attentionMask === undefined ? {} : { mask: stack(attentionMask, "attentionMask") }),
      ...(positionIds === undefined ? {} : { positions: stack(positionIds, "positionIds") }),
      ...(labels === undefined ? {} : { labels: stack(labels, "labels") }),
      ...(shiftLabels === undefined ? {} : { shiftLabels: stack(shiftLabels, "shiftLabels") }),
      ...(numItemsInBatch === undefined ? {} : { numItemsInBatch }),
      ...(logitsToKeep === undefined ? {} : { logitsToKeep }),
    };
    const forward = await this.forwardSession({ hiddenStates, attentions, head, embeds: embeds !== undefined, loss, rows, length });
    await forward.session.reset();
    return forward.forward(asked);
  }

  /**
   * A session that gives the logits of any positions and, when asked, hidden states and attention weights; with `loss` all of a text has to fit into
   * one call.
   */
  forwardSession(
    options: {
      readonly hiddenStates?: boolean;
      readonly attentions?: boolean;
      readonly head?: boolean;
      readonly embeds?: boolean;
      readonly loss?: boolean;
      readonly rows?: number;
      readonly length?: number;
    } = {},
  ): Promise<ForwardSession> {
    const { hiddenStates = false, attentions = false, head = true, embeds = false, loss = false, rows = 1, length = 1 } = options;
    const { capacity, chunk } = this.plan;
    const plan: ModelPlan = {
      ...this.plan,
      use: "forward",
      batch: Math.max(rows, this.plan.batch),
      chunk: loss ? Math.min(capacity, Math.max(chunk, 2 ** Math.ceil(Math.log2(length)))) : chunk,
      hiddenStates,
      attentions,
      head,
      embeds,
      loss,
    };
    const key = JSON.stringify(plan);
    const open = async (): Promise<ForwardSession> =>
      createForwardSession((await this.engine.open(plan)).executor, this.config, plan.rotary);
    const known = this.forwards.get(key) ?? open();
    this.forwards.set(key, known);
    return known;
  }

  /**
   * Writes the model to a folder as Transformers does; see saveModel. Weights are cast to the type in which the model was opened, or to `dtype`.
   * @throws UserError for an option that makes no sense, before anything is written.
   */
  savePretrained(folder: string, options: SaveOptions = {}): Promise<Saved> {
    return saveModel(this.source, folder, this.plan.dtype, options);
  }

  /** Frees device memory and closes the checkpoint. */
  async close(): Promise<void> {
    this.source.checkpoint.close();
    await this.engine.close();
  }
}

/** Checks a model, of a folder or of the hub, and makes it ready to run; nothing is compiled or loaded before it is used. */
export async function openCausalLM(nameOrFolder: string, options: LoadOptions = {}): Promise<CausalLM> {
  const folder = await resolveModel(nameOrFolder, options);
  const source = openModelSource(folder);
  try {
    const plan = planModel(source.config, source.dtype, options);
    const backend = options.backend ?? "llvm";
    const engine = await openEngine(backend, source, options);
    return new CausalLM(source, plan, backend, engine, readGenerationConfig(folder));
  } catch (error) {
    source.checkpoint.close();
    throw error;
  }
}

function readGenerationConfig(folder: string): GenerationFile | undefined {
  const file = join(folder, "generation_config.json");
  if (!existsSync(file)) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new UserError(`${file}: is not valid JSON (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
  }
  return parseGenerationConfig(json, file);
}

function isRows(values: ArrayLike<number> | readonly ArrayLike<number>[]): values is readonly ArrayLike<number>[] {
  return typeof values[0] === "object";
}

function stack(rows: readonly ArrayLike<number>[], what: string): Int32Array {
  const length = rows[0]?.length ?? 0;
  if (!rows.every((row) => row.length === length))
    throw new UserError(`${what}: the rows have different lengths (${rows.map((row) => row.length).join(", ")})`, {
      hint: "pad the shorter ones on the left and give attentionMask; tokenizer.encodeBatch does both",
    });
  const out = new Int32Array(rows.length * length);
  rows.forEach((row, i) => {
    for (let j = 0; j < length; j += 1) {
      if (!Number.isInteger(row[j])) throw new UserError(`${what}: row ${i}, element ${j}: expected a whole number, got ${String(row[j])}`);
      out[i * length + j] = row[j]!;
    }
  });
  return out;
}

function promptsOf(input: GenerateInput): Prompts {
  const { inputIds, attentionMask } = "inputIds" in input ? input : { inputIds: input, attentionMask: undefined };
  const rows = isRows(inputIds) ? inputIds : [inputIds];
  const ids = stack(rows, "inputIds");
  if (ids.length === 0) throw new UserError("the prompt has no tokens");
  if (attentionMask === undefined) return { ids, rows: rows.length };
  return { ids, rows: rows.length, mask: stack(isRows(attentionMask) ? attentionMask : [attentionMask], "attentionMask") };
}

/** Without a mask, padding is what equals the pad token, unless that may also end a text (spec bamba e.1). */
function withMask(prompts: Prompts, padTokenId: number | null, eosTokenIds: readonly number[]): Prompts {
  const { ids, rows } = prompts;
  if (padTokenId === null || eosTokenIds.includes(padTokenId) || !ids.includes(padTokenId)) return prompts;
  return { ids, rows, mask: Int32Array.from(ids, (id) => (id === padTokenId ? 0 : 1)) };
}
