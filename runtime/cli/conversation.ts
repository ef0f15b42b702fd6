/** A message as chat templates take it. */
export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** What a line of input asks for. */
export type Input =
  { readonly kind: "say"; readonly text: string } | { readonly kind: "command"; readonly name: string; readonly rest: string };

/** `/name rest` is a command; two slashes begin a text that has one. */
export function parseInput(line: string): Input {
  const command = /^\/([a-z]+)(?:\s+([\s\S]*))?$/i.exec(line.trim());
  if (command !== null) return { kind: "command", name: command[1]!.toLowerCase(), rest: (command[2] ?? "").trim() };
  return { kind: "say", text: line.startsWith("//") ? line.slice(1) : line };
}

/** A conversation with its system message. Values: each change gives a new one. */
export interface Conversation {
  readonly system: string | null;
  readonly messages: readonly Message[];
}

export const conversation = (system: string | null): Conversation => ({ system, messages: [] });

/** All messages in order, the system's first. */
export function allMessages({ system, messages }: Conversation): readonly Message[] {
  return system === null ? messages : [{ role: "system", content: system }, ...messages];
}

export function said(before: Conversation, role: "user" | "assistant", content: string): Conversation {
  return { ...before, messages: [...before.messages, { role, content }] };
}

/** Without the last question and what was answered to it. */
export function undone(before: Conversation): Conversation {
  const last = before.messages.findLastIndex(({ role }) => role === "user");
  return { ...before, messages: last < 0 ? [] : before.messages.slice(0, last) };
}

/** Without the oldest question and its answer; null when only the newest question is left. */
export function shortened(before: Conversation): Conversation | null {
  const next = before.messages.findIndex(({ role }, i) => i > 0 && role === "user");
  return next < 0 ? null : { ...before, messages: before.messages.slice(next) };
}
