import { writeCubins } from "../../../ffi/cubins.ts";
import { loadNvrtc } from "../../../ffi/libnvrtc.ts";
import type { Device, KernelModule, Slice, StepList } from "../../driver.ts";
import type { CudaFacts } from "./facts.ts";
import { architecture } from "./facts.ts";

/** Compiles CUDA C++ text, given without headers, to a cubin. */
export type CompileCuda = (text: string, name: string, options: readonly string[]) => Promise<{ readonly binary: Uint8Array }>;

export const compileWithNvrtc: CompileCuda = (text, name, options) => loadNvrtc().compileInBackground(text, name, options);

/** Threads of a block of every kernel that the driver brings along. */
export const OWN_THREADS = 256;

/** Kernels of the driver's own, which no artifact brings: for measuring a device, and for filling its memory. */
export interface OwnKernels {
  /** A list of one step. @param symbols values of the kernel's symbols */
  step(entry: string, blocks: number, args: readonly Slice[], symbols?: Int32Array): StepList;
  free(): void;
}

/**
 * Compiles and loads them.
 * @param entries names of the text's kernels, and how many symbols each takes
 */
export async function loadOwnKernels(
  device: Device & { readonly facts: CudaFacts },
  text: string,
  entries: Readonly<Record<string, number>>,
  compile: CompileCuda = compileWithNvrtc,
): Promise<OwnKernels> {
  const { computeCapability } = device.facts;
  const { binary } = await compile(text, "culm", [`--gpu-architecture=${architecture(computeCapability)}`]);
  const member = "culm.cubin";
  const kernels = Object.entries(entries).map(([entry, symbols]) => ({ entry, threads: OWN_THREADS, symbols, member }));
  const module: KernelModule = await device.load(writeCubins({ computeCapability, kernels, members: [{ name: member, data: binary }] }));
  return {
    step(entry, blocks, args, symbols = new Int32Array(0)) {
      const names = Array.from(symbols, (_, i) => `s${i}`);
      const list = device.prepare([{ kernel: module.kernel(entry), args, symbols: names, sharedBytes: 0 }], names);
      list.grids.set([blocks, 1, 1]);
      list.symbols.set(symbols);
      return list;
    },
    free: () => module.free(),
  };
}
