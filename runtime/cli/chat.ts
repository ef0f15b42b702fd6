import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import { colors } from "./colors.ts";
import { isUserError, shown, UserError } from "../errors.ts";
import { allMessages, conversation, parseInput, said, shortened, undone } from "./conversation.ts";
import type { Conversation, Message } from "./conversation.ts";
import { figures, stream } from "./generate.ts";
import type { Job, Run } from "./generate.ts";
import { addGenerationFlags, generationOptions } from "./generation-flags.ts";
import type { GenerationFlags } from "./generation-flags.ts";
import { addModelFlags, loadOptions, modelDescription, stopped } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags, GenerationFlags {
  readonly model: string;
  readonly system?: string;
  readonly chatTemplate?: string;
  readonly completion?: boolean;
  readonly greedy?: boolean;
}

const examples = `
Examples:
  $ culm chat --model DIR
  $ culm chat --model DIR --system "You answer in one sentence." --temperature 0.3
  $ culm chat --model DIR --chat-template template.jinja      for a model whose tokenizer has none
  $ culm chat --model models/bamba-tiny --completion          a model without chat training: it goes on from your words
  $ printf 'Hello\\n/save talk.json\\n' | culm chat --model DIR --greedy

While an answer is written, Ctrl-C stops it and what is there stays part of the conversation. At the prompt, Ctrl-C or Ctrl-D ends the program.`;

const help = `  /reset           forget the conversation
  /system TEXT     forget the conversation and give the model other instructions (no text: none)
  /retry           answer the last question again
  /undo            take the last question and its answer back
  /show            the conversation so far
  /save FILE       write it to a JSON file
  /help            this list
  /exit            end; so do Ctrl-C and Ctrl-D
A line that ends with \\ goes on in the next one; a line that begins with // is a text that begins with /.
`;

const defaultTokens = 512;
/** What Transformers' text-generation pipeline draws with where a model says nothing (spec bamba e.7). */
const defaultTemperature = 0.7;

function template(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new InvalidArgumentError(`It cannot be read (${shown(cause instanceof Error ? cause.message : String(cause), 120)}).`);
  }
}

export function defineChat(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("chat")
    .description("talk with a model")
    .requiredOption("--model <model>", modelDescription)
    .option("--system <text>", "instructions for the whole conversation")
    .option("--chat-template <file>", "Jinja template in place of the tokenizer's own", template)
    .option("--completion", "no template: every line goes on from the text so far")
    .option("--greedy", "take the likeliest token each time; otherwise tokens are drawn");
  addGenerationFlags(command);
  addModelFlags(command);
  return command.addHelpText("after", examples).action((flags: Flags) => run(() => chat(flags, terminal)));
}

async function chat(flags: Flags, terminal: Terminal): Promise<undefined> {
  if ((flags.beams ?? 1) > 1 || (flags.returnSequences ?? 1) > 1)
    throw new UserError("a conversation has one answer at a time: --beams and --return-sequences are for culm generate");
  const [{ openCausalLM }, { loadTokenizer }] = await Promise.all([
    import("../../models/auto/model.ts"),
    import("../text/auto-tokenizer.ts"),
  ]);
  const { options, stop } = loadOptions(flags, terminal);
  const model = await openCausalLM(flags.model, options).catch(stopped(stop));
  try {
    const tokenizer = loadTokenizer(model.source.folder);
    if (flags.completion !== true && flags.chatTemplate === undefined && tokenizer.chatTemplate === null)
      throw new UserError(
        `${flags.model}: the tokenizer has no chat template, so there is no telling how this model expects a conversation`,
        {
          hint: "give one with --chat-template FILE, or let it continue texts with --completion",
        },
      );
    await model.session().finally(stop);
    const given = generationOptions(flags, tokenizer);
    const drawn = flags.greedy === true ? { doSample: false } : { temperature: defaultTemperature, ...given, doSample: true };
    const settings = { maxNewTokens: defaultTokens, ...given, ...drawn, tokenizer };
    await new Chat({ model, tokenizer, settings, terminal }, flags).run();
  } finally {
    await model.close();
  }
}

class Chat {
  private readonly job: Job;
  private readonly flags: Flags;
  /** Whether somebody types, and not a file or a program. */
  private readonly person = process.stdin.isTTY && process.stdout.isTTY;
  private talk: Conversation;

  constructor(job: Job, flags: Flags) {
    this.job = job;
    this.flags = flags;
    this.talk = conversation(flags.system ?? null);
  }

  async run(): Promise<void> {
    const { terminal } = this.job;
    const { person } = this;
    const lines = createInterface({
      input: process.stdin,
      ...(person ? { output: process.stdout, historySize: 1000, removeHistoryDuplicates: true } : {}),
    });
    const release = terminal.onInterrupt(() => lines.close());
    lines.on("SIGINT", () => lines.close());
    try {
      if (person) terminal.err(colors.dim(`${this.job.model.source.folder}; /help says what there is, Ctrl-D ends\n`));
      let text = "";
      const ask = (): void => {
        if (!person) return;
        lines.setPrompt(text === "" ? "> " : ". ");
        lines.prompt();
      };
      ask();
      for await (const line of lines) {
        if (line.endsWith("\\")) text += `${line.slice(0, -1)}\n`;
        else {
          const whole = text + line;
          text = "";
          if (whole.trim() !== "" && !(await this.take(whole, lines))) break;
        }
        ask();
      }
      if (person) terminal.out("\n");
    } finally {
      lines.close();
      release();
    }
  }

