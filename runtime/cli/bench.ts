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

Everything is measured in the same run: decoding one token after the other against the rate at which this machine reads
memory (each token reads all weights once), and prefill against its rate of multiplications and additions in f32.
With --backend webgpu the same of the GPU, whose memory is measured by copying.`;

export function defineBench(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("bench")
    .description("measure how fast a model runs, beside what this machine can do")
    .option("--model <model>", modelDescription)
    .option("--config <file>", "config.json of a model that is made of random weights first")
    .option("--prefill <n>", "tokens of the prompt", wholeNumber, 512)
    .option("--decode <n>", "tokens of the answer", wholeNumber, 32)
    .option("--repeat <n>", "repetitions, of which the best counts", wholeNumber, 3)
    .option("--profile", "show the time of each kernel");
  addModelFlags(command, {
    threads: numberList,
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
  for (const [flag, value] of Object.entries({ prefill: flags.prefill, decode: flags.decode, repeat: flags.repeat }))
    if (value < 1) throw new UserError(`--${flag}: expected a whole number from 1, got ${value}`);
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
