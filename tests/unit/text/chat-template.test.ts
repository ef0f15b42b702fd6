import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test, vi } from "vitest";
import { UserError } from "../../../runtime/errors.ts";
import { loadTokenizer } from "../../../runtime/text/auto-tokenizer.ts";
import type { Chat } from "../../../runtime/text/chat-template.ts";
import { compileJinja } from "../../../runtime/text/jinja.ts";
import { Tokenizer } from "../../../runtime/text/tokenizer.ts";

const text = (file: string): string => readFileSync(new URL(file, import.meta.url), "utf8");
const json = <T>(file: string): T => JSON.parse(text(file)) as T;

const tokenizer = loadTokenizer("models/bamba-tiny");
const plain: Chat = [{ role: "user", content: " Hello  " }];
const answered: Chat = [
  { role: "user", content: "Hi" },
  { role: "assistant", content: "Yes, " },
];

describe("Transformers' texts", () => {
  interface Run {
    readonly template: string;
    readonly source: string;
    readonly chat: Chat;
    readonly options: { readonly add_generation_prompt?: boolean; readonly continue_final_message?: boolean; readonly tools?: object[] };
    readonly text?: string;
    readonly error?: string;
  }
  const { templates } = json<{ templates: readonly Run[] }>("../../reference/extra/extra.json");
  test.each(templates.map((run, i) => [`${i}: ${run.template} ${Object.keys(run.options).join()}`, run] as const))("%s", (_, run) => {
    const { add_generation_prompt, continue_final_message, tools } = run.options;
    const render = (): string =>
      tokenizer.applyChatTemplate(run.chat, {
        tokenize: false,
        chatTemplate: run.source,
        ...(add_generation_prompt === undefined ? {} : { addGenerationPrompt: add_generation_prompt }),
        ...(continue_final_message === undefined ? {} : { continueFinalMessage: continue_final_message }),
        ...(tools === undefined ? {} : { tools: tools as Record<string, unknown>[] }),
      });
    if (run.text === undefined) expect(render).toThrow(run.error!.replace("TemplateError: ", ""));
    else expect(render()).toBe(run.text);
  });
});

describe("templates in the manner of published ones, as Jinja2 3.1.6 renders them with Transformers' settings", () => {
  interface Run {
    readonly template: string;
    readonly chat: Chat;
    readonly options: Readonly<Record<string, unknown>>;
    readonly text: string;
  }
  test.each(json<readonly Run[]>("templates/rendered.json").map((run, i) => [`${i}: ${run.template}`, run] as const))("%s", (_, run) => {
    const variables = { messages: run.chat, tools: null, documents: null, add_generation_prompt: false, ...run.options };
    const special = { bos_token: "<|begin_of_text|>", eos_token: "<|end_of_text|>" };
    expect(compileJinja(text(`templates/${run.template}.jinja`), "t").render({ ...variables, ...special })).toBe(run.text);
  });
});

