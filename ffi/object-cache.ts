import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import type { CompileOptions, Llvm, Target } from "./libllvm.ts";

/**
 * Compiled objects on disk, so that the second start of a model compiles nothing. A file's name is the hash of all that went into the object; a file
 * holds the hash of what is in it, so that a damaged one is compiled again. Losing the cache costs time and nothing else.
 */
export interface CompileJob {
  readonly text: string;
  readonly target: Target;
  readonly options: CompileOptions;
}

/** The directory of the cache: CULM_CACHE, or the user's cache directory. Null when CULM_CACHE is "off". */
export function cacheDirectory(): string | null {
  const asked = process.env["CULM_CACHE"];
  if (asked === "off") return null;
  if (asked !== undefined && asked !== "") return asked;
  const base = process.env["XDG_CACHE_HOME"];
  return join(base !== undefined && base !== "" ? base : join(homedir(), ".cache"), "culm");
}

const sha256 = (...parts: readonly (string | Uint8Array)[]): Buffer => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** Grows when the same key would give another object: a change in how libLLVM is driven. */
const FORMAT = 2;

function keyOf(llvm: Llvm, { text, target, options }: CompileJob): string {
  const settings = JSON.stringify([FORMAT, llvm.version, target.triple, target.cpu, target.features, options.passes, options.level]);
  return sha256(settings, "\n", text).toString("hex");
}

const DIGEST = 32;

function readObject(file: string): Uint8Array | null {
  try {
    const bytes = readFileSync(file);
    const object = bytes.subarray(DIGEST);
    return bytes.length > DIGEST && sha256(object).equals(bytes.subarray(0, DIGEST)) ? object : null;
  } catch {
    return null; // not there, or not readable: compile
  }
}

function writeObject(directory: string, file: string, object: Uint8Array): void {
  // Under another name first: a reader sees a whole file or none, also when two processes write the same one.
  const temporary = `${file}.${process.pid}.tmp`;
  const tryTo = (f: () => void): boolean => {
    try {
      f();
      return true;
    } catch {
      return false; // a full or read-only disk must not keep a model from running
    }
  };
  const written = tryTo(() => {
    mkdirSync(directory, { recursive: true });
    writeFileSync(temporary, Buffer.concat([sha256(object), object]));
    renameSync(temporary, file);
  });
  if (!written) tryTo(() => rmSync(temporary, { force: true }));
}

/** How many modules are compiled side by side; libuv, through which koffi calls in the background, runs four calls at a time. */
const SIDE_BY_SIDE = 4;

export interface Compiled {
  readonly objects: readonly Uint8Array[];
  /** How many came from the cache. */
  readonly cached: number;
}

/** The objects of the jobs, in order. What is not in the cache is compiled on worker threads and put there. */
export async function compileAll(llvm: Llvm, jobs: readonly CompileJob[]): Promise<Compiled> {
  const root = cacheDirectory();
  const directory = root === null ? null : join(root, "llvm");
  const objects: Uint8Array[] = [];
  const missing: number[] = [];
  const files = jobs.map((job) => (directory === null ? null : join(directory, `${keyOf(llvm, job)}.o`)));
  files.forEach((file, i) => {
    const known = file === null ? null : readObject(file);
    if (known) objects[i] = known;
    else missing.push(i);
  });
  const cached = jobs.length - missing.length;
  const one = async (): Promise<void> => {
    for (let i = missing.shift(); i !== undefined; i = missing.shift()) {
      const { text, target, options } = jobs[i]!;
      const object = await llvm.compileInBackground(text, target, options);
      objects[i] = object;
      if (directory !== null) writeObject(directory, files[i]!, object);
    }
  };
  // Largest first, so that no long one is left for the end.
  missing.sort((a, b) => jobs[b]!.text.length - jobs[a]!.text.length);
  await Promise.all(Array.from({ length: Math.min(SIDE_BY_SIDE, missing.length) }, one));
  return { objects, cached };
}
