import { UserError } from "../../runtime/errors.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import { openCompiledEngine } from "./engine-compiled.ts";
import type { ModelSource } from "./source.ts";

/** LLVM and the CPU driver. */
export async function openLlvmEngine(source: ModelSource, options: EngineOptions): Promise<Engine> {
  const [{ cpu }, { llvmBackend: backend }] = await Promise.all([
    import("../../runtime/drivers/cpu/device.ts"),
    import("../../backends/llvm/index.ts"),
  ]);
  const { threads, target = "host" } = options;
  if (threads !== undefined && (!Number.isInteger(threads) || threads < 1 || threads > 1024))
    throw new UserError(`threads (--threads): expected a whole number from 1 to 1024, got ${threads}`);
  return openCompiledEngine(source, options, { backend, target, open: () => cpu.open(threads === undefined ? {} : { threads }) });
}
