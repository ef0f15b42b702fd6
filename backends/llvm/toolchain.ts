import type { Caps, Source, Toolchain } from "../../compiler/backend.ts";
import { writeArchive } from "../../ffi/archive.ts";
import type { CompileOptions } from "../../ffi/libllvm.ts";
import { loadLlvm } from "../../ffi/libllvm.ts";
import { compileAll } from "../../ffi/object-cache.ts";
import { levelOf, targetOf } from "./caps.ts";
import { verifySources } from "./verify.ts";

/**
 * The printer leaves little to optimise: it vectorises, unrolls and hoists itself. What is run turns small arrays into registers and merges repeated
 * loads; the whole of O2 would take four times as long and bring nothing measurable.
 */
export const PASSES = "function(sroa,early-cse<memssa>)";
const CODE_GENERATOR_LEVEL = 2;

export const compileOptions = (name: string): CompileOptions => ({ name, passes: PASSES, level: CODE_GENERATOR_LEVEL });

/** Sources to one archive of ELF objects, one a kernel: what the CPU driver loads. */
export const toolchain: Toolchain = {
  version: (caps) => {
    const { triple, cpu, features } = targetOf(levelOf(caps));
    return `llvm ${loadLlvm().version} ${triple} ${cpu} ${features} ${PASSES} O${CODE_GENERATOR_LEVEL}`;
  },
  compile: (sources, caps) => compileSources(sources, caps),
};

async function compileSources(sources: readonly Source[], caps: Caps): Promise<Uint8Array> {
  const wrong = sources.find((s) => s.language !== "llvm");
  if (wrong) throw new Error(`${wrong.entry} is ${wrong.language} source; the CPU toolchain compiles LLVM IR`);
  const unique = [...new Map(sources.map((s) => [s.entry, s])).values()];
  if (process.env["CHECK"] === "1") verifySources(unique);
  const target = targetOf(levelOf(caps));
  const jobs = unique.map((s) => ({ text: s.text, target, options: compileOptions(s.entry) }));
  const { objects } = await compileAll(loadLlvm(), jobs);
  return writeArchive(unique.map((s, i) => ({ name: `${s.entry}.o`, data: objects[i]! })));
}