  /** Does what a line asks for; false when it asks for the end. A mistake is told, and the conversation goes on. */
  private async take(line: string, lines: { pause(): unknown; resume(): unknown }): Promise<boolean> {
    const { terminal } = this.job;
    const input = parseInput(line);
    try {
      if (input.kind === "say") await this.answer(said(this.talk, "user", input.text), lines);
      else if (input.name === "exit" || input.name === "quit") return false;
      else await this.command(input.name, input.rest, lines);
    } catch (error) {
      if (!isUserError(error)) throw error;
      terminal.err(`error: ${error.message}${error.hint === undefined ? "" : `\nhint: ${error.hint}`}\n`);
    }
    return true;
  }

  private async command(name: string, rest: string, lines: { pause(): unknown; resume(): unknown }): Promise<void> {
    const { terminal } = this.job;
    switch (name) {
      case "reset":
        this.talk = conversation(this.talk.system);
        return void terminal.err(colors.dim("the conversation begins anew\n"));
      case "system":
        this.talk = conversation(rest === "" ? null : rest);
        return void terminal.err(colors.dim(rest === "" ? "no instructions\n" : "other instructions; the conversation begins anew\n"));
      case "undo":
        this.talk = undone(this.talk);
        return;
      case "retry": {
        const question = this.talk.messages.findLast(({ role }) => role === "user");
        if (question === undefined) throw new UserError("there is no question yet");
        return this.answer(said(undone(this.talk), "user", question.content), lines);
      }
      case "show":
        for (const { role, content } of allMessages(this.talk)) terminal.out(`${colors.dim(`${role}:`)} ${content}\n`);
        return;
      case "save":
        return void this.save(rest);
      case "help":
        return void terminal.err(help);
      default:
        throw new UserError(`there is no command /${name}`, { hint: "/help lists them; a text that begins with / is written with //" });
    }
  }

  private save(file: string): void {
    if (file === "") throw new UserError("/save needs the name of a file");
    const next = `${file}.${process.pid}`;
    try {
      writeFileSync(next, `${JSON.stringify(allMessages(this.talk), null, 2)}\n`);
      renameSync(next, file);
    } catch (cause) {
      throw new UserError(`${file}: cannot be written (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
    }
    this.job.terminal.err(colors.dim(`${file} written\n`));
  }

  /** Asks the model, shows the answer as it comes and keeps both. Nothing is kept of a question that could not be asked. */
  private async answer(asked: Conversation, lines: { pause(): unknown; resume(): unknown }): Promise<void> {
    const { terminal, settings } = this.job;
    const { ids, talk } = this.fitted(asked);
    const abort = new AbortController();
    const release = terminal.onInterrupt(() => abort.abort());
    lines.pause();
    // Line editing reads keys one by one, Ctrl-C among them; while nobody reads, the terminal has to make a signal of it again.
    if (this.person) process.stdin.setRawMode(false);
    try {
      const { result, text } = await stream({ ...this.job, settings: { ...settings, signal: abort.signal } }, ids);
      terminal.out(text.endsWith("\n") ? "" : "\n");
      for (const warning of result.warnings) terminal.err(`warning: ${warning}\n`);
      const stopped = result.finish[0] === "aborted" ? ", stopped" : "";
      if (terminal.interactive) terminal.err(colors.dim(`${figures(result)}${stopped}\n`));
      this.talk = said(talk, "assistant", this.flags.completion === true ? text : text.trim());
    } finally {
      release();
      if (this.person) process.stdin.setRawMode(true);
      lines.resume();
    }
  }

  /** The ids of a conversation; what is oldest in it is left out until there is room for an answer. */
  private fitted(asked: Conversation): { readonly ids: readonly number[]; readonly talk: Conversation } {
    const { terminal, model, settings } = this.job;
    const room = model.plan.capacity - (settings.maxNewTokens ?? 0);
    let talk = asked;
    for (let left = 0; ; left += 1) {
      const ids = this.idsOf(talk);
      const less = ids.length > room ? shortened(talk) : null;
      if (less === null) {
        if (left > 0)
          terminal.err(
            colors.dim(
              `the conversation is longer than the model was opened for: the oldest ${left === 1 ? "question" : `${left} questions`} left out\n`,
            ),
          );
        return { ids, talk };
      }
      talk = less;
    }
  }

  private idsOf(talk: Conversation): readonly number[] {
    const { tokenizer } = this.job;
    const messages: readonly Message[] = allMessages(talk);
    if (this.flags.completion === true) return tokenizer.encode(messages.map(({ content }) => content).join(""));
    const { chatTemplate } = this.flags;
    const chat = messages.map(({ role, content }) => ({ role, content }));
    return tokenizer.applyChatTemplate(chat, { addGenerationPrompt: true, ...(chatTemplate === undefined ? {} : { chatTemplate }) })
      .inputIds;
  }
}
