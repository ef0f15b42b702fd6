import { readFileSync } from "node:fs";
import { join } from "node:path";
import { shown, UserError } from "../errors.ts";
import { Tokenizer } from "./tokenizer.ts";

type Json = Readonly<Record<string, unknown>>;

/** Loads a tokenizer as `AutoTokenizer.from_pretrained` does, from a folder. */
export const AutoTokenizer = {
  /**
   * Reads `tokenizer.json`, and the special tokens from `tokenizer_config.json` or else the older `special_tokens_map.json`.
   * @throws UserError naming the file that is missing or wrong.
   */
  // Asynchronous like its namesakes, so that loading from elsewhere than a folder does not change the callers.
  // eslint-disable-next-line @typescript-eslint/require-await
  async fromPretrained(folder: string): Promise<Tokenizer> {
    return loadTokenizer(folder);
  },
};

/** As AutoTokenizer.fromPretrained, at once. */
export function loadTokenizer(folder: string): Tokenizer {
  const file = join(folder, "tokenizer.json");
  const tokenizer = readJson(file);
  if (tokenizer === undefined) {
    throw new UserError(`${file}: there is no such file`, {
      hint: "copy tokenizer.json (and tokenizer_config.json) of the model into its folder, or give token ids instead of text",
    });
  }
  const config = readJson(join(folder, "tokenizer_config.json")) ?? readJson(join(folder, "special_tokens_map.json")) ?? {};
  return new Tokenizer(tokenizer, config, file);
}

/** The object that a JSON file holds, or undefined when there is no such file. */
function readJson(file: string): Json | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw new UserError(`${file}: cannot be read (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new UserError(`${file}: is not valid JSON (${shown(cause instanceof Error ? cause.message : String(cause), 120)})`, { cause });
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new UserError(`${file}: expected a JSON object, got ${shown(json)}`);
  }
  return json as Json;
}
