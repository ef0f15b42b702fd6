import { NO_REQUIREMENTS } from "../../../compiler/artifact.ts";
import type { Cuda } from "../../../ffi/cuda.ts";
import { loadCuda } from "../../../ffi/libcuda.ts";
import type { BufferUse, Device, DeviceBuffer, Driver, KernelModule, OpenOptions } from "../../driver.ts";
import { UserError } from "../../errors.ts";
import { copyBetween, CudaBuffer } from "./buffer.ts";
import type { CudaFacts } from "./facts.ts";
import { architecture, factsOf, shortfalls } from "./facts.ts";
import { openFault } from "./faults.ts";
import { CudaKernel, loadKernels, parseKernels } from "./kernels.ts";
import { List } from "./list.ts";
import { Downloads, UploadRing } from "./pinned.ts";
import { Work } from "./work.ts";

/** Its workers are known: they are its multiprocessors. */
export interface CudaDevice extends Device {
  readonly workers: number;
  readonly facts: CudaFacts;
  /** How long the device is at work on what `body` calls, by its own clock: for measuring. */
  milliseconds(body: () => void | Promise<void>): Promise<number>;
}

export interface CudaDriver extends Driver {
  /** What a GPU is, to choose what to compile for. @throws UserError when there is none, or the driver or the GPU is too old. */
  facts(index?: number): CudaFacts;
  open(options?: OpenOptions): Promise<CudaDevice>;
}

/**
 * CUDA, through the driver's own interface: kernels come as machine code. CULM_CUDA names a libcuda, and CULM_CUDA_SYNC=1 has it wait after each launch, so
 * that a kernel's fault is told by name.
 * @param library unless given, the one of this machine, looked for at the first call
 */
export function cuda(library?: Cuda): CudaDriver {
  const find = (): Cuda => library ?? loadCuda();
  return {
    name: "cuda",
    facts: (index) => factsOf(find(), index),
    open: async (options = {}) => Promise.resolve(open(find(), options)),
  };
}

function open(library: Cuda, { requires = NO_REQUIREMENTS, threads, index }: OpenOptions): CudaDevice {
  if (threads !== undefined) throw new UserError("a GPU has no number of threads", { hint: "leave out threads (--threads)" });
  const facts = factsOf(library, index);
  const missing = shortfalls(facts, requires);
  if (missing.length > 0)
    throw new UserError(`${facts.name} cannot run this model: it has ${missing.join(", ")}`, {
      hint: `compile the model on this machine, or with --target cuda:${architecture(facts.computeCapability)}`,
    });
  return new OpenDevice(library, facts);
}

/** Kernels of this capability and up wait for the one before them by themselves. */
const EARLY_CAPABILITY = 90;

class OpenDevice implements CudaDevice {
  readonly name: string;
  readonly backend = "cuda";
  readonly fingerprint: string;
  readonly workers: number;
  readonly facts: CudaFacts;
  private readonly library: Cuda;
  private readonly work: Work;
  private readonly uploads: UploadRing;
  /** Apart from `uploads`: a piece is on its way to being filled while others write, and a ring would come round to it. */
  private readonly staged: UploadRing;
  private readonly downloads: Downloads;
  /** What has to be freed before the context is given back, which others may use too. */
  private readonly open = new Set<CudaBuffer | KernelModule | List>();
  private readonly freed = (thing: CudaBuffer | KernelModule | List): void => void this.open.delete(thing);
  private closed = false;

  constructor(library: Cuda, facts: CudaFacts) {
    this.library = library;
    this.facts = facts;
    this.name = facts.name;
    this.workers = facts.multiprocessors;
    this.fingerprint = `cuda ${facts.name} ${architecture(facts.computeCapability)} ${facts.multiprocessors}`;
    this.work = openWork(library, facts);
    this.uploads = new UploadRing(this.work);
    this.staged = new UploadRing(this.work);
    this.downloads = new Downloads(this.work);
  }

  get allocations(): number {
    return this.work.made;
  }

  alloc(bytes: number, use: BufferUse): CudaBuffer {
    const { work, uploads, staged: staging, downloads, freed } = this;
    const buffer = new CudaBuffer({ work, uploads, staging, downloads, freed }, bytes, use);
    this.open.add(buffer);
    return buffer;
  }

  ready(): Promise<void> {
    return DONE;
  }

  freeBytes(): number {
    return this.work.call((library) => library.freeBytes());
  }

  staging(bytes: number): Uint8Array | null {
    return bytes <= this.staged.pieceBytes ? this.staged.piece(bytes) : null;
  }

  copy(to: DeviceBuffer, toOffset: number, from: DeviceBuffer, fromOffset: number, bytes: number): void {
    copyBetween(this.work, ownBuffer(to), toOffset, ownBuffer(from), fromOffset, bytes);
  }

  async load(binary: Uint8Array): Promise<KernelModule> {
    const module = loadKernels(this.work, this.facts, parseKernels(binary), this.freed);
    this.open.add(module);
    return Promise.resolve(module);
  }

  prepare(steps: Parameters<Device["prepare"]>[0], symbols: readonly string[]): List {
    const prepared = steps.map(({ kernel, args, ...rest }) => ({
      ...rest,
      kernel: ownKernel(kernel),
      args: args.map(({ buffer, offset }) => ({ buffer: ownBuffer(buffer), offset })),
    }));
    const early = this.facts.computeCapability >= EARLY_CAPABILITY;
    const list = new List(this.work, prepared, symbols, { early, maxGrid: this.facts.maxGrid, freed: this.freed });
    this.open.add(list);
    return list;
  }

  milliseconds(body: () => void | Promise<void>): Promise<number> {
    return this.work.milliseconds(body);
  }

  close(): Promise<void> {
    if (this.closed) return DONE;
    this.closed = true;
    for (const thing of [...this.open].reverse()) thing.free();
    this.uploads.free();
    this.staged.free();
    this.downloads.free();
    this.work.close();
    const { lost } = this.work;
    this.work.fail(new Error(`${this.name} is closed`));
    try {
      this.library.release(this.facts.index);
    } catch (error) {
      // A context that was lost may not even be left in good order.
      if (!lost) throw error;
    }
    return DONE;
  }
}

/** The context that all of a process shares: one of our own would be no safer, a fault in any takes them all. */
function openWork(library: Cuda, { index, name }: CudaFacts): Work {
  try {
    const context = library.retain(index);
    try {
      return new Work(library, name, context, process.env["CULM_CUDA_SYNC"] === "1");
    } catch (error) {
      library.release(index);
      throw error;
    }
  } catch (error) {
    throw openFault(error, name);
  }
}

const DONE = Promise.resolve();

/** A buffer of this driver; anything else has no address on the GPU. */
function ownBuffer(buffer: DeviceBuffer): CudaBuffer {
  if (buffer instanceof CudaBuffer) return buffer;
  throw new Error("a buffer of another device was given to the CUDA driver");
}

function ownKernel(kernel: Parameters<Device["prepare"]>[0][number]["kernel"]): CudaKernel {
  if (kernel instanceof CudaKernel) return kernel;
  throw new Error(`kernel ${kernel.entry} is of another device`);
}
