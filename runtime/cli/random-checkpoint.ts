import type { Command } from "commander";
import type { Run } from "./generate.ts";
import { oneOf, wholeNumber } from "./options.ts";
import { formatBytes, formatCount, formatTime } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags {
  readonly config: string;
  readonly out: string;
  readonly seed: number;
  readonly dtype?: "f32" | "bf16" | "f16";
  readonly json?: boolean;
}

const examples = `
Examples:
  $ culm random-checkpoint --config tests/bench/configs/bamba-1b.json --out bamba-1b --dtype bf16
  $ culm random-checkpoint --config DIR/config.json --seed 7 --out somewhere && culm bench --model somewhere

The same seed gives the same bytes on every machine. Memory stays small whatever the size of the model.`;

export function defineRandomCheckpoint(program: Command, terminal: Terminal, run: Run): Command {
  return program
    .command("random-checkpoint")
    .description("write a model of random weights, to measure or to test")
    .requiredOption("--config <file>", "config.json of the model")
    .requiredOption("--out <dir>", "folder to write")
    .option("--seed <n>", "what the weights are drawn from", wholeNumber, 0)
    .option("--dtype <type>", "f32, bf16 or f16 (default: what the configuration says, else bf16)", oneOf("f32", "bf16", "f16"))
    .option("--json", "print one JSON object about the result")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => randomCheckpoint(flags, terminal)));
}

async function randomCheckpoint({ config: file, out, seed, dtype, json }: Flags, terminal: Terminal): Promise<undefined> {
  const { writeRandomModel } = await import("../../models/auto/random.ts");
  const started = performance.now();
  const result = writeRandomModel(file, { folder: out, seed, ...(dtype === undefined ? {} : { dtype }) });
  const took = performance.now() - started;
  if (json === true) terminal.out(`${JSON.stringify({ folder: out, ...result, seed, milliseconds: Math.round(took) }, null, 2)}\n`);
  else
    terminal.err(
      `${out}: ${formatCount(result.parameters)} parameters, ${formatBytes(result.bytes)} of ${result.dtype} in ${formatTime(took)}\n`,
    );
}