describe("the template of a tokenizer", () => {
  const files = mkdtempSync(join(tmpdir(), "culm-chat-"));
  afterAll(() => rmSync(files, { recursive: true, force: true }));
  let count = 0;
  const folder = (config: object, more: Readonly<Record<string, string>> = {}): string => {
    const path = join(files, String((count += 1)));
    mkdirSync(join(path, "additional_chat_templates"), { recursive: true });
    writeFileSync(join(path, "tokenizer.json"), text("../../../models/bamba-tiny/tokenizer.json"));
    writeFileSync(join(path, "tokenizer_config.json"), JSON.stringify({ bos_token: "<|begin_of_text|>", ...config }));
    for (const [name, content] of Object.entries(more)) writeFileSync(join(path, name), content);
    return path;
  };
  const rendered = (path: string, options: object = {}): string =>
    loadTokenizer(path).applyChatTemplate(plain, { ...options, tokenize: false });

  test("is a text, one of a list, or a file of its own, which wins", () => {
    expect(rendered(folder({ chat_template: "one {{ bos_token }}" }))).toBe("one <|begin_of_text|>");
    const list = [
      { name: "default", template: "d" },
      { name: "tool_use", template: "t" },
    ];
    const path = folder({ chat_template: list });
    expect(rendered(path)).toBe("d");
    expect(rendered(path, { tools: [] })).toBe("t");
    expect(rendered(path, { chatTemplate: "tool_use" })).toBe("t");
    expect(rendered(path, { chatTemplate: "{{ messages | length }}" })).toBe("1");
    expect(rendered(folder({ chat_template: "old" }, { "chat_template.jinja": "new" }))).toBe("new");
    expect(rendered(folder({ chat_template: "old" }, { "chat_template.json": '{"chat_template": "json"}' }))).toBe("json");
    const more = folder({ chat_template: "old" }, { "additional_chat_templates/rag.jinja": "rag" });
    expect([rendered(more), rendered(more, { chatTemplate: "rag" })]).toEqual(["old", "rag"]);
  });

  test("missing, or none of several, is an error in Transformers' words", () => {
    expect(() => tokenizer.applyChatTemplate(plain)).toThrow(
      "Cannot use chat template functions because tokenizer.chat_template is not set and no template argument was passed!",
    );
    const path = folder({
      chat_template: [
        { name: "b", template: "" },
        { name: "a", template: "" },
      ],
    });
    expect(() => rendered(path)).toThrow("multiple chat templates with no default specified! Available template names are a, b");
    expect(() => rendered(folder({ chat_template: 3 }))).toThrow(/tokenizer_config\.json: chat_template: expected a text or a list/);
    expect(() => rendered(folder({ chat_template: [{ name: "a" }] }))).toThrow(/chat_template\[0\]: expected \{ name, template \}/);
  });

  test("may be set, gives ids, and batches; the template writes the special tokens", () => {
    const own = loadTokenizer("models/bamba-tiny");
    own.chatTemplate = "{{ bos_token }}{{ messages[-1].content }}{{ extra }}";
    const ids = own.encode(" Hello  ");
    expect(own.applyChatTemplate(plain)).toEqual({ inputIds: ids, attentionMask: ids.map(() => 1) });
    const { inputIds, attentionMask } = own.applyChatTemplate([plain, answered], { padding: true, templateVariables: { extra: "!" } });
    const texts = ["<|begin_of_text|> Hello  !", "<|begin_of_text|>Yes, !"];
    expect(inputIds.map((row, r) => own.decode(row.filter((_, i) => attentionMask![r]![i] === 1)))).toEqual(texts);
    expect(inputIds[0]).toHaveLength(inputIds[1]!.length);
    expect(new Set(attentionMask!.flat())).toEqual(new Set([0, 1]));
    expect(own.applyChatTemplate([plain, answered], { tokenize: false })).toEqual(["<|begin_of_text|> Hello  ", "<|begin_of_text|>Yes, "]);
  });

  test("gets the token that was set for padding", () => {
    const bare = new Tokenizer(JSON.parse(text("../../../models/bamba-tiny/tokenizer.json")) as Record<string, unknown>, {}, "t");
    bare.pad = "<|end_of_text|>";
    expect(bare.applyChatTemplate(plain, { tokenize: false, chatTemplate: "{{ pad_token }}{{ bos_token is defined }}" })).toBe(
      "<|end_of_text|>false",
    );
  });
});

describe("continuing the final message", () => {
  const cut = (chatTemplate: string, chat: Chat = answered): string =>
    tokenizer.applyChatTemplate(chat, { chatTemplate, continueFinalMessage: true, tokenize: false });

  test("cuts behind it, with the spaces that the template leaves", () => {
    const body = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    expect(cut(body)).toBe("[Hi][Yes, ");
    expect(cut(body.replace("m.content", "m.content | trim"))).toBe("[Hi][Yes,");
    expect(cut("{{ messages[-1].content }}, once more: {{ messages[-1].content }}.")).toMatch(/once more: Yes, $/);
    const parts = [{ role: "assistant", content: [{ type: "text", text: "Look: " }, { type: "image" }] }];
    expect(cut("{% for p in messages[0].content %}<{{ p.text }}>{% endfor %}", parts)).toBe("<Look: ");
  });

  test("is refused where there is nothing to continue", () => {
    expect(() => cut("{{ messages[0].content }}")).toThrow(
      "the final message does not appear in the chat after applying the chat template!",
    );
    expect(() => cut("x", [{ role: "assistant", content: null }])).toThrow('the final message has no "content" to continue!');
    expect(() => cut("x", [{ role: "assistant", content: [{ type: "image" }] }])).toThrow("could not find any text to continue");
    expect(() => tokenizer.applyChatTemplate(plain, { chatTemplate: "x", continueFinalMessage: true, addGenerationPrompt: true })).toThrow(
      "continue_final_message and add_generation_prompt are not compatible",
    );
    expect(() => tokenizer.applyChatTemplate([], { chatTemplate: "x" })).toThrow("the chat has no messages");
    expect(() => tokenizer.applyChatTemplate(plain, { chatTemplate: "x", tools: [() => 1] as never })).toThrow(
      "Tools should be JSON schemas",
    );
  });
});

