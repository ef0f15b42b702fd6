import { nullBackend } from "../../backends/null/index.ts";
import type { Backend, Caps } from "../../compiler/backend.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { emulateThread, printFinding } from "../../compiler/run/thread.ts";
import type { HostArray } from "../../compiler/run/tile.ts";
import { metalBackend } from "../../backends/metal/index.ts";
import { runOnStandin } from "../support/metal/program.ts";
import { llvmBackend } from "../../backends/llvm/index.ts";
import { hostLevels, runNative } from "../support/native.ts";
import { lavapipe } from "../support/webgpu.ts";
import { manyBuffers, openDevice, Runner } from "../support/wgsl-run.ts";
import { wgslBackend } from "../../backends/wgsl/index.ts";
import { COARSE } from "./coarse.ts";

/** Runs a placed program on host memory and leaves its results there; throws with what it found wrong. */
export type RunProgram = (
  program: ThreadProgram,
  caps: Caps,
  buffers: Readonly<Record<string, HostArray>>,
  symbols: Readonly<Record<string, number>>,
) => void | Promise<void>;

/** A backend under test. Everything in suite.ts runs on it. */
export interface Target {
  readonly caps: Caps;
  readonly run: RunProgram;
  /** Share of the usual number of random cases: an emulated GPU is slow. */
  readonly share: number;
  /** Least tolerance, of values of order 1, where a matrix unit rounds operands (coarse.ts). */
  readonly coarse: number;
  /** The largest products that stream; those of an emulated GPU unless given. */
  readonly products?: { readonly rows: number; readonly columns: number };
}

const coarseOf = ([unit]: Caps["units"]): number =>
  !unit!.inputs.includes("f32") ? COARSE.half : unit!.fraction === undefined ? 0 : COARSE.tf32;

/** The target with the units that compute in f32. */
const exactly = (caps: Caps): Caps => ({ ...caps, units: caps.units.filter(({ inputs }) => inputs.includes("f32")) });

const emulated: RunProgram = (program, caps, buffers, symbols) => {
  const found = emulateThread(program, caps, buffers, symbols);
  if (found.length > 0) throw new Error(`${program.name}:\n${found.slice(0, 5).map(printFinding).join("\n")}`);
};
const on = (backend: Backend, device: string, run: RunProgram, share: number): Target => {
  const caps = backend.caps(device);
  return { caps, run, share, coarse: coarseOf(caps.units) };
};

/** The synthetic targets, in the emulator. */
export const nullTargets: readonly Target[] = (
  [
    ["null-32", 0.5],
    ["null-tf32", 0.2],
    ["null-simd8", 0.5],
    ["null-cpu8", 0.5],
  ] as const
).map(([device, share]) => on(nullBackend, device, emulated, share));
/** Native code at every vector width that this machine runs. */
export const llvmTargets: readonly Target[] = hostLevels.map((level) => on(llvmBackend, level, runNative, 1));

/** WGSL on a device, in lanes that talk through workgroup memory and in subgroups. A driver for CPUs takes a tenth of a second for each new kernel. */
export const wgslTargets: readonly Target[] = ["base", "base-sg8-f16"].map((device) => {
  const caps = manyBuffers(wgslBackend.caps(device));
  let runner: Promise<Runner> | null = null;
  const run: RunProgram = async (program, _, buffers, symbols) => {
    runner ??= openDevice(lavapipe(), caps).then((d) => new Runner(d, caps));
    await (await runner).run(program, buffers, symbols);
  };
  return { caps, run, share: 0.05, coarse: 0 };
});

/**
 * MSL on the stand-in, whose builds take a second for each new kernel: with the matrices of f32 alone, to the last digits, and with all, which round a product's other
 * operand to the type of its weights.
 */
export const metalTargets: readonly Target[] = [
  { ...on(metalBackend, "m1", runOnStandin, 0.08), caps: exactly(metalBackend.caps("m1")) },
  { ...on(metalBackend, "m4", runOnStandin, 0.08), coarse: COARSE.half },
];
