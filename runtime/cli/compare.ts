import type { Command } from "commander";
import { compareReport, compareText } from "./compare-text.ts";
import type { Run } from "./generate.ts";
import { addModelFlags, anyNumber, loadOptions, modelDescription, nameList, stopped } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import { Progress } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags {
  readonly model: string;
  readonly golden: string;
  readonly section?: readonly string[];
  readonly tolerance?: number;
}

const examples = `
Examples:
  $ culm compare --model DIR --golden golden.safetensors
  $ culm compare --model DIR --golden golden.safetensors --backend interpret --section forward,cache
  $ culm compare --model DIR --golden golden.safetensors --strict            as Transformers, where we differ on purpose
  $ culm compare --model DIR --golden golden.safetensors --json | jq .divergence

The golden file holds the inputs and what Transformers, or culm fixtures, makes of them. Its sections:
  forward   hidden states of every layer, attention weights, logits, losses
  padded    logits of a batch with padding, which is not compared itself
  embeds    logits of embeddings in place of tokens
  cache     a prompt, single tokens and a chunk: logits, and the states of every layer after each
  generate  greedy continuations, with beams, with penalties: token lists, which have to be equal
  sampling  scores after each logits processor
What the file lacks is left out. Gradients are not computed. Unless --max-length is given the model is opened for as many
positions as the file needs. The first difference in the order of computation is traced to a layer, a line of the
model's source, and the weights that may be wrong. Exit code: 0 when all agree, 1 when something differs.`;

export function defineCompare(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("compare")
    .description("compare a model's numbers with a golden file, layer by layer")
    .requiredOption("--model <model>", modelDescription)
    .requiredOption("--golden <file>", "safetensors file with inputs and expected outputs")
    .option("--section <names>", "only these sections, such as forward,cache", nameList)
    .option("--tolerance <t>", "most that floats may differ by (default: 1e-4 for weights in f32, else 2e-2)", anyNumber);
  addModelFlags(command);
  return command
    .option("--json", "print one JSON object instead of tables")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => compare(flags, terminal)));
}

async function compare(flags: Flags, terminal: Terminal): Promise<number> {
  const [{ openCausalLM }, { compareWithGolden }, { openGoldenFile, sizesOfGolden }] = await Promise.all([
    import("../../models/auto/model.ts"),
    import("../../models/auto/golden/compare.ts"),
    import("../../models/auto/golden/tensors.ts"),
  ]);
  const { rows, length } = sizesOfGolden(flags.golden);
  const { options, stop } = loadOptions({ maxLength: length, ...flags }, terminal, rows);
  const progress = new Progress(terminal.interactive && flags.json !== true, "comparing");
  const model = await openCausalLM(flags.model, options).catch(stopped(stop));
  try {
    const golden = openGoldenFile(flags.golden, model.config);
    try {
      const comparison = await compareWithGolden(model, golden, {
        ...(flags.section === undefined ? {} : { sections: flags.section }),
        ...(flags.tolerance === undefined ? {} : { tolerance: flags.tolerance }),
        onProgress: (done, total) => {
          terminal.signal.throwIfAborted();
          progress.update(done, total);
        },
      }).finally(() => {
        stop();
        progress.stop();
      });
      const { config, plan, backend } = model;
      for (const warning of flags.json === true ? [] : config.warnings) terminal.err(`warning: ${warning}\n`);
      if (flags.json === true) {
        const report = compareReport(comparison, config);
        terminal.out(`${JSON.stringify({ golden: flags.golden, backend, dtype: plan.dtype, strict: plan.strict, ...report }, null, 2)}\n`);
      } else terminal.out(compareText(comparison, config, plan.strict));
      return comparison.agrees ? 0 : 1;
    } finally {
      golden.close();
    }
  } finally {
    await model.close();
  }
}
