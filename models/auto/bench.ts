import { evaluateIntExpr } from "../../compiler/artifact.ts";
import type { Manifest, ProgramEntry } from "../../compiler/artifact.ts";
import { summarizeProfile } from "../../runtime/profile.ts";
import type { KernelTime } from "../../runtime/profile.ts";
import type { Session } from "../../runtime/session.ts";
import { openCeilings } from "./bench-ceilings.ts";
import type { Ceilings } from "./bench-ceilings.ts";
import { openCausalLM } from "./model.ts";
import type { BambaForCausalLM, LoadOptions } from "./model.ts";

export interface BenchOptions {
  readonly load: LoadOptions;
  /** One run for each: threads of the processor; null for a device that has none. */
  readonly threads: readonly (number | null)[];
  /** Tokens of the prompt, and of the answer. */
  readonly prefill: number;
  readonly decode: number;
  readonly repeat: number;
  readonly profile: boolean;
  readonly onRun?: (what: string) => void;
}

export interface BenchRun {
  readonly threads: number | null;
  readonly loadMilliseconds: number;
  readonly decode: {
    readonly tokensPerSecond: number;
    readonly bytesPerToken: number;
    readonly bytesPerSecond: number;
    /** Of the device's bandwidth, with as many threads. */
    readonly share: number;
  };
  readonly prefill: {
    readonly tokens: number;
    readonly tokensPerSecond: number;
    readonly flopsPerToken: number;
    readonly flopsPerSecond: number;
    /** Of the device's multiply-add rate, with as many threads. */
    readonly share: number;
  };
  /** What the device can do, measured in turn with the model, each a second: bytes read (copied, on a GPU), and floating-point operations in f32. */
  readonly ceiling: { readonly bandwidth: number; readonly flops: number };
  readonly profile: { readonly decode: readonly KernelTime[]; readonly prefill: readonly KernelTime[] } | null;
}

export interface BenchReport {
  readonly parameters: number;
  readonly dtype: string;
  readonly target: Manifest["target"];
  readonly checkpointBytes: number;
  readonly weightBytes: number;
  /** Resident memory of the process at the most, with the model open and run, and nothing else in memory yet. */
  readonly peakBytes: number;
  readonly compile: { readonly milliseconds: number; readonly cached: boolean };
  readonly launches: { readonly decode: number; readonly prefill: number };
  readonly runs: readonly BenchRun[];
}

/**
 * Measures a model and, in turn with it, what the machine can do: on a machine that others use too, figures of two different minutes cannot be compared.
 * The best of several repetitions counts on both sides.
 */
export async function benchModel(folder: string, options: BenchOptions): Promise<BenchReport> {
  const runs: BenchRun[] = [];
  let facts: Omit<BenchReport, "runs" | "peakBytes"> | undefined;
  let peakBytes = 0;
  for (const threads of options.threads) {
    options.onRun?.(threads === null ? (options.load.backend ?? "the device") : `${threads} ${threads === 1 ? "thread" : "threads"}`);
    const model = await openCausalLM(folder, { ...options.load, ...(threads === null ? {} : { threads }) });
    try {
      const started = performance.now();
      const session = await model.session();
      const loadMilliseconds = performance.now() - started;
      const { manifest } = model.compiled!.artifact;
      facts ??= factsOf(model, manifest);
      const warm = await measure(session, options);
      if (peakBytes === 0) peakBytes = process.resourceUsage().maxRSS * 1024;
      const ceilings = await openCeilings(model.backend, manifest.target.requires, threads);
      const best = await measureInTurn(session, ceilings, warm, options).finally(() => ceilings.close());
      const profile = options.profile ? await profileOf(session, options) : null;
      // Of an embedding that is not the head too, a token reads a row.
      const lookup = model.config.tieWordEmbeddings ? [] : ["model.embed_tokens.weight"];
      runs.push({ threads, loadMilliseconds, profile, ...ratesOf(best, costsOf(manifest, options.prefill, lookup), options.prefill) });
    } finally {
      await model.close();
    }
  }
  return { ...facts!, peakBytes, runs };
}

/** Tokens a second, and what the machine did meanwhile. */
interface Rates {
  readonly prefill: number;
  readonly decode: number;
}

async function measureInTurn(
  session: Session,
  ceilings: Ceilings,
  warm: Rates,
  options: BenchOptions,
): Promise<Rates & BenchRun["ceiling"]> {
  let [{ prefill, decode }, bandwidth, flops] = [warm, 0, 0];
  for (let pass = 0; pass < options.repeat; pass += 1) {
    for (let i = 0; i < 3; i += 1) {
      bandwidth = Math.max(bandwidth, await ceilings.bandwidth());
      flops = Math.max(flops, await ceilings.flops());
    }
    const rates = await measure(session, options);
    prefill = Math.max(prefill, rates.prefill);
    decode = Math.max(decode, rates.decode);
  }
  return { prefill, decode, bandwidth, flops };
}

