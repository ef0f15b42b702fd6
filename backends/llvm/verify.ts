import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Source } from "../../compiler/backend.ts";

/**
 * A second opinion on the IR, from the npm package `llvm-bindings` (LLVM 14 as a Node addon) where it is installed. Nothing needs it: it cannot emit
 * machine code. Its parser ends the process on bad IR, so it runs in a child.
 */
const SCRIPT = `
const llvm = require(process.argv[1]);
for (const file of process.argv.slice(2)) {
  const module = llvm.parseIRFile(file, new llvm.SMDiagnostic(), new llvm.LLVMContext());
  if (llvm.verifyModule(module)) { console.error(file + " does not verify"); process.exit(1); }
  console.log(file);
}`;

/** Where llvm-bindings is, or null. */
export function llvmBindings(): string | null {
  try {
    return createRequire(import.meta.url).resolve("llvm-bindings");
  } catch {
    return null;
  }
}

/** Parses and verifies every source with llvm-bindings, if it is there. Throws naming the first that it refuses. */
export function verifySources(sources: readonly Source[]): void {
  const bindings = llvmBindings();
  if (bindings === null || sources.length === 0) return;
  const directory = mkdtempSync(join(tmpdir(), "culm-verify-"));
  try {
    const files = sources.map((s) => {
      const file = join(directory, `${s.entry}.ll`);
      writeFileSync(file, s.text);
      return file;
    });
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, ["-e", SCRIPT, bindings, ...files], { encoding: "utf8" });
    if (status === 0) return;
    const passed = stdout.split("\n").filter((line) => line !== "").length;
    const how = signal === null ? stderr.trim() : `its parser ended with ${signal}, as it does on IR that does not parse`;
    throw new Error(`llvm-bindings refuses ${sources[passed]?.entry ?? "a module"}: ${how}`);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
