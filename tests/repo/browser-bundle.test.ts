import { gzipSync } from "node:zlib";
import { join } from "node:path";
import { build } from "esbuild";
import type { Metafile } from "esbuild";
import { expect, test } from "vitest";
import { projectRoot } from "../../scripts/build.mjs";

/** Bundles an entry for a page as a bundler of a page would, which fails where anything imports a built-in module of Node. */
async function bundled(entry: string): Promise<{ readonly text: string; readonly gzipped: number; readonly inputs: Metafile["inputs"] }> {
  const { outputFiles, metafile } = await build({
    entryPoints: [join(projectRoot, entry)],
    bundle: true,
    minify: true,
    format: "esm",
    platform: "browser",
    target: "es2023",
    conditions: ["culm-source"],
    write: false,
    metafile: true,
    logLevel: "silent",
  });
  const [file] = outputFiles;
  return { text: file!.text, gzipped: gzipSync(file!.contents).length, inputs: metafile.inputs };
}

// The page's JavaScript has 150 kB, its own part included.
test.each([
  ["runtime/index.ts", 60_000],
  ["runtime/web/index.ts", 110_000],
  ["runtime/web/worker.ts", 110_000],
  ["runtime/web/client.ts", 3_000],
])("%s is for a page: no module of Node, no compiler, at most %i bytes gzipped", async (entry, most) => {
  const { text, gzipped, inputs } = await bundled(entry);
  expect(gzipped).toBeLessThan(most);
  const ours = Object.keys(inputs).filter((path) => !path.includes("node_modules/"));
  expect(ours.filter((path) => !/^(runtime\/|compiler\/(artifact|diagnostics|ir\/dtype)\.ts$)/.test(path))).toEqual([]);
  // Globals of Node that a bundle would not fail for.
  expect(text).not.toMatch(/\b(process\.(env|argv|platform)|Buffer\.(from|alloc)|__dirname|require\()/);
});

test("a built-in module of Node would be noticed", async () => {
  await expect(bundled("runtime/node/checkpoint.ts")).rejects.toThrow(/Could not resolve "node:fs"/);
});
