import type { Caps } from "../../compiler/backend.ts";
import { DTYPES } from "../../compiler/ir/dtype.ts";
import type { MatrixUnit } from "../../compiler/backend.ts";
import { fmaTile, mma1688, mma16816, wgmma64 } from "../units.ts";

interface Architecture {
  /** Multiprocessors of a usual device. */
  readonly multiprocessors: number;
  /** KiB of shared memory that one block can have: what a multiprocessor has, less one for the system. */
  readonly shared: number;
  /** Hardware for matrices that no later architecture has: kernels that use it run on devices of this very compute capability alone. */
  readonly own?: readonly MatrixUnit[];
}

/** Architectures that kernels are made for, by compute capability. */
const ARCHITECTURES: ReadonlyMap<number, Architecture> = new Map([
  [80, { multiprocessors: 108, shared: 163 }],
  [86, { multiprocessors: 84, shared: 99 }],
  [89, { multiprocessors: 128, shared: 99 }],
  [90, { multiprocessors: 132, shared: 227, own: [wgmma64] }],
  [100, { multiprocessors: 148, shared: 227 }],
  [120, { multiprocessors: 170, shared: 99 }],
]);

/** A target: an architecture, and how many multiprocessors grids are to fill. */
export interface Target {
  /** Ten times the major version plus the minor one. */
  readonly computeCapability: number;
  readonly multiprocessors: number;
  /** Whether kernels may use what this architecture alone has; its name then ends in an a, as NVIDIA's compilers call it. */
  readonly own: boolean;
  /** Whether products of f32 may be the hardware's, which rounds their operands to tf32; its name then ends in -tf32. Nobody gets that without asking. */
  readonly tf32: boolean;
}

/**
 * Compute capabilities whose devices are given the kernels for their very architecture without being asked (`--target cuda:sm_90` asks for the others): those that have
 * run on one, and were faster. On an H200 products of 128 rows and more are, by up to 1.8 times (docs/benchmarks.md).
 */
const PREFERS_OWN: ReadonlySet<number> = new Set([90]);

const NAME = /^sm_(\d+)(a?)(?:x(\d+))?(-tf32)?$/;

/** The target a name stands for. Throws when it is not a name of one, listing the known ones. */
export function parseTarget(name: string): Target {
  if (name === "host")
    throw new Error(
      `cuda backend: a kernel is compiled for an architecture, which only the driver knows of this machine's device; name one of ${known()}`,
    );
  const found = NAME.exec(name);
  const computeCapability = Number(found?.[1]);
  const architecture = ARCHITECTURES.get(computeCapability);
  const own = found?.[2] === "a";
  const multiprocessors = found?.[3] === undefined ? architecture?.multiprocessors : Number(found[3]);
  if (architecture === undefined || multiprocessors === undefined || multiprocessors < 1 || (own && !architecture.own))
    throw new Error(
      `cuda backend: there is no target "${name}"; the targets are ${known()}, each with xN after it for a device of N multiprocessors (sm_90x78), and with -tf32 at the end for products of f32 whose operands are rounded to tf32 (sm_90a-tf32)`,
    );
  return { computeCapability, multiprocessors, own, tf32: found?.[4] !== undefined };
}

const known = (): string => [...ARCHITECTURES].flatMap(([cc, { own }]) => [`sm_${cc}`, ...(own ? [`sm_${cc}a`] : [])]).join(", ");

/** What compilers call the architecture. */
export const architectureOf = ({ name }: Pick<Caps, "name">): string => name.replace(/(x\d+)?(-tf32)?$/, "");

const nameOf = ({ computeCapability: cc, multiprocessors: n, own, tf32 }: Target): string =>
  `sm_${cc}${own ? "a" : ""}${n === ARCHITECTURES.get(cc)!.multiprocessors ? "" : `x${n}`}${tf32 ? "-tf32" : ""}`;

/** Capabilities of a target, by name. */
export function caps(device: string): Caps {
  const target = parseTarget(device);
  const own = target.own ? (ARCHITECTURES.get(target.computeCapability)!.own ?? []) : [];
  return {
    name: nameOf(target),
    dtypes: new Set(DTYPES),
    lanes: 32,
    maxThreads: 1024,
    sharedBytes: ARCHITECTURES.get(target.computeCapability)!.shared * 1024,
    vectorBytes: 16,
    asyncCopy: true,
    // registers have no numbers at run time: loops over them are written out by the compiler
    indexableRegisters: false,
    directOperands: false,
    panel: 0,
    // f32 products by the lanes, which keep all digits, unless asked otherwise; 16-bit weights by the hardware for matrices
    units: [...(target.tf32 ? [mma1688] : []), ...[8, 4, 2, 1].map((edge) => fmaTile(32, edge, edge)), mma16816, ...own],
    // operands of 32 bits take twice the registers of halves: with 160 sums beside them a scan spilled on 8.0
    ...(target.tf32 ? { accumulators: 128 } : {}),
    arena: "one",
    // what a kernel's parameters may take is 4 KiB
    maxBuffers: 256,
    // a cubin runs on devices of the same major version, and of the same or a higher minor one; what one architecture alone has, on no other
    requires: {
      features: [`compute-${Math.floor(target.computeCapability / 10)}`, ...(target.own ? [architectureOf({ name: device })] : [])],
      limits: { computeCapability: target.computeCapability },
      subgroup: null,
    },
    workers: target.multiprocessors,
  };
}

/** Whether the architecture can start a kernel before the one in front of it has ended (programmatic dependent launch). */
export const launchesEarly = (c: Caps): boolean => parseTarget(c.name).computeCapability >= 90;

/** What a driver says of a device. */
export interface DeviceFacts {
  /** Ten times the major version plus the minor one. */
  readonly computeCapability: number;
  readonly multiprocessors: number;
}

/** Names of the targets that a device can run, best first; none where it is older than all that kernels are made for. */
export function capsFor(device: DeviceFacts): readonly string[] {
  const { computeCapability: cc, multiprocessors } = device;
  const names = [...ARCHITECTURES.keys()]
    .filter((of) => Math.floor(of / 10) === Math.floor(cc / 10) && of <= cc)
    .sort((a, b) => b - a)
    .map((computeCapability) => nameOf({ computeCapability, multiprocessors, own: false, tf32: false }));
  const own = ARCHITECTURES.get(cc)?.own ? [nameOf({ computeCapability: cc, multiprocessors, own: true, tf32: false })] : [];
  return PREFERS_OWN.has(cc) ? [...own, ...names] : [...names, ...own];
}
