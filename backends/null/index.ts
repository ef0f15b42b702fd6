import type { Backend, Caps } from "../../compiler/backend.ts";
import { NO_REQUIREMENTS } from "../../compiler/backend.ts";
import { BYTES, DTYPES } from "../../compiler/ir/dtype.ts";
import { printThread } from "../../compiler/ir/thread-text.ts";
import { mma1688, mma16816, wgmma64 } from "../units.ts";
import { fma4x8, fma8, simdgroup8 } from "./units.ts";

const gpu = {
  dtypes: new Set(DTYPES),
  lanes: 32,
  maxThreads: 1024,
  sharedBytes: 48 * 1024,
  vectorBytes: 16,
  asyncCopy: true,
  indexableRegisters: false,
  directOperands: false,
  arena: "one",
  maxBuffers: Infinity,
  requires: NO_REQUIREMENTS,
  panel: 0,
  workers: 4,
} as const satisfies Omit<Caps, "name" | "units">;

const devices: readonly Caps[] = [
  { ...gpu, name: "null-32", units: [mma16816, fma4x8] },
  { ...gpu, name: "null-tf32", units: [mma1688, fma4x8] },
  { ...gpu, name: "null-simd8", units: [simdgroup8] },
  { ...gpu, name: "null-groups", units: [fma4x8, wgmma64] },
  {
    name: "null-cpu8",
    dtypes: new Set(DTYPES),
    lanes: 8,
    maxThreads: 8,
    sharedBytes: 256 * 1024,
    vectorBytes: 4,
    asyncCopy: false,
    indexableRegisters: true,
    directOperands: true,
    arena: "one",
    maxBuffers: Infinity,
    requires: NO_REQUIREMENTS,
    panel: 16,
    units: [fma8],
    workers: 2,
  },
];

/** Targets that exist only as data: GPUs with different matrix units, of one warp and of several together, and a CPU. Their programs run in the emulator (compiler/run/thread.ts). */
export const nullBackend: Backend = {
  name: "null",
  caps(device) {
    const name = device === "host" ? "null-32" : device;
    const caps = devices.find((c) => c.name === name);
    if (!caps) throw new Error(`null backend: there is no device ${device}; the devices are ${devices.map((c) => c.name).join(", ")}`);
    return caps;
  },
  print: (program) => ({
    language: "none",
    text: printThread(program),
    entry: program.name,
    sharedBytes: program.shared.reduce((n, d) => n + d.count * BYTES[d.dtype], 0),
  }),
  toolchain: null,
};
