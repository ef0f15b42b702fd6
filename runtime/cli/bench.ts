import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import type { BenchReport } from "../../models/auto/bench.ts";
import { UserError } from "../errors.ts";
import type { Run } from "./generate.ts";
import { addModelFlags, loadOptions, modelDescription, numberList, wholeNumber } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends Omit<ModelFlags, "threads"> {
  readonly model?: string;
  readonly config?: string;
  readonly threads?: readonly number[];
  readonly batch?: readonly number[];
  readonly context?: number;
  readonly prefill: number;
  readonly decode: number;
  readonly repeat: number;
  readonly profile?: boolean;
}

const examples = `
Examples:
  $ culm bench --model DIR                                              tokens a second, beside what this machine can do
  $ culm bench --config tests/bench/configs/bamba-1b.json --dtype bf16  a model of random weights, in a temporary folder
  $ culm bench --model DIR --threads 1,2 --profile                      time of each kernel, with one thread and with two
  $ culm bench --model DIR --backend webgpu --profile                   on the GPU
  $ culm bench --config tests/bench/configs/bamba-9b.json --device cuda --batch 1,8,64 --context 1024

Everything is measured in the same run: decoding one token after the other against the rate at which this machine reads
memory (each token reads all weights once), and prefill against its rate of multiplications and additions in f32.
With --backend webgpu the same of the GPU, whose memory is measured by copying.
With --device cuda, a decode step at a position for each --batch: as the graph that it is, as a token of the loop that
generates, and by kernel, beside what the GPU can do. Weights of --config are then made on the GPU.`;

export function defineBench(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("bench")
    .description("measure how fast a model runs, beside what this machine can do")
    .option("--model <model>", modelDescription)
    .option("--config <file>", "config.json of a model that is made of random weights first")
    .option("--batch <n>", "with cuda: rows at once, or a list of numbers to measure one after the other (default: 1)", numberList)
    .option("--context <n>", "with cuda: position at which a token is decoded (default: 1024)", wholeNumber)
    .option("--prefill <n>", "tokens of the prompt", wholeNumber, 512)
    .option("--decode <n>", "tokens of the answer", wholeNumber, 32)
    .option("--repeat <n>", "repetitions, of which the best counts", wholeNumber, 3)
    .option("--profile", "show the time of each kernel");
  addModelFlags(command, {
    threads: numberList,
    replay: true,
    description: "threads, or a list of numbers to measure one after the other (default: all processors)",
  });
  return command
    .option("--json", "print one JSON object")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => bench(flags, terminal)));
}

async function bench(flags: Flags, terminal: Terminal): Promise<undefined> {
  if (flags.backend === "interpret") throw new UserError("the interpreter is not for measuring", { hint: "leave out --backend" });
  if ((flags.model === undefined) === (flags.config === undefined))
    throw new UserError("expected one of --model and --config", { hint: "culm bench --help has examples" });
  const onCuda = flags.backend === "cuda" || /^cuda(:|$)/.test(flags.target ?? "");
  const least = { prefill: onCuda ? 0 : 1, decode: 1, repeat: 1, context: 1 };
  for (const [flag, from] of Object.entries(least)) {
    const value = flags[flag as keyof typeof least];
    if (value !== undefined && value < from) throw new UserError(`--${flag}: expected a whole number from ${from}, got ${value}`);
  }
  if (onCuda) return benchOnCuda(flags, terminal);
  for (const flag of ["batch", "context"] as const)
    if (flags[flag] !== undefined) throw new UserError(`--${flag} goes with --device cuda`, { hint: "leave it out, or add --device cuda" });
  const { folder, remove } =
    flags.model === undefined ? await randomModel(flags, terminal) : { folder: flags.model, remove: () => undefined };
  try {
    const [{ benchModel }, { printBench }] = await Promise.all([import("../../models/auto/bench.ts"), import("./bench-text.ts")]);
    const { threads, ...rest } = flags;
    const { options, stop } = loadOptions(rest, terminal);
    const report: BenchReport = await benchModel(folder, {
      load: { ...options, maxLength: flags.maxLength ?? Math.max(1024, flags.prefill + flags.decode + 1) },
      threads: threads ?? [options.backend === "webgpu" || options.backend === "cuda" ? null : availableParallelism()],
      prefill: flags.prefill,
      decode: flags.decode,
      repeat: flags.repeat,
      profile: flags.profile ?? false,
      onRun: (what) => {
        if (flags.json !== true && terminal.interactive) terminal.err(`measuring: ${what}\n`);
      },
    }).finally(stop);
    terminal.out(flags.json === true ? `${JSON.stringify(report, null, 2)}\n` : printBench(report));
  } finally {
    remove();
  }
}

/** Decode steps, and a prompt, on an NVIDIA GPU. */
async function benchOnCuda(flags: Flags, terminal: Terminal): Promise<undefined> {
  if (flags.threads !== undefined) throw new UserError("--threads are the CPU's", { hint: "leave them out with --device cuda" });
  const batches = flags.batch ?? [1];
  if (batches.some((batch) => batch < 1)) throw new UserError(`--batch: expected whole numbers from 1, got ${batches.join(",")}`);
  const [{ benchSteps }, { printStepBench }] = await Promise.all([
    import("../../models/auto/bench-cuda.ts"),
    import("./bench-cuda-text.ts"),
  ]);
  const { threads: _, ...rest } = flags;
  const { options, stop } = loadOptions(rest, terminal);
  const report = await benchSteps(flags.model === undefined ? { config: flags.config! } : { model: flags.model }, {
    ...options,
    batches,
    context: flags.context ?? 1024,
    prefill: flags.prefill,
    decode: flags.decode,
    repeat: flags.repeat,
    onNote: (what) => {
      if (flags.json !== true && terminal.interactive) terminal.err(`${what}\n`);
    },
  }).finally(stop);
  terminal.out(flags.json === true ? `${JSON.stringify(report, null, 2)}\n` : printStepBench(report));
}

/** A model of random weights in a temporary folder. */
async function randomModel(flags: Flags, terminal: Terminal): Promise<{ folder: string; remove: () => void }> {
  const { writeRandomModel } = await import("../../models/auto/random.ts");
  const folder = mkdtempSync(join(tmpdir(), "culm-bench-"));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  try {
    if (terminal.interactive && flags.json !== true) terminal.err("making random weights ...\n");
    const { dtype } = flags;
    writeRandomModel(flags.config!, { folder, seed: 0, ...(dtype === undefined || dtype === "auto" ? {} : { dtype }) });
    return { folder, remove };
  } catch (error) {
    remove();
    throw error;
  }
}
