import type { CubinKernel, Cubins } from "../../../ffi/cubins.ts";
import { readCubins } from "../../../ffi/cubins.ts";
import { CODES, CudaError } from "../../../ffi/cuda-errors.ts";
import type { Cuda, CudaFunction, CudaModule } from "../../../ffi/cuda.ts";
import { cudaVersionText } from "../../../ffi/libcuda.ts";
import type { Kernel, KernelModule } from "../../driver.ts";
import { UserError } from "../../errors.ts";
import type { CudaFacts } from "./facts.ts";
import { architecture } from "./facts.ts";
import { loadFault } from "./faults.ts";
import type { Work } from "./work.ts";

/** Dynamic shared memory that every kernel may have without asking. */
const FREE_SHARED_BYTES = 48 << 10;
/** A pointer. */
const PARAMETER_BYTES = 8;

/** A kernel that is ready to be launched. */
export class CudaKernel implements Kernel {
  readonly entry: string;
  readonly threads: number;
  /** Run-time values that it takes, behind one pointer after its buffers. */
  readonly symbols: number;
  readonly fn: CudaFunction;
  private readonly work: Work;
  private readonly facts: CudaFacts;
  private allowedBytes = FREE_SHARED_BYTES;

  constructor(work: Work, facts: CudaFacts, { entry, threads, symbols }: CubinKernel, fn: CudaFunction) {
    this.work = work;
    this.facts = facts;
    this.entry = entry;
    this.threads = threads;
    this.symbols = symbols;
    this.fn = fn;
  }

  /**
   * Checks a launch's buffers against what the kernel was compiled with, and asks for its shared memory.
   * @throws UserError when there are more of them than the kernel takes, or it takes something else than pointers
   */
  check(buffers: number, sharedBytes: number): void {
    const given = buffers + (this.symbols > 0 ? 1 : 0);
    const wanted = this.work.call((cuda) => cuda.parameterBytes(this.fn, given), this.entry);
    if (wanted !== null && (wanted.length !== given || wanted.some((bytes) => bytes !== PARAMETER_BYTES)))
      throw new UserError(
        `kernels.bin: kernel ${this.entry} takes ${wanted.length} parameters${wanted.length === 0 ? "" : ` (of ${wanted.join(", ")} bytes)`}, its step gives ${given} pointers`,
        { hint: "manifest.json and kernels.bin are not of one compilation: compile the model again" },
      );
    if (sharedBytes > this.facts.sharedBytes)
      throw new UserError(
        `kernel ${this.entry} needs ${sharedBytes} bytes of shared memory a block, ${this.facts.name} has ${this.facts.sharedBytes}`,
        { hint: "compile the model for this GPU" },
      );
    if (sharedBytes <= this.allowedBytes) return;
    this.work.call((cuda) => cuda.allowSharedBytes(this.fn, sharedBytes), this.entry);
    this.allowedBytes = sharedBytes;
  }
}

/** Reads a kernels.bin, which comes from a stranger. @throws UserError saying what is wrong with it */
export function parseKernels(binary: Uint8Array): Cubins {
  try {
    return readCubins(binary);
  } catch (cause) {
    throw new UserError(`kernels.bin: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
      hint: "these are not whole kernels for CUDA: fetch the artifact again, or compile it with --target cuda:sm_90 or the like",
    });
  }
}

/** @throws UserError when kernels are not for this GPU. */
function checkArchitecture({ computeCapability: made }: Cubins, facts: CudaFacts): void {
  const { computeCapability: here, name } = facts;
  if (Math.floor(made / 10) === Math.floor(here / 10) && made <= here) return;
  throw new UserError(`kernels.bin: its kernels are for ${architecture(made)}, ${name} is ${architecture(here)}`, {
    hint: `compile the model again on this machine, or with --target cuda:${architecture(here)}`,
  });
}

/**
 * Loads all programs of a kernels.bin.
 * @throws UserError naming the program when the driver refuses one
 */
export function loadKernels(work: Work, facts: CudaFacts, file: Cubins, freed: (module: KernelModule) => void): KernelModule {
  checkArchitecture(file, facts);
  const modules = new Map<string, CudaModule>();
  const unload = (): void => {
    for (const module of modules.values()) work.release((cuda) => cuda.unloadModule(module));
    modules.clear();
  };
  const kernels = new Map<string, CudaKernel>();
  try {
    for (const { name, data } of file.members) modules.set(name, loadProgram(work, facts, name, data));
    for (const kernel of file.kernels) {
      const fn = work.call((cuda) => functionOf(cuda, modules.get(kernel.member)!, kernel));
      kernels.set(kernel.entry, new CudaKernel(work, facts, kernel, fn));
    }
  } catch (error) {
    unload();
    throw error;
  }
  const module: KernelModule = {
    kernel: (entry) => {
      const kernel = kernels.get(entry);
      if (kernel === undefined) throw new UserError(`kernels.bin: there is no kernel ${entry}`, { hint: "compile the model again" });
      return kernel;
    },
    free: () => {
      kernels.clear();
      unload();
      freed(module);
    },
  };
  return module;
}

function loadProgram(work: Work, facts: CudaFacts, member: string, image: Uint8Array): CudaModule {
  return work.call((cuda) => {
    try {
      // A copy: members of an archive begin anywhere, and an image should begin where its header's words do.
      return cuda.loadModule(image.slice());
    } catch (error) {
      throw loadFault(error, `kernels.bin: ${member}`, facts.name, `for CUDA ${cudaVersionText(facts.driverVersion)}`);
    }
  });
}

function functionOf(cuda: Cuda, module: CudaModule, { entry, member }: CubinKernel): CudaFunction {
  try {
    return cuda.functionOf(module, entry);
  } catch (cause) {
    if (!(cause instanceof CudaError) || cause.code !== CODES.notFound) throw cause;
    throw new UserError(`kernels.bin: ${member} has no kernel ${entry}, which its index names`, {
      cause,
      hint: "the file is damaged: fetch the artifact again, or compile the model again",
    });
  }
}
