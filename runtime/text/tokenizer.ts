import { shown, UserError } from "../errors.ts";
import { chooseChatTemplate, parseChatTemplates, renderChat } from "./chat-template.ts";
import type { Chat, ChatOptions, ChatTemplates } from "./chat-template.ts";
import { cleanUpSpaces, padded, splitSpecial, truncated } from "./encoding.ts";
import type { EncodeOptions, Encoding, EncodingOptions, Side } from "./encoding.ts";
import { compileJinja } from "./jinja.ts";
import type { JinjaTemplate } from "./jinja.ts";
import { createLibraryTokenizer } from "./library.ts";
import type { LibraryTokenizer } from "./library.ts";
import { checkTokenizerFile, modelType } from "./tokenizer-file.ts";
import type { Json } from "./tokenizer-file.ts";

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

export interface BatchOptions extends EncodeOptions {
  /** Where padding goes; the tokenizer's paddingSide unless given. */
  readonly side?: Side;
  /** The id to pad with; the tokenizer's own unless given. */
  readonly padId?: number;
  /** Pads every row to at least this many ids. */
  readonly minLength?: number;
}

export interface DecodeOptions {
  /** Whether special tokens are left out; false unless given. */
  readonly skipSpecialTokens?: boolean;
  /** Whether spaces before punctuation are taken away; what tokenizer_config.json says unless given. Byte-pair tokenizers never do it (spec e.7). */
  readonly cleanUpTokenizationSpaces?: boolean;
}

/** Of applyChatTemplate: how the text of a chat is made, and how it is encoded. A template writes the special tokens itself, so none are added. */
export interface ChatEncodingOptions extends ChatOptions, Omit<EncodingOptions, "addSpecialTokens"> {
  /** False gives the text and not its ids. */
  readonly tokenize?: boolean;
}

/** As templates know them. */
const specialTokenNames = [
  "bos_token",
  "eos_token",
  "pad_token",
  "unk_token",
  "sep_token",
  "cls_token",
  "mask_token",
] as const satisfies readonly string[];

/**
 * Text to token ids and back, as Transformers does it. The work is done by @huggingface/tokenizers; this adds the special tokens of
 * tokenizer_config.json, batches, checks and errors. Source: spec bamba (f).
 */
export class Tokenizer {
  /** One more than the highest id. */
  readonly vocabSize: number;
  readonly bos: SpecialToken | null;
  readonly eos: SpecialToken | null;
  readonly unk: SpecialToken | null;
  /** Left unless set: generation needs the end of every prompt in the last column (spec e.7). */
  paddingSide: Side = "left";
  /** The side that loses ids; truncation_side of tokenizer_config.json, or right. */
  truncationSide: Side;
  /** `chat_template` of tokenizer_config.json, or that of a file of its own; null when the model has none. */
  chatTemplate: ChatTemplates | null;
  /** model_max_length of tokenizer_config.json; Infinity when there is none. */
  readonly maxLength: number;
  private readonly library: LibraryTokenizer;
  private readonly config: Json;
  private readonly specialIds: Set<number>;
  private readonly bytePair: boolean;
  private padToken: SpecialToken | null;
  private compiled: { readonly source: string; readonly template: JinjaTemplate } | null = null;

  /**
   * @param tokenizer the content of tokenizer.json
   * @param config that of tokenizer_config.json, or what is known of it
   * @param where the tokenizer.json, for messages
   * @throws UserError when the tokenizer is of a kind that cannot be read.
   */
  constructor(tokenizer: Json, config: Json, where: string) {
    checkTokenizerFile(tokenizer, where);
    this.config = config;
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
    this.padToken = special("pad_token");
    this.unk = special("unk_token");
    const ids = [...this.library.get_added_tokens_decoder()].flatMap(([id, token]) => (token.special ? [id] : []));
    const named = [this.bos, this.eos, this.padToken, this.unk].flatMap((token) => (token === null || token.id === null ? [] : [token.id]));
    this.specialIds = new Set([...ids, ...named]);
    const length = config["model_max_length"];
    this.maxLength = typeof length === "number" && length > 0 ? length : Infinity;
    this.bytePair = modelType(tokenizer) === "BPE";
    this.truncationSide = config["truncation_side"] === "left" ? "left" : "right";
    this.chatTemplate = parseChatTemplates(config["chat_template"], where);
  }

  /** What short rows are filled up with. It may be set, to a token of the vocabulary: Llama-3's tokenizer has none of its own. */
  get pad(): SpecialToken | null {
    return this.padToken;
  }

