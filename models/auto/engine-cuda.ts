import { cudaBackend as backend, capsFor } from "../../backends/cuda/index.ts";
import { cuda } from "../../runtime/drivers/cuda/device.ts";
import type { CudaDriver } from "../../runtime/drivers/cuda/device.ts";
import { architecture } from "../../runtime/drivers/cuda/facts.ts";
import { UserError } from "../../runtime/errors.ts";
import { capsOf } from "./compiled.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import { openCompiledEngine } from "./engine-compiled.ts";
import type { ModelSource } from "./source.ts";

/** CUDA: compiled for the GPU that the driver finds, or for `target`. */
export async function openCudaEngine(source: ModelSource, options: EngineOptions, driver: CudaDriver = cuda()): Promise<Engine> {
  if (options.threads !== undefined) throw new UserError("threads (--threads) are the CPU's: leave them out with the backend cuda");
  const target = options.target ?? cudaTarget(driver);
  const { requires } = capsOf(backend, target);
  return openCompiledEngine(source, options, { backend, target, open: () => driver.open({ requires }) });
}

/** What to compile for on this machine. @throws UserError when there is no GPU, or none that the compiler has a target for */
export function cudaTarget(driver: CudaDriver = cuda()): string {
  const facts = driver.facts();
  const [target] = capsFor(facts);
  if (target === undefined)
    throw new UserError(`${facts.name} is ${architecture(facts.computeCapability)}, which culm has no kernels for`, {
      hint: "use another GPU, --backend webgpu, or --backend llvm",
    });
  return target;
}
