import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Report } from "../../backends/cuda/report.ts";
import { reportsOf } from "../../backends/cuda/report.ts";
import type { Source } from "../../compiler/backend.ts";
import type { Nvrtc } from "../../ffi/libnvrtc.ts";

/** The CUDA compiler of a toolkit, in tests: it takes the same language as NVRTC, which machines without a GPU seldom have. */
const command = process.env["CULM_NVCC"] ?? "nvcc";

export const nvccAvailable = spawnSync(command, ["--version"]).status === 0;
export const NO_NVCC = "there is no nvcc on PATH, and CULM_NVCC names none";

/** Runs the compiler on a file of its own; gives what it wrote, and what it said. */
function run(text: string, args: readonly string[]): { readonly out: Uint8Array; readonly log: string } {
  const directory = mkdtempSync(join(tmpdir(), "culm-nvcc-"));
  try {
    const [file, out] = [join(directory, "kernels.cu"), join(directory, "out")];
    writeFileSync(file, text);
    const { status, stdout, stderr } = spawnSync(command, [...args, "-o", out, file], { encoding: "utf8", maxBuffer: 1 << 28 });
    if (status !== 0) throw new Error(`nvcc ${args.join(" ")}:\n${(stdout + stderr).slice(0, 4000)}`);
    return { out: readFileSync(out), log: stdout + stderr };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Many kernels at once, each in a namespace of its own; the assembler's report of each. Any warning is an error. */
export function assemble(sources: readonly Source[], architecture: string): ReadonlyMap<string, Report> {
  const text = sources.map((s, i) => `namespace k${i} {\n${s.text}}\n`).join("");
  // registers that nothing reads in the end are the compiler's to drop
  const strict = ["-Werror", "all-warnings", "-diag-suppress", "177,550"];
  return reportsOf(run(text, ["-cubin", `-arch=${architecture}`, "-Xptxas", "-v", "--split-compile=2", ...strict]).log);
}

export const ptxOf = (source: Source, architecture: string): string =>
  new TextDecoder().decode(run(source.text, ["-ptx", `-arch=${architecture}`]).out);

/** nvcc in NVRTC's place. */
export const nvccAsNvrtc: Nvrtc = {
  path: command,
  version: "nvcc",
  compileInBackground: (text, _, options) => {
    const { out, log } = run(text, ["-cubin", ...options]);
    return Promise.resolve({ binary: out, log });
  },
};
