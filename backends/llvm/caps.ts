import { availableParallelism } from "node:os";
import type { Caps } from "../../compiler/backend.ts";
import { NO_REQUIREMENTS } from "../../compiler/backend.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import type { Target } from "../../ffi/libllvm.ts";
import { loadLlvm } from "../../ffi/libllvm.ts";
import { fmaUnit } from "./units.ts";

/**
 * An instruction-set level. Code is made for the level, not for the machine it was made on, so that the same kernels run on every machine of the
 * level and the caches can be shared; tuning for the very model bought nothing measurable.
 */
export interface Level {
  readonly name: string;
  readonly architecture: "x64" | "arm64";
  readonly cpu: string;
  readonly features: string;
  /** Features that the host must have to run this level, as LLVM names them. */
  readonly needs: readonly string[];
  readonly lanes: number;
  /** Register tile of the micro-kernel: rows x vectors. */
  readonly block: readonly [number, number];
  /** Fused multiply-add; without it `llvm.fma` would be a call into the C library. */
  readonly fma: boolean;
  /** Conversion between f16 and f32 as an instruction. */
  readonly half: boolean;
  /** Rounding to integers as an instruction. */
  readonly round: boolean;
  /** Loads and stores of any element size under a mask as cheap as plain ones; otherwise whole vectors branch around them. */
  readonly masks: boolean;
}

/**
 * Best first. Register tiles, measured on Zen 4 (share of the FMA peak with f32 / bf16 panels): AVX-512 6x4 97 % / 95 %, 8x3 97 % / 95 %,
 * 12x2 96 % / 87 %, 14x2 spills with some versions of LLVM. 6x4 it is, since wide panels also stream best with one row (GEMV) and a left operand
 * that was staged serves more columns. AVX2 has 16 registers: 6x2 = 12 accumulators, 2 columns, 1 broadcast.
 */
export const LEVELS: readonly Level[] = [
  {
    name: "x86-64-avx512",
    architecture: "x64",
    cpu: "x86-64-v4",
    features: "",
    needs: ["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "fma", "f16c", "bmi2"],
    lanes: 16,
    block: [6, 4],
    fma: true,
    half: true,
    round: true,
    masks: true,
  },
  {
    name: "x86-64-avx2",
    architecture: "x64",
    cpu: "x86-64-v3",
    features: "",
    needs: ["avx2", "fma", "f16c", "bmi2"],
    lanes: 8,
    block: [6, 2],
    fma: true,
    half: true,
    round: true,
    masks: false,
  },
  {
    name: "x86-64",
    architecture: "x64",
    cpu: "x86-64",
    features: "",
    needs: [],
    lanes: 4,
    block: [4, 2],
    fma: false,
    half: false,
    round: false,
    masks: false,
  },
  {
    name: "aarch64",
    architecture: "arm64",
    cpu: "generic",
    features: "",
    needs: [],
    lanes: 4,
    block: [6, 4],
    fma: true,
    half: true,
    round: true,
    masks: false,
  },
];

const DTYPES: ReadonlySet<DType> = new Set<DType>(["f32", "f16", "bf16", "i32", "bool"]);

export function levelOf(caps: Pick<Caps, "name">): Level {
  const level = LEVELS.find(({ name }) => name === caps.name);
  if (!level) throw new Error(`no CPU level is called ${caps.name}; there are: ${LEVELS.map(({ name }) => name).join(", ")}`);
  return level;
}

/** What LLVM generates code for at this level. */
export function targetOf(level: Level): Target {
  // The host's own spelling where it is the host's architecture: it carries the operating system's object format.
  const triple =
    level.architecture === process.arch
      ? loadLlvm().host.triple
      : level.architecture === "x64"
        ? "x86_64-unknown-linux-gnu"
        : "aarch64-unknown-linux-gnu";
  return { triple, cpu: level.cpu, features: level.features };
}

/** Whether this machine runs code of the level. */
export function runsOnHost(level: Level): boolean {
  if (level.architecture !== process.arch) return false;
  const features = new Set(loadLlvm().host.features.split(","));
  return level.needs.every((feature) => features.has(`+${feature}`));
}

/** The best level of this machine, or the lower one that the environment variable CULM_CPU asks for. */
export function hostLevel(): Level {
  const forced = process.env["CULM_CPU"];
  if (forced !== undefined && forced !== "" && forced !== "host") {
    const level = levelOf({ name: forced });
    if (!runsOnHost(level)) throw new Error(`CULM_CPU=${forced}: this machine cannot run it`);
    return level;
  }
  const level = LEVELS.find(runsOnHost);
  if (!level) throw new Error(`the CPU backend has no code generator for ${process.arch}`);
  return level;
}

/** Workers of the thread pool: one for each processor this process may use, or as many as CULM_THREADS says. */
export function hostWorkers(): number {
  const asked = Number(process.env["CULM_THREADS"]);
  return Number.isInteger(asked) && asked > 0 ? asked : availableParallelism();
}

/** Scratch memory that a block may ask for: what stays in the second-level cache of the CPUs of today, with room to spare. */
const SCRATCH = 1.5 * 1024 * 1024;

/** Capabilities of "host" or of a named level. */
export function caps(device: string): Caps {
  const level = device === "host" ? hostLevel() : levelOf({ name: device });
  return {
    name: level.name,
    dtypes: DTYPES,
    lanes: level.lanes,
    maxThreads: level.lanes,
    sharedBytes: SCRATCH,
    vectorBytes: 1,
    asyncCopy: false,
    indexableRegisters: true,
    directOperands: true,
    arena: "one",
    maxBuffers: Infinity,
    requires: NO_REQUIREMENTS,
    panel: level.lanes * level.block[1],
    units: [fmaUnit(level.lanes, level.block)],
    workers: hostWorkers(),
  };
}
