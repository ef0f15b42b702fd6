import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { culm, launch } from "../support/cli.ts";
import type { Ended } from "../support/cli.ts";
import { copyModel, scratchFolder, tinyFolder } from "../support/model-folder.ts";

const scratch = scratchFolder("cli-generate");
afterAll(scratch.remove);

interface Case {
  readonly prompt: string;
  readonly case: string;
  readonly texts: readonly string[];
}
const { tiny } = JSON.parse(readFileSync(new URL("../reference/extra/extra.json", import.meta.url), "utf8")) as { tiny: Case[] };
const reference = (prompt: string, name: string): readonly string[] => tiny.find((c) => c.prompt === prompt && c.case === name)!.texts;

const model = ["--model", tinyFolder, "--max-length", "128"];
const generate = (...flags: readonly string[]): Promise<Ended> => culm("generate", ...model, ...flags);
const json = async (...flags: readonly string[]): Promise<Record<string, unknown>> => {
  const { code, out, err } = await generate(...flags, "--json");
  expect([code, err]).toEqual([0, ""]);
  return JSON.parse(out) as Record<string, unknown>;
};

describe("generate, against Transformers", () => {
  const prompt = ["--prompt", "Call me", "--max-new-tokens", "24"];

  test("beams, several returned: texts with scores, and all of them in JSON", async () => {
    const texts = reference("Call me", "beam4");
    const report = await json(...prompt, "--beams", "4", "--return-sequences", "2");
    const alternatives = report["alternatives"] as { text: string; score: number }[];
    expect(alternatives.map(({ text }) => text)).toEqual(texts);
    expect(alternatives[0]!.score).toBeGreaterThan(alternatives[1]!.score);
    const { code, out } = await generate(...prompt, "--beams", "4", "--return-sequences", "2");
    expect(code).toBe(0);
    expect(out).toMatch(/^\[1, score -\d+\.\d{4}\] Call me/);
    for (const text of texts) expect(out).toContain(text);
  });

  test("penalties, guidance, stop texts", async () => {
    const run = async (...flags: readonly string[]): Promise<unknown> => (await json(...prompt, ...flags))["text"];
    expect(await run("--repetition-penalty", "1.2", "--no-repeat-ngram", "3")).toBe(reference("Call me", "penalty")[0]);
    // Transformers' own unconditional branch has all its tokens at position 0, so its text is another one.
    const guided = await run("--guidance", "1.5");
    expect(guided).not.toBe(await run());
    expect(await run("--guidance", "1.5", "--negative-prompt", "King")).not.toBe(guided);
    expect(await run("--stop", " and", "--stop", ". ")).toBe(reference("Call me", "stop")[0]);
  });

  test("words that may not or must not be said", async () => {
    const text = async (...flags: readonly string[]): Promise<string> => (await json(...prompt, ...flags))["continuation"] as string;
    const plain = await text();
    expect(plain).toContain(" man");
    for (const flags of [
      ["--bad-word", "man"],
      ["--bias", "man=-100"],
    ])
      expect(await text(...flags)).not.toContain(" man");
    expect((await text("--bias", " whale=100")).startsWith(" whale")).toBe(true);
  });

  test("sampling: several texts, the seed in JSON and on standard error, the same again with it", async () => {
    const flags = [...prompt, "--sample", "--top-p", "0.9", "--return-sequences", "3"];
    const first = await json(...flags);
    expect(new Set((first["alternatives"] as { text: string }[]).map(({ text }) => text)).size).toBe(3);
    const again = await json(...flags, "--seed", String(first["seed"]));
    expect(again["alternatives"]).toEqual(first["alternatives"]);
    const { err } = await generate(...flags, "--seed", "12");
    expect(err).toMatch(/, seed 12\n$/);
  });

  test("--no-states gives the same text", async () => {
    const short = ["--prompt", "The old man", "--max-new-tokens", "6"];
    expect((await json(...short, "--no-states"))["text"]).toBe((await json(...short))["text"]);
  });
});

describe("generate --batch", () => {
  const prompts = ["It was the best of", "Call me", '"Hello," he said', "The", "A"];
  const file = (lines: readonly string[]): string => {
    const path = scratch.fresh();
    writeFileSync(path, `${lines.join("\r\n")}\n\n`);
    return path;
  };
  const answers = async (...flags: readonly string[]): Promise<Record<string, unknown>[]> => {
    const { code, out } = await generate("--max-new-tokens", "8", "--json", ...flags);
    expect(code).toBe(0);
    return out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  };

  test("a line of JSON for each prompt, each what it is alone, whatever the batch", async () => {
    const alone: unknown[] = [];
    for (const prompt of prompts) alone.push((await json("--prompt", prompt, "--max-new-tokens", "8"))["outputIds"]);
    for (const size of ["1", "2", "8"])
      expect(
        (await answers("--batch", file(prompts), "--batch-size", size)).map((a) => a["outputIds"]),
        size,
      ).toEqual(alone);
    const { out } = await generate("--max-new-tokens", "8", "--batch", file(prompts));
    expect(out).toMatch(/^\[1\] It was the best of the world/);
    expect(out).toContain("\n[5] A");
  });

  test("JSON strings may have line breaks; text that only looks like JSON is text", async () => {
    const lines = ["one\ntwo", 'say "it"'].map((text) => JSON.stringify(text));
    expect((await answers("--batch", file(lines))).map(({ prompt }) => prompt)).toEqual(["one\ntwo", 'say "it"']);
    const speech = ['"Yes," she said', '"No"'];
    expect((await answers("--batch", file(speech))).map(({ prompt }) => prompt)).toEqual(speech);
  });

  test("from standard input", async () => {
    const { code, out } = await launch(["generate", ...model, "--batch", "-", "--max-new-tokens", "3", "--json"], {
      input: "The\nCall me\n",
    });
    expect(code).toBe(0);
    expect(out.trim().split("\n")).toHaveLength(2);
  });
});

