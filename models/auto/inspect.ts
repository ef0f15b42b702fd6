import { basename, resolve } from "node:path";
import type { Backend, Caps } from "../../compiler/backend.ts";
import { UserError } from "../../runtime/errors.ts";
import type { ExtraFile } from "../../runtime/node/artifact.ts";
import { resolveModel } from "../../runtime/hub/resolve.ts";
import { compileBamba } from "./compiled.ts";
import type { CompiledModel } from "./compiled.ts";
import type { KernelProgram } from "./metal/cases.ts";
import type { LoadOptions } from "./model.ts";
import { planModel } from "./plan.ts";
import { openModelSource } from "./source.ts";

/** Compiles a model, of a folder or of the hub, for generation and loads nothing. */
export async function compileFolder(nameOrFolder: string, options: LoadOptions = {}): Promise<CompiledModel> {
  const { backend, device = options.target, files } = await compilerOf(options.backend ?? "llvm", options.target);
  if (files !== undefined && (options.replay ?? 0) > 0)
    throw new UserError("replay (--replay): the host of an artifact for a Mac counts no inputs", { hint: "leave it out" });
  const source = openModelSource(await resolveModel(nameOrFolder, options));
  try {
    const programs: KernelProgram[] = [];
    const compiled = await compileBamba(
      source.config,
      planModel(source.config, source.dtype, options, options.backend),
      {
        backend,
        parameters: source.parameters,
        ...(device === undefined ? {} : { device }),
        ...(options.threads === undefined ? {} : { workers: options.threads }),
      },
      {
        // files for a Mac are made of programs, of which the cache has none
        ...(files === undefined ? (options.cache === undefined ? {} : { cache: options.cache }) : { cache: null }),
        onKernel: (entry, program, label) => void programs.push({ entry, program, label }),
        ...(options.onCompile === undefined ? {} : { onProgress: options.onCompile }),
      },
    );
    if (files === undefined) return compiled;
    return { ...compiled, artifact: { ...compiled.artifact, files: files(compiled.artifact.kernels, programs, compiled.caps) } };
  } finally {
    source.checkpoint.close();
  }
}

interface Compiler {
  readonly backend: Backend;
  /** What to compile for where no target is named. */
  readonly device?: string;
  /** What else belongs into an artifact's folder. */
  readonly files?: (binary: Uint8Array, programs: readonly KernelProgram[], caps: Caps) => readonly ExtraFile[];
}

/** The compiler of what runs a model, and what this machine is where only a driver knows it. */
async function compilerOf(backend: string, target: string | undefined): Promise<Compiler> {
  switch (backend) {
    case "llvm":
      return { backend: (await import("../../backends/llvm/index.ts")).llvmBackend };
    case "cuda": {
      const [{ cudaBackend }, { cudaTarget }] = await Promise.all([import("../../backends/cuda/index.ts"), import("./engine-cuda.ts")]);
      return { backend: cudaBackend, device: target ?? cudaTarget() };
    }
    case "webgpu":
      return { backend: (await import("../../backends/wgsl/index.ts")).wgslBackend };
    case "metal": {
      const [{ metalBackend }, { metalFiles }] = await Promise.all([import("../../backends/metal/index.ts"), import("./metal/folder.ts")]);
      return { backend: metalBackend, files: metalFiles };
    }
    default:
      throw new UserError(`backend ${backend} compiles nothing`, { hint: "there are: llvm, cuda, webgpu, metal" });
  }
}

/** What a model's folder or repository is called. */
export function modelName(folder: string): string {
  return basename(resolve(folder));
}
