import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { shown, UserError } from "../errors.ts";
import type { HubOptions } from "../hub/options.ts";
import { resolveModel } from "../hub/resolve.ts";
import { parseChatTemplates } from "./chat-template.ts";
import type { ChatTemplates } from "./chat-template.ts";
import { Tokenizer } from "./tokenizer.ts";
import type { Json } from "./tokenizer-file.ts";

/** Loads a tokenizer as `AutoTokenizer.from_pretrained` does. */
export const AutoTokenizer = {
  /**
   * From a folder, or a repository of the Hugging Face hub, of which only the tokenizer's files are downloaded. Reads `tokenizer.json`, the special
   * tokens from `tokenizer_config.json` or else the older `special_tokens_map.json`, and chat templates.
   * @throws UserError naming the file that is missing or wrong; as `resolveModel` for what the hub and its cache have.
   */
  async fromPretrained(nameOrFolder: string, options: HubOptions = {}): Promise<Tokenizer> {
    return loadTokenizer(await resolveModel(nameOrFolder, { ...options, part: "tokenizer" }));
  },
};

/** As AutoTokenizer.fromPretrained from a folder, at once. */
export function loadTokenizer(folder: string): Tokenizer {
  const { tokenizer, config, file } = readTokenizerFiles(folder);
  return new Tokenizer(tokenizer, config, file);
}

/** What a tokenizer of a folder is made of: tokenizer.json, and tokenizer_config.json with the chat templates of all files. @throws UserError as loadTokenizer */
export function readTokenizerFiles(folder: string): { readonly tokenizer: Json; readonly config: Json; readonly file: string } {
  const file = join(folder, "tokenizer.json");
  const tokenizer = readJson(file);
  if (tokenizer === undefined) {
    throw new UserError(`${file}: there is no such file`, {
      hint: "copy tokenizer.json (and tokenizer_config.json) of the model into its folder, or give token ids instead of text",
    });
  }
  const config = readJson(join(folder, "tokenizer_config.json")) ?? readJson(join(folder, "special_tokens_map.json")) ?? {};
  const chat = readChatTemplates(folder, config["chat_template"]);
  return { tokenizer, config: chat === null ? config : { ...config, chat_template: asList(chat) }, file };
}

/**
 * A template in a file of its own (chat_template.jinja, or the older chat_template.json) wins over the one in tokenizer_config.json; those under
 * additional_chat_templates/ have the names of their files.
 */
function readChatTemplates(folder: string, configured: unknown): ChatTemplates | null {
  const older = readJson(join(folder, "chat_template.json"))?.["chat_template"];
  const own =
    readText(join(folder, "chat_template.jinja")) ?? parseChatTemplates(older ?? configured, join(folder, "tokenizer_config.json"));
  const more = namedTemplates(join(folder, "additional_chat_templates"));
  if (Object.keys(more).length === 0) return own;
  return { ...(typeof own === "string" ? { default: own } : own), ...more };
}

function namedTemplates(folder: string): Readonly<Record<string, string>> {
  let names: readonly string[];
  try {
    names = readdirSync(folder);
  } catch (cause) {
    // Few models have it.
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return {};
    throw new UserError(`${folder}: cannot be read (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
  }
  const templates = names.filter((name) => name.endsWith(".jinja"));
  return Object.fromEntries(templates.map((name) => [name.slice(0, -".jinja".length), readText(join(folder, name)) ?? ""]));
}

function asList(templates: ChatTemplates): unknown {
  return typeof templates === "string" ? templates : Object.entries(templates).map(([name, template]) => ({ name, template }));
}

/** What a text file holds, or undefined when there is no such file. */
function readText(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw new UserError(`${file}: cannot be read (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
  }
}

/** The object that a JSON file holds, or undefined when there is no such file. */
function readJson(file: string): Json | undefined {
  const text = readText(file);
  if (text === undefined) return undefined;
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
