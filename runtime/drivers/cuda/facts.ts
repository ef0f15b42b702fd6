import type { Requirements } from "../../../compiler/artifact.ts";
import type { Cuda } from "../../../ffi/cuda.ts";
import { ATTRIBUTE } from "../../../ffi/cuda.ts";
import { UserError } from "../../errors.ts";

/** What a GPU is, as plain data: what to compile for. */
export interface CudaFacts {
  /** For people: "NVIDIA H200". */
  readonly name: string;
  readonly index: number;
  /** 90 is 9.0. */
  readonly computeCapability: number;
  readonly multiprocessors: number;
  /** The most shared memory that a block may have. */
  readonly sharedBytes: number;
  readonly totalBytes: number;
  readonly maxGrid: readonly [y: number, z: number];
  /** CUDA version of the driver: 13000 is 13.0. */
  readonly driverVersion: number;
}

/** What kernels are compiled for at the least: asynchronous copies and products of bf16 came with it. */
const OLDEST_CAPABILITY = 80;

/** "sm_90", as compilers call it. */
export const architecture = (computeCapability: number): string => `sm_${computeCapability}`;

const capabilityText = (computeCapability: number): string => `${Math.floor(computeCapability / 10)}.${computeCapability % 10}`;

/** @throws UserError when there is no GPU of that number, or it is too old. */
export function factsOf(cuda: Cuda, index = 0): CudaFacts {
  const count = cuda.deviceCount();
  if (count === 0)
    throw new UserError("the CUDA driver finds no NVIDIA GPU", { hint: "look with nvidia-smi; CUDA_VISIBLE_DEVICES may hide it" });
  if (!Number.isInteger(index) || index < 0 || index >= count)
    throw new UserError(`there is no GPU ${index}: the CUDA driver numbers its GPUs from 0 to ${count - 1}`);
  const attribute = (which: keyof typeof ATTRIBUTE): number => cuda.attribute(index, ATTRIBUTE[which]);
  const facts: CudaFacts = {
    name: cuda.deviceName(index),
    index,
    computeCapability: 10 * attribute("major") + attribute("minor"),
    multiprocessors: attribute("multiprocessors"),
    sharedBytes: attribute("sharedBytes"),
    totalBytes: cuda.totalBytes(index),
    maxGrid: [attribute("maxGridY"), attribute("maxGridZ")],
    driverVersion: cuda.version,
  };
  if (facts.computeCapability < OLDEST_CAPABILITY)
    throw new UserError(
      `${facts.name} has compute capability ${capabilityText(facts.computeCapability)}, culm's CUDA kernels need ${capabilityText(OLDEST_CAPABILITY)} (Ampere) or later`,
      { hint: "use another GPU, --backend webgpu, or --backend llvm" },
    );
  return facts;
}

/** What a GPU lacks of what is required, one phrase each with the numbers; empty where it has all. */
export function shortfalls({ computeCapability }: CudaFacts, { features, limits, subgroup }: Requirements): readonly string[] {
  const missing: string[] = [];
  const major = Math.floor(computeCapability / 10);
  const here = `compute capability ${capabilityText(computeCapability)}`;
  for (const feature of features) {
    // What one architecture alone has runs on no other, not even a later one of its major version.
    const alone = /^sm_(\d+)a$/.exec(feature)?.[1];
    if (alone !== undefined) {
      if (Number(alone) !== computeCapability) missing.push(`${here} (the kernels are for ${capabilityText(Number(alone))} alone)`);
      continue;
    }
    // Machine code runs on later GPUs of one major version, and on no others.
    const wanted = /^compute-(\d+)$/.exec(feature)?.[1];
    if (wanted === undefined) missing.push(`no feature ${feature}`);
    else if (Number(wanted) !== major) missing.push(`${here} (the kernels are for ${wanted}.x)`);
  }
  for (const [name, wanted] of Object.entries(limits)) {
    if (name !== "computeCapability") missing.push(`no limit ${name} (wanted ${wanted})`);
    else if (computeCapability < wanted) missing.push(`${here} (wanted ${capabilityText(wanted)})`);
  }
  if (subgroup !== null && subgroup !== 32) missing.push(`warps of 32 lanes (wanted ${subgroup})`);
  return missing;
}
