import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { figures, stream } from "./generate.ts";
import type { Run } from "./generate.ts";
import { addGenerationFlags, generationOptions } from "./generation-flags.ts";
import type { GenerationFlags } from "./generation-flags.ts";
import { addModelFlags, loadOptions, stopped } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import { formatBytes, formatCount, formatTime } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags, GenerationFlags {}

const defaultPrompt = "It was the best of";
const defaultTokens = 64;

const examples = `
Examples:
  $ culm demo                                    what \`npm start\` runs
  $ culm demo "Call me"                          goes on from your own words
  $ culm demo "Call me" --sample --seed 3        draws tokens instead of taking the likeliest

The model is a small one that was trained for this: it writes in the manner of old English books and knows no facts.`;

export function defineDemo(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("demo")
    .description("let the small model that comes with culm continue a text")
    .argument("[prompt...]", "what to continue");
  addGenerationFlags(command);
  addModelFlags(command);
  return command
    .addHelpText("after", examples)
    .action((words: readonly string[], flags: Flags) => run(() => demo(words.join(" ") || defaultPrompt, flags, terminal)));
}

/** The folder of the model that comes with the package, in a checkout as in what is built from it. */
export const tinyModel = fileURLToPath(new URL("../../models/bamba-tiny", import.meta.url));

async function demo(prompt: string, flags: Flags, terminal: Terminal): Promise<undefined> {
  const [{ openCausalLM }, { loadTokenizer }] = await Promise.all([
    import("../../models/auto/model.ts"),
    import("../text/auto-tokenizer.ts"),
  ]);
  const { options, stop } = loadOptions(flags, terminal);
  const model = await openCausalLM(tinyModel, options).catch(stopped(stop));
  try {
    const session = await model.session().finally(stop);
    const { compiled, plan, source } = model;
    terminal.out(`culm 0.1: bamba-tiny (${formatCount(source.parameters)} parameters, ${plan.dtype}) on ${session.executor.description}\n`);
    if (compiled !== null) {
      const { manifest } = compiled.artifact;
      const decode = manifest.programs.find(({ name }) => name === "decode.1");
      const weights = manifest.weights.reduce((sum, { bytes }) => sum + bytes, 0);
      const took = compiled.cached ? `from the cache in ${formatTime(compiled.time)}` : `in ${formatTime(compiled.time)}`;
      terminal.out(
        `compiled ${manifest.kernels.length} kernels ${took}   per token: ${decode?.steps.length ?? 0} launches, 0 allocations, ${formatBytes(weights)} of weights\n`,
      );
    }
    terminal.out(`\n${prompt}`);
    const tokenizer = loadTokenizer(tinyModel);
    const settings = { maxNewTokens: defaultTokens, ...generationOptions(flags, tokenizer), tokenizer, signal: terminal.signal };
    const { result } = await stream({ model, tokenizer, settings, terminal }, tokenizer.encode(prompt));
    terminal.out(`\n\n${figures(result)}\n`);
  } finally {
    await model.close();
  }
}
