import { shown, UserError } from "../errors.ts";

export type Json = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** How a tokenizer.json makes tokens: "BPE", "WordPiece" or "Unigram". */
export function modelType(tokenizer: Json): unknown {
  return isObject(tokenizer["model"]) ? tokenizer["model"]["type"] : undefined;
}

const modelTypes: ReadonlySet<unknown> = new Set(["BPE", "WordPiece", "Unigram"]);

/** Checks the parts that the library takes for granted; without them it fails with an error about its own insides. @throws UserError naming the field. */
export function checkTokenizerFile(tokenizer: Json, where: string): void {
  const model = tokenizer["model"];
  if (!isObject(model)) throw new UserError(`${where}: model: expected an object, got ${shown(model)}`);
  const { type, vocab } = model;
  // Without a type the library guesses from the fields, as old files need; an unknown one it takes for an old file too.
  if (type !== undefined && !modelTypes.has(type)) {
    throw new UserError(`${where}: model.type: ${shown(type)} is not supported; supported are ${[...modelTypes].join(", ")}`);
  }
  if (typeof vocab !== "object" || vocab === null)
    throw new UserError(`${where}: model.vocab: expected the vocabulary, got ${shown(vocab)}`);
  if (isObject(vocab)) {
    for (const [token, id] of Object.entries(vocab)) {
      // The library keeps tokens in an array by id: one huge id would make it fill memory.
      if (!isTokenId(id)) throw new UserError(`${where}: model.vocab: ${shown(token)}: expected an id from 0 to 2^24, got ${shown(id)}`);
    }
  }
  const added = tokenizer["added_tokens"];
  if (!Array.isArray(added)) throw new UserError(`${where}: added_tokens: expected a list, got ${shown(added)}`);
  for (const [i, token] of added.entries()) {
    if (!isObject(token) || typeof token["content"] !== "string" || !isTokenId(token["id"])) {
      throw new UserError(`${where}: added_tokens[${i}]: expected { id, content, ... }, got ${shown(token)}`);
    }
  }
}

function isTokenId(id: unknown): boolean {
  return typeof id === "number" && Number.isSafeInteger(id) && id >= 0 && id <= 1 << 24;
}
