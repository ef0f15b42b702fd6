import type { Command } from "commander";
import { UserError } from "../errors.ts";
import { addGenerationFlags, generationOptions } from "./generation-flags.ts";
import type { GenerationFlags } from "./generation-flags.ts";
import { addModelFlags, loadOptions, modelDescription, stopped, wholeNumber } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import { readPrompts } from "./prompts.ts";
import { formatTime, significant } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags, GenerationFlags {
  readonly model: string;
  readonly prompt?: string;
  readonly batch?: string;
  readonly batchSize: number;
  readonly verbose?: boolean;
}

const examples = `
Examples:
  $ culm generate --model models/bamba-tiny --prompt "It was the best of"
  $ culm generate --model DIR --prompt "Dear Sir" --sample --temperature 0.8 --top-p 0.95 --seed 7
  $ culm generate --model DIR --prompt "Dear Sir" --beams 4 --return-sequences 2 --length-penalty 0.8
  $ culm generate --model DIR --batch prompts.txt --max-new-tokens 20 --json > answers.jsonl
  $ culm generate --model DIR --prompt "2 + 2 =" --max-new-tokens 5 --json | jq .text
  $ culm generate --model org/name --revision v1.0 --prompt "Hello"  a model of the Hugging Face hub, downloaded once
  $ culm generate --model DIR --prompt "..." --backend interpret     the same by the reference, slowly

Without --sample the likeliest token is taken each time, and the same prompt gives the same text.
The text goes to standard output as it is made; figures go to standard error. With --json the result is one object a prompt:
  text (prompt and continuation), prompt, continuation, promptIds, outputIds (prompt and new tokens), newIds,
  finishReason (eos, stop, length or aborted), score (of a beam), seed, timing, warnings; and with several texts a prompt
  all of them under alternatives. With --batch there is one object a line.`;

export type Run = (action: () => Promise<number | undefined>) => Promise<void>;

const defaultBatch = 8;

export function defineGenerate(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("generate")
    .description("continue a text")
    .requiredOption("--model <model>", modelDescription)
    .option("--prompt <text>", "what to continue")
    .option("--batch <file>", "a file with a prompt on each line, or with JSON strings; - for standard input")
    .option("--batch-size <n>", "with --batch: prompts worked on at once", wholeNumber, defaultBatch);
  addGenerationFlags(command);
  addModelFlags(command, { replay: true });
  return command
    .option("--json", "print JSON instead of the text")
    .option("--verbose", "tell on standard error what memory is for, and how long each part of the start took")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => generate(flags, terminal)));
}

async function generate(flags: Flags, terminal: Terminal): Promise<undefined> {
  if ((flags.prompt === undefined) === (flags.batch === undefined))
    throw new UserError("expected exactly one of --prompt and --batch", { hint: '--prompt "a text", or --batch with a file of prompts' });
  const prompts = flags.batch === undefined ? [flags.prompt!] : await readPrompts(flags.batch);
  const [{ openCausalLM }, { loadTokenizer }] = await Promise.all([
    import("../../models/auto/model.ts"),
    import("../text/auto-tokenizer.ts"),
  ]);
  const each = Math.max(flags.beams ?? 1, flags.returnSequences ?? 1) * (flags.guidance === undefined ? 1 : 2);
  const { options, stop } = loadOptions(flags, terminal, Math.min(prompts.length, flags.batchSize) * each);
  const watch = flags.verbose === true ? (await import("./verbose.ts")).watchStart(options) : null;
  const model = await openCausalLM(flags.model, watch?.options ?? options).catch(stopped(stop));
  try {
    const tokenizer = loadTokenizer(model.source.folder);
    const settings = { ...generationOptions(flags, tokenizer), tokenizer, signal: terminal.signal };
    await model.session().finally(stop);
    if (watch !== null) terminal.err(watch.report(model));
    const job = { model, tokenizer, settings, terminal, verbose: watch !== null };
    if (flags.batch !== undefined) await batched(job, prompts, flags);
    else if (flags.json === true) terminal.out(`${JSON.stringify((await answers(job, prompts))[0], null, 2)}\n`);
    else await shown(job, prompts[0]!);
  } finally {
    await model.close();
  }
}

type Model = Awaited<ReturnType<(typeof import("../../models/auto/model.ts"))["openCausalLM"]>>;
type Tokenizer = ReturnType<(typeof import("../text/auto-tokenizer.ts"))["loadTokenizer"]>;
type Options = NonNullable<Parameters<Model["generate"]>[1]>;
type Result = Awaited<ReturnType<Model["generate"]>>;

export interface Job {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  readonly settings: Options;
  readonly terminal: Terminal;
  readonly verbose?: boolean;
}

/** The ids of a prompt. Without a tokenizer that begins a text by itself, an empty prompt is the beginning of a text. */
function idsOf({ model, tokenizer }: Pick<Job, "model" | "tokenizer">, prompt: string): number[] {
  const ids = tokenizer.encode(prompt);
  return ids.length === 0 && model.config.bosTokenId !== null ? [model.config.bosTokenId] : ids;
}

