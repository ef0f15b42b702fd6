import type { CudaEvent, CudaGraph, DeviceAddress, HostBlock } from "../../../ffi/cuda.ts";
import type { StepList } from "../../driver.ts";
import { attempt, layOutSymbols, sameNumbers, takeSymbols } from "../steps.ts";
import type { CudaBuffer } from "./buffer.ts";
import type { CudaKernel } from "./kernels.ts";
import { LaunchTable } from "./launches.ts";
import type { Work } from "./work.ts";

/** A step whose buffers and kernel are this driver's. */
export interface PreparedStep {
  readonly kernel: CudaKernel;
  readonly args: readonly { readonly buffer: CudaBuffer; readonly offset: number }[];
  readonly symbols: readonly string[];
  readonly sharedBytes: number;
}

/** What limits a list's launches. */
export interface ListOptions {
  /** Whether kernels wait for the one before them by themselves, so that they may begin before it has ended (compute capability 9.0 and up). */
  readonly early: boolean;
  /** Most blocks along y and z; along x there are 2^31 - 1. */
  readonly maxGrid: readonly [y: number, z: number];
  /** Forgets a list that was freed. */
  readonly freed: (list: List) => void;
}

/** Symbols as kernels take them, here and on the device. */
interface SymbolMemory {
  readonly pinned: HostBlock;
  readonly words: Int32Array;
  readonly device: DeviceAddress;
}

/** Regions of symbols begin where a vector load may. */
const SYMBOL_ALIGN = 16;
const MAX_GRID_X = 2 ** 31 - 1;
/** A group of steps is timed over at least so many launches: an event is a few microseconds off. */
const TIMED_LAUNCHES = 32;

/**
 * Steps that are launched one after the other. What changes from run to run, the symbols, lies in a little memory of the device that a copy from pinned
 * memory fills first. When grids stay as they are, which they do from token to token, the copy and all launches are recorded as one graph: a run is then one call.
 */
export class List implements StepList {
  readonly grids: Int32Array;
  readonly symbols: Int32Array;
  private readonly work: Work;
  private readonly options: ListOptions;
  private readonly kernels: readonly string[];
  private readonly table: LaunchTable;
  private readonly values: SymbolMemory | null;
  private readonly order: Int32Array;
  private readonly lastGrids: Int32Array;
  private graph: { readonly exec: CudaGraph; readonly grids: Int32Array } | null = null;
  private events: readonly CudaEvent[] = [];
  private lastRun = 0;
  private gone = false;

  constructor(work: Work, steps: readonly PreparedStep[], symbols: readonly string[], options: ListOptions) {
    this.work = work;
    this.options = options;
    this.kernels = steps.map(({ kernel }) => kernel.entry);
    this.grids = new Int32Array(3 * steps.length);
    this.lastGrids = new Int32Array(3 * steps.length).fill(-1);
    this.symbols = new Int32Array(symbols.length);
    const { offsets, order } = layOutSymbols(steps, symbols, SYMBOL_ALIGN);
    this.order = order;
    this.values = order.length === 0 ? null : symbolMemory(work, order.length);
    this.table = new LaunchTable(
      work,
      steps.map((step, i) => {
        step.kernel.check(step.args.length, step.sharedBytes);
        const args: bigint[] = step.args.map(({ buffer, offset }) => buffer.at(offset, 0));
        if (step.kernel.symbols > 0) args.push(this.values!.device + BigInt(offsets[i]!));
        return { kernel: step.kernel, args, sharedBytes: step.sharedBytes };
      }),
    );
  }

  run(): Promise<void> {
    return attempt(() => this.submit());
  }

  async runInBackground(): Promise<void> {
    this.submit();
    await this.work.idle();
  }

  async runTimed(): Promise<Float64Array> {
    const { work } = this;
    this.begin();
    this.uploadSymbols();
    if (this.events.length === 0) {
      this.events = Array.from({ length: this.kernels.length + 1 }, () => work.call((cuda) => cuda.createEvent()));
      work.made += this.events.length;
    }
    const record = (i: number): void => work.call((cuda) => cuda.record(this.events[i]!, work.stream));
    record(0);
    const launched = this.kernels.map((_, i) => {
      const done = this.launch(i, false);
      record(i + 1);
      return done;
    });
    await work.idle();
    return Float64Array.from(launched, (done, i) =>
      done ? work.call((cuda) => cuda.milliseconds(this.events[i]!, this.events[i + 1]!)) * 1e6 : 0,
    );
  }

  async timeGroups(groups: readonly (readonly number[])[]): Promise<Float64Array> {
    this.begin();
    this.uploadSymbols();
    const times = new Float64Array(groups.length);
    for (const [i, group] of groups.entries()) times[i] = await this.timeGroup(group);
    return times;
  }

