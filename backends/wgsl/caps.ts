import type { Caps, MatrixUnit, Requirements } from "../../compiler/backend.ts";
import { DTYPES } from "../../compiler/ir/dtype.ts";
import { fmaTile } from "../units.ts";
import { subgroupMatrix } from "./units.ts";

/**
 * What a WGSL target is made of. Its name is `<limits>[-sg<N>][-f16][-mat]`: "base" is what every WebGPU adapter offers, "large" asks for more;
 * sgN: subgroups of exactly N lanes; f16: half precision in shaders; mat: subgroup matrices (experimental in Dawn).
 */
export interface Target {
  readonly limits: keyof typeof LIMITS;
  /** Lanes of a subgroup; null: lanes talk to each other through workgroup memory. */
  readonly subgroup: number | null;
  readonly f16: boolean;
  readonly matrix: boolean;
}

const MiB = 1024 * 1024;

/** Limits by WebGPU's names. "base": the defaults, which every adapter has. "large": what desktop GPUs of the last ten years have. */
const LIMITS = {
  base: {
    maxStorageBufferBindingSize: 128 * MiB,
    maxBufferSize: 128 * MiB,
    maxStorageBuffersPerShaderStage: 8,
    maxComputeInvocationsPerWorkgroup: 256,
    maxComputeWorkgroupSizeX: 256,
    maxComputeWorkgroupStorageSize: 16 * 1024,
  },
  large: {
    maxStorageBufferBindingSize: 1024 * MiB,
    maxBufferSize: 1024 * MiB,
    maxStorageBuffersPerShaderStage: 8,
    maxComputeInvocationsPerWorkgroup: 256,
    maxComputeWorkgroupSizeX: 256,
    maxComputeWorkgroupStorageSize: 32 * 1024,
  },
} as const satisfies Record<string, Requirements["limits"]>;

const SUBGROUPS = [32, 64, 16, 8, 4] as const;

/** Lanes of a warp where the device does not say how wide its subgroups are. */
const LANES = 32;

/** Workgroup memory that is kept for what lanes tell each other where there are no subgroups: a word for each thread of four reductions. */
export const EXCHANGE_BYTES = 4096;

const MATRIX_FEATURE = "chromium-experimental-subgroup-matrix";

const NAME = /^(base|large)(?:-sg(4|8|16|32|64))?(-f16)?(-mat)?$/;

/** The target a name stands for. Throws when it is not a name of one. */
export function parseTarget(name: string): Target {
  const found = NAME.exec(name);
  if (!found)
    throw new Error(
      `wgsl backend: there is no target "${name}"; a name is base or large, then -sg4, -sg8, -sg16, -sg32 or -sg64 for subgroups, -f16 and -mat, in this order (base, large-sg32-f16)`,
    );
  const target: Target = {
    limits: found[1] as Target["limits"],
    subgroup: found[2] === undefined ? null : Number(found[2]),
    f16: found[3] !== undefined,
    matrix: found[4] !== undefined,
  };
  if (target.matrix && (target.subgroup === null || !target.f16))
    throw new Error(`wgsl backend: target "${name}" has subgroup matrices, which need subgroups and f16 (large-sg32-f16-mat)`);
  return target;
}

const nameOf = (t: Target): string =>
  `${t.limits}${t.subgroup === null ? "" : `-sg${t.subgroup}`}${t.f16 ? "-f16" : ""}${t.matrix ? "-mat" : ""}`;

const requirementsOf = (t: Target): Requirements => ({
  features: [...(t.subgroup === null ? [] : ["subgroups"]), ...(t.f16 ? ["shader-f16"] : []), ...(t.matrix ? [MATRIX_FEATURE] : [])],
  limits: LIMITS[t.limits],
  subgroup: t.subgroup,
});

/** Blocks that a device runs at the same time. WebGPU does not tell how many cores there are; with this many, integrated GPUs and large ones are kept busy alike. */
const WORKERS = 128;

/** Capabilities of a target, by name; "host" is the one that runs on every adapter. */
export function caps(device: string): Caps {
  const target = parseTarget(device === "host" ? "base" : device);
  const lanes = target.subgroup ?? LANES;
  const shared = LIMITS[target.limits].maxComputeWorkgroupStorageSize;
  return {
    name: nameOf(target),
    dtypes: new Set(DTYPES),
    lanes,
    maxThreads: LIMITS[target.limits].maxComputeInvocationsPerWorkgroup,
    sharedBytes: target.subgroup === null ? shared - EXCHANGE_BYTES : shared,
    vectorBytes: 16,
    asyncCopy: false,
    // narrow subgroups are those of CPUs, which keep arrays in memory and take seconds to compile loops that are written out
    indexableRegisters: lanes < 16,
    directOperands: false,
    panel: 0,
    units: target.matrix ? [...unitsOf(lanes), subgroupMatrix(lanes)] : unitsOf(lanes),
    arena: "buffers",
    maxBuffers: LIMITS[target.limits].maxStorageBuffersPerShaderStage,
    requires: requirementsOf(target),
    workers: WORKERS,
  };
}

/** Units of several sizes: the larger, the fewer operands are read for each product. A CPU reads them from its cache, and its compiler wants short kernels. */
const unitsOf = (lanes: number): readonly MatrixUnit[] => (lanes < 16 ? [2, 1] : [8, 4, 2, 1]).map((edge) => fmaTile(lanes, edge, edge));

/** Bytes of a buffer that one binding covers; a longer one is bound in several windows. */
export function windowBytes(caps: Caps): number {
  const bytes = caps.requires.limits["maxStorageBufferBindingSize"];
  if (bytes === undefined) throw new Error(`${caps.name} does not say how much of a buffer can be bound`);
  return bytes;
}

/** What an adapter says of itself (GPUAdapter), as plain data. */
export interface AdapterFacts {
  readonly features: Iterable<string>;
  readonly limits: Readonly<Record<string, number>>;
  /** Of GPUAdapterInfo; undefined without subgroups. */
  readonly subgroupMinSize?: number | undefined;
  readonly subgroupMaxSize?: number | undefined;
  /** Whether the adapter lists a subgroup matrix configuration that the backend has a unit for. */
  readonly matrix?: boolean | undefined;
}

/** Names of the targets that an adapter can run, best first; none when it does not even offer WebGPU's default limits. */
export function capsFor(adapter: AdapterFacts): readonly string[] {
  const features = new Set(adapter.features);
  const { subgroupMinSize: least, subgroupMaxSize: most } = adapter;
  const runs = (t: Target): boolean => {
    const needs = requirementsOf(t);
    return (
      needs.features.every((f) => features.has(f)) &&
      Object.entries(needs.limits).every(([name, value]) => (adapter.limits[name] ?? 0) >= value) &&
      // a kernel relies on every subgroup having this size
      (needs.subgroup === null || (least === needs.subgroup && most === needs.subgroup)) &&
      (!t.matrix || adapter.matrix === true)
    );
  };
  const targets: Target[] = [];
  for (const limits of ["large", "base"] as const)
    for (const subgroup of [...SUBGROUPS, null])
      for (const f16 of [true, false])
        for (const matrix of f16 && subgroup !== null ? [true, false] : [false]) targets.push({ limits, subgroup, f16, matrix });
  return targets.filter(runs).map(nameOf);
}
