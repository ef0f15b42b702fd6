import { UserError } from "../../runtime/errors.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import type { ModelSource } from "./source.ts";

/** What runs a model: the compiler with the CPU, CUDA or WebGPU, or the interpreter. */
const backendNames = ["llvm", "cuda", "webgpu", "interpret"];

/** @throws UserError for a backend that there is not. */
export async function openEngine(backend: string, source: ModelSource, options: EngineOptions): Promise<Engine> {
  switch (backend) {
    case "llvm":
      return (await import("./engine-llvm.ts")).openLlvmEngine(source, options);
    case "cuda":
      return (await import("./engine-cuda.ts")).openCudaEngine(source, options);
    case "webgpu":
      return (await import("./engine-webgpu.ts")).openWebgpuEngine(source, options);
    case "metal":
      throw new UserError("kernels for Metal run in an app on a Mac, not in Node", {
        hint: "culm compile --target metal writes them, with a host in Swift; here there are: " + backendNames.join(", "),
      });
    case "interpret":
      return interpretEngine(source);
    default:
      throw new UserError(`unknown backend "${backend}"`, { hint: `there are: ${backendNames.join(", ")}` });
  }
}

function interpretEngine(source: ModelSource): Engine {
  return {
    async open(plan) {
      const [{ createInterpreter }, { traceModel }] = await Promise.all([import("./interpret.ts"), import("./plan.ts")]);
      return { executor: await createInterpreter(await traceModel(source.config, plan), source.weights), compiled: null };
    },
    reopen: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}
