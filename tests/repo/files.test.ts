import { readFileSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { expect, test } from "vitest";
import { projectRoot } from "../../scripts/build.mjs";

const skippedFolders = new Set(["node_modules", "dist", "coverage", ".git", ".cache"]);
const textFile = /(\.(ts|mts|js|mjs|cjs|json|md|sh|yml|yaml|txt|html|css|svelte)|\/run|\/LICENSE|\/\.[a-z]+(ignore|rc))$/;

function* filesBelow(folder: string): Generator<string> {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory() && !skippedFolders.has(entry.name)) yield* filesBelow(join(folder, entry.name));
    else if (entry.isFile()) yield join(folder, entry.name);
  }
}

const files = [...filesBelow(projectRoot)].filter((path) => textFile.test(path));

test("no file knows the machine that it was written on", () => {
  // Put together from pieces, so that this file does not name them itself.
  const folders = ["work", "home", "root", "Users"].join("|");
  const machinePath = new RegExp(`(?<![\\w.$}*-])/(${folders})/[\\w.]`);
  const outside = ["..", "shared"].join("/");
  const found = files.flatMap((path) =>
    readFileSync(path, "utf8")
      .split("\n")
      .flatMap((line, i) =>
        machinePath.test(line) || line.includes(outside)
          ? [`${relative(projectRoot, path)}:${String(i + 1)}: ${line.trim().slice(0, 120)}`]
          : [],
      ),
  );
  expect(found).toEqual([]);
});

test("long files, as a report: guidance and not law", () => {
  const long = files
    .filter((path) => path.endsWith(".ts"))
    .map((path) => ({ path: relative(projectRoot, path), lines: readFileSync(path, "utf8").split("\n").length }))
    .filter(({ lines }) => lines > 500)
    .sort((a, b) => b.lines - a.lines);
  if (long.length > 0)
    console.info(["files over 500 lines:", ...long.map(({ path, lines }) => `  ${String(lines).padStart(5)} ${path}`)].join("\n"));
  expect(files.length).toBeGreaterThan(0);
});
