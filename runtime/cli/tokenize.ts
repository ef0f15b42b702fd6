import { text as textOf } from "node:stream/consumers";
import type { Command } from "commander";
import { UserError } from "../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Run } from "./generate.ts";
import { addHubFlags, hubOptions, modelDescription, numberList } from "./options.ts";
import type { HubFlags } from "./options.ts";
import { table } from "./table.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends HubFlags {
  readonly model: string;
  readonly ids?: readonly number[];
  readonly stdin?: boolean;
  readonly special: boolean;
  readonly json?: boolean;
}

const examples = `
Examples:
  $ culm tokenize --model models/bamba-tiny "It was the best of"       a table: each token's id, spelling and text
  $ culm tokenize --model DIR --ids 1,338,373                          the text of ids
  $ culm tokenize --model DIR --stdin --json < book.txt | jq '.ids | length'

--stdin takes what it is given as it is, a last newline included. With --json the result is one object:
  text, ids, tokens (each with id, token, text, special). token is the spelling of the vocabulary; text has \\x.. for bytes
  that are no whole character.`;

export function defineTokenize(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("tokenize")
    .description("show the tokens of a text, or the text of tokens")
    .argument("[text]", "what to take apart")
    .requiredOption("--model <model>", `${modelDescription}; only the tokenizer is read`)
    .option("--ids <list>", "token ids to put together, as 1,2,3, in place of a text", numberList)
    .option("--stdin", "take the text from standard input")
    .option("--no-special", "without special tokens: none is added to a text, and those among ids are left out")
    .option("--json", "print one JSON object");
  return addHubFlags(command)
    .addHelpText("after", examples)
    .action((text: string | undefined, flags: Flags) => run(() => tokenize(text, flags, terminal)));
}

async function tokenize(given: string | undefined, flags: Flags, terminal: Terminal): Promise<undefined> {
  const sources = [given !== undefined, flags.ids !== undefined, flags.stdin === true].filter(Boolean).length;
  if (sources !== 1)
    throw new UserError("expected one of a text, --ids and --stdin", { hint: 'culm tokenize --model DIR "some text"; --help has more' });
  const { AutoTokenizer } = await import("../text/auto-tokenizer.ts");
  const { options, stop } = hubOptions(flags, terminal, terminal.interactive && flags.json !== true);
  const tokenizer = await AutoTokenizer.fromPretrained(flags.model, options).finally(stop);
  let text: string;
  let ids: readonly number[];
  if (flags.ids === undefined) {
    text = given ?? (await textOf(process.stdin));
    ids = tokenizer.encode(text, { addSpecialTokens: flags.special });
  } else {
    ids = flags.special ? flags.ids : flags.ids.filter((id) => !tokenizer.isSpecial(id));
    text = tokenizer.decode(ids);
    const unknown = ids.filter((id) => tokenizer.idToToken(id) === undefined);
    if (unknown.length > 0) terminal.err(`warning: no token has the id ${unknown.join(", ")}\n`);
  }
  const tokens = ids.map((id) => describeToken(tokenizer, id));
  if (flags.json === true) terminal.out(`${JSON.stringify({ text, ids, tokens }, null, 2)}\n`);
  else if (flags.ids !== undefined) terminal.out(`${text}\n`);
  else {
    const rows = tokens.map(({ id, token, text, special }, i) => [i, id, quoted(token ?? ""), quoted(text), special ? "special" : ""]);
    terminal.out(table(["", "id", "token", "text", ""], rows, ["", "id"]));
    terminal.err(`${ids.length} ${ids.length === 1 ? "token" : "tokens"}\n`);
  }
}

interface TokenReport {
  readonly id: number;
  /** The vocabulary's spelling; null for an id without a token. */
  readonly token: string | null;
  readonly text: string;
  readonly special: boolean;
}

function describeToken(tokenizer: Tokenizer, id: number): TokenReport {
  const token = tokenizer.idToToken(id) ?? null;
  const text = tokenizer.decode([id]);
  // A part of a character decodes to U+FFFD, which says nothing.
  const readable = text.includes("\ufffd") && token !== null ? bytesOf(token) : text;
  return { id, token, text: readable, special: tokenizer.isSpecial(id) };
}

/** The characters by which byte-level tokenizers write bytes: printable ones stand for themselves, the others for U+0100 and on, in order. */
const byteLevel: ReadonlyMap<string, number> = byteSpelling();

function byteSpelling(): ReadonlyMap<string, number> {
  const printable = (byte: number): boolean => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const others = bytes.filter((byte) => !printable(byte));
  return new Map(bytes.map((byte) => [String.fromCharCode(printable(byte) ? byte : 256 + others.indexOf(byte)), byte]));
}

/** A byte-level token as characters, and as \x.. what is no whole one; a token of another kind as it is. */
function bytesOf(token: string): string {
  const bytes = Array.from(token, (char) => byteLevel.get(char));
  if (!bytes.every((byte): byte is number => byte !== undefined)) return token;
  return bytes
    .map((byte) => (byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`))
    .join("");
}

/** On one line, with spaces to be seen: a table would break at a newline. */
const quoted = (text: string): string => `"${JSON.stringify(text).slice(1, -1).replaceAll("\\\\x", "\\x")}"`;
