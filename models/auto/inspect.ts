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
  const backend = await compilerOf(options.backend ?? "llvm");
  const source = openModelSource(await resolveModel(nameOrFolder, options));
  try {
    return await compileBamba(
      source.config,
      planModel(source.config, source.dtype, options),
      {
        backend,
        parameters: source.parameters,
        ...(options.target === undefined ? {} : { device: options.target }),
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

/** The compiler of what runs a model. */
async function compilerOf(backend: string): Promise<Backend> {
  switch (backend) {
    case "llvm":
      return (await import("../../backends/llvm/index.ts")).llvmBackend;
    case "webgpu":
      return (await import("../../backends/wgsl/index.ts")).wgslBackend;
    default:
      throw new UserError(`backend ${backend} compiles nothing`, { hint: "there are: llvm, webgpu" });
  }
}

/** What a model's folder or repository is called. */
export function modelName(folder: string): string {
  return basename(resolve(folder));
}
