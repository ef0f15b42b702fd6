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
import { noStreaming, prepareGeneration, runGeneration } from "../../runtime/text/request.ts";
import type { GenerateInput, GenerateOptions, GenerateResult, GenerationRequest } from "../../runtime/text/request.ts";
import type { BambaConfig } from "../bamba/config.ts";
import type { CompiledModel } from "./compiled.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import { openEngine } from "./engines.ts";
import type { ForwardSession } from "./forward.ts";
import { ForwardRunner } from "./forward-pass.ts";
import type { CausalLMInputs, CausalLMOutput, ForwardOptions, ModelInputs, ModelOutput } from "./forward-pass.ts";
import { planModel } from "./plan.ts";
import type { ModelPlan, PlanOptions } from "./plan.ts";
import { saveModel } from "./save.ts";
import type { Saved, SaveOptions } from "./save.ts";
import { createModelSession } from "./sessions.ts";
import { openModelSource } from "./source.ts";
import type { ModelSource } from "./source.ts";

export interface LoadOptions extends PlanOptions, EngineOptions, HubOptions {
  /** "llvm" (compiled for this machine's processor, the default), "cuda" (an NVIDIA GPU), "webgpu" (a GPU), or "interpret". */
  readonly backend?: string;
}

/** A model's files and what runs it. */
interface Opened {
  readonly source: ModelSource;
  readonly plan: ModelPlan;
  readonly backend: string;
  readonly engine: Engine;
  readonly forwards: ForwardRunner;
}

/** The model without its head, opened. Programs are compiled and weights loaded when they are first needed. */
export class BambaModel {
  private readonly opened: Opened;

  constructor(opened: Opened) {
    this.opened = opened;
  }

  /** As AutoModelForCausalLM.fromPretrained. */
  static async fromPretrained(nameOrFolder: string, options: LoadOptions = {}): Promise<BambaModel> {
    return new BambaModel(await open(nameOrFolder, options, false));
  }

  get config(): BambaConfig {
    return this.opened.source.config;
  }

  /** The output of the final norm at every position, and what else is asked for. @throws UserError for inputs that do not fit each other or the model. */
  async forward(inputs: ModelInputs): Promise<ModelOutput> {
    const { lastHiddenState, pastKeyValues, hiddenStates, attentions } = await this.opened.forwards.forward(inputs, false);
    return { lastHiddenState: lastHiddenState!, pastKeyValues, hiddenStates, attentions };
  }

  /** Opens the device anew, after it was lost (DeviceLostError). Caches of before are gone. */
  reopen(): Promise<void> {
    return reopen(this.opened);
  }

  /** Frees device memory and closes the checkpoint. */
  close(): Promise<void> {
    return close(this.opened);
  }
}

/** A causal language model, opened: it generates, and gives the logits of a text. Programs are compiled and weights loaded when they are first needed. */
export class BambaForCausalLM {
  /** The same model without its head. */
  readonly model: BambaModel;
  readonly source: ModelSource;
  readonly plan: ModelPlan;
  readonly backend: string;
  /** generation_config.json of the model's folder; undefined without one. */
  readonly generationConfig: GenerationFile | undefined;
  private readonly opened: Opened;
  /** By their number of rows. */
  private readonly sessions = new Map<number, Promise<Session>>();
  private compiledModel: CompiledModel | null = null;

  constructor(opened: Opened, generationConfig: GenerationFile | undefined) {
    this.model = new BambaModel(opened);
    this.source = opened.source;
    this.plan = opened.plan;
    this.backend = opened.backend;
    this.generationConfig = generationConfig;
    this.opened = opened;
  }

  /** As AutoModelForCausalLM.fromPretrained. */
  static async fromPretrained(nameOrFolder: string, options: LoadOptions = {}): Promise<BambaForCausalLM> {
    const model = await openCausalLM(nameOrFolder, options);
    try {
      await model.session();
      return model;
    } catch (error) {
      await model.close();
      throw error;
    }
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
    const { executor, compiled } = await this.opened.engine.open({ ...this.plan, batch });
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
    return prepareGeneration(input, options, this.generationConfig, this.config);
  }

  /**
   * The logits of every position, or of those asked for, the loss, and what else is asked for. With `pastKeyValues` it goes on from an earlier call.
   * @throws UserError for inputs that do not fit each other or the model.
   */
  async forward(inputs: CausalLMInputs): Promise<CausalLMOutput> {
    const { loss, logits, pastKeyValues, hiddenStates, attentions } = await this.opened.forwards.forward(inputs, true);
    return { loss, logits: logits!, pastKeyValues, hiddenStates, attentions };
  }

  /** What `forward` runs on, for loops of one's own over one text: no copies and no caches to hand over. `session.reset()` forgets the text. */
  forwardSession(options: ForwardOptions = {}): Promise<ForwardSession> {
    return this.opened.forwards.session(options);
  }

  /**
   * Writes the model to a folder as Transformers does; see saveModel. Weights are cast to the type in which the model was opened, or to `dtype`.
   * @throws UserError for an option that makes no sense, before anything is written.
   */
  savePretrained(folder: string, options: SaveOptions = {}): Promise<Saved> {
    return saveModel(this.source, folder, this.plan.dtype, options);
  }

  /**
   * Opens the device anew, after it was lost (DeviceLostError). Sessions and caches of before are gone; a call that failed can be made again, and gives
   * what it would have given.
   */
  reopen(): Promise<void> {
    this.sessions.clear();
    return reopen(this.opened);
  }

  /** Frees device memory and closes the checkpoint. */
  close(): Promise<void> {
    return close(this.opened);
  }
}

/** Checks a model, of a folder or of the hub, and makes it ready to run; nothing is compiled or loaded before it is used. */
export async function openCausalLM(nameOrFolder: string, options: LoadOptions = {}): Promise<BambaForCausalLM> {
  const opened = await open(nameOrFolder, options, true);
  try {
    return new BambaForCausalLM(opened, readGenerationConfig(opened.source.folder));
  } catch (error) {
    await close(opened);
    throw error;
  }
}

async function open(nameOrFolder: string, options: LoadOptions, head: boolean): Promise<Opened> {
  const source = openModelSource(await resolveModel(nameOrFolder, options), { head });
  try {
    const backend = options.backend ?? "llvm";
    const plan = planModel(source.config, source.dtype, options, backend);
    const engine = await openEngine(backend, source, options);
    return { source, plan, backend, engine, forwards: new ForwardRunner(engine, plan, source.config) };
  } catch (error) {
    source.checkpoint.close();
    throw error;
  }
}

async function reopen({ engine, forwards }: Opened): Promise<void> {
  forwards.forget();
  await engine.reopen();
}

async function close({ source, engine }: Opened): Promise<void> {
  source.checkpoint.close();
  await engine.close();
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