/** One prompt for a person: the text as it is made, and then the figures. */
async function shown(job: Job, prompt: string): Promise<void> {
  const { model, settings, terminal } = job;
  for (const warning of model.config.warnings) terminal.err(`warning: ${warning}\n`);
  const rows = (settings.numBeams ?? 1) > 1 ? 2 : (settings.numReturnSequences ?? 1);
  let result: Result;
  const began = performance.now();
  if (rows === 1) {
    const streamed = await stream(job, idsOf(job, prompt), prompt);
    terminal.out(streamed.text.endsWith("\n") ? "" : "\n");
    result = streamed.result;
  } else {
    // Several texts at once, or beams that change until the end, can only be shown when they are there.
    const ids = idsOf(job, prompt);
    result = await model.generate(ids, settings);
    for (const [i, { text, score }] of alternatives(job, { prompt, ids }, result).entries()) {
      if (result.rows > 1) terminal.out(`${i > 0 ? "\n" : ""}[${i + 1}${score === null ? "" : `, score ${score.toFixed(4)}`}] `);
      terminal.out(text.endsWith("\n") ? text : `${text}\n`);
    }
  }
  for (const warning of result.warnings) terminal.err(`warning: ${warning}\n`);
  if (job.verbose === true) terminal.err(`first token ${formatTime(began + result.timing.first)} after the program began\n`);
  terminal.err(`${figures(result)}${settings.doSample === true ? `, seed ${String(result.seed)}` : ""}\n`);
}

/** Prompts of a file, some at a time; a line of output for each as soon as it is there. */
async function batched(job: Job, prompts: readonly string[], flags: Flags): Promise<void> {
  const { terminal } = job;
  const size = Math.max(1, flags.batchSize);
  const started = performance.now();
  let tokens = 0;
  for (let first = 0; first < prompts.length && !terminal.signal.aborted; first += size) {
    const done = await answers(job, prompts.slice(first, first + size));
    for (const [i, answer] of done.entries()) {
      tokens += answer.newIds.length;
      if (flags.json === true) terminal.out(`${JSON.stringify(answer)}\n`);
      else for (const text of answer.alternatives ?? [answer]) terminal.out(`[${first + i + 1}] ${text.text}\n`);
    }
    if (terminal.interactive && flags.json !== true)
      terminal.err(`${Math.min(first + size, prompts.length)} of ${prompts.length} prompts\n`);
  }
  const seconds = (performance.now() - started) / 1000;
  terminal.err(`${prompts.length} prompts, ${tokens} tokens, ${significant(tokens / seconds)} tokens/s\n`);
}

interface Alternative {
  readonly text: string;
  readonly continuation: string;
  readonly outputIds: readonly number[];
  readonly newIds: readonly number[];
  readonly finishReason: string;
  readonly score: number | null;
}

interface Answer extends Alternative {
  readonly prompt: string;
  readonly promptIds: readonly number[];
  readonly alternatives?: readonly Alternative[];
  readonly seed: Result["seed"] | null;
  readonly timing: Result["timing"];
  readonly warnings: readonly string[];
}

/** Runs prompts as one batch and tells what became of each. */
async function answers(job: Job, prompts: readonly string[]): Promise<readonly Answer[]> {
  const { model, tokenizer, settings } = job;
  const rows = prompts.map((prompt) => idsOf(job, prompt));
  const { ids, attentionMask, length } = tokenizer.pack(rows, padding(job));
  const cut = (values: Int32Array): readonly Int32Array[] => prompts.map((_, i) => values.subarray(i * length, (i + 1) * length));
  const result = await model.generate({ inputIds: cut(ids), attentionMask: cut(attentionMask) }, settings);
  return prompts.map((prompt, i) => {
    const texts = alternatives(job, { prompt, ids: rows[i]! }, result, i, prompts.length);
    return {
      ...texts[0]!,
      prompt,
      promptIds: rows[i]!,
      ...(texts.length > 1 ? { alternatives: texts } : {}),
      seed: settings.doSample === true ? result.seed : null,
      timing: result.timing,
      warnings: [...model.config.warnings, ...result.warnings],
    };
  });
}

/** The pad token only fills memory here, since it is masked: any token will do where the tokenizer has none. */
function padding({ model, tokenizer }: Job): { readonly padId?: number } {
  return tokenizer.pad === null ? { padId: model.config.padTokenId ?? model.config.eosTokenIds[0] ?? 0 } : {};
}

/** What became of one of several prompts, the best first. */
function alternatives(
  { tokenizer }: Job,
  { prompt, ids }: { readonly prompt: string; readonly ids: readonly number[] },
  result: Result,
  index = 0,
  prompts = 1,
): readonly Alternative[] {
  const each = result.rows / prompts;
  return Array.from({ length: each }, (_, k) => {
    const row = index * each + k;
    const newIds = [...result.newTokens[row]!];
    const continuation = tokenizer.decode(newIds, { skipSpecialTokens: true });
    return {
      text: prompt + continuation,
      continuation,
      outputIds: [...ids, ...newIds],
      newIds,
      finishReason: result.finish[row]!,
      score: result.sequencesScores?.[row] ?? null,
    };
  });
}

/**
 * Generates and writes the text of the new tokens as it becomes certain.
 * @param before what to write when the first token is there, and so not before a mistake in the settings has been found
 */
export async function stream(
  job: Job,
  promptIds: readonly number[],
  before = "",
): Promise<{ readonly result: Result; readonly text: string }> {
  const { model, tokenizer, settings, terminal } = job;
  const { TextStreamer } = await import("../text/streamer.ts");
  const streamer = new TextStreamer(tokenizer);
  let text = "";
  const write = (piece: string): void => {
    text += piece;
    if (piece !== "") terminal.out(piece);
  };
  const result = await model.generate(promptIds, {
    ...settings,
    onStep: ({ tokens, index }) => {
      if (index === 0) terminal.out(before);
      write(streamer.push(tokens[0]!));
    },
  });
  write(streamer.end());
  return { result, text };
}

/** "64 tokens, 812 tokens/s, first token after 7 ms" */
export function figures({ length, timing }: Pick<Result, "length" | "timing">): string {
  const rate = length > 1 ? `, ${significant(timing.tokensPerSecond)} tokens/s` : "";
  return `${length} ${length === 1 ? "token" : "tokens"}${rate}, first token after ${formatTime(timing.first)}`;
}
