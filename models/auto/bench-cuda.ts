import { cudaBackend } from "../../backends/cuda/index.ts";
import type { Manifest } from "../../compiler/artifact.ts";
import { openCudaCeilings } from "../../runtime/drivers/cuda/ceilings.ts";
import type { CudaDevice } from "../../runtime/drivers/cuda/device.ts";
import { cuda } from "../../runtime/drivers/cuda/device.ts";
import { definedOnly } from "../../runtime/defined.ts";
import { UserError } from "../../runtime/errors.ts";
import type { HubOptions } from "../../runtime/hub/options.ts";
import { resolveModel } from "../../runtime/hub/resolve.ts";
import { largestContext, memoryPlan, memoryRefusal } from "../../runtime/memory-plan.ts";
import { openArtifact } from "../../runtime/steps.ts";
import type { WeightBank } from "../../runtime/steps.ts";
import type { WeightSource } from "../../runtime/weights.ts";
import type { BambaConfig } from "../bamba/config.ts";
import { parseBambaConfig } from "../bamba/config.ts";
import { parameterCount } from "../bamba/weights.ts";
import { measurePrompt, measureStep } from "./bench-cuda-step.ts";
import type { Measured, Measurement, PromptResult, StepCeilings, StepResult } from "./bench-cuda-step.ts";
import { absentWeights, makeWeights } from "./bench-cuda-weights.ts";
import { capsOf, compileBamba } from "./compiled.ts";
import { cudaTarget } from "./engine-cuda.ts";
import type { EngineOptions } from "./engine.ts";
import type { PlanOptions } from "./plan.ts";
import { planModel } from "./plan.ts";
import { openModelSource, readConfigJson } from "./source.ts";
import type { WeightDType } from "./source.ts";

/** What is measured: a model's folder or its name on the hub, or the configuration of one whose weights are made on the device. */
export type StepSubject = { readonly model: string } | { readonly config: string };

/** `prefill: 0` measures no prompt. */
export interface StepBenchOptions
  extends Measurement, PlanOptions, HubOptions, Pick<EngineOptions, "target" | "cache" | "onCompile" | "onLoad"> {
  /** Rows at once; one measurement each. */
  readonly batches: readonly number[];
  readonly onNote?: (what: string) => void;
}

export interface StepReport {
  readonly device: string;
  readonly target: Manifest["target"];
  readonly parameters: number;
  readonly dtype: string;
  readonly ceilings: StepCeilings;
  readonly steps: readonly StepResult[];
  readonly prompt: PromptResult | null;
}

/** Tokens of all rows together that a prefill call of a measured batch has room for: prompts are not what is measured there. */
const CHUNK_TOKENS = 2048;

interface Opened {
  readonly device: CudaDevice;
  readonly config: BambaConfig;
  readonly target: string;
  /** Of the weights as they are stored. */
  readonly dtype: WeightDType;
  /** null: made on the device. */
  readonly weights: WeightSource | null;
  readonly bank: WeightBank;
}

/**
 * Measures decode steps, and a prompt, on CUDA, and what the device can do in the same run: a step as the graph it is, as a token of the session's loop, and by
 * kernel.
 * @throws UserError for sizes that do not fit the model or the device
 */
export async function benchSteps(subject: StepSubject, options: StepBenchOptions): Promise<StepReport> {
  const source = "model" in subject ? openModelSource(await resolveModel(subject.model, options)) : null;
  try {
    const config = "model" in subject ? source!.config : configOf(subject.config);
    const target = options.target ?? cudaTarget();
    const device = await cuda().open({ requires: capsOf(cudaBackend, target).requires });
    try {
      const opened = {
        device,
        config,
        target,
        dtype: source?.dtype ?? config.dtype ?? "bf16",
        weights: source?.weights ?? null,
        bank: new Map(),
      };
      return await measureAll(opened, options);
    } finally {
      await device.close();
    }
  } finally {
    source?.checkpoint.close();
  }
}

/** What the device can do is measured in turn with the model: other work, and heat, change it. */
async function measureAll(opened: Opened, options: StepBenchOptions): Promise<StepReport> {
  const { device, config } = opened;
  let limits = await measureCeilings(device);
  const steps: StepResult[] = [];
  let prompt: PromptResult | null = null;
  let facts: Pick<StepReport, "target" | "dtype"> | null = null;
  for (const batch of options.batches) {
    const { measured, ...opening } = await openBatch(opened, batch, options);
    facts ??= { target: measured.manifest.target, dtype: measured.plan.dtype };
    try {
      if (options.prefill > 0 && prompt === null) prompt = await measurePrompt(measured, options, limits);
      limits = best(limits, await measureCeilings(device));
      steps.push({ ...(await measureStep(measured, options, limits)), ...opening });
      options.onNote?.(`batch ${batch}: ${steps.at(-1)!.graphMilliseconds.toFixed(3)} ms`);
    } finally {
      measured.executor.close();
    }
  }
  return { device: device.name, ...facts!, parameters: parameterCount(config), ceilings: limits, steps, prompt };
}

function configOf(file: string): BambaConfig {
  return parseBambaConfig(readConfigJson(file), file);
}

/** Opens the model for so many rows; weights are on the device once for all. */
async function openBatch(
  { device, config, target, dtype, weights, bank }: Opened,
  batch: number,
  options: StepBenchOptions,
): Promise<{ readonly measured: Measured } & Pick<StepResult, "compile" | "memory" | "largestContext">> {
  const prefillChunk = options.prefillChunk ?? Math.max(1, Math.min(512, Math.floor(CHUNK_TOKENS / batch)));
  const maxLength = options.maxLength ?? Math.max(options.context + options.decode + 2, options.prefill);
  const plan = planModel(config, dtype, { ...options, batch, prefillChunk, maxLength }, "cuda");
  if (options.context + options.decode >= plan.capacity)
    throw new UserError(`--max-length ${plan.capacity}: ${options.decode} tokens from position ${options.context} on need more`);
  const { artifact, time, cached } = await compileBamba(
    config,
    plan,
    { backend: cudaBackend, device: target, parameters: parameterCount(config), workers: device.workers },
    definedOnly({ cache: options.cache, onProgress: options.onCompile }),
  );
  const { manifest } = artifact;
  const memory = memoryPlan(manifest);
  const room = device.freeBytes!() + [...bank.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  if (memory.total > room) throw memoryRefusal(device.name, memory, room);
  if (weights === null) await makeWeights(device, manifest, config, bank);
  const executor = await openArtifact(device, artifact, weights ?? absentWeights(config, plan.dtype), {
    bank,
    spare: () => true,
    ...definedOnly({ onLoad: options.onLoad }),
  });
  return {
    measured: { device, executor, manifest, config, plan },
    compile: { milliseconds: time, cached },
    memory,
    largestContext: largestContext(memory, room),
  };
}

async function measureCeilings(device: CudaDevice): Promise<StepCeilings> {
  const ceilings = await openCudaCeilings(device);
  let all: StepCeilings = { copy: 0, read: 0, fma: 0, mma: 0 };
  for (let pass = 0; pass < 6; pass += 1)
    all = best(all, {
      copy: await ceilings.copyBandwidth(),
      read: await ceilings.readBandwidth(),
      fma: await ceilings.fmaRate(),
      mma: await ceilings.mmaRate(),
    });
  ceilings.free();
  return all;
}

const best = (a: StepCeilings, b: StepCeilings): StepCeilings => ({
  copy: Math.max(a.copy, b.copy),
  read: Math.max(a.read, b.read),
  fma: Math.max(a.fma, b.fma),
  mma: Math.max(a.mma, b.mma),
});
