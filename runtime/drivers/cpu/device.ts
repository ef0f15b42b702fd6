import { availableParallelism } from "node:os";
import { readArchive } from "../../../ffi/archive.ts";
import type { Block } from "../../../ffi/memory.ts";
import { allocate } from "../../../ffi/memory.ts";
import { loadLlvm } from "../../../ffi/libllvm.ts";
import type { Pointer } from "../../../ffi/native.ts";
import type { Device, DeviceBuffer, Driver, Kernel, KernelModule, OpenOptions, StepList, StepSpec } from "../../driver.ts";
import { STEP } from "./layout.ts";
import type { Pool } from "./pool.ts";
import { openPool } from "./pool.ts";

/** Its workers are known: they are its threads. */
export type CpuDevice = Device & { readonly workers: number };

/** The processor of the host: kernels run on a pool of native threads, buffers are memory that JavaScript sees too. */
export const cpu = { name: "cpu", open } satisfies Driver;

async function open(options: OpenOptions = {}): Promise<CpuDevice> {
  const threads = options.threads ?? defaultThreads();
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024) throw new RangeError(`${threads} threads: give a number from 1 to 1024`);
  const llvm = loadLlvm();
  const pool = await openPool(llvm, threads);
  const buffers = new Set<Buffer>();
  const lists = new Set<List>();
  const modules = new Set<KernelModule>();
  let allocations = 0;
  return {
    name: `CPU, ${threads} thread${threads === 1 ? "" : "s"}`,
    fingerprint: `cpu ${process.arch} ${llvm.host.cpu} ${threads}`,
    backend: "llvm",
    workers: threads,
    get allocations() {
      return allocations;
    },
    alloc: (bytes) => {
      const buffer = new Buffer(bytes);
      allocations += 1;
      buffers.add(buffer);
      return buffer;
    },
    ready: () => DONE,
    copy: (to, toOffset, from, fromOffset, bytes) => {
      own(to).host.set(own(from).part(fromOffset, bytes), own(to).at(toOffset, bytes));
    },
    load: (binary) => {
      const linked = llvm.link(readArchive(binary).map(({ data }) => data));
      const module: KernelModule = {
        kernel: (entry) => ({ entry, address: linked.address(entry) }) satisfies CpuKernel,
        free: () => {
          if (modules.delete(module)) linked.free();
        },
      };
      modules.add(module);
      return Promise.resolve(module);
    },
    prepare: (steps, symbols) => {
      const list = new List(pool, steps, symbols);
      lists.add(list);
      return list;
    },
    close: () => {
      pool.close();
      for (const x of [...lists, ...modules, ...buffers]) x.free();
      return Promise.resolve();
    },
  };
}

function defaultThreads(): number {
  const asked = Number(process.env["CULM_THREADS"]);
  return Number.isInteger(asked) && asked > 0 ? asked : availableParallelism();
}

interface CpuKernel extends Kernel {
  readonly address: Pointer<"code">;
}

class Buffer implements DeviceBuffer {
  readonly bytes: number;
  readonly host: Uint8Array;
  readonly block: Block;

  constructor(bytes: number) {
    this.block = allocate(bytes);
    this.bytes = bytes;
    this.host = new Uint8Array(this.block.view, 0, bytes);
  }
  /** Checks a range and gives its start. */
  at(offset: number, bytes: number): number {
    if (!(offset >= 0 && bytes >= 0 && offset + bytes <= this.bytes))
      throw new RangeError(`bytes ${offset} to ${offset + bytes} of a buffer of ${this.bytes}`);
    return offset;
  }
  part(offset: number, bytes: number): Uint8Array {
    return this.host.subarray(this.at(offset, bytes), offset + bytes);
  }
  write(data: Uint8Array, offset = 0): void {
    this.host.set(data, this.at(offset, data.length));
  }
  read(offset = 0, bytes = this.bytes - offset): Promise<Uint8Array> {
    return Promise.resolve(this.part(offset, bytes).slice());
  }
  clear(offset = 0, bytes = this.bytes - offset): void {
    this.part(offset, bytes).fill(0);
  }
  free(): void {
    this.block.free();
  }
}

