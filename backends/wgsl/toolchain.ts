import type { Source, Toolchain } from "../../compiler/backend.ts";
import { windowBytes } from "./caps.ts";

/** Grows when sources of the same text would be laid out differently in kernels.bin. */
const VERSION = 1;

/** Packs sources for the driver, which compiles them on the device: one JSON document (runtime/drivers/webgpu reads it). */
export const toolchain: Toolchain = {
  version: (caps) => `wgsl ${VERSION} ${caps.name}`,
  compile: (sources, caps) =>
    Promise.resolve(
      new TextEncoder().encode(
        JSON.stringify({ format: "culm-wgsl", version: VERSION, windowBytes: windowBytes(caps), kernels: distinct(sources).map(kernelOf) }),
      ),
    ),
};

const distinct = (sources: readonly Source[]): Source[] => [...new Map(sources.map((s) => [s.entry, s])).values()];

function kernelOf(s: Source): object {
  if (s.language !== "wgsl" || !s.params || !s.launch) throw new Error(`${s.entry} is ${s.language} source; this toolchain packs WGSL`);
  return { entry: s.entry, source: s.text, threads: s.launch.threads, params: s.params, symbols: s.launch.symbols };
}
