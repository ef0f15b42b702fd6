import { basename, resolve } from "node:path";
import type { Backend } from "../../compiler/backend.ts";
import { UserError } from "../../runtime/errors.ts";
import { resolveModel } from "../../runtime/hub/resolve.ts";
import { compileBamba } from "./compiled.ts";
import type { CompiledModel } from "./compiled.ts";
import type { LoadOptions } from "./model.ts";
import { planModel } from "./plan.ts";
import { openModelSource } from "./source.ts";

/** Compiles a model, of a folder or of the hub, for generation and loads nothing. */
export async function compileFolder(nameOrFolder: string, options: LoadOptions = {}): Promise<CompiledModel> {
  const { backend, device = options.target } = await compilerOf(options.backend ?? "llvm", options.target);
  const source = openModelSource(await resolveModel(nameOrFolder, options));
  try {
    return await compileBamba(
      source.config,
      planModel(source.config, source.dtype, options, options.backend),
      {
        backend,
        parameters: source.parameters,
        ...(device === undefined ? {} : { device }),
        ...(options.threads === undefined ? {} : { workers: options.threads }),
      },
      {
        ...(options.cache === undefined ? {} : { cache: options.cache }),
        ...(options.onCompile === undefined ? {} : { onProgress: options.onCompile }),
      },
    );
  } finally {
    source.checkpoint.close();
  }
}

/** The compiler of what runs a model, and what this machine is where only a driver knows it. */
async function compilerOf(backend: string, target: string | undefined): Promise<{ readonly backend: Backend; readonly device?: string }> {
  switch (backend) {
    case "llvm":
      return { backend: (await import("../../backends/llvm/index.ts")).llvmBackend };
    case "cuda": {
      const [{ cudaBackend }, { cudaTarget }] = await Promise.all([import("../../backends/cuda/index.ts"), import("./engine-cuda.ts")]);
      return { backend: cudaBackend, device: target ?? cudaTarget() };
    }
    case "webgpu":
      return { backend: (await import("../../backends/wgsl/index.ts")).wgslBackend };
    default:
      throw new UserError(`backend ${backend} compiles nothing`, { hint: "there are: llvm, cuda, webgpu" });
  }
}

/** What a model's folder or repository is called. */
export function modelName(folder: string): string {
  return basename(resolve(folder));
}
