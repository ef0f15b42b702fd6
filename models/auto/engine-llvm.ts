import { UserError } from "../../runtime/errors.ts";
import { openArtifact } from "../../runtime/steps.ts";
import type { WeightBank } from "../../runtime/steps.ts";
import { compileBamba } from "./compiled.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import type { ModelSource } from "./source.ts";

/** The compiler and the CPU driver. */
export async function openLlvmEngine(source: ModelSource, options: EngineOptions): Promise<Engine> {
  const [{ cpu }, { llvmBackend: backend }] = await Promise.all([
    import("../../runtime/drivers/cpu/device.ts"),
    import("../../backends/llvm/index.ts"),
  ]);
  const { threads, cache, onCompile, onLoad } = options;
  if (threads !== undefined && (!Number.isInteger(threads) || threads < 1 || threads > 1024))
    throw new UserError(`threads (--threads): expected a whole number from 1 to 1024, got ${threads}`);
  const device = await cpu.open(threads === undefined ? {} : { threads });
  const bank: WeightBank = new Map();
  return {
    async open(plan) {
      const compiled = await compileBamba(
        source.config,
        plan,
        { backend, workers: device.workers, parameters: source.parameters },
        { ...(cache === undefined ? {} : { cache }), ...(onCompile === undefined ? {} : { onProgress: onCompile }) },
      );
      const executor = await openArtifact(device, compiled.artifact, source.weights, {
        bank,
        // The source has the tensors of the whole model and nothing else; one that takes embeddings does not read the table of them.
        spare: () => true,
        ...(onLoad === undefined ? {} : { onLoad }),
      });
      return { executor, compiled };
    },
    close: () => device.close(),
  };
}
