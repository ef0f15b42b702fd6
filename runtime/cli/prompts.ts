import { readFileSync } from "node:fs";
import { text as textOf } from "node:stream/consumers";
import { shown, UserError } from "../errors.ts";

/**
 * The prompts of a file, one a line: as they stand, or as JSON strings where every line is one (so that a prompt may have line breaks). Empty lines are
 * left out. @param file "-" for standard input
 * @throws UserError when the file cannot be read or holds no prompt.
 */
export async function readPrompts(file: string): Promise<readonly string[]> {
  const lines = (file === "-" ? await textOf(process.stdin) : read(file)).split(/\r?\n/).filter((line) => line.trim() !== "");
  if (lines.length === 0) throw new UserError(`${file}: there is no prompt in it`, { hint: "put one on each line" });
  if (!lines.every((line) => line.startsWith('"'))) return lines;
  const strings = lines.map(asString);
  // Lines of speech may begin with a quotation mark too: that all of them are JSON says which it is.
  return strings.every((line) => line !== null) ? strings : lines;
}

function asString(line: string): string | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "string" ? value : null;
  } catch {
    return null;
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new UserError(`${file}: cannot be read (${shown(cause instanceof Error ? cause.message : String(cause), 120)})`, { cause });
  }
}
