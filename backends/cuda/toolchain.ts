import { randomUUID } from "node:crypto";
import type { Caps, Source, Toolchain } from "../../compiler/backend.ts";
import { writeCubins } from "../../ffi/cubins.ts";
import type { Nvrtc } from "../../ffi/libnvrtc.ts";
import { loadNvrtc } from "../../ffi/libnvrtc.ts";
import { makeAll } from "../../ffi/object-cache.ts";
import { architectureOf, parseTarget } from "./caps.ts";
import { complaintOf, reportsOf } from "./report.ts";

/** Grows when the same text would be made into something else for the same compiler: a change in how it is driven. */
const FORMAT = 1;

const ASSEMBLER_REPORT = "--ptxas-options=-v";

/** A real architecture, so that the driver has nothing left to compile; and the assembler's report. */
const optionsFor = (caps: Caps): readonly string[] => [`--gpu-architecture=${architectureOf(caps)}`, ASSEMBLER_REPORT];

/** Sources to one archive of cubins (ffi/cubins.ts), one a kernel, by the compiler that `load` gives when it is first needed. */
export const toolchainWith = (load: () => Nvrtc): Toolchain => ({
  version: (caps) => `nvrtc ${load().version} ${optionsFor(caps).join(" ")}`,
  compile: (sources, caps) => compileSources(sources, caps, load()),
});

export const toolchain: Toolchain = toolchainWith(loadNvrtc);

async function compileSources(sources: readonly Source[], caps: Caps, nvrtc: Nvrtc): Promise<Uint8Array> {
  const byEntry = new Map(sources.map((s) => [s.entry, s]));
  for (const s of sources) checkSame(s, byEntry.get(s.entry)!);
  const unique = [...byEntry.values()];
  const options = optionsFor(caps);
  const settings = JSON.stringify([FORMAT, nvrtc.version, ...options]);
  const jobs = unique.map((s) => ({ settings, text: s.text, make: () => compileOne(s, options, nvrtc) }));
  const { objects } = await makeAll("cuda", "cubin", jobs);
  return writeCubins({
    computeCapability: parseTarget(caps.name).computeCapability,
    kernels: unique.map((s) => ({ entry: s.entry, ...launchOf(s), member: memberOf(s) })),
    members: unique.map((s, i) => ({ name: memberOf(s), data: objects[i]! })),
  });
}

const memberOf = (s: Source): string => `${s.entry}.cubin`;

function launchOf(s: Source): NonNullable<Source["launch"]> {
  if (s.language !== "cuda" || !s.launch) throw new Error(`${s.entry} is ${s.language} source; this toolchain compiles CUDA C++`);
  return s.launch;
}

/** Kernels of one name are compiled once and launched alike: a symbol that nothing reads leaves no trace in the text, and would be lost here. */
function checkSame(a: Source, b: Source): void {
  const [one, other] = [launchOf(a), launchOf(b)];
  if (a.text !== b.text || one.threads !== other.threads || one.symbols !== other.symbols)
    throw new Error(
      `two kernels are called ${a.entry}: of ${one.threads} threads and ${one.symbols} symbols, and of ${other.threads} and ${other.symbols}; expected a name for each`,
    );
}

/**
 * A text that NVRTC compiles in any case. From 12.9 on it has caches of its own, of texts and of what they are as PTX, and gives what it finds there without the assembler's
 * report: seen with 13.0, for a comment more too. Another kernel beside it changes both.
 */
const unseen = (text: string): string => `${text}\nextern "C" __global__ void fresh_${randomUUID().replaceAll("-", "")}() {}\n`;

async function compileOne(s: Source, options: readonly string[], nvrtc: Nvrtc): Promise<Uint8Array> {
  launchOf(s);
  const first = await nvrtc.compileInBackground(s.text, s.entry, options);
  const reported = reportsOf(first.log).has(s.entry);
  const { binary, log } = reported ? first : await nvrtc.compileInBackground(unseen(s.text), s.entry, options);
  const report = reportsOf(log).get(s.entry);
  const what = `${s.entry}${s.about === undefined ? "" : ` (${s.about})`}`;
  if (report === undefined)
    throw new Error(
      `${what}: NVRTC ${nvrtc.version} (${nvrtc.path}) gave no report of its registers, so nobody knows whether it keeps them in memory; expected the assembler's lines that ${ASSEMBLER_REPORT} asks for, got ${log === "" ? "nothing" : JSON.stringify(log.slice(0, 200))}; name another NVRTC with CULM_NVRTC`,
    );
  const complaint = complaintOf(report);
  if (complaint !== null) throw new Error(`${what}: ${complaint}; take another configuration`);
  return binary;
}
