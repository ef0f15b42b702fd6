import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findClang, skipsEngines } from "../../../scripts/engines.mjs";

/** The compiler that reads kernels for Metal as C++, in tests: what it says, and what it makes, kept by content. */
const command = findClang();

/** Whether tests that need it are skipped: where a person has said so, and where the stand-in's fibres, which switch stacks in assembly, do not run. */
export const skipsClang = skipsEngines || process.arch !== "x64" || process.platform !== "linux";
export const NO_CLANG = "there is no clang with its sanitizers; npm test installs it, and CULM_CLANG names another one";

const folder = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
/** Headers of the stand-in, as C++ and as C++ for OpenCL. */
export const headers = { cpp: folder("./include"), opencl: folder("./opencl") };

/** All text that a build depends on beside the kernel's own. */
const headerText = (): string =>
  Object.values(headers)
    .flatMap((at) => readdirSync(at, { recursive: true, encoding: "utf8", withFileTypes: true }).filter((e) => e.isFile()))
    .map((e) => readFileSync(join(e.parentPath, e.name), "utf8"))
    .sort()
    .join("\0");
let headersHash: string | null = null;

/** Runs clang. @throws Error with all that it says, the kernel's own lines among it */
function run(args: readonly string[], about: string): void {
  if (command === undefined) throw new Error(NO_CLANG);
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8", maxBuffer: 1 << 28 });
  if (status !== 0) throw new Error(`clang: ${about}\n${(stderr + stdout).slice(0, 6000)}`);
}

/** What clang says of a text that it only has to accept; null when it has nothing to say. */
export function complaintsOf(text: string, args: readonly string[]): string | null {
  const at = mkdtempSync(join(tmpdir(), "culm-metal-"));
  try {
    const file = join(at, "kernels.metal");
    writeFileSync(file, text);
    if (command === undefined) throw new Error(NO_CLANG);
    const { status, stderr } = spawnSync(command, [...args, "-fsyntax-only", file], { encoding: "utf8", maxBuffer: 1 << 28 });
    return status === 0 && stderr === "" ? null : stderr.slice(0, 6000);
  } finally {
    rmSync(at, { recursive: true });
  }
}

const cache = fileURLToPath(new URL("../../../node_modules/.cache/culm/metal/", import.meta.url));

/** A file that is made once for a key, by its path. */
function made(key: unknown, make: (folder: string, out: string) => void): string {
  const path = join(cache, createHash("sha256").update(JSON.stringify(key)).digest("hex").slice(0, 32));
  if (existsSync(path)) return path;
  mkdirSync(cache, { recursive: true });
  const at = mkdtempSync(join(cache, "build-"));
  try {
    const out = join(at, "out");
    make(at, out);
    renameSync(out, path);
  } finally {
    rmSync(at, { recursive: true });
  }
  return path;
}

/** What clang makes of a text, as a file: the same text and arguments are compiled once. */
export function built(text: string, args: readonly string[], about: string): string {
  headersHash ??= createHash("sha256").update(headerText()).digest("hex");
  return made([command, args, headersHash, text], (at, out) => {
    const source = join(at, "source.cpp");
    writeFileSync(source, text);
    run([...args, source, "-o", out], about);
  });
}

/** A program of an object that was built. */
export const linked = (object: string, args: readonly string[]): string =>
  made([command, args, object], (_, out) => {
    run([...args, object, "-o", out], object);
  });
