import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { CulmError, model } from "../../dsl/index.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const file = "tests/types/fixtures/errors.ts";
// not a static import: the file must stay outside the project's own type check
const { mistakes } = (await import(pathToFileURL(`${root}${file}`).href)) as { mistakes: Readonly<Record<string, () => unknown>> };

interface Complaint {
  readonly line: number;
  /** Text of the ShapeError, or what the compiler says without one. */
  readonly says: string;
}

/** What a compiler says about the file of mistakes, by the name of the mistake. */
function complaints(compiler: string): Record<string, Complaint> {
  const lines = readFileSync(`${root}${file}`, "utf8").split("\n");
  const args = [`${root}node_modules/${compiler}/bin/tsc`, "-p", `${root}tests/types/fixtures/tsconfig.json`, "--pretty", "false"];
  let output = "";
  try {
    execFileSync(process.execPath, args, { cwd: root, encoding: "utf8" });
  } catch (error) {
    output = (error as { stdout: string }).stdout;
  }
  const found: Record<string, Complaint> = {};
  for (const [, where, line, text] of output.matchAll(/^(\S+)\((\d+),\d+\): error TS\d+: (.*)$/gm)) {
    expect(where).toBe(file);
    const name = /^ {2}(\w+):/.exec(lines[Number(line) - 1]!)?.[1];
    if (name === undefined) throw new Error(`unexpected error in line ${line!}: ${text!}`);
    found[name] = { line: Number(line), says: /ShapeError<"(.*)">/.exec(text!)?.[1] ?? text! };
  }
  return found;
}

/** The same mistake, made at run time. */
function traced(mistake: () => unknown): CulmError | undefined {
  const dims = { batch: [1, 2], seq: 3, hidden: 8, ffn: 12, heads: 4, size: 2, groups: 2, state: 5, keys: 7, other: 6 } as const;
  try {
    model("mistake", { dims }, () => ({ out: mistake() as never }));
  } catch (error) {
    if (error instanceof CulmError) return error;
    throw error;
  }
  return undefined;
}

describe("mistakes", () => {
  const six = complaints("typescript");

  it("are all found by TypeScript 6, with these words", () => {
    expect(Object.keys(six)).toEqual(Object.keys(mistakes));
    expect(Object.entries(six).map(([name, { says }]) => `${name}: ${says}`)).toMatchSnapshot();
  });

  it("are found by TypeScript 7 with the same words on the same lines", () => {
    expect(complaints("typescript7")).toEqual(six);
  });

  // the rest have other words at run time, or (a wrong annotation) nothing to go wrong
  const shaped = Object.entries(mistakes).filter(([name]) => six[name] && !six[name].says.includes("assignable"));
  it("are mostly ShapeErrors", () => {
    expect(shaped.length).toBeGreaterThanOrEqual(15);
  });
  it.each(shaped)("%s: the trace says the same of the same line", (name, mistake) => {
    const error = traced(mistake)!;
    expect(error.what).toBe(six[name]!.says);
    expect(error.message.startsWith(`${file}:${six[name]!.line}:`), error.message).toBe(true);
  });

  it.each(["storage", "attention", "rope", "scan"] as const)("%s: the trace refuses it too", (name) => {
    const error = traced(mistakes[name]!)!;
    expect(error.message.startsWith(`${file}:${six[name]!.line}:`), error.message).toBe(true);
    expect(error.message.replace(/:\d+:\d+/g, ":LINE:COL")).toMatchSnapshot();
  });
});