describe("an error names the line of the template and shows it", () => {
  const render = (source: string, variables: object = {}): string => compileJinja(source, "chat template").render({ ...variables });

  test.each<[string, string, string]>([
    [
      "a call of nothing",
      "a\n{% for m in [1] %}\n  b{{ m }}\n  {{ foo(m) }}\n{% endfor %}",
      "chat template, line 4: `{{ foo(m) }}`: Cannot call",
    ],
    [
      "in a tag of several lines",
      "{{ 1 +\n   2 +\n   x.y + none }}",
      "chat template, line 1: `{{ 1 +`: Cannot perform operation + on undefined",
    ],
    [
      "deep in such a tag",
      "{{ 'a' ~\n   (2 if\n  [1] | nope else 1) }}",
      "chat template, line 3: `[1] | nope else 1) }}`: Unknown ArrayValue filter: nope",
    ],
    ["in an elif", "{% if false %}\n{% elif\n  f() %}\n{% endif %}", "line 3: `f() %}`: Cannot call"],
    [
      "behind comments, blanks and generation tags",
      "{# a {{ b\n #}\n\n {% generation %}\n t\n{%- endgeneration -%}\n {{- f() }}",
      "line 7: `{{- f() }}`",
    ],
    ["behind quotes that hold tags", "{{ '{{ \\' {%' }}\n{{ \"a\n}}\" }}{{ f() }}", 'line 3: `}}" }}{{ f() }}`'],
    [
      "raised by the template",
      "x\n{{ raise_exception('no system message') }}",
      "line 2: `{{ raise_exception('no system message') }}`: no system message",
    ],
    ["in a macro", "{% macro m(x) %}\n{{ x() }}\n{% endmacro %}\n{{ m(1) }}", "line 2: `{{ x() }}`"],
    ["in a conditional expression", "{{ 'b'\n if g() else\n f() }}", "line 2: `if g() else`: Cannot call"],
    ["a loop over a number", "\n\n{% for x in 3 %}{% endfor %}", "line 3: `{% for x in 3 %}{% endfor %}`: Expected iterable"],
    ["an unknown tag", "a\n{% foo %}", "line 2: `{% foo %}`: Unknown statement type: foo"],
    ["an expression that does not end", "a\n\n{{ a b }}", "line 3: `{{ a b }}`: Expected closing expression token"],
    ["a wrong end", "{% if a %}\n{% endfor %}", "line 2: `{% endfor %}`: Unknown statement type: endfor"],
    [
      "a block without end",
      "{% if a %}\n{% for m in b %}\n{% if m %}{% endif %}\n",
      "unexpected end of the template; the block that is still open begins on line 2: `{% for m in b %}`",
    ],
    [
      "a text in quotes without end",
      "a\n{{ b }}\n{{ 'c }}\n d",
      "in the tag that begins on line 3: `{{ 'c }}`: a tag or a text in quotes is not closed",
    ],
    [
      "a character of no language",
      "a {{ 'ü' }}\n{% if a $ b %}",
      "in the tag that begins on line 2: `{% if a $ b %}`: Unexpected character: $",
    ],
    ["a comment without end", "a\n{# b", "in the tag that begins on line 2: `{# b`: Missing end of comment tag"],
    ["an end of nothing", "a\n{% break %}", "near line 1: `a`: break or continue outside a loop"],
  ])("%s", (_, source, message) => {
    expect(() => render(source)).toThrow(UserError);
    expect(() => render(source)).toThrow(message);
  });

  test("of a template that is one long line the place is shown", () => {
    const long = `${"{{ 'text' }}".repeat(200)}{{ f() }}${"{{ 'text' }}".repeat(200)}`;
    expect(() => render(long)).toThrow(/^chat template, line 1: `\.\.\..{0,40}\{\{ f\(\) \}\}.{0,80}\.\.\.`: Cannot call/);
  });

  test("every expression of every line is found again", () => {
    for (const name of ["headers", "markers"]) {
      const lines = text(`templates/${name}.jinja`).split("\n");
      lines.forEach((line, i) => {
        // A call of nothing in place of the first expression that is printed on the line.
        const broken = line.replace(/\{\{(-?) /, "{{$1 no_such_function() ~ ");
        if (broken === line) return;
        const source = [...lines.slice(0, i), broken, ...lines.slice(i + 1)].join("\n");
        const calls = { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: {} } }] };
        const messages = [
          { role: "system", content: "s" },
          { role: "user", content: [{ type: "text", text: "t" }] },
          { role: "assistant", content: "a" },
          { role: "tool", content: name === "headers" ? 3 : "4" },
          { role: "tool", content: "5" },
          ...(name === "headers" ? [calls, { ...calls, tool_calls: [1, 2] }] : []),
        ];
        const chats = [messages, messages.slice(1), messages.slice(0, -1)];
        const failures = chats.flatMap((chat) => {
          try {
            render(source, { messages: chat, tools: [], add_generation_prompt: true, bos_token: "" });
            return [];
          } catch (error) {
            return [(error as Error).message];
          }
        });
        expect(
          failures.filter((message) => message.includes(`, line ${i + 1}: \`${line.trim().slice(0, 3)}`)),
          `${name} ${i + 1}`,
        ).not.toEqual([]);
      });
    }
  });
});

