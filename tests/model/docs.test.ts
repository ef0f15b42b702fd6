import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { projectRoot } from "../../scripts/build.mjs";
import { tinyFolder } from "../support/model-folder.ts";

/** Inside the project, so that `culm` is the project itself. */
const folder = join(projectRoot, ".cache", `docs-${process.pid}`);
mkdirSync(folder, { recursive: true });
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Every TypeScript example of a page that runs by itself, on the model that is at hand. */
const examples = ["docs/from-transformers.md", "README.md"].flatMap((page) => {
  const text = readFileSync(join(projectRoot, page), "utf8");
  return [...text.matchAll(/```ts\n([\s\S]*?)```/g)]
    .map(([, code]) => code!)
    .filter((code) => code.includes('from "culm"'))
    .map((code, i): [string, string] => [`${page}, example ${i + 1}`, code]);
});

test("there are examples", () => {
  expect(examples.length).toBeGreaterThanOrEqual(4);
});

test.each(examples)("%s runs", async (name, code) => {
  const file = join(folder, `${name.replaceAll(/\W+/g, "-")}.mts`);
  writeFileSync(file, code.replaceAll(/"(ibm-ai-platform\/Bamba-9B-v2|models\/bamba-tiny)"/g, JSON.stringify(tinyFolder)));
  const { status, out, err } = await new Promise<{ status: number | null; out: string; err: string }>((resolve, reject) => {
    const child = spawn(process.execPath, ["--conditions=culm-source", "--import", "tsx", file], { cwd: projectRoot });
    let [out, err] = ["", ""];
    child.stdout.on("data", (data: Buffer) => (out += data.toString()));
    child.stderr.on("data", (data: Buffer) => (err += data.toString()));
    child.on("error", reject);
    child.on("close", (status) => resolve({ status, out, err }));
  });
  expect(err).toBe("");
  expect(status).toBe(0);
  expect(out.trim()).not.toBe("");
});
