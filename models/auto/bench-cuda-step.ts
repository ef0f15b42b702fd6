import type { Manifest } from "../../compiler/artifact.ts";
import { evaluateIntExpr } from "../../compiler/artifact.ts";
import type { CudaDevice } from "../../runtime/drivers/cuda/device.ts";
import type { Executor, Symbols } from "../../runtime/executor.ts";
import type { MemoryPlan } from "../../runtime/memory-plan.ts";
import { summarizeProfile } from "../../runtime/profile.ts";
import type { KernelTime } from "../../runtime/profile.ts";
import type { Session } from "../../runtime/session.ts";
import type { BambaConfig } from "../bamba/config.ts";
import type { HostTime, Stopwatch } from "./bench-host.ts";
import { stopwatch } from "./bench-host.ts";
import type { ModelPlan } from "./plan.ts";
import { positionAxes, ringStates } from "./plan.ts";
import { createModelSession } from "./sessions.ts";

/** All a second: bytes copied (read and written counted) and read; operations of f32 multiply-adds, and of mma.sync with bf16. */
export interface StepCeilings {
  readonly copy: number;
  readonly read: number;
  readonly fma: number;
  readonly mma: number;
}

export interface KernelShare extends KernelTime {
  /** Of the least time that its bytes at the copy bandwidth, or its operations at the device's best rate, can take. */
  readonly roofline: number;
}

export interface StepResult {
  readonly batch: number;
  readonly context: number;
  readonly compile: { readonly milliseconds: number; readonly cached: boolean };
  readonly memory: MemoryPlan;
  /** Positions that there would be room for on this device, with nothing else on it. */
  readonly largestContext: number;
  readonly launches: number;
  /** Of the step's graph, by the device's clock; of a token in the session's loop, with its read. */
  readonly graphMilliseconds: number;
  readonly wallMilliseconds: number;
  /** Where the host's thread spends such a token: medians. */
  readonly host: HostTime;
  readonly tokensPerSecond: number;
  /** Weights, states read and written, and keys and values of the positions so far. */
  readonly bytes: number;
  readonly bytesPerSecond: number;
  readonly shareOfCopy: number;
  readonly kernels: readonly KernelShare[];
}

export interface PromptResult {
  readonly tokens: number;
  /** Tokens of a call. */
  readonly chunk: number;
  readonly milliseconds: number;
  readonly tokensPerSecond: number;
  readonly flopsPerSecond: number;
  readonly kernels: readonly KernelShare[];
}

/** Runs of the graph between two looks at the device's clock. */
const RUNS = 10;
/** An idle GPU takes some tenths of a second of work to run at its full clock rate. */
const WARM_MILLISECONDS = 300;
/** Loops of tokens that are not measured, in front: the engine has compiled what the host does for a token, and rows have their positions. */
const WARM_LOOPS = 4;
/** A model that is open for so many rows. */
export interface Measured {
  readonly device: CudaDevice;
  readonly executor: Executor;
  readonly manifest: Manifest;
  readonly config: BambaConfig;
  readonly plan: ModelPlan;
}

/** What is measured of it. */
export interface Measurement {
  /** Position at which a token is decoded. */
  readonly context: number;
  /** Tokens of a prompt of one row. */
  readonly prefill: number;
  /** Tokens of which the median counts. */
  readonly decode: number;
  readonly repeat: number;
}

/** One decode step of all rows: its graph, a token of the loop, each kernel. */
export async function measureStep(
  { device, executor, manifest, config, plan }: Measured,
  { context, decode, repeat }: Measurement,
  limits: StepCeilings,
): Promise<Omit<StepResult, "compile" | "memory" | "largestContext">> {
  const { batch, dtype, rotary, replay } = plan;
  // with rings of inputs: half full
  const symbols = { batch, seq: 1, past: context, kept: 1, with_logits: 0, held: replay >> 1 };
  const name = `decode.${batch}`;
  const watch = stopwatch(executor);
  const loop = (): ReturnType<typeof tokenLoop> =>
    tokenLoop(createModelSession(watch.executor, config, rotary, { startAt: { rows: batch, past: context } }), watch, decode, replay);
  for (let i = 0; i < WARM_LOOPS; i += 1) await loop();
  const graphOf = (held: number): Promise<number> => graphTime(device, () => executor.run(name, { ...symbols, held }), 3 * repeat);
  const reading = await graphOf(symbols.held);
  const graphMilliseconds = replay === 0 ? reading : meanStep(reading, await graphOf(replay - 1), replay);
  // Right after the graph, so that both are of a GPU at its full clock rate.
  const { wallMilliseconds, host } = await loop();
  const bytes = stepBytes(manifest, name, config, context, replay);
  const kernels = await profileOf(executor, name, symbols, repeat, rooflineOf(limits, dtype));
  const bytesPerSecond = (bytes / graphMilliseconds) * 1000;
  return {
    batch,
    context,
    launches: manifest.programs.find((program) => program.name === name)!.steps.length,
    graphMilliseconds,
    wallMilliseconds,
    host,
    tokensPerSecond: (batch / wallMilliseconds) * 1000,
    bytes,
    bytesPerSecond,
    shareOfCopy: bytesPerSecond / limits.copy,
    kernels,
  };
}

