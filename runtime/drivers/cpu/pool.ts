import type { Block } from "../../../ffi/memory.ts";
import { allocate } from "../../../ffi/memory.ts";
import type { Linked, Llvm } from "../../../ffi/libllvm.ts";
import type { Pointer } from "../../../ffi/native.ts";
import { background, functionAt } from "../../../ffi/native.ts";
import { compileAll } from "../../../ffi/object-cache.ts";
import { CONTROL, RECORD } from "./layout.ts";
import type { Platform } from "./pool-ir.ts";
import { poolText } from "./pool-ir.ts";

/** The native workers of one device. */
export interface Pool {
  readonly threads: number;
  /** Runs prepared steps; returns when all are done. One list at a time. `times`: count + 1 64-bit integers, or null. */
  run(steps: Block, grids: Block, count: number, times: Block | null): void;
  runInBackground(steps: Block, grids: Block, count: number): Promise<void>;
  /** Makes sure that every worker has this much scratch memory. */
  reserveScratch(bytes: number): void;
  close(): void;
}

type Run = (control: Pointer, steps: Pointer, grids: Pointer, count: number, times: Pointer | null) => void;

/** How often an idle worker looks for work before it sleeps: about 50 us, longer than the host takes between two tokens of a step list. */
const SPIN = 2000;

export async function openPool(llvm: Llvm, threads: number): Promise<Pool> {
  const { objects } = await compileAll(llvm, [
    { text: poolText(platform()), target: llvm.host, options: { name: "the thread pool", passes: null, level: 2 } },
  ]);
  const linked = llvm.link(objects);
  const control = allocate(CONTROL.bytes);
  const records = allocate(RECORD.bytes * threads);
  const table = allocate(8 * threads);
  const scratch = new Scratch(table, threads);

  const fields = new DataView(control.view);
  const little = true;
  fields.setBigInt64(CONTROL.threads, BigInt(threads), little);
  fields.setBigInt64(CONTROL.scratch, table.address, little);
  fields.setBigInt64(CONTROL.records, records.address, little);
  fields.setInt32(CONTROL.spin, SPIN, little);
  const own = new DataView(records.view);
  for (let i = 0; i < threads; i++) {
    own.setBigInt64(i * RECORD.bytes + RECORD.control, control.address, little);
    own.setBigInt64(i * RECORD.bytes + RECORD.id, BigInt(i), little);
  }
  start(linked, control, threads);

  const native = functionAt<Run>(linked.address("culm_run"), "void", ["void *", "void *", "void *", "int64_t", "void *"]);
  const stop = functionAt<(control: Pointer, started: number) => void>(linked.address("culm_stop"), "void", ["void *", "int64_t"]);
  let running = false;
  const idle = (): void => {
    if (running) throw new Error("the device is running another list of steps; wait for it to end");
  };
  return {
    threads,
    run: (steps, grids, count, times) => {
      idle();
      // Workers count the runs; one that none of them takes part in must not be counted.
      if (count > 0) native(control.address, steps.address, grids.address, count, times?.address ?? null);
    },
    runInBackground: async (steps, grids, count) => {
      idle();
      if (count === 0) return;
      running = true;
      try {
        await background(native, control.address, steps.address, grids.address, count, null);
      } finally {
        running = false;
      }
    },
    reserveScratch: (bytes) => {
      idle();
      scratch.reserve(bytes);
    },
    close: () => {
      idle();
      stop(control.address, threads);
      scratch.free();
      for (const block of [control, records, table]) block.free();
      linked.free();
    },
  };
}

function start(linked: Linked, control: Block, threads: number): void {
  const error = functionAt<(control: Pointer) => number>(linked.address("culm_start"), "int", ["void *"])(control.address);
  if (error !== 0) throw new Error(`the system refused to start ${threads - 1} worker threads (error ${error})`);
}

function platform(): Platform {
  const [os, arch] = [process.platform, process.arch];
  if ((os !== "linux" && os !== "darwin") || (arch !== "x64" && arch !== "arm64"))
    throw new Error(`the CPU driver does not run on ${os} ${arch}`);
  return { os, arch };
}

/** One area a worker, in one block. Areas are a little more than their size apart, so that the same offset in two of them is not the same cache set. */
class Scratch {
  private readonly table: BigInt64Array;
  private readonly threads: number;
  private block: Block | null = null;
  private bytes = 0;

  constructor(table: Block, threads: number) {
    this.table = new BigInt64Array(table.view, 0, threads);
    this.threads = threads;
  }

  reserve(bytes: number): void {
    if (bytes <= this.bytes) return;
    const apart = Math.ceil(bytes / 4096) * 4096 + 4096 + 128;
    const block = allocate(apart * this.threads);
    this.block?.free();
    this.block = block;
    this.bytes = bytes;
    for (let i = 0; i < this.threads; i++) this.table[i] = block.address + BigInt(i * apart);
  }

  free(): void {
    this.block?.free();
  }
}
