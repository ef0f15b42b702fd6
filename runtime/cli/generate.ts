import type { Command } from "commander";
import { addGenerationFlags, addModelFlags, generationOptions, loadOptions, modelDescription } from "./options.ts";
import type { GenerationFlags, ModelFlags } from "./options.ts";
import { formatTime, significant } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags, GenerationFlags {
  readonly model: string;
  readonly prompt: string;
}

const examples = `
Examples:
  $ culm generate --model models/bamba-tiny --prompt "It was the best of"
  $ culm generate --model DIR --prompt "Dear Sir" --sample --temperature 0.8 --top-p 0.95 --seed 7
  $ culm generate --model DIR --prompt "2 + 2 =" --max-new-tokens 5 --json | jq .text
  $ culm generate --model org/name --revision v1.0 --prompt "Hello"  a model of the Hugging Face hub, downloaded once
  $ culm generate --model DIR --prompt "..." --backend interpret     the same by the reference, slowly

Without --sample the likeliest token is taken each time, and the same prompt gives the same text.
The text goes to standard output as it is made; figures go to standard error. With --json the result is one object:
  text (prompt and continuation), prompt, continuation, promptIds, outputIds (prompt and new tokens), newIds,
  finishReason (eos, length or aborted), seed, timing.`;

export type Run = (action: () => Promise<number | undefined>) => Promise<void>;

export function defineGenerate(program: Command, terminal: Terminal, run: Run): Command {
  const command = program.command("generate").description("continue a text").requiredOption("--model <model>", modelDescription);
  command.requiredOption("--prompt <text>", "what to continue");
  addGenerationFlags(command);
  addModelFlags(command);
  return command
    .option("--json", "print one JSON object instead of the text")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => generate(flags, terminal)));
}

async function generate(flags: Flags, terminal: Terminal): Promise<undefined> {
  const [{ openCausalLM }, { loadTokenizer }] = await Promise.all([
    import("../../models/auto/model.ts"),
    import("../text/auto-tokenizer.ts"),
  ]);
  const { options, stop } = loadOptions(flags, terminal);
  const model = await openCausalLM(flags.model, options).catch((error: unknown) => {
    stop();
    throw error;
  });
  try {
    const tokenizer = loadTokenizer(model.source.folder);
    const promptIds = tokenizer.encode(flags.prompt);
    // Without a tokenizer that begins a text by itself, an empty prompt is the beginning of a text.
    if (promptIds.length === 0 && model.config.bosTokenId !== null) promptIds.push(model.config.bosTokenId);
    await model.session().finally(stop);
    const settings = generationOptions(flags);
    if (flags.json === true) {
      const result = await model.generate(promptIds, { ...settings, signal: terminal.signal });
      const newIds = [...result.newTokens[0]!];
      const continuation = tokenizer.decode(newIds, { skipSpecialTokens: true });
      const report = {
        text: flags.prompt + continuation,
        prompt: flags.prompt,
        continuation,
        promptIds,
        outputIds: [...result.sequences[0]!],
        newIds,
        finishReason: result.finish[0],
        seed: settings.doSample === true ? result.seed : null,
        timing: result.timing,
        warnings: [...model.config.warnings, ...result.warnings],
      };
      terminal.out(`${JSON.stringify(report, null, 2)}\n`);
      return;
    }
    for (const warning of model.config.warnings) terminal.err(`warning: ${warning}\n`);
    terminal.out(flags.prompt);
    const { result, text } = await streamed(model, promptIds, tokenizer, { ...settings, signal: terminal.signal }, terminal);
    terminal.out(text.endsWith("\n") ? "" : "\n");
    for (const warning of result.warnings) terminal.err(`warning: ${warning}\n`);
    terminal.err(`${figures(result)}${settings.doSample === true ? `, seed ${result.seed}` : ""}\n`);
  } finally {
    await model.close();
  }
}

type Model = Awaited<ReturnType<(typeof import("../../models/auto/model.ts"))["openCausalLM"]>>;
type Tokenizer = ReturnType<(typeof import("../text/auto-tokenizer.ts"))["loadTokenizer"]>;
type Options = NonNullable<Parameters<Model["generate"]>[1]>;
type Result = Awaited<ReturnType<Model["generate"]>>;

/** Generates and writes the text of the new tokens as it becomes certain. */
export async function streamed(
  model: Model,
  promptIds: readonly number[],
  tokenizer: Tokenizer,
  options: Options,
  terminal: Terminal,
): Promise<{ readonly result: Result; readonly text: string }> {
  const { TextStreamer } = await import("../text/streamer.ts");
  const streamer = new TextStreamer(tokenizer);
  let text = "";
  const write = (piece: string): void => {
    text += piece;
    if (piece !== "") terminal.out(piece);
  };
  const result = await model.generate(promptIds, { ...options, onStep: ({ tokens }) => write(streamer.push(tokens[0]!)) });
  write(streamer.end());
  return { result, text };
}

/** "64 tokens, 812 tokens/s, first token after 7 ms" */
export function figures({ length, timing }: Pick<Result, "length" | "timing">): string {
  const rate = length > 1 ? `, ${significant(timing.tokensPerSecond)} tokens/s` : "";
  return `${length} ${length === 1 ? "token" : "tokens"}${rate}, first token after ${formatTime(timing.first)}`;
}
