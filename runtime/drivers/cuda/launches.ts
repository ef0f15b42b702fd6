import type { HostAddress, HostBlock } from "../../../ffi/cuda.ts";
import type { CudaKernel } from "./kernels.ts";
import type { Work } from "./work.ts";

/** CUlaunchConfig of cuda.h, 64-bit: offsets of its fields. */
const CONFIG = { grid: 0, block: 12, shared: 24, stream: 32, attributes: 40, count: 48, bytes: 56 } as const;
/** CUlaunchAttribute: an identifier, padded, and a union of 64 bytes. */
const ATTRIBUTE = { id: 0, value: 8, bytes: 72 } as const;
/**
 * CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: a kernel may begin while the one before it ends; each waits for the other's results by itself
 * (griddepcontrol.wait), and reads weights until then.
 */
const PROGRAMMATIC_SERIALIZATION = 6;

/** A step as it is launched: `args` are device addresses, one a parameter. */
export interface Launch {
  readonly kernel: CudaKernel;
  readonly args: readonly bigint[];
  readonly sharedBytes: number;
}

const aligned = (bytes: number): number => Math.ceil(bytes / 8) * 8;

/**
 * The arguments of cuLaunchKernelEx of many launches, written once where the driver reads them. A launch then costs one call with three addresses; only
 * the grid is written anew. They lie in pinned memory for the sole reason that it has addresses of its own.
 */
export class LaunchTable {
  private readonly work: Work;
  private readonly block: HostBlock;
  private readonly words: DataView;
  private readonly launches: readonly Launch[];
  private readonly params: readonly HostAddress[];

  constructor(work: Work, launches: readonly Launch[]) {
    this.work = work;
    this.launches = launches;
    const configs = launches.length * aligned(CONFIG.bytes);
    const attribute = configs;
    const first = attribute + aligned(ATTRIBUTE.bytes);
    // Of each argument its address, and itself.
    const bytes = first + launches.reduce((sum, { args }) => sum + 16 * args.length, 0);
    this.block = work.call((cuda) => cuda.allocHost(bytes));
    work.made += 1;
    new Uint8Array(this.block.view, 0, bytes).fill(0);
    this.words = new DataView(this.block.view, 0, bytes);
    this.words.setUint32(attribute + ATTRIBUTE.id, PROGRAMMATIC_SERIALIZATION, true);
    this.words.setInt32(attribute + ATTRIBUTE.value, 1, true);
    let next = first;
    this.params = launches.map((launch, i) => {
      this.writeConfig(i, launch, this.addressOf(attribute));
      const at = next;
      next += 16 * launch.args.length;
      this.writeParams(at, launch.args);
      return this.addressOf(at);
    });
  }

  /**
   * Launches number i on the stream.
   * @param early whether it may begin before the kernel that was launched before it has ended
   */
  launch(i: number, x: number, y: number, z: number, early: boolean): void {
    const { words, work } = this;
    const { kernel } = this.launches[i]!;
    const at = i * aligned(CONFIG.bytes);
    words.setUint32(at + CONFIG.grid, x, true);
    words.setUint32(at + CONFIG.grid + 4, y, true);
    words.setUint32(at + CONFIG.grid + 8, z, true);
    words.setUint32(at + CONFIG.count, early ? 1 : 0, true);
    work.call((cuda) => cuda.launch(this.addressOf(at), kernel.fn, this.params[i]!), kernel.entry);
  }

  free(): void {
    this.work.release((cuda) => cuda.freeHost(this.block));
  }

  private addressOf(at: number): HostAddress {
    return (this.block.address + BigInt(at)) as HostAddress;
  }

  private writeConfig(i: number, { kernel, sharedBytes }: Launch, attributes: HostAddress): void {
    const at = i * aligned(CONFIG.bytes);
    this.words.setUint32(at + CONFIG.block, kernel.threads, true);
    this.words.setUint32(at + CONFIG.block + 4, 1, true);
    this.words.setUint32(at + CONFIG.block + 8, 1, true);
    this.words.setUint32(at + CONFIG.shared, sharedBytes, true);
    this.words.setBigUint64(at + CONFIG.stream, this.work.stream, true);
    this.words.setBigUint64(at + CONFIG.attributes, attributes, true);
  }

  private writeParams(at: number, args: readonly bigint[]): void {
    const values = at + 8 * args.length;
    args.forEach((value, j) => {
      this.words.setBigUint64(at + 8 * j, this.addressOf(values + 8 * j), true);
      this.words.setBigUint64(values + 8 * j, value, true);
    });
  }
}
