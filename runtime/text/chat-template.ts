import { shown, UserError } from "../errors.ts";
import type { JinjaTemplate } from "./jinja.ts";

/** A part of a message; text is { type: "text", text }. */
export type ContentPart = Readonly<Record<string, unknown>>;

/** One message of a chat. Fields beside role and content (tool_calls, name, ...) reach the template as they are. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string | readonly ContentPart[] | null;
  readonly [field: string]: unknown;
}

export type Chat = readonly ChatMessage[];

/** One template, or several by name. */
export type ChatTemplates = string | Readonly<Record<string, string>>;

export interface ChatOptions {
  /** Whether the text ends with what begins an answer; false unless given. */
  readonly addGenerationPrompt?: boolean;
  /** Whether the text ends within the last message, so that the model goes on with it; false unless given. */
  readonly continueFinalMessage?: boolean;
  /** JSON schemas of functions that the model may call. */
  readonly tools?: readonly Readonly<Record<string, unknown>>[];
  /** Documents for a model that answers from them: { title, text }. */
  readonly documents?: readonly Readonly<Record<string, unknown>>[];
  /** A template in Jinja, or the name of one of the tokenizer's own; the tokenizer's unless given. */
  readonly chatTemplate?: string;
  /** Further variables of the template; in Transformers they stand among the other arguments. */
  readonly templateVariables?: Readonly<Record<string, unknown>>;
}

/**
 * The `chat_template` of tokenizer_config.json: a text, or a list of { name, template }.
 * @throws UserError naming the file and the element that is neither.
 */
export function parseChatTemplates(value: unknown, where: string): ChatTemplates | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return value;
  if (!Array.isArray(value))
    throw new UserError(`${where}: chat_template: expected a text or a list of { name, template }, got ${shown(value)}`);
  return Object.fromEntries(
    value.map((entry: unknown, i) => {
      const { name, template } = (typeof entry === "object" && entry !== null ? entry : {}) as Record<string, unknown>;
      if (typeof name !== "string" || typeof template !== "string")
        throw new UserError(`${where}: chat_template[${i}]: expected { name, template }, got ${shown(entry)}`);
      return [name, template];
    }),
  );
}

/**
 * The template for a chat: the one asked for, else the only one, else "tool_use" when there are tools, else "default".
 * @throws UserError with Transformers' words when there is none.
 */
export function chooseChatTemplate(own: ChatTemplates | null, { chatTemplate: asked, tools }: ChatOptions): string {
  const named = (name: string): string | undefined =>
    own !== null && typeof own !== "string" && Object.hasOwn(own, name) ? own[name] : undefined;
  if (asked !== undefined) return named(asked) ?? asked;
  if (typeof own === "string") return own;
  if (own === null) {
    throw new UserError(
      "Cannot use chat template functions because tokenizer.chat_template is not set and no template argument was passed!",
      { hint: "give chatTemplate, set tokenizer.chatTemplate, or use a model that was trained on chats; a plain text needs no template" },
    );
  }
  const chosen = (tools === undefined ? undefined : named("tool_use")) ?? named("default");
  if (chosen !== undefined) return chosen;
  throw new UserError(
    `This model has multiple chat templates with no default specified! Available template names are ${Object.keys(own).sort().join(", ")}`,
    { hint: "give the name of one of them, or a template, as chatTemplate" },
  );
}

/** Follows the final message through the template. Its last blank shows whether the template trims what it is given. */
const mark = "<<CULM FINAL MESSAGE ENDS>> ";

/**
 * The text of a chat.
 * @param source of the template, which must name a field for it to be continued
 * @param special the tokenizer's special tokens, as templates know them: bos_token, eos_token, ...
 * @throws UserError naming the template's line, or when the final message cannot be continued.
 */
export function renderChat(template: JinjaTemplate, chat: Chat, options: ChatOptions, special: Readonly<Record<string, string>>): string {
  const { addGenerationPrompt = false, continueFinalMessage = false, tools, documents, templateVariables = {} } = options;
  if (continueFinalMessage && addGenerationPrompt) {
    throw new UserError("continue_final_message and add_generation_prompt are not compatible", {
      hint: "use continueFinalMessage to have the model go on with the final message, addGenerationPrompt to have it begin one of its own",
    });
  }
  if (chat.length === 0) throw new UserError("the chat has no messages");
  checkRecords(tools, "tools", "Tools should be JSON schemas");
  checkRecords(documents, "documents", "Documents should be a list of dicts with 'title' and 'text' keys!");
  const final = continueFinalMessage ? finalText(chat) : undefined;
  const text = template.render({
    ...special,
    ...templateVariables,
    messages: final === undefined ? chat : final.marked,
    tools: tools ?? null,
    documents: documents ?? null,
    add_generation_prompt: addGenerationPrompt,
  });
  return final === undefined ? text : cutAfterFinal(text, final.text);
}

function checkRecords(list: unknown, what: string, message: string): void {
  if (list === undefined) return;
  if (!Array.isArray(list) || !list.every((item) => typeof item === "object" && item !== null))
    throw new UserError(`${what}: ${message}, got ${shown(list)}`);
}

/** What the final message says, and the chat with the mark behind it. */
function finalText(chat: Chat): { readonly text: string; readonly marked: Chat } {
  const last = chat.at(-1)!;
  const { content } = last;
  const marked = (changed: ChatMessage["content"]): Chat => [...chat.slice(0, -1), { ...last, content: changed }];
  if (typeof content === "string") return { text: content, marked: marked(content + mark) };
  if (content === null || (content as unknown) === undefined)
    throw new UserError('continue_final_message is set but the final message has no "content" to continue!');
  const at = content.findLastIndex((part) => typeof part["text"] === "string");
  if (at < 0) throw new UserError("continue_final_message is set but we could not find any text to continue in the final message!");
  const text = content[at]!["text"] as string;
  return { text, marked: marked(content.map((part, i) => (i === at ? { ...part, text: text + mark } : part))) };
}

function cutAfterFinal(rendered: string, final: string): string {
  const at = rendered.lastIndexOf(mark.trimEnd());
  if (at < 0 || !rendered.includes(final.trim())) {
    throw new UserError(
      "continue_final_message is set but the final message does not appear in the chat after applying the chat template! " +
        `Final message to continue: ${shown(final.trim())}`,
      {
        hint: "the template leaves out or rewrites the final message: give a chat that ends with a message it keeps, or do not continue it",
      },
    );
  }
  const head = rendered.slice(0, at);
  return rendered.startsWith(mark, at) ? head : head.trimEnd();
}