test("loop controls keep what the round has written, and an ended loop is not an empty one", () => {
  const render = (source: string): string => compileJinja(source, "t").render({});
  expect(render("{% for i in [1, 2, 3] %}a{{ i }}{% if i == 2 %}x{% continue %}{% endif %}b{% endfor %}")).toBe("a1ba2xa3b");
  expect(render("{% for i in [1, 2] %}a{% break %}b{% else %}empty{% endfor %}")).toBe("a");
  expect(render("{% for i in [] %}a{% break %}{% else %}empty{% endfor %}")).toBe("empty");
  expect(render("{% for i in [1, 2] %}{% for j in [1, 2] %}{{ i }}{{ j }};{% break %}{% endfor %}|{% endfor %}")).toBe("11;|21;|");
  expect(render("{% for i in [1] %}{% continue %}{% else %}empty{% endfor %}.")).toBe(".");
});

describe("a template is a stranger's", () => {
  const limits = { steps: 2000, text: 1000, list: 100, milliseconds: 200 };
  test.each<[string, string, RegExp]>([
    ["loops in loops", "{% for i in range(99) %}{% for j in range(99) %}{{ j }}{% endfor %}{% endfor %}", /takes more than 2000 steps/],
    [
      "a text that doubles",
      "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
      /text of more than 1000 char/,
    ],
    [
      "a list that doubles",
      "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
      /list of more than 100 el/,
    ],
    ["much output", "{% for i in range(90) %}{{ 'twenty characters ...' }}{% endfor %}", /text of more than 1000/],
    ["a huge range", "{{ range(1000000000000) }}", /range\(\) of 1000000000000 elements, at most 100000/],
    ["a range that is none", "{{ range('a') }}", /range\(\) takes whole numbers/],
    ["no steps", "{{ range(1, 2, 0) }}", /step must not be zero/],
    ["time", "{% for i in range(100) %}{{ wait() }}{% endfor %}", /takes longer than 0.2 s/],
  ])("%s: bounded", (_, source, message) => {
    const wait = (): string => {
      const end = performance.now() + 50;
      while (performance.now() < end);
      return "";
    };
    expect(() => compileJinja(source, "t", limits).render({ wait })).toThrow(message);
  });

  test("size, nesting and blanks are bounded before anything is run", () => {
    expect(() => compileJinja("a".repeat(300_000), "t")).toThrow("t: has 300000 characters, at most 262144");
    expect(() => compileJinja(`a${" ".repeat(5000)}b`, "t")).toThrow("a run of white space");
    expect(() => compileJinja(`{{ ${"(".repeat(100_000)}`, "t")).toThrow("nested too deeply");
    expect(() => compileJinja("{% macro f(x) %}{{ x[0] }}{{ f(x) }}{% endmacro %}{{ f([1]) }}", "t").render({})).toThrow(UserError);
  });

  test("reaches nothing of the program's", () => {
    const render = (source: string): string => compileJinja(source, "t").render({ m: { a: "x" } });
    for (const name of ["constructor", "__proto__", "toString", "hasOwnProperty"]) {
      expect(render(`{{ m.${name} is undefined }}{{ m['${name}'] is undefined }}{{ 'a'.${name} is undefined }}`)).toBe("truetruetrue");
      expect(render(`{{ ${name} is undefined }}`)).toBe("true");
    }
    expect(() => render("{{ range.constructor('return 1')() }}")).toThrow("Cannot call");
  });
});

describe("the date", () => {
  afterEach(() => void vi.useRealTimers());
  test("is English and as strftime writes it", () => {
    vi.useFakeTimers({ now: new Date(2026, 2, 5, 15, 4, 9), toFake: ["Date"] });
    const render = (format: string): string => compileJinja("{{ strftime_now(f) }}", "t").render({ f: format });
    expect(render("%d %b %Y")).toBe("05 Mar 2026");
    expect(render("%A, %-d %B %y; %a %I:%M:%S %p, %H, %m, 100%%, %q")).toBe("Thursday, 5 March 26; Thu 03:04:09 PM, 15, 03, 100%, %q");
  });
});