/** A buffer of this driver; anything else would be an address out of nowhere. */
function own(buffer: DeviceBuffer): Buffer {
  if (buffer instanceof Buffer) return buffer;
  throw new Error("a buffer of another device was given to the CPU driver");
}

const DONE = Promise.resolve();

/** Steps laid out for the pool: a table of step records, the argument pointers behind it, grids, and the symbols in each order that kernels want. */
class List implements StepList {
  readonly grids: Int32Array;
  readonly symbols: Int32Array;
  private readonly pool: Pool;
  private readonly count: number;
  private readonly table: Block;
  private readonly gridBlock: Block;
  private readonly symbolBlock: Block;
  /** The symbols as kernels take them: positions in `symbols`, to be copied to `values` before each run. */
  private readonly order: Int32Array;
  private readonly values: Int32Array;
  private readonly timeBlock: Block;

  constructor(pool: Pool, steps: readonly StepSpec[], symbols: readonly string[]) {
    this.pool = pool;
    this.count = steps.length;
    this.gridBlock = allocate(Math.max(1, steps.length) * 12);
    this.grids = new Int32Array(this.gridBlock.view, 0, steps.length * 3);
    this.symbols = new Int32Array(symbols.length);

    const orders = new Map<string, number>();
    const positions: number[] = [];
    const symbolsAt = steps.map((step) => {
      const key = step.symbols.join(" ");
      const known = orders.get(key);
      if (known !== undefined) return known;
      const at = positions.length;
      for (const name of step.symbols) {
        const position = symbols.indexOf(name);
        if (position < 0)
          throw new Error(`${step.kernel.entry} takes the symbol ${name}, which is not one of ${symbols.join(", ") || "none"}`);
        positions.push(position);
      }
      orders.set(key, at);
      return at;
    });
    this.order = Int32Array.from(positions);
    this.symbolBlock = allocate(Math.max(1, positions.length) * 4);
    this.values = new Int32Array(this.symbolBlock.view, 0, positions.length);
    this.timeBlock = allocate((steps.length + 1) * 8);

    const pointers = steps.reduce((n, s) => n + s.args.length, 0);
    this.table = allocate(steps.length * STEP.bytes + pointers * 8 + 8);
    const fields = new DataView(this.table.view);
    let next = steps.length * STEP.bytes;
    steps.forEach((step, i) => {
      const at = i * STEP.bytes;
      fields.setBigInt64(at + STEP.kernel, (step.kernel as CpuKernel).address, true);
      fields.setBigInt64(at + STEP.args, this.table.address + BigInt(next), true);
      fields.setBigInt64(at + STEP.symbols, this.symbolBlock.address + BigInt(4 * symbolsAt[i]!), true);
      for (const { buffer, offset } of step.args) {
        fields.setBigInt64(next, own(buffer).block.address + BigInt(own(buffer).at(offset, 0)), true);
        next += 8;
      }
    });
    pool.reserveScratch(Math.max(0, ...steps.map((s) => s.sharedBytes)));
  }

  private setSymbols(): void {
    const { order, values, symbols } = this;
    for (let i = 0; i < order.length; i++) values[i] = symbols[order[i]!]!;
  }

  run(): Promise<void> {
    this.setSymbols();
    this.pool.run(this.table, this.gridBlock, this.count, null);
    return DONE;
  }

  runInBackground(): Promise<void> {
    this.setSymbols();
    return this.pool.runInBackground(this.table, this.gridBlock, this.count);
  }

  runTimed(): Promise<Float64Array> {
    this.setSymbols();
    this.pool.run(this.table, this.gridBlock, this.count, this.timeBlock);
    const times = new BigInt64Array(this.timeBlock.view, 0, this.count + 1);
    return Promise.resolve(Float64Array.from({ length: this.count }, (_, i) => Number(times[i + 1]! - times[i]!)));
  }

  free(): void {
    for (const block of [this.table, this.gridBlock, this.symbolBlock, this.timeBlock]) block.free();
  }
}
