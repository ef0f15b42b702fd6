import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { allMessages, conversation, parseInput, said, shortened, undone } from "../../runtime/cli/conversation.ts";

describe("input", () => {
  test.each([
    ["/reset", { kind: "command", name: "reset", rest: "" }],
    ["  /System  Be brief. ", { kind: "command", name: "system", rest: "Be brief." }],
    ["/save a b.json", { kind: "command", name: "save", rest: "a b.json" }],
    ["//etc is a folder", { kind: "say", text: "/etc is a folder" }],
    ["/ 2 is half", { kind: "say", text: "/ 2 is half" }],
    ["Hello", { kind: "say", text: "Hello" }],
    ["two\nlines", { kind: "say", text: "two\nlines" }],
  ])("%j", (line, expected) => {
    expect(parseInput(line)).toEqual(expected);
  });
});

describe("conversations", () => {
  const exchanges = fc.array(fc.tuple(fc.string(), fc.string()), { maxLength: 6 });
  const made = (system: string | null, talk: readonly (readonly [string, string])[]) =>
    talk.reduce((c, [question, answer]) => said(said(c, "user", question), "assistant", answer), conversation(system));

  test("the system's message comes first and stays", () => {
    fc.assert(
      fc.property(fc.option(fc.string()), exchanges, (system, talk) => {
        const all = allMessages(made(system, talk));
        expect(all).toHaveLength(2 * talk.length + (system === null ? 0 : 1));
        if (system !== null) expect(all[0]).toEqual({ role: "system", content: system });
      }),
    );
  });

  test("undone takes back one exchange, answered or not; shortened leaves out the oldest", () => {
    fc.assert(
      fc.property(exchanges, fc.string(), (talk, question) => {
        const before = made("s", talk);
        expect(undone(said(before, "user", question))).toEqual(before);
        expect(undone(said(said(before, "user", question), "assistant", "a"))).toEqual(before);
        const asked = said(before, "user", question);
        expect(shortened(asked)).toEqual(talk.length === 0 ? null : said(made("s", talk.slice(1)), "user", question));
      }),
    );
    expect(undone(conversation("s"))).toEqual(conversation("s"));
  });
});
