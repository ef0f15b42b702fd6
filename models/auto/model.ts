import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../runtime/errors.ts";
import type { HubOptions } from "../../runtime/hub/options.ts";
import { resolveModel } from "../../runtime/hub/resolve.ts";
import type { Session } from "../../runtime/session.ts";
import { parseGenerationConfig } from "../../runtime/text/generation-config.ts";
import type { GenerationFile } from "../../runtime/text/generation-config.ts";
import { generateSteps } from "../../runtime/text/loop.ts";
import type { Step } from "../../runtime/text/loop.ts";
import type { BambaConfig } from "../bamba/config.ts";
import type { CompiledModel } from "./compiled.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import { openEngine } from "./engines.ts";
import { createForwardSession } from "./forward.ts";
import type { ForwardInput, ForwardResult, ForwardSession } from "./forward.ts";
import { noStreaming, prepareGeneration, runGeneration, stack } from "./generation.ts";
import type { GenerateInput, GenerateOptions, GenerateResult, GenerationRequest } from "./generation.ts";
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
  /** By their number of rows. */
  private readonly sessions = new Map<number, Promise<Session>>();
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

  /** The session that `generate` uses; for more rows than the model was planned for it is another one, on the same weights. */
  session(rows = this.plan.batch): Promise<Session> {
    const batch = Math.max(rows, this.plan.batch);
    const known = this.sessions.get(batch) ?? this.openSession(batch);
    this.sessions.set(batch, known);
    return known;
  }

  private async openSession(batch: number): Promise<Session> {
    const { executor, compiled } = await this.engine.open({ ...this.plan, batch });
    if (batch === this.plan.batch) this.compiledModel = compiled;
    return createModelSession(executor, this.config, this.plan.rotary);
  }

  /** Continues the prompts. @throws UserError for ids, settings or lengths that do not fit the model. */
  async generate(input: GenerateInput, options: GenerateOptions = {}): Promise<GenerateResult> {
    const request = this.prepare(input, options);
    return runGeneration(() => this.session(request.rows), request, options);
  }

  /** As `generate`, step by step: `for await (const { tokens } of model.stream(ids)) ...`. Leaving the loop stops the work. */
  async *stream(input: GenerateInput, options: GenerateOptions = {}): AsyncGenerator<Step, void, void> {
    const { prompts, settings, rows } = this.prepare(input, options);
    if (settings.numBeams > 1) throw noStreaming("stream");
    yield* generateSteps(await this.session(rows), prompts, settings, options);
  }

  private prepare(input: GenerateInput, options: GenerateOptions): GenerationRequest {
    return prepareGeneration(input, options, this.file, this.config);
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
