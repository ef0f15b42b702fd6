// Turns every TypeScript file of the product into one JavaScript file at the same place under dist/, with a source map, and copies the data files
// beside them. Nothing is bundled: a module is one file in the source, in dist/ and in a stack trace, and modules that hold state exist once.
//
// dist/.stamp is a hash of everything that goes in. Nothing happens while it is unchanged, so every launcher may call `ensureBuilt` (some 20 ms).

import { createHash } from "node:crypto";
import { copyFileSync, linkSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const projectRoot = dirname(dirname(fileURLToPath(import.meta.url)));

/** The folders that make up the product, in the order of the pipeline. */
export const sourceFolders = ["dsl", "compiler", "backends", "models", "runtime", "ffi"];

/** Data files that travel into dist/ as they are. */
const dataFile = /\.(json|safetensors|swift|sh)$/;

/** The page is Vite's to build, into a folder of dist/ that belongs to it. */
const page = /^runtime\/web\/page\//;
const builtPage = /^web\//;

/** @param {string} folder @returns {string[]} every file below, sorted */
export function walk(folder) {
  /** @type {string[]} */
  const files = [];
  for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) files.push(...walk(path));
    else if (entry.isFile()) files.push(path);
  }
  return files;
}

/** @param {string} path */
function exists(path) {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** @param {string} root @returns {{ code: string[], data: string[] }} paths relative to the root */
function inputs(root) {
  const all = sourceFolders
    .filter((folder) => exists(join(root, folder)))
    .flatMap((folder) => walk(join(root, folder)))
    .map((path) => relative(root, path).split(sep).join("/"))
    .filter((path) => !page.test(path));
  return { code: all.filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts")), data: all.filter((path) => dataFile.test(path)) };
}

/** Sources count by content; data files, which may be large, by size and time. @param {string} root @param {{ code: string[], data: string[] }} files */
function stampOf(root, files) {
  const hash = createHash("sha1");
  hash.update(readFileSync(fileURLToPath(import.meta.url)));
  for (const path of files.code) hash.update(`\0${path}\0`).update(readFileSync(join(root, path)));
  for (const path of files.data) {
    const { size, mtimeMs } = statSync(join(root, path));
    hash.update(`\0${path}\0${String(size)}\0${String(mtimeMs)}`);
  }
  return hash.digest("hex");
}

/** A reader never sees half a file, and two builds at once do no harm. @param {string} path @param {Uint8Array} contents */
function writeWhole(path, contents) {
  if (exists(path) && readFileSync(path).equals(contents)) return;
  mkdirSync(dirname(path), { recursive: true });
  const next = `${path}.${String(process.pid)}`;
  writeFileSync(next, contents);
  renameSync(next, path);
}

/** @param {string} from @param {string} to */
function place(from, to) {
  mkdirSync(dirname(to), { recursive: true });
  const next = `${to}.${String(process.pid)}`;
  try {
    linkSync(from, next);
  } catch {
    copyFileSync(from, next);
  }
  renameSync(next, to);
  rmSync(next, { force: true }); // renaming a link onto another link of the same file leaves both
}

/** @param {string} root @param {string[]} code @returns {Promise<Map<string, Uint8Array>>} path under dist/ to contents */
async function transpile(root, code) {
  const esbuild = await import("esbuild");
  const result = await esbuild.build({
    absWorkingDir: root,
    entryPoints: code,
    outbase: root,
    outdir: "dist",
    write: false,
    // "Bundle" only so that imports pass through the plugin below: each one stays an import, of the neighbour's .js.
    bundle: true,
    packages: "external",
    treeShaking: false,
    format: "esm",
    platform: "node",
    target: "node20",
    sourcemap: true,
    sourcesContent: false,
    logLevel: "silent",
    plugins: [
      {
        name: "keep-relative-imports",
        setup(build) {
          build.onResolve({ filter: /^\.\.?\// }, ({ path, kind }) =>
            kind === "entry-point" ? undefined : { path: path.replace(/\.ts$/, ".js"), external: true },
          );
        },
      },
    ],
  });
  return new Map(result.outputFiles.map(({ path, contents }) => [relative(join(root, "dist"), path), contents]));
}

/**
 * Builds what is out of date.
 * @param {{ root?: string, force?: boolean, log?: (line: string) => void }} [options]
 * @returns {Promise<"fresh" | "built">}
 */
export async function ensureBuilt({ root = projectRoot, force = false, log = () => undefined } = {}) {
  const files = inputs(root);
  const stamp = stampOf(root, files);
  const stampFile = join(root, "dist", ".stamp");
  if (!force && exists(stampFile) && readFileSync(stampFile, "utf8") === stamp) return "fresh";

  const started = performance.now();
  const outputs = await transpile(root, files.code);
  rmSync(stampFile, { force: true });
  for (const [path, contents] of outputs) writeWhole(join(root, "dist", path), contents);
  for (const path of files.data) place(join(root, path), join(root, "dist", path));

  const wanted = new Set([...[...outputs.keys()].map((path) => path.split(sep).join("/")), ...files.data]);
  for (const path of walk(join(root, "dist"))) {
    const name = relative(join(root, "dist"), path).split(sep).join("/");
    const declares = /\.d\.ts(\.map)?$/.exec(name);
    const source = declares ? name.slice(0, declares.index) + ".js" : name;
    const ofAnotherBuild = /\.\d+$/.test(name); // written a moment ago by writeWhole or place elsewhere
    if (!wanted.has(source) && !ofAnotherBuild && !builtPage.test(name)) rmSync(path, { force: true });
  }
  writeWhole(stampFile, Buffer.from(stamp));
  log(`built ${String(files.code.length)} files in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return "built";
}

if (process.argv[1] !== undefined && pathToFileURL(process.argv[1]).href === import.meta.url) {
  try {
    const outcome = await ensureBuilt({ force: process.argv.includes("--force"), log: (line) => console.log(line) });
    if (outcome === "fresh") console.log("up to date");
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}
