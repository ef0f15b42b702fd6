import type { Source, Toolchain } from "../../compiler/backend.ts";
import type { Bindings } from "./bindings.ts";
import type { MetalSource } from "./print.ts";

/** Grows when sources of the same text would be laid out differently in kernels.bin. */
const VERSION = 1;

/** A kernel in kernels.bin. */
export interface MetalKernel {
  readonly entry: string;
  /** A whole file with one kernel. */
  readonly source: string;
  readonly threads: number;
  readonly bindings: Bindings;
}

interface KernelsFile {
  readonly format: "culm-metal";
  readonly version: typeof VERSION;
  readonly kernels: readonly MetalKernel[];
}

/** Packs sources for whoever runs them, since Metal compiles on the device: one JSON document. */
export const toolchain: Toolchain = {
  version: (caps) => `metal ${VERSION} ${caps.name}`,
  compile: (sources) => {
    const file: KernelsFile = { format: "culm-metal", version: VERSION, kernels: distinct(sources).map(kernelOf) };
    return Promise.resolve(new TextEncoder().encode(JSON.stringify(file)));
  },
};

/** The kernels of a kernels.bin that `toolchain` made. */
export const parseKernels = (binary: Uint8Array): readonly MetalKernel[] => {
  const file = JSON.parse(new TextDecoder().decode(binary)) as KernelsFile;
  if ((file.format as string) !== "culm-metal" || (file.version as number) !== VERSION)
    throw new Error(`kernels.bin: ${file.format} of version ${file.version} is not culm-metal of version ${VERSION}`);
  return file.kernels;
};

const distinct = (sources: readonly Source[]): Source[] => [...new Map(sources.map((s) => [s.entry, s])).values()];

function kernelOf(s: Source): MetalKernel {
  if (s.language !== "metal" || !s.launch) throw new Error(`${s.entry} is ${s.language} source; this toolchain packs Metal's`);
  return { entry: s.entry, source: s.text, threads: s.launch.threads, bindings: (s as MetalSource).bindings };
}
