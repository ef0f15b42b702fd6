import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseFrame } from "../../dsl/site.ts";
import { sites } from "./fixtures/sites.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const file = "tests/unit/fixtures/sites.ts";
const source = readFileSync(`${root}${file}`, "utf8").split("\n");

/** `file:line:col` of the calls that the source marks with `// <- op`. */
const marked = source.flatMap((text, i) => {
  const op = /\/\/ <- (\w+)/.exec(text)?.[1];
  if (op === undefined) return [];
  const call = { input: "input(", matmul: "linear(", activation: "silu(", binary: "add(" }[op]!;
  return [{ op, place: `${file}:${i + 1}:${text.indexOf(call) + 1}` }];
});

function expectMarked(found: readonly string[]): void {
  expect(marked).toHaveLength(4);
  for (const { op, place } of marked) expect(found.filter((s) => s.startsWith(`${op} `) && s.endsWith(` ${place}`))).toHaveLength(1);
}

let folder = "";
beforeAll(() => {
  mkdirSync(join(root, ".cache"), { recursive: true });
  folder = mkdtempSync(join(root, ".cache", "sites-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

const run = (...args: readonly string[]): string[] =>
  execFileSync(process.execPath, [...args, "--print"], { cwd: root, encoding: "utf8" })
    .trim()
    .split("\n");

async function bundle(sourcemap: boolean): Promise<string> {
  const outfile = join(folder, sourcemap ? "mapped.mjs" : "plain.mjs");
  await build({
    entryPoints: [`${root}${file}`],
    bundle: true,
    format: "esm",
    platform: "node",
    sourcemap,
    minify: true,
    outfile,
    logLevel: "error",
  });
  return outfile;
}

describe("call sites", () => {
  it("are the author's lines under vitest", () => expectMarked(sites));
  it("are the author's lines under tsx", () => expectMarked(run("--import", "tsx", file)));
  it("are the author's lines in a minified bundle with source maps", async () =>
    expectMarked(run("--enable-source-maps", await bundle(true))));
  it("are places in the bundle without source maps", async () => {
    const lines = run(await bundle(false));
    const places = new Set(lines.map((s) => s.slice(s.lastIndexOf(" ") + 1)));
    expect([...places].every((p) => /^\.cache\/.*plain\.mjs:\d+:\d+$/.test(p))).toBe(true);
    expect(places.size).toBe(5);
  });
});

describe("frames", () => {
  const place = (frame: string): string => {
    const site = parseFrame(frame);
    return site ? `${site.file}|${site.line}|${site.col}` : "none";
  };
  it.each([
    [`    at block (${root}models/a.ts:12:7)`, "models/a.ts|12|7"],
    [`    at file://${root}models/a.ts:12:7`, "models/a.ts|12|7"],
    [`    at Object.<anonymous> (file://${root}models/a.ts?v=1f:12:7)`, "models/a.ts|12|7"],
    [`    at async ${root}models/a.ts:12:7`, "models/a.ts|12|7"],
    ["    at new Model [as x] (/else/where (copy)/my%20model.ts:1:2)", "/else/where (copy)/my%20model.ts|1|2"],
    ["    at file:///else/my%20model.ts:1:2", "/else/my model.ts|1|2"],
    ["    at native", "none"],
    ["", "none"],
  ])("%s", (frame, expected) => expect(place(frame)).toBe(expected));
});
