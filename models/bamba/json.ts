import { ConfigError } from "./config-error.ts";

/** An object of a JSON file, nothing of it checked. */
export type JsonObject = Readonly<Record<string, unknown>>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Reads the text of a config.json. Python also writes `Infinity`, `-Infinity` and `NaN` bare, which JSON does not have; they become
 * `{ "__float__": "Infinity" }`, the form that Transformers 5 writes (spec bamba a.1, Q9), so that there is one form to understand.
 * @param where the file, for messages
 * @throws ConfigError when the text is not JSON or not an object.
 */
export function parseConfigJson(text: string, where: string): JsonObject {
  let json: unknown;
  try {
    json = parseTolerantly(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ConfigError(`${where}: is not valid JSON: ${why}${position(text, why)}`, { cause });
  }
  if (!isJsonObject(json)) throw new ConfigError(`${where}: expected a JSON object, got ${describe(json)}`);
  return json;
}

function parseTolerantly(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const rewritten = wrapBareFloats(text);
    // With nothing rewritten the first message stands, and its position is right.
    if (rewritten === text) throw error;
    return JSON.parse(rewritten);
  }
}

function wrapBareFloats(text: string): string {
  const bare = /-?Infinity|NaN/y;
  let out = "";
  let copied = 0;
  for (let i = 0; i < text.length; i += 1) {
    if (text[i] === '"') {
      for (i += 1; i < text.length && text[i] !== '"'; i += 1) if (text[i] === "\\") i += 1;
      continue;
    }
    bare.lastIndex = i;
    const found = bare.exec(text);
    if (found === null) continue;
    out += `${text.slice(copied, i)}{"__float__":"${found[0]}"}`;
    copied = i + found[0].length;
    i = copied - 1;
  }
  return out + text.slice(copied);
}

function position(text: string, message: string): string {
  const at = /at position (\d+)(?! \(line)/.exec(message)?.[1];
  if (at === undefined) return "";
  const before = text.slice(0, Number(at)).split("\n");
  return ` (line ${before.length}, column ${before.at(-1)!.length + 1})`;
}

/** A value as it reads in an error message: short and on one line. */
export function describe(value: unknown): string {
  const json = JSON.stringify(value) as unknown;
  const text = typeof json === "string" ? json : "nothing";
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}
