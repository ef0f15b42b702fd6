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

/** Something to compile, by all that goes into it. */
export interface CacheJob {
  /** The compiler, its version, and what it is asked for. */
  readonly settings: string;
  readonly text: string;
  readonly make: () => Promise<Uint8Array>;
}

/** The objects of the jobs, in order. What is not in the cache's directory `room` is made, several at a time, and put there in files that end in `extension`. */
export async function makeAll(room: string, extension: string, jobs: readonly CacheJob[]): Promise<Compiled> {
  const root = cacheDirectory();
  const directory = root === null ? null : join(root, room);
  const objects: Uint8Array[] = [];
  const missing: number[] = [];
  const files = jobs.map(({ settings, text }) =>
    directory === null ? null : join(directory, `${sha256(settings, "\n", text).toString("hex")}.${extension}`),
  );
  files.forEach((file, i) => {
    const known = file === null ? null : readObject(file);
    if (known) objects[i] = known;
    else missing.push(i);
  });
  const cached = jobs.length - missing.length;
  const one = async (): Promise<void> => {
    for (let i = missing.shift(); i !== undefined; i = missing.shift()) {
      const object = await jobs[i]!.make();
      objects[i] = object;
      if (directory !== null) writeObject(directory, files[i]!, object);
    }
  };
  // Largest first, so that no long one is left for the end.
  missing.sort((a, b) => jobs[b]!.text.length - jobs[a]!.text.length);
  await Promise.all(Array.from({ length: Math.min(SIDE_BY_SIDE, missing.length) }, one));
  return { objects, cached };
}

/** The same of modules of LLVM IR, compiled on worker threads. */
export const compileAll = (llvm: Llvm, jobs: readonly CompileJob[]): Promise<Compiled> =>
  makeAll(
    "llvm",
    "o",
    jobs.map(({ text, target, options }) => ({
      settings: JSON.stringify([FORMAT, llvm.version, target.triple, target.cpu, target.features, options.passes, options.level]),
      text,
      make: () => llvm.compileInBackground(text, target, options),
    })),
  );
