// `npm run web [-- --model DIR] [--port N]`: sets up what is missing, compiles the model for a page, builds the page and serves both.
// `npm run web:build [-- --model DIR] [--out DIR]`: the same without serving: a folder that any static server serves.
//
// The page lies in dist/web and the model in dist/web/model. Each is made again only when something that goes into it has changed. What follows `--` after
// these options goes to `culm compile --web`: npm run web -- -- --variants base --max-length 1024

import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { ensureBuilt, projectRoot, walk } from "./build.mjs";
import { ensureModules, ensureNode, runScript, say, SetupError } from "./setup.mjs";

const pageRoot = join(projectRoot, "runtime", "web", "page");
const pageConfig = join(pageRoot, "vite.config.ts");

/** Everything that may become part of the page. @returns {string} */
function pageStamp() {
  const hash = createHash("sha1");
  const sources = [...walk(join(projectRoot, "runtime")), ...walk(join(projectRoot, "compiler")), join(projectRoot, "package-lock.json")];
  for (const path of sources) hash.update(`\0${path}\0`).update(readFileSync(path));
  return hash.digest("hex");
}

/**
 * What the model's folder is made of: the compiler, what it was told, and the files of the model as they are now. A model of the hub has none here.
 * @param {string} model @param {string[]} args
 */
function modelStamp(model, args) {
  const hash = createHash("sha1")
    .update(readFileSync(join(projectRoot, "dist", ".stamp")))
    .update(JSON.stringify([model, args]));
  if (!existsSync(model)) return undefined;
  for (const name of readdirSync(model).sort()) {
    const { size, mtimeMs } = statSync(join(model, name));
    hash.update(`\0${name}\0${String(size)}\0${String(mtimeMs)}`);
  }
  return hash.digest("hex");
}

/** @param {string} file @param {string | undefined} stamp */
const isFresh = (file, stamp) => stamp !== undefined && existsSync(file) && readFileSync(file, "utf8") === stamp;

/** Builds the page beside its place, and puts it there with the model that was there. @param {string} out */
async function ensurePage(out) {
  const stamp = pageStamp();
  if (isFresh(join(out, ".page"), stamp)) return;
  say("building the page ...");
  const { build } = await import("vite");
  const next = `${out}.${String(process.pid)}`;
  try {
    await build({ root: pageRoot, configFile: pageConfig, logLevel: "warn", build: { outDir: next, emptyOutDir: true } });
    for (const kept of ["model", ".model"]) if (existsSync(join(out, kept))) renameSync(join(out, kept), join(next, kept));
    writeFileSync(join(next, ".page"), stamp);
    rmSync(out, { recursive: true, force: true });
    renameSync(next, out);
  } finally {
    rmSync(next, { recursive: true, force: true });
  }
}

/** @param {string} out @param {string} model @param {string[]} args of `culm compile --web` */
function ensureModel(out, model, args) {
  const stamp = modelStamp(model, args);
  if (isFresh(join(out, ".model"), stamp) && existsSync(join(out, "model", "model.json"))) return;
  say("compiling the model ...");
  rmSync(join(out, ".model"), { force: true });
  const culm = [join(projectRoot, "bin", "culm.js"), "compile", "--web", "--model", model, "--out", join(out, "model"), ...args];
  const { status } = spawnSync(process.execPath, culm, { stdio: "inherit" });
  // It has said why.
  if (status !== 0) throw new SetupError("The model could not be compiled.", 1);
  if (stamp !== undefined) writeFileSync(join(out, ".model"), stamp);
}

/** @param {string} out @param {number} port */
async function serve(out, port) {
  const { preview } = await import("vite");
  const server = await preview({
    root: pageRoot,
    configFile: pageConfig,
    logLevel: "warn",
    // A file that is not there is not there: no page in its place.
    appType: "mpa",
    build: { outDir: out },
    preview: { host: "localhost", port },
  });
  say(`\n  ${server.resolvedUrls?.local[0] ?? `http://localhost:${String(port)}/`}\n\nCtrl-C ends it.`);
}

await runScript(async () => {
  ensureNode();
  const { values, positionals } = parseArgs({
    options: {
      model: { type: "string", default: join(projectRoot, "models", "bamba-tiny") },
      out: { type: "string", default: join(projectRoot, "dist", "web") },
      port: { type: "string", default: "4173" },
      "build-only": { type: "boolean", default: false },
    },
    allowPositionals: true,
  });
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 0 || port > 65535)
    throw new SetupError(`--port: expected a number from 0 to 65535, got ${values.port}`, 1);
  ensureModules();
  await ensureBuilt({ log: say });
  const out = resolve(values.out);
  mkdirSync(out, { recursive: true });
  await ensurePage(out);
  ensureModel(out, values.model, positionals);
  if (values["build-only"]) say(`${out}: serve this folder with any static server that has byte ranges, over https or on localhost`);
  else await serve(out, port);
});