function ratesOf(
  { prefill, decode, bandwidth, flops }: Rates & BenchRun["ceiling"],
  { bytesPerToken, flopsPerToken }: ReturnType<typeof costsOf>,
  tokens: number,
): Pick<BenchRun, "decode" | "prefill" | "ceiling"> {
  const [bytesPerSecond, flopsPerSecond] = [bytesPerToken * decode, flopsPerToken * prefill];
  return {
    decode: { tokensPerSecond: decode, bytesPerToken, bytesPerSecond, share: bytesPerSecond / bandwidth },
    prefill: { tokens, tokensPerSecond: prefill, flopsPerToken, flopsPerSecond, share: flopsPerSecond / flops },
    ceiling: { bandwidth, flops },
  };
}

function factsOf(model: BambaForCausalLM, manifest: Manifest) {
  const compiled = model.compiled!;
  const launches = (name: string): number => manifest.programs.find((program) => program.name === name)?.steps.length ?? 0;
  const files = new Map([...model.source.checkpoint.tensors.values()].map(({ name, bytes }) => [name, bytes]));
  return {
    parameters: model.source.parameters,
    dtype: model.plan.dtype,
    target: manifest.target,
    checkpointBytes: [...files.values()].reduce((a, b) => a + b, 0),
    weightBytes: manifest.weights.reduce((sum, { bytes }) => sum + bytes, 0),
    compile: { milliseconds: compiled.time, cached: compiled.cached },
    launches: { decode: launches("decode.1"), prefill: launches("prefill") },
  };
}

/** One prompt, and then one token after the other. */
async function measure(session: Session, { prefill, decode }: BenchOptions): Promise<Rates> {
  const prompt = promptOf(session, prefill);
  const next = new Int32Array(1);
  await session.reset();
  const started = performance.now();
  await session.prefill(prompt);
  const prompted = performance.now();
  for (let i = 0; i < decode; i += 1) {
    next[0] = session.next[0]!;
    await session.decode(next, { logits: false });
  }
  return { prefill: (prefill / (prompted - started)) * 1000, decode: (decode / (performance.now() - prompted)) * 1000 };
}

/** Ids spread over the vocabulary. */
const promptOf = (session: Session, length: number): Int32Array =>
  Int32Array.from({ length }, (_, i) => (i * 7919 + 13) % session.vocabSize);

/** What a token costs, from the plan: the weights that decoding reads, but for tables in which it looks up a row, and arithmetic in prefill. */
function costsOf(
  manifest: Manifest,
  tokens: number,
  lookup: readonly string[],
): { readonly bytesPerToken: number; readonly flopsPerToken: number } {
  const decode = manifest.programs.find(({ name }) => name === "decode.1");
  const prefill = manifest.programs.find(({ name }) => name === "prefill");
  const read = new Set(decode?.steps.flatMap(({ args }) => args.flatMap((arg) => (arg.kind === "weight" ? [arg.name] : []))));
  for (const name of lookup) read.delete(name);
  const bytes = manifest.weights.reduce((sum, weight) => sum + (read.has(weight.name) ? weight.bytes : 0), 0);
  let flops = 0;
  for (let past = 0; past < tokens && prefill !== undefined;) {
    const seq = Math.min(tokens - past, prefill.symbols.find(({ name }) => name === "seq")?.max ?? 1);
    const symbols = symbolsOf(prefill, { seq, past });
    for (const step of prefill.steps) flops += evaluateIntExpr(step.flops, symbols);
    past += seq;
  }
  return { bytesPerToken: bytes, flopsPerToken: flops / tokens };
}

const symbolsOf = (program: ProgramEntry, values: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(program.symbols.map(({ name, min }) => [name, values[name] ?? min]));

async function profileOf(session: Session, { prefill, repeat }: BenchOptions): Promise<NonNullable<BenchRun["profile"]>> {
  const { executor } = session;
  const seq = Math.min(prefill, session.chunk);
  await session.reset();
  await session.prefill(promptOf(session, seq));
  const times = async (program: string, symbols: Record<string, number>): Promise<readonly KernelTime[]> => {
    const runs = [];
    for (let pass = 0; pass < repeat; pass += 1) runs.push(await executor.profile!(program, symbols));
    return summarizeProfile(runs);
  };
  return {
    decode: await times("decode.1", { batch: 1, seq: 1, past: session.past, with_logits: 0, held: 0 }),
    prefill: await times("prefill", { batch: 1, seq, past: 0 }),
  };
}