  /** Nanoseconds that the group's steps take; it runs as a graph, so that the host is out of the way, and once before it counts. */
  private async timeGroup(group: readonly number[]): Promise<number> {
    const { work, grids } = this;
    const steps = group.filter((i) => grids[3 * i]! * grids[3 * i + 1]! * grids[3 * i + 2]! > 0);
    if (steps.length === 0) return 0;
    const rounds = Math.ceil(TIMED_LAUNCHES / steps.length);
    const early = this.options.early && !work.cautious;
    const launchAll = (): void => {
      for (let i = 0; i < rounds * steps.length; i += 1) this.launch(steps[i % steps.length]!, early && i > 0);
    };
    // Who waits after each launch cannot record them.
    const exec = work.cautious ? null : work.call((cuda) => cuda.recordGraph(work.stream, launchAll));
    const run = (): void => (exec === null ? launchAll() : this.launchGraph(exec));
    try {
      run();
      return ((await work.milliseconds(run)) * 1e6) / rounds;
    } finally {
      if (exec !== null) work.release((cuda) => cuda.destroyGraph(exec));
    }
  }

  free(): void {
    if (this.gone) return;
    this.gone = true;
    const { work, values } = this;
    // What is under way reads the symbols.
    work.release((cuda) => cuda.synchronize(work.stream));
    this.dropGraph();
    this.table.free();
    if (values !== null)
      work.release((cuda) => {
        cuda.free(values.device);
        cuda.freeHost(values.pinned);
      });
    for (const event of this.events) work.release((cuda) => cuda.destroyEvent(event));
    this.options.freed(this);
  }

  private submit(): void {
    const { work, grids, lastGrids } = this;
    this.begin();
    if (!work.cautious && this.graph !== null && sameNumbers(grids, this.graph.grids)) this.launchGraph(this.graph.exec);
    else if (!work.cautious && sameNumbers(grids, lastGrids)) this.launchGraph(this.record());
    else this.launchAll();
    lastGrids.set(grids);
  }

  /** Symbols change only when the copy that reads them is over. */
  private begin(): void {
    const { work, values, order, symbols } = this;
    if (this.gone) throw new Error("a list of steps is run after it was freed");
    if (values !== null && !sameSymbols(order, symbols, values.words)) {
      work.settle(this.lastRun);
      takeSymbols(order, symbols, values.words);
    }
    this.lastRun = work.begin(this.kernels);
  }

  private record(): CudaGraph {
    this.dropGraph();
    const exec = this.work.call((cuda) => cuda.recordGraph(this.work.stream, () => this.launchAll()));
    this.graph = { exec, grids: this.grids.slice() };
    return exec;
  }

  private launchGraph(exec: CudaGraph): void {
    this.work.call((cuda) => cuda.launchGraph(exec, this.work.stream));
  }

  private dropGraph(): void {
    const { graph } = this;
    this.graph = null;
    if (graph !== null) this.work.release((cuda) => cuda.destroyGraph(graph.exec));
  }

  private uploadSymbols(): void {
    const { values, work } = this;
    if (values !== null) work.call((cuda) => cuda.upload(values.device, values.pinned.address, values.words.byteLength, work.stream));
  }

  private launchAll(): void {
    this.uploadSymbols();
    const early = this.options.early && !this.work.cautious;
    // The first one waits for the copy of the symbols, which no kernel can wait for by itself.
    let any = false;
    for (let i = 0; i < this.kernels.length; i += 1) any = this.launch(i, early && any) || any;
  }

  /** @returns false where a grid has nothing in it */
  private launch(i: number, early: boolean): boolean {
    const [x, y, z] = [this.grids[3 * i]!, this.grids[3 * i + 1]!, this.grids[3 * i + 2]!];
    if (x === 0 || y === 0 || z === 0) return false;
    const [maxY, maxZ] = this.options.maxGrid;
    if (x < 0 || y < 0 || z < 0 || y > maxY || z > maxZ)
      throw new Error(`${this.kernels[i]!}: a grid of ${x} x ${y} x ${z} blocks; the GPU has up to ${MAX_GRID_X} x ${maxY} x ${maxZ}`);
    this.table.launch(i, x, y, z, early);
    if (this.work.cautious) this.work.synchronize(this.kernels[i]);
    return true;
  }
}

function symbolMemory(work: Work, words: number): SymbolMemory {
  const bytes = 4 * words;
  const made = work.call((cuda) => ({ pinned: cuda.allocHost(bytes), device: cuda.alloc(bytes) }));
  work.made += 2;
  const view = new Int32Array(made.pinned.view, 0, words);
  view.fill(0);
  return { ...made, words: view };
}

function sameSymbols(order: Int32Array, symbols: Int32Array, words: Int32Array): boolean {
  for (let i = 0; i < order.length; i += 1) if (order[i]! >= 0 && words[i] !== symbols[order[i]!]) return false;
  return true;
}
