import type { Member } from "./archive.ts";
import { readArchive, writeArchive } from "./archive.ts";

/**
 * kernels.bin of the CUDA backend: an archive whose first member, `index.json`, says which kernels there are and in which of the other members, cubins, each
 * lies. One place writes it and reads it, for the toolchain and for the driver.
 */
export interface CubinKernel {
  /** Name of the function. */
  readonly entry: string;
  /** Threads of a block. */
  readonly threads: number;
  /** How many symbols the kernel takes; its last parameter points to them if there are any. */
  readonly symbols: number;
  /** Name of the cubin that it is in. */
  readonly member: string;
}

export interface Cubins {
  /** Ten times the major version plus the minor one, of the architecture that all cubins are for. */
  readonly computeCapability: number;
  readonly kernels: readonly CubinKernel[];
  readonly members: readonly Member[];
}

const VERSION = 1;
const INDEX = "index.json";

export function writeCubins({ computeCapability, kernels, members }: Cubins): Uint8Array {
  const index = new TextEncoder().encode(JSON.stringify({ version: VERSION, computeCapability, kernels }));
  return writeArchive([{ name: INDEX, data: index }, ...members]);
}

/** Throws, saying what is wrong, on anything that `writeCubins` would not have written: the file may come from anywhere. */
export function readCubins(bytes: Uint8Array): Cubins {
  const [first, ...members] = readArchive(bytes);
  if (first?.name !== INDEX) fail(`its first member is ${first ? `"${first.name}"` : "missing"}`, `"${INDEX}"`);
  const index = parsed(first.data);
  if (index["version"] !== VERSION)
    fail(`it has version ${JSON.stringify(index["version"])}`, `version ${VERSION}: compile the model again`);
  const computeCapability = integer(index["computeCapability"], "computeCapability", 10, 9999);
  const binaries = new Set<string>();
  for (const { name, data } of members) {
    if (binaries.has(name)) fail(`two members are called "${name}"`, "one of each name");
    if (!ELF.every((byte, i) => data[i] === byte)) fail(`member "${name}" is no ELF file`, "a cubin");
    binaries.add(name);
  }
  const list = index["kernels"];
  if (!Array.isArray(list)) fail(`kernels is ${JSON.stringify(list)}`, "an array");
  const kernels = (list as unknown[]).map((k, i) => kernelOf(k, `kernels[${i}]`, binaries));
  const entries = new Set(kernels.map(({ entry }) => entry));
  if (entries.size !== kernels.length) fail("two kernels have one entry", "a name for each");
  return { computeCapability, kernels, members };
}

const ELF = [0x7f, 0x45, 0x4c, 0x46];
/** CUDA's limits: threads of a block, and bytes of parameters, which symbols do not even count towards. */
const MOST_THREADS = 1024;
const MOST_SYMBOLS = 4096;

function fail(got: string, expected: string): never {
  throw new Error(`the kernels for CUDA cannot be read: ${got}; expected ${expected}`);
}

type Json = Readonly<Record<string, unknown>>;

function parsed(data: Uint8Array): Json {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  } catch (error) {
    fail(`${INDEX} is no JSON (${error instanceof Error ? error.message : String(error)})`, "the index that the compiler writes");
  }
  return object(value, INDEX);
}

function object(value: unknown, what: string): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) fail(`${what} is ${JSON.stringify(value)}`, "an object");
  return value as Json;
}

function integer(value: unknown, what: string, least: number, most: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > most)
    fail(`${what} is ${JSON.stringify(value)}`, `an integer from ${least} to ${most}`);
  return value;
}

function kernelOf(value: unknown, what: string, binaries: ReadonlySet<string>): CubinKernel {
  const { entry, threads, symbols, member } = object(value, what);
  if (typeof entry !== "string" || !/^[A-Za-z_][A-Za-z0-9_]{0,255}$/.test(entry))
    fail(`${what}.entry is ${JSON.stringify(entry)}`, "the name of a function");
  if (typeof member !== "string" || !binaries.has(member)) fail(`${what}.member is ${JSON.stringify(member)}`, "the name of a member");
  return {
    entry,
    threads: integer(threads, `${what}.threads`, 1, MOST_THREADS),
    symbols: integer(symbols, `${what}.symbols`, 0, MOST_SYMBOLS),
    member,
  };
}