/** Milliseconds of a run: the median of several looks, each at a few runs that follow each other without a pause. */
async function graphTime(device: CudaDevice, run: () => void | Promise<void>, looks: number): Promise<number> {
  const look = async (): Promise<number> =>
    (await device.milliseconds(async () => {
      for (let i = 0; i < RUNS; i += 1) await run();
    })) / RUNS;
  const started = performance.now();
  do await look();
  while (performance.now() - started < WARM_MILLISECONDS);
  const times: number[] = [];
  for (let i = 0; i < looks; i += 1) times.push(await look());
  return median(times);
}

/** Of steps of which each `replay`-th stores the states and the others only read them. */
const meanStep = (reading: number, storing: number, replay: number): number => ((replay - 1) * reading + storing) / replay;

/** Tokens of greedy decoding, in a session that has just begun: milliseconds of one, and where they go. */
async function tokenLoop(
  session: Session,
  watch: Stopwatch,
  count: number,
  replay: number,
): Promise<{ readonly wallMilliseconds: number; readonly host: HostTime }> {
  const next = new Int32Array(session.rows);
  const tokens: Awaited<ReturnType<Stopwatch["token"]>>[] = [];
  for (let i = 0; i < count; i += 1)
    tokens.push(
      await watch.token(() => {
        next.set(session.next.subarray(0, session.rows));
        return session.decode(next, { logits: false });
      }),
    );
  const times = tokens.map(({ total }) => total);
  const [reading, storing] = [false, true].map((stores) => times.filter((_, i) => (replay > 0 && (i + 1) % replay === 0) === stores));
  const middle = (part: keyof HostTime): number => median(tokens.map((token) => token[part]));
  return {
    wallMilliseconds: storing!.length === 0 ? median(times) : meanStep(median(reading!), median(storing!), replay),
    host: { write: middle("write"), launch: middle("launch"), wait: middle("wait"), rest: middle("rest") },
  };
}

/** A prompt of one row. */
export async function measurePrompt(
  { executor, manifest, config, plan }: Measured,
  { prefill, repeat }: Measurement,
  limits: StepCeilings,
): Promise<PromptResult> {
  const session = createModelSession(executor, config, plan.rotary);
  const ids = Int32Array.from({ length: prefill }, (_, i) => (i * 7919 + 13) % session.vocabSize);
  let milliseconds = Infinity;
  for (let pass = 0; pass <= repeat; pass += 1) {
    await session.reset();
    const started = performance.now();
    await session.prefill(ids);
    milliseconds = Math.min(milliseconds, performance.now() - started);
  }
  const program = manifest.programs.find(({ name }) => name === "prefill")!;
  let flops = 0;
  for (let past = 0; past < prefill; past += session.chunk) {
    const symbols = { batch: 1, seq: Math.min(session.chunk, prefill - past), past, kept: 1 };
    for (const step of program.steps) flops += evaluateIntExpr(step.flops, symbols);
  }
  const seq = Math.min(session.chunk, prefill);
  const kernels = await profileOf(executor, "prefill", { batch: 1, seq, past: 0, kept: 1 }, 1, rooflineOf(limits, plan.dtype));
  await session.reset();
  return {
    tokens: prefill,
    chunk: seq,
    milliseconds,
    tokensPerSecond: (prefill / milliseconds) * 1000,
    flopsPerSecond: (flops / milliseconds) * 1000,
    kernels,
  };
}

async function profileOf(
  executor: Executor,
  program: string,
  symbols: Symbols,
  repeat: number,
  limits: Roofline,
): Promise<readonly KernelShare[]> {
  const runs = [];
  for (let pass = 0; pass < repeat; pass += 1) runs.push(await executor.profile!(program, symbols));
  return summarizeProfile(runs).map((kernel) => ({
    ...kernel,
    roofline: Math.max((kernel.gigabytesPerSecond * 1e9) / limits.bytes, (kernel.gigaflopsPerSecond * 1e9) / limits.flops),
  }));
}

/** The most that a kernel can move and compute in a second. */
interface Roofline {
  readonly bytes: number;
  readonly flops: number;
}

/** The hardware for matrices takes operands of 16 bits. */
const rooflineOf = ({ copy, fma, mma }: StepCeilings, dtype: ModelPlan["dtype"]): Roofline => ({
  bytes: copy,
  flops: dtype === "f32" ? fma : mma,
});

/**
 * The least that a step has to move: its weights (of a table that it looks up a row in, nothing), each recurrent state twice, and the keys and values so far.
 * With rings of inputs, of the states before them: once, and each `replay`-th time once more, the inputs that are there on average, and the one that is put there.
 */
export function stepBytes(manifest: Manifest, program: string, config: BambaConfig, past: number, replay: number): number {
  const { steps, symbols } = manifest.programs.find(({ name }) => name === program)!;
  const capacity = symbols.find(({ name }) => name === "past")!.max + 1;
  const read = new Set(steps.flatMap(({ args }) => args.flatMap((arg) => (arg.kind === "weight" ? [arg.name] : []))));
  if (!config.tieWordEmbeddings) read.delete("model.embed_tokens.weight");
  const weights = manifest.weights.reduce((sum, { name, bytes }) => sum + (read.has(name) ? bytes : 0), 0);
  const cached = positionAxes(config);
  const rings = new Set(ringStates(config));
  const shareOf = (name: string): number => {
    if (cached[name] !== undefined) return (past + 1) / capacity;
    if (replay === 0) return 2;
    if (rings.has(name)) return ((replay - 1) / 2 + 1) / replay;
    return name.endsWith(".ssm") ? 1 + 1 / replay : 2;
  };
  return manifest.states.reduce((sum, { name, bytes }) => sum + shareOf(name) * bytes, weights);
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;
