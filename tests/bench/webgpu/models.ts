import { readFileSync } from "node:fs";
import { planModel, traceModel } from "../../../models/auto/plan.ts";
import { createModelSession } from "../../../models/auto/sessions.ts";
import type { BambaConfig } from "../../../models/bamba/config.ts";
import { parseBambaConfig, parseConfigJson } from "../../../models/bamba/config.ts";
import { bambaTensors, parameterCount } from "../../../models/bamba/weights.ts";
import { summarizeProfile } from "../../../runtime/profile.ts";
import type { KernelTime } from "../../../runtime/profile.ts";
import type { Session } from "../../../runtime/session.ts";
import { openArtifact } from "../../../runtime/steps.ts";
import { median } from "./clock.ts";
import type { Setting } from "./running.ts";
import { compileFor } from "./running.ts";
import { madeWeights } from "./weights.ts";

export interface DecodeResult {
  readonly position: number;
  /** Of the step's pass, on the GPU. */
  readonly gpuMilliseconds: number;
  /** Of a token in the session's loop, with its read-back. */
  readonly wallMilliseconds: number;
  readonly bytes: number;
  readonly gigabytesPerSecond: number;
  readonly profile: readonly KernelTime[];
}

export interface ModelResult {
  readonly model: string;
  /** For whoever measures another implementation of the same step. */
  readonly config: BambaConfig;
  readonly parameters: number;
  readonly compileMilliseconds: number;
  readonly loadMilliseconds: number;
  readonly kernelsAToken: number;
  readonly decode: readonly DecodeResult[];
  readonly prefill: readonly { readonly tokens: number; readonly milliseconds: number; readonly profile: readonly KernelTime[] }[];
}

export function readConfigFile(file: string): BambaConfig {
  return parseBambaConfig(parseConfigJson(readFileSync(file, "utf8"), file), file);
}

export interface ModelBench {
  /** Of the weights. */
  readonly dtype: "bf16" | "f16";
  readonly positions: readonly number[];
  readonly prefill: readonly number[];
  readonly tokens: number;
  readonly onNote: (what: string) => void;
}

/** Whole decode steps and prompts of a model of random weights of 16 bits, one row, the way that a conversation runs. */
export async function measureModel(setting: Setting, name: string, config: BambaConfig, bench: ModelBench): Promise<ModelResult> {
  const { device, caps, clock, runs } = setting;
  const { positions, tokens } = bench;
  const capacity = Math.max(...positions, ...bench.prefill) + tokens + 2;
  const plan = planModel(config, bench.dtype, { maxLength: capacity });
  const started = performance.now();
  const artifact = await compileFor(caps, name, await traceModel(config, plan));
  const compiled = performance.now();
  const executor = await openArtifact(device, artifact, madeWeights(bambaTensors(config), bench.dtype), { spare: () => true });
  const loaded = performance.now();
  bench.onNote(`${name}: compiled in ${(compiled - started).toFixed(0)} ms, loaded in ${(loaded - compiled).toFixed(0)} ms`);
  try {
    const session = createModelSession(executor, config, plan.rotary);
    const step = artifact.manifest.programs.find((program) => program.name === "decode.1")!;
    const profiled = async (program: string, symbols: Readonly<Record<string, number>>): Promise<readonly KernelTime[]> => {
      const times = [];
      for (let i = 0; i < 5; i += 1) times.push(await executor.profile!(program, symbols));
      return summarizeProfile(times);
    };

    const prefill: ModelResult["prefill"][number][] = [];
    for (const count of bench.prefill) {
      const times = [];
      for (let i = 0; i < 3; i += 1) times.push(await prompt(session, count, true));
      const seq = Math.min(count, session.chunk);
      const profile = await profiled("prefill", { batch: 1, seq, past: 0 });
      prefill.push({ tokens: count, milliseconds: Math.min(...times.slice(1)), profile });
      bench.onNote(`${name}: prefill of ${count}: ${prefill.at(-1)!.milliseconds.toFixed(1)} ms`);
    }

    const decode: DecodeResult[] = [];
    const fixed = decodeBytes(config);
    await session.reset();
    for (const position of positions) {
      await prompt(session, position - session.past, false);
      const symbols = { batch: 1, seq: 1, past: session.past, with_logits: 1 };
      const run = (): void | Promise<void> => executor.run("decode.1", symbols);
      const gpu = await clock.median(run, runs);
      const bytes = fixed.always + fixed.aPosition * position;
      const profile = await profiled("decode.1", symbols);
      const wall = await loop(session, tokens);
      decode.push({ position, gpuMilliseconds: gpu / 1e6, wallMilliseconds: wall, bytes, gigabytesPerSecond: bytes / gpu, profile });
      bench.onNote(`${name}: decode at ${position}: GPU ${(gpu / 1e6).toFixed(3)} ms, a token ${wall.toFixed(3)} ms`);
    }
    return {
      model: name,
      config,
      parameters: parameterCount(config),
      compileMilliseconds: compiled - started,
      loadMilliseconds: loaded - compiled,
      kernelsAToken: step.steps.length,
      decode,
      prefill,
    };
  } finally {
    executor.close();
  }
}

/** Milliseconds that a prompt of `count` more tokens takes. */
async function prompt(session: Session, count: number, fromStart: boolean): Promise<number> {
  if (fromStart) await session.reset();
  const ids = Int32Array.from({ length: count }, (_, i) => (i * 7919 + 13) % session.vocabSize);
  const started = performance.now();
  await session.prefill(ids);
  return performance.now() - started;
}

/** Milliseconds a token of greedy decoding: the median, since a first token may wait for what lies behind it. */
async function loop(session: Session, tokens: number): Promise<number> {
  const next = new Int32Array(1);
  const times = [];
  for (let i = 0; i < tokens; i += 1) {
    const started = performance.now();
    next[0] = session.next[0]!;
    await session.decode(next);
    times.push(performance.now() - started);
  }
  return median(times);
}

/** What a step has to move: weights of 16 bits (of the embedding a row), states of 32 bits read and written, and the keys and values of each position. */
export function decodeBytes(config: BambaConfig): { readonly always: number; readonly aPosition: number } {
  const table = config.tieWordEmbeddings ? 0 : config.vocabSize * config.hiddenSize;
  const weights = (parameterCount(config) - table) * 2;
  const mamba = config.layerKinds.filter((kind) => kind === "mamba").length;
  const attending = config.layerKinds.length - mamba;
  const conv = config.convChannels * config.mambaConvWidth;
  const ssm = config.mambaHeads * config.mambaHeadDim * config.mambaStateSize;
  return {
    always: weights + mamba * 2 * 4 * (conv + ssm),
    aPosition: attending * 2 * config.numKeyValueHeads * config.headDim * 4,
  };
}