describe("generate refuses", () => {
  test.each([
    [["--prompt", "a", "--batch", "b"], "exactly one of --prompt and --batch"],
    [[], "exactly one of --prompt and --batch"],
    [["--batch", "/nowhere.txt"], "/nowhere.txt: cannot be read"],
    [["--prompt", "a", "--sample", "--temperature", "0"], "temperature: expected a number above 0, got 0"],
    [["--prompt", "a", "--sample", "--top-p", "2"], "topP"],
    [["--prompt", "a", "--repetition-penalty", "0"], "repetitionPenalty"],
    [["--prompt", "a", "--return-sequences", "2"], "numReturnSequences"],
    [["--prompt", "a", "--beams", "2", "--return-sequences", "3"], "numReturnSequences"],
    [["--prompt", "a", "--negative-prompt", "b"], "--negative-prompt does nothing without --guidance"],
    [["--prompt", "a", "--bias", "word"], "Expected text=number"],
    [["--prompt", "a", "--decay", "1"], "Expected start,factor"],
    [["--prompt", "a", "--early-stopping", "maybe"], "It is given alone, or with the word never"],
  ] as const)("%j", async (flags, message) => {
    const { code, err, out } = await generate(...flags);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toContain(message);
    expect(err).not.toContain("    at ");
  });
});

describe("chat", () => {
  const template =
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
  const chatty = (): string => {
    const folder = copyModel(tinyFolder, scratch.fresh());
    const config = JSON.parse(readFileSync(folder.file("tokenizer_config.json"), "utf8")) as object;
    writeFileSync(folder.file("tokenizer_config.json"), JSON.stringify({ ...config, chat_template: template }));
    return folder.path;
  };
  const flags = ["--greedy", "--max-new-tokens", "12", "--max-length", "256"];

  test("a conversation: the reference's answer, history, other instructions, undo, save", async () => {
    const saved = join(scratch.path, "talk.json");
    const { code, out, err } = await launch(["chat", "--model", chatty(), "--system", "Speak plainly.", ...flags], {
      input: `Who are you?\n/show\nAnd \\\nwhy?\n/undo\n/save ${saved}\n/system\nWho are you?\n/reset\n/retry\n/fly\n/exit\nnever read\n`,
    });
    expect(code).toBe(0);
    expect(out.startsWith("i' the base courtesy,\nAnd all the")).toBe(true);
    expect(out).toContain("system: Speak plainly.\nuser: Who are you?\nassistant: i' the base courtesy,\nAnd all the\n");
    expect(out).not.toContain("never read");
    expect(JSON.parse(readFileSync(saved, "utf8"))).toEqual([
      { role: "system", content: "Speak plainly." },
      { role: "user", content: "Who are you?" },
      { role: "assistant", content: "i' the base courtesy,\nAnd all the" },
    ]);
    expect(err).toContain("error: there is no question yet");
    expect(err).toContain("error: there is no command /fly\nhint: /help");
  });

  test("Ctrl-C stops the answer and not the program; what was said stays", async () => {
    let stopped = false;
    const { code, out } = await launch(["chat", ...model.slice(0, 2), "--completion", "--max-new-tokens", "1500", "--seed", "3"], {
      during: (text, { interrupt, type }) => {
        if (stopped || text.length < 200) return;
        stopped = true;
        interrupt();
        type("/show\n/exit\n");
      },
      typed: "Call me\n",
    });
    expect(code).toBe(0);
    const [answer, history] = out.split("user: Call me\nassistant: ") as [string, string];
    expect(answer.length).toBeGreaterThan(190);
    expect(answer.length).toBeLessThan(6000);
    expect(history.trim()).toBe(answer.trim());
  });

  test("a conversation that becomes too long loses its oldest part, and says so", async () => {
    const { code, err } = await launch(["chat", "--model", chatty(), "--greedy", "--max-new-tokens", "8", "--max-length", "48"], {
      input: "One two three four five.\nSix seven eight nine ten.\nEleven twelve thirteen.\n",
    });
    expect(code).toBe(0);
    expect(err).toMatch(/the oldest (question|2 questions) left out/);
    expect(err).not.toContain("error");
  });

  test("without a template it says what to do; beams are not for chats", async () => {
    expect(await culm("chat", "--model", tinyFolder)).toMatchObject({ code: 1, out: "" });
    expect((await culm("chat", "--model", tinyFolder)).err).toContain("--chat-template FILE");
    expect((await culm("chat", "--model", tinyFolder, "--beams", "2")).err).toContain("one answer at a time");
    expect((await culm("chat", "--model", tinyFolder, "--chat-template", "/nowhere")).err).toContain("cannot be read");
  });
});
