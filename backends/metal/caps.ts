import type { Caps } from "../../compiler/backend.ts";
import { DTYPES } from "../../compiler/ir/dtype.ts";
import { fmaTile } from "../units.ts";
import { EXCHANGE_BYTES, simdgroupMatrix } from "./units.ts";

/** A generation of Apple's GPUs. */
interface Generation {
  /** Metal's name of what all of its GPUs can do (MTLGPUFamily). */
  readonly family: string;
  /** The language that its kernels are written in: 3.0 is what every system with Metal 3 takes, from 3.1 on there is `bfloat`. */
  readonly language: "3.0" | "3.1";
  /** Cores of the smallest chip. */
  readonly cores: number;
}

/**
 * The tensor operations that came with the M5 are no row here: there is nothing to check them with, and on older chips they are no faster than simdgroup matrices.
 */
const GENERATIONS: ReadonlyMap<string, Generation> = new Map([
  ["m1", { family: "Apple7", language: "3.0", cores: 8 }],
  ["m3", { family: "Apple9", language: "3.1", cores: 10 }],
  ["m4", { family: "Apple9", language: "3.1", cores: 10 }],
  ["m5", { family: "Apple10", language: "3.1", cores: 10 }],
]);

/** A target: a generation, and how many cores grids are to fill. */
export interface Target {
  readonly generation: string;
  readonly language: Generation["language"];
  readonly family: string;
  readonly cores: number;
  /** Whether the language has a type for bf16; otherwise kernels take its bits apart. */
  readonly bfloat: boolean;
}

const NAME = /^(m\d+)(?:x(\d+))?$/;

/** The target a name stands for; "host" is the first. Throws when it is not a name of one, listing the known ones. */
export function parseTarget(name: string): Target {
  const [, generation = name, count] = NAME.exec(name === "host" ? "m1" : name) ?? [];
  const found = GENERATIONS.get(generation);
  const cores = count === undefined ? found?.cores : Number(count);
  if (found === undefined || cores === undefined || cores < 1)
    throw new Error(
      `metal backend: there is no target "${name}"; the targets are ${[...GENERATIONS.keys()].join(", ")}, each with xN after it for a chip of N cores (m4x40)`,
    );
  return { generation, language: found.language, family: found.family, cores, bfloat: found.language !== "3.0" };
}

const nameOf = ({ generation, cores }: Target): string => `${generation}${cores === GENERATIONS.get(generation)!.cores ? "" : `x${cores}`}`;

/** Threads of a block: what every kernel's registers leave room for. */
const MOST_THREADS = 256;
const LANES = 32;

/** Bytes of memory that a threadgroup can have. */
export const THREADGROUP_BYTES = 32 * 1024;

/** Capabilities of a target, by name. */
export function caps(device: string): Caps {
  const target = parseTarget(device);
  return {
    name: nameOf(target),
    dtypes: new Set(DTYPES),
    lanes: LANES,
    maxThreads: MOST_THREADS,
    // without what each simdgroup needs to get matrices into registers
    sharedBytes: THREADGROUP_BYTES - (MOST_THREADS / LANES) * EXCHANGE_BYTES,
    vectorBytes: 16,
    asyncCopy: false,
    indexableRegisters: false,
    directOperands: true,
    panel: 0,
    // f32 keeps all digits and is as fast as the others; those read weights where they lie
    units: [simdgroupMatrix("f32"), simdgroupMatrix("f16"), ...(target.bfloat ? [simdgroupMatrix("bf16")] : []), fmaTile(LANES, 1, 1)],
    // 128 registers of 32 bits; what kernels that are known to be fast keep sums in is a quarter of them
    accumulators: 32,
    arena: "one",
    // 31 entries of the table of arguments, the last of them for the symbols
    maxBuffers: 30,
    requires: { features: [target.family, `MSL ${target.language}`], limits: {}, subgroup: LANES },
    workers: target.cores,
  };
}
