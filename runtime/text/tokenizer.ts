import { shown, UserError } from "../errors.ts";
import { createLibraryTokenizer } from "./library.ts";
import type { LibraryTokenizer } from "./library.ts";

/** A special token: its text, and its id when the vocabulary has it. */
export interface SpecialToken {
  readonly text: string;
  readonly id: number | null;
}

/** Rows of ids of one length. */
export interface EncodedBatch {
  readonly batch: number;
  readonly length: number;
  /** [batch, length] */
  readonly ids: Int32Array;
  /** [batch, length]: 1 for a token, 0 for padding. */
  readonly attentionMask: Int32Array;
}

export interface EncodeOptions {
  /** Whether the tokenizer's own special tokens (the beginning of text) are added; true unless given. */
  readonly addSpecialTokens?: boolean;
}

export interface BatchOptions extends EncodeOptions {
  /** Where padding goes; the tokenizer's paddingSide unless given. */
  readonly side?: "left" | "right";
  /** The id to pad with; the tokenizer's own unless given. */
  readonly padId?: number;
  /** Pads every row to at least this many ids. */
  readonly minLength?: number;
}

export interface DecodeOptions {
  /** Whether special tokens are left out; false unless given. */
  readonly skipSpecialTokens?: boolean;
}

type Json = Readonly<Record<string, unknown>>;

/**
 * Text to token ids and back, as Transformers does it. The work is done by @huggingface/tokenizers; this adds the special tokens of
 * tokenizer_config.json, batches, checks and errors. Source: spec bamba (f).
 */
export class Tokenizer {
  /** One more than the highest id. */
  readonly vocabSize: number;
  readonly bos: SpecialToken | null;
  readonly eos: SpecialToken | null;
  readonly pad: SpecialToken | null;
  readonly unk: SpecialToken | null;
  /** Always left: generation needs the end of every prompt in the last column (spec e.7). */
  readonly paddingSide = "left";
  /** model_max_length of tokenizer_config.json; Infinity when there is none. */
  readonly maxLength: number;
  private readonly library: LibraryTokenizer;
  private readonly specialIds: ReadonlySet<number>;
  private readonly cleanUp: boolean;

  /**
   * @param tokenizer the content of tokenizer.json
   * @param config that of tokenizer_config.json, or what is known of it
   * @param where the tokenizer.json, for messages
   * @throws UserError when the tokenizer is of a kind that cannot be read.
   */
  constructor(tokenizer: Json, config: Json, where: string) {
    checkShape(tokenizer, where);
    try {
      this.library = createLibraryTokenizer(tokenizer, config);
    } catch (cause) {
      throw new UserError(`${where}: the tokenizer cannot be built (${shown(messageOf(cause), 120)})`, {
        cause,
        hint: "check that the file is a complete tokenizer.json of the Hugging Face tokenizers library",
      });
    }
    let highest = -1;
    for (const id of this.library.get_vocab().values()) highest = Math.max(highest, id);
    this.vocabSize = highest + 1;
    const special = (name: string): SpecialToken | null => this.specialToken(config[name]);
    this.bos = special("bos_token");
    this.eos = special("eos_token");
    this.pad = special("pad_token");
    this.unk = special("unk_token");
    const ids = [...this.library.get_added_tokens_decoder()].flatMap(([id, token]) => (token.special ? [id] : []));
    const named = [this.bos, this.eos, this.pad, this.unk].flatMap((token) => (token === null || token.id === null ? [] : [token.id]));
    this.specialIds = new Set([...ids, ...named]);
    const length = config["model_max_length"];
    this.maxLength = typeof length === "number" && length > 0 ? length : Infinity;
    // Transformers 5 ignores the field for byte-pair tokenizers; the library would do it unless told (spec e.7).
    this.cleanUp = modelType(tokenizer) !== "BPE" && config["clean_up_tokenization_spaces"] === true;
  }

  private specialToken(value: unknown): SpecialToken | null {
    const text = typeof value === "object" && value !== null && "content" in value ? value.content : value;
    if (typeof text !== "string") return null;
    return { text, id: this.library.token_to_id(text) ?? null };
  }

  /** The id of a token's exact text, or undefined. */
  tokenToId(token: string): number | undefined {
    return this.library.token_to_id(token);
  }

  /** The text that an id stands for in the vocabulary (bytes in their byte-level spelling), or undefined. */
  idToToken(id: number): string | undefined {
    return this.library.id_to_token(id);
  }

  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  /** The ids of a text. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const { ids } = this.library.encode(text, { add_special_tokens: options.addSpecialTokens ?? true });
    // The library has no id for what is in no vocabulary and has no unknown token; Transformers leaves such pieces out.
    return ids.filter((id) => id !== undefined);
  }

  /**
   * The ids of several texts, padded to one length.
   * @throws UserError when padding is needed and there is no token for it.
   */
  encodeBatch(texts: readonly string[], options: BatchOptions = {}): EncodedBatch {
    return this.pack(
      texts.map((text) => this.encode(text, options)),
      options,
    );
  }

  /** Rows of ids padded to one length. @throws UserError as encodeBatch. */
  pack(rows: readonly (readonly number[])[], options: BatchOptions = {}): EncodedBatch {
    const length = rows.reduce((longest, row) => Math.max(longest, row.length), options.minLength ?? 0);
    const padId = options.padId ?? this.pad?.id ?? null;
    if (padId === null && rows.some((row) => row.length < length)) {
      throw new UserError("tokenizer without pad_token cannot do batching: the texts have different lengths", {
        hint: "give a pad id, or run the texts one by one",
      });
    }
    const ids = new Int32Array(rows.length * length).fill(padId ?? 0);
    const attentionMask = new Int32Array(rows.length * length);
    rows.forEach((row, r) => {
      const at = r * length + ((options.side ?? this.paddingSide) === "left" ? length - row.length : 0);
      ids.set(row, at);
      attentionMask.fill(1, at, at + row.length);
    });
    return { batch: rows.length, length, ids, attentionMask };
  }

  /**
   * The text of ids. Bytes that are no UTF-8 become U+FFFD. An id without a token (a model may have more rows than its tokenizer has tokens)
   * stands for nothing, as in Transformers.
   * @throws UserError for an id that is no integer from 0.
   */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const kept: number[] = [];
    for (let i = 0; i < ids.length; i += 1) {
      const id = ids[i]!;
      if (!Number.isSafeInteger(id) || id < 0) throw new UserError(`decode: id ${i} is ${shown(id)}, expected an integer from 0`);
      if (options.skipSpecialTokens === true && this.specialIds.has(id)) continue;
      if (this.library.id_to_token(id) !== undefined) kept.push(id);
    }
    if (kept.length === 0) return "";
    return this.library.decode(kept, { skip_special_tokens: false, clean_up_tokenization_spaces: this.cleanUp });
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function modelType(tokenizer: Json): unknown {
  return isObject(tokenizer["model"]) ? tokenizer["model"]["type"] : undefined;
}

const modelTypes: ReadonlySet<unknown> = new Set(["BPE", "WordPiece", "Unigram"]);

/** The parts that the library takes for granted; without them it fails with an error about its own insides. */
function checkShape(tokenizer: Json, where: string): void {
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