  /** @throws UserError when the vocabulary has no such token. */
  set pad(token: SpecialToken | string | null) {
    const found = typeof token === "string" ? this.specialToken(token) : token;
    if (found !== null && found.id === null)
      throw new UserError(`pad token ${shown(found.text)} is not in the vocabulary`, {
        hint: "give a token that is, such as tokenizer.eos",
      });
    this.padToken = found;
    if (found?.id !== undefined && found.id !== null) this.specialIds.add(found.id);
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

  /**
   * What Transformers' `tokenizer(text, ...)` gives: the ids of a text, or of each of several, cut and padded as asked, ready for `generate`.
   * @throws UserError when padding is needed and there is no token for it, or there is no length to pad or to cut to.
   */
  call(text: string, options?: EncodingOptions): Encoding<readonly number[]>;
  call(texts: readonly string[], options?: EncodingOptions): Encoding<readonly (readonly number[])[]>;
  call(
    texts: string | readonly string[],
    options: EncodingOptions = {},
  ): Encoding<readonly number[]> | Encoding<readonly (readonly number[])[]> {
    const { returnAttentionMask = true } = options;
    const rows = (typeof texts === "string" ? [texts] : texts).map((text) => this.encodeTruncated(text, options));
    const { ids, masks } = this.padRows(rows, options);
    if (typeof texts === "string") return { inputIds: ids[0]!, ...(returnAttentionMask ? { attentionMask: masks[0]! } : {}) };
    return { inputIds: ids, ...(returnAttentionMask ? { attentionMask: masks } : {}) };
  }

  private encodeTruncated(
    text: string,
    { truncation = false, maxLength, addSpecialTokens = true, truncationSide }: EncodingOptions,
  ): readonly number[] {
    const whole = this.encode(text, { addSpecialTokens });
    const most = truncation ? this.lengthFor("truncation", maxLength) : Infinity;
    if (whole.length <= most) return whole;
    return truncated(splitSpecial(whole, this.encode(text, { addSpecialTokens: false })), most, truncationSide ?? this.truncationSide);
  }

  private padRows(
    rows: readonly (readonly number[])[],
    { padding = false, maxLength, paddingSide = this.paddingSide }: EncodingOptions,
  ): { readonly ids: readonly (readonly number[])[]; readonly masks: readonly (readonly number[])[] } {
    if (padding === false) return { ids: rows, masks: rows.map((row) => row.map(() => 1)) };
    const length = padding === "maxLength" ? this.lengthFor("padding", maxLength) : Math.max(0, ...rows.map((row) => row.length));
    const padId = this.pad?.id ?? null;
    if (padId === null) {
      throw new UserError("Asking to pad but the tokenizer does not have a padding token", {
        hint: "select a token to use as pad: tokenizer.pad = tokenizer.eos, for example",
      });
    }
    const both = rows.map((row) => padded(row, Math.max(0, length - row.length), padId, paddingSide));
    return { ids: both.map(({ ids }) => ids), masks: both.map(({ mask }) => mask) };
  }

  private lengthFor(what: string, maxLength: number | undefined): number {
    const length = maxLength ?? this.maxLength;
    if (length !== Infinity && Number.isSafeInteger(length) && length > 0) return length;
    const hint = `give maxLength with ${what}`;
    if (maxLength === undefined) throw new UserError(`${what}: the tokenizer names no length of its own`, { hint });
    throw new UserError(`maxLength: expected a whole number from 1, got ${shown(maxLength)}`);
  }

  /**
   * The ids of a chat (or of each of several), or its text, by the model's chat template (spec e.7).
   * @throws UserError without a template, and naming the line of the template at fault.
   */
  applyChatTemplate(chat: Chat, options: ChatEncodingOptions & { readonly tokenize: false }): string;
  applyChatTemplate(chats: readonly Chat[], options: ChatEncodingOptions & { readonly tokenize: false }): readonly string[];
  applyChatTemplate(chat: Chat, options?: ChatEncodingOptions & { readonly tokenize?: true }): Encoding<readonly number[]>;
  applyChatTemplate(
    chats: readonly Chat[],
    options?: ChatEncodingOptions & { readonly tokenize?: true },
  ): Encoding<readonly (readonly number[])[]>;
  applyChatTemplate(
    chats: Chat | readonly Chat[],
    options: ChatEncodingOptions = {},
  ): string | readonly string[] | Encoding<readonly number[]> | Encoding<readonly (readonly number[])[]> {
    const template = this.compile(chooseChatTemplate(this.chatTemplate, options));
    const special = this.specialTokenTexts();
    const render = (chat: Chat): string => renderChat(template, chat, options, special);
    const encoding: EncodingOptions = { ...options, addSpecialTokens: false };
    if (!isChats(chats)) return options.tokenize === false ? render(chats) : this.call(render(chats), encoding);
    const texts = chats.map(render);
    return options.tokenize === false ? texts : this.call(texts, encoding);
  }

  /** Of the template used last: a conversation asks for the same one again and again. */
  private compile(source: string): JinjaTemplate {
    if (this.compiled?.source !== source) this.compiled = { source, template: compileJinja(source, "chat template") };
    return this.compiled.template;
  }

  private specialTokenTexts(): Readonly<Record<string, string>> {
    const texts = specialTokenNames.map((name) => [name, name === "pad_token" ? this.pad : this.specialToken(this.config[name])] as const);
    return Object.fromEntries(texts.flatMap(([name, token]) => (token === null ? [] : [[name, token.text]])));
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
    const both = rows.map((row) => padded(row, length - row.length, padId ?? 0, options.side ?? this.paddingSide));
    const ids = Int32Array.from(both.flatMap((row) => row.ids));
    const attentionMask = Int32Array.from(both.flatMap((row) => row.mask));
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
    const text = this.library.decode(kept, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
    return this.cleansUp(options) ? cleanUpSpaces(text) : text;
  }

  /** The texts of several rows of ids. @throws UserError as decode. */
  batchDecode(rows: readonly ArrayLike<number>[], options: DecodeOptions = {}): string[] {
    return rows.map((row) => this.decode(row, options));
  }

  /** Whether `decode` takes spaces before punctuation away. */
  cleansUp(options: DecodeOptions = {}): boolean {
    return !this.bytePair && (options.cleanUpTokenizationSpaces ?? this.config["clean_up_tokenization_spaces"] === true);
  }
}

function isChats(chats: Chat | readonly Chat[]): chats is readonly Chat[] {
  return Array.isArray(chats[0]);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
