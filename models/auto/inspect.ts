import { basename, resolve } from "node:path";
import { llvmBackend } from "../../backends/llvm/index.ts";
import { resolveModel } from "../../runtime/hub/resolve.ts";
import { compileBamba } from "./compiled.ts";
import type { CompiledModel } from "./compiled.ts";
import type { LoadOptions } from "./model.ts";
import { planModel } from "./plan.ts";
import { openModelSource } from "./source.ts";

/** Compiles a model, of a folder or of the hub, for generation and loads nothing. */
export async function compileFolder(
  nameOrFolder: string,
  options: LoadOptions & { readonly device?: string } = {},
): Promise<CompiledModel> {
  const source = openModelSource(await resolveModel(nameOrFolder, options));
  try {
    return await compileBamba(
      source.config,
      planModel(source.config, source.dtype, options),
      {
        backend: llvmBackend,
        parameters: source.parameters,
        ...(options.device === undefined ? {} : { device: options.device }),
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

/** What a model's folder or repository is called. */
export function modelName(folder: string): string {
  return basename(resolve(folder));
}
