import { readFileSync } from "node:fs";
import { join } from "node:path";
import { shown, UserError } from "../errors.ts";
import type { HubOptions } from "../hub/options.ts";
import { resolveModel } from "../hub/resolve.ts";
import { Tokenizer } from "./tokenizer.ts";

type Json = Readonly<Record<string, unknown>>;

/** Loads a tokenizer as `AutoTokenizer.from_pretrained` does. */
export const AutoTokenizer = {
  /**
   * From a folder, or a repository of the Hugging Face hub, of which only the tokenizer's files are downloaded. Reads `tokenizer.json`, and the special tokens from `tokenizer_config.json` or else the older `special_tokens_map.json`.
   * @throws UserError naming the file that is missing or wrong; as `resolveModel` for what the hub and its cache have.
   */
  async fromPretrained(nameOrFolder: string, options: HubOptions = {}): Promise<Tokenizer> {
    return loadTokenizer(await resolveModel(nameOrFolder, { ...options, part: "tokenizer" }));
  },
};

/** As AutoTokenizer.fromPretrained from a folder, at once. */
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
