import { Command, CommanderError } from "commander";
import { defineBench } from "./bench.ts";
import { defineChat } from "./chat.ts";
import { defineCompare } from "./compare.ts";
import { defineCompile } from "./compile.ts";
import { defineConvert } from "./convert.ts";
import { defineDemo } from "./demo.ts";
import { defineFixtures } from "./fixtures.ts";
import { defineForward } from "./forward.ts";
import { defineGenerate } from "./generate.ts";
import { defineInspect } from "./inspect.ts";
import { defineRandomCheckpoint } from "./random-checkpoint.ts";
import { defineTokenize } from "./tokenize.ts";
import { reportError } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

const examples = `
Examples:
  $ culm demo "It was the best of"                        the model that comes with culm goes on from here
  $ culm generate --model DIR --prompt "Once upon a time" --max-new-tokens 64
  $ culm chat --model DIR                                 talk with a model
  $ culm inspect --model DIR                              what a model becomes: programs, kernels, memory
  $ culm bench --model DIR                                how fast, beside what this machine can do
  $ culm generate --help                                  each command has examples of its own

DIR is a folder with config.json and safetensors weights, or the name of a model on the Hugging Face hub, such as org/name,
which is downloaded into the cache that the Hugging Face libraries share.`;

/** As a shell counts a process that SIGINT ended. */
const interruptedCode = 130;

/** What runs now, for what happens to the whole process. */
let running: AbortController | undefined;

/** `culm ... | head`: whoever read has enough, which ends the text as Ctrl-C does and is no error. The last write may fail after `main` has ended. */
const readerGone = (error: NodeJS.ErrnoException): void => {
  if (error.code !== "EPIPE") throw error;
  running?.abort();
};

/** The command line. Resolves to the exit code: 0 when it did what was asked, 1 for a mistake of the caller's (or a bug), 130 after Ctrl-C. */
export async function main(argv: readonly string[]): Promise<number> {
  const abort = new AbortController();
  const terminal: Terminal = {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    interactive: process.stderr.isTTY,
    signal: abort.signal,
    onInterrupt: (handler) => {
      const before = interrupted;
      interrupted = handler;
      return () => void (interrupted = before);
    },
  };
  // The first Ctrl-C ends what runs in good order; the second one is the system's own. A command may have another use for it meanwhile.
  const end = (): void => {
    process.off("SIGINT", interrupt);
    abort.abort();
  };
  let interrupted = end;
  const interrupt = (): void => interrupted();
  process.on("SIGINT", interrupt);
  running = abort;
  if (!process.stdout.listeners("error").includes(readerGone)) process.stdout.on("error", readerGone);
  let code = 0;
  const program = new Command("culm")
    .description("A tensor compiler: runs language models from their checkpoints as kernels compiled for this machine.")
    .addHelpText("after", examples)
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({ writeOut: terminal.out, writeErr: terminal.err });
  const run = (action: () => Promise<number | undefined>): Promise<void> => action().then((result) => void (code = result ?? 0));
  for (const define of [
    defineDemo,
    defineGenerate,
    defineChat,
    defineForward,
    defineTokenize,
    defineConvert,
    defineCompile,
    defineInspect,
    defineBench,
    defineCompare,
    defineFixtures,
    defineRandomCheckpoint,
  ])
    inherit(define(program, terminal, run), program);
  try {
    if (argv.length === 0) {
      program.outputHelp();
      return 0;
    }
    await program.parseAsync(argv, { from: "user" });
    return abort.signal.aborted ? interruptedCode : code;
  } catch (error) {
    if (abort.signal.aborted) return interruptedCode;
    // commander has said it already
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 1;
    return reportError(error, terminal);
  } finally {
    process.off("SIGINT", interrupt);
  }
}

/** Subcommands made by `command()` copy their parent's settings, those of the parent's own parent too. */
function inherit(command: Command, program: Command): void {
  command.copyInheritedSettings(program).showHelpAfterError("(culm " + command.name() + " --help says what there is)");
}
