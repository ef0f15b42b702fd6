import type { Source, Toolchain } from "../../compiler/backend.ts";

/** Grows when sources of the same text would be laid out differently in kernels.bin. */
const VERSION = 1;

/** Packs sources for whoever runs them, since Metal compiles on the device: one JSON document. */
export const toolchain: Toolchain = {
  version: (caps) => `metal ${VERSION} ${caps.name}`,
  compile: (sources) =>
    Promise.resolve(
      new TextEncoder().encode(JSON.stringify({ format: "culm-metal", version: VERSION, kernels: distinct(sources).map(kernelOf) })),
    ),
};

const distinct = (sources: readonly Source[]): Source[] => [...new Map(sources.map((s) => [s.entry, s])).values()];

function kernelOf(s: Source): object {
  if (s.language !== "metal" || !s.launch) throw new Error(`${s.entry} is ${s.language} source; this toolchain packs Metal's`);
  return { entry: s.entry, source: s.text, threads: s.launch.threads, symbols: s.launch.symbols };
}
