import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseKernels } from "../../../backends/metal/toolchain.ts";
import { parseTarget } from "../../../backends/metal/caps.ts";
import type { Caps } from "../../../compiler/backend.ts";
import { casesOf } from "./cases.ts";
import type { KernelProgram } from "./cases.ts";
import type { ExtraFile } from "../../../runtime/node/artifact.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const LANGUAGE = "@LANGUAGE@";

/**
 * What an artifact for Metal has besides: the kernels as files, a host in Swift that runs them, and a script for a Mac that compiles both, runs every kernel on stored
 * cases and compares. @param binary its kernels.bin; @param programs those that its kernels were printed from
 */
export function metalFiles(binary: Uint8Array, programs: readonly KernelProgram[], caps: Caps): ExtraFile[] {
  const { cases, expected } = casesOf(programs, caps);
  const script = readFileSync(join(here, "verify-on-mac.sh"), "utf8").replace(LANGUAGE, parseTarget(caps.name).language);
  const swift = readdirSync(join(here, "host")).sort();
  return [
    ...parseKernels(binary).map((k) => ({ path: `kernels/${k.entry}.metal`, contents: k.source })),
    { path: "verify/cases.json", contents: `${JSON.stringify({ format: "culm-metal-cases", version: 1, cases }, null, 1)}\n` },
    { path: "verify/expected.bin", contents: expected },
    ...swift.map((name) => ({ path: `host/${name}`, contents: readFileSync(join(here, "host", name)) })),
    { path: "verify-on-mac.sh", contents: script, executable: true },
  ];
}
