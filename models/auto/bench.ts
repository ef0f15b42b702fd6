import { evaluateIntExpr } from "../../compiler/artifact.ts";
import type { Manifest, ProgramEntry } from "../../compiler/artifact.ts";
import { summarizeProfile } from "../../runtime/profile.ts";
import type { KernelTime } from "../../runtime/profile.ts";
import type { Session } from "../../runtime/session.ts";
import { openCausalLM } from "./model.ts";
import type { CausalLM, LoadOptions } from "./model.ts";
import type { Ceiling } from "./probe.ts";

export interface BenchOptions {
  readonly load: LoadOptions;
  readonly threads: readonly number[];
  /** Tokens of the prompt, and of the answer. */
  readonly prefill: number;
  readonly decode: number;
  readonly repeat: number;
  readonly profile: boolean;
  readonly onRun?: (what: string) => void;
}

export interface BenchRun {
  readonly threads: number;
  /** Bytes of resident memory at the most, before anything but the model was in memory. */
  readonly peakBytes: number;
  readonly loadMilliseconds: number;
  readonly decode: {
    readonly tokensPerSecond: number;
    readonly bytesPerToken: number;
    readonly bytesPerSecond: number;
    /** Of the read bandwidth of as many threads. */
    readonly share: number;
  };
  readonly prefill: {
    readonly tokens: number;
    readonly tokensPerSecond: number;
    readonly flopsPerToken: number;
    readonly flopsPerSecond: number;
    /** Of the multiply-add rate of as many threads. */
    readonly share: number;
  };
  readonly ceiling: Ceiling;
  readonly profile: { readonly decode: readonly KernelTime[]; readonly prefill: readonly KernelTime[] } | null;
}

export interface BenchReport {
  readonly parameters: number;
  readonly dtype: string;
  readonly target: Manifest["target"];
  readonly checkpointBytes: number;
  readonly weightBytes: number;
  readonly compile: { readonly milliseconds: number; readonly cached: boolean };
  readonly launches: { readonly decode: number; readonly prefill: number };
  readonly runs: readonly BenchRun[];
}

/**
 * Measures a model, and what the machine can do, in one run: figures of two runs on a machine that others use too would say nothing. The best of several
 * repetitions counts on both sides.
 */
export async function benchModel(folder: string, options: BenchOptions): Promise<BenchReport> {
  const { threads, onRun } = options;
  const measured: Omit<BenchRun, "ceiling" | "prefill" | "decode">[] = [];
  const rates: { prefill: number; decode: number }[] = [];
  let facts: Pick<BenchReport, "parameters" | "dtype" | "target" | "checkpointBytes" | "weightBytes" | "compile" | "launches"> | undefined;
  let costs = { bytesPerToken: 0, flopsPerToken: 0 };
  let caps: Parameters<(typeof import("./probe.ts"))["measureCeilings"]>[0] | undefined;
  for (const count of threads) {
    onRun?.(`${count} ${count === 1 ? "thread" : "threads"}`);
    const model = await openCausalLM(folder, { ...options.load, threads: count });
    try {
      const started = performance.now();
      const session = await model.session();
      const loadMilliseconds = performance.now() - started;
      const compiled = model.compiled!;
      const { manifest } = compiled.artifact;
      caps = compiled.caps;
      facts ??= factsOf(model, manifest);
      // Of an embedding that is not the head too, a token reads a row.
      const lookup = model.config.tieWordEmbeddings ? [] : ["model.embed_tokens.weight"];
      costs = costsOf(manifest, options.prefill, lookup);
      rates.push(await measure(session, options));
      const peakBytes = process.resourceUsage().maxRSS * 1024;
      const profile = options.profile ? await profileOf(session, options) : null;
      measured.push({ threads: count, peakBytes, loadMilliseconds, profile });
    } finally {
      await model.close();
    }
  }
  onRun?.("what the machine can do");
  // Last: the memory that this reads through would count as the model's.
  const { measureCeilings } = await import("./probe.ts");
  const ceilings = await measureCeilings(caps!, threads);
  return {
    ...facts!,
    runs: measured.map((run, i) => {
      const ceiling = ceilings[i]!;
      const { bytesPerToken, flopsPerToken } = costs;
      const rate = rates[i]!;
      return {
        ...run,
        ceiling,
        decode: {
          tokensPerSecond: rate.decode,
          bytesPerToken,
          bytesPerSecond: bytesPerToken * rate.decode,
          share: (bytesPerToken * rate.decode) / ceiling.read,
        },
        prefill: {
          tokens: options.prefill,
          tokensPerSecond: rate.prefill,
          flopsPerToken,
          flopsPerSecond: flopsPerToken * rate.prefill,
          share: (flopsPerToken * rate.prefill) / ceiling.flops,
        },
      };
    }),
  };
}

function factsOf(model: CausalLM, manifest: Manifest) {
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

/** Tokens a second: the prompt, and one token after the other, each the best of several repetitions. */
async function measure(session: Session, { prefill, decode, repeat }: BenchOptions): Promise<{ prefill: number; decode: number }> {
  const prompt = promptOf(session, prefill);
  const next = new Int32Array(1);
  let prefillTime = Infinity;
  let decodeTime = Infinity;
  for (let pass = 0; pass < repeat; pass += 1) {
    await session.reset();
    let started = performance.now();
    await session.prefill(prompt);
    prefillTime = Math.min(prefillTime, performance.now() - started);
    started = performance.now();
    for (let i = 0; i < decode; i += 1) {
      next[0] = session.next[0]!;
      await session.decode(next);
    }
    decodeTime = Math.min(decodeTime, performance.now() - started);
  }
  return { prefill: (prefill / prefillTime) * 1000, decode: (decode / decodeTime) * 1000 };
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
    decode: await times("decode.1", { batch: 1, seq: 1, past: session.past }),
    prefill: await times("prefill", { batch: 1, seq, past: 0 }),
  };
}
