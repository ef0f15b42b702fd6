import type { Command } from "commander";
import type { Run } from "./generate.ts";
import { addModelFlags, loadOptions, modelDescription, nameList, stopped, wholeNumber } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import { formatTime, Progress } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags {
  readonly model: string;
  readonly out: string;
  readonly rows: number;
  readonly length: number;
  readonly seed: number;
  readonly sections?: readonly string[];
}

const examples = `
Examples:
  $ culm fixtures --model DIR --out golden.safetensors
  $ culm compare --model DIR --golden golden.safetensors              the compiled model against it
  $ culm fixtures --model DIR --out small.safetensors --rows 1 --length 16 --seed 3 --sections forward,cache
  $ culm fixtures --model DIR --out strict.safetensors --strict --dtype bf16

Draws tokens from the seed, computes what a golden file holds of them (culm compare --help lists the sections) and writes it.
Unless another backend is given the interpreter does it, which has nothing of the compiler in it: it is slow, and exact to the
rounding of each operation. The file appears when it is complete.`;

export function defineFixtures(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("fixtures")
    .description("write a golden file for culm compare, by the interpreter")
    .requiredOption("--model <model>", modelDescription)
    .requiredOption("--out <file>", "safetensors file to write")
    .option("--rows <n>", "rows of tokens", wholeNumber, 2)
    .option("--length <n>", "tokens of a row, 12 at least", wholeNumber, 37)
    .option("--seed <n>", "what the tokens are drawn from", wholeNumber, 0)
    .option("--sections <names>", "only these sections, such as forward,cache", nameList);
  addModelFlags(command, { backend: "interpret" });
  return command
    .option("--json", "print one JSON object about the result")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => fixtures(flags, terminal)));
}

async function fixtures(flags: Flags, terminal: Terminal): Promise<undefined> {
  const [{ openCausalLM }, { makeFixtures, writeGolden }, { newTokens }] = await Promise.all([
    import("../../models/auto/model.ts"),
    import("../../models/auto/golden/fixtures.ts"),
    import("../../models/auto/golden/tensors.ts"),
  ]);
  const started = performance.now();
  const { rows, length, seed, out, sections } = flags;
  const { options, stop } = loadOptions({ maxLength: length + newTokens, ...flags }, terminal, Math.max(1, rows));
  const progress = new Progress(terminal.interactive && flags.json !== true, "tensors");
  const model = await openCausalLM(flags.model, options).catch(stopped(stop));
  try {
    let done = 0;
    const tensors = await makeFixtures(model, {
      rows,
      length,
      seed,
      ...(sections === undefined ? {} : { sections }),
      onTensor: () => {
        terminal.signal.throwIfAborted();
        done += 1;
        progress.update(done, Math.max(done, 1));
      },
    }).finally(() => {
      stop();
      progress.stop();
    });
    writeGolden(out, tensors);
    const took = performance.now() - started;
    if (flags.json === true) {
      const { backend, plan } = model;
      terminal.out(
        `${JSON.stringify({ out, backend, dtype: plan.dtype, strict: plan.strict, rows, length, seed, tensors: [...tensors.keys()], milliseconds: Math.round(took) }, null, 2)}\n`,
      );
    } else terminal.err(`${out}: ${tensors.size} tensors of ${rows} x ${length} tokens by ${model.backend}, in ${formatTime(took)}\n`);
  } finally {
    await model.close();
  }
}
