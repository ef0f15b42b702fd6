import type { StepList, StepSpec } from "../../driver.ts";
import { UserError } from "../../errors.ts";
import { attempt, layOutSymbols, sameNumbers, takeSymbols } from "../steps.ts";
import type { WindowedBuffer } from "./buffer.ts";
import { MAX_GROUPS, USAGE } from "./constants.ts";
import type { WebgpuKernel } from "./kernels.ts";
import { symbolBytes } from "./kernels.ts";
import type { Work } from "./work.ts";

/** A step with everything that WebGPU checks done beforehand. */
export interface PreparedStep {
  readonly kernel: WebgpuKernel;
  readonly args: readonly { readonly buffer: WindowedBuffer; readonly offset: number }[];
  readonly symbols: StepSpec["symbols"];
}

/** Steps of one command buffer of a long run: the GPU shows the screen, and a driver's watchdog counts, between command buffers. */
const stepsPerSubmit = 64;
/** Queries that a set may have (spec 20.1). */
const queriesPerSet = 4096;

/**
 * Steps as one compute pass. Bind groups are made once; what changes from run to run, the symbols, lies in one uniform buffer, a region for each order in
 * which kernels take them, written once a run.
 *
 * Command buffers can be submitted once, so each run needs a new one. When grids stay as they are, which they do from token to token, the next run's is
 * recorded right after this one's was submitted, while the GPU works.
 */
export class List implements StepList {
  readonly grids: Int32Array;
  readonly symbols: Int32Array;
  private readonly work: Work;
  private readonly steps: readonly PreparedStep[];
  private readonly groups: readonly GPUBindGroup[];
  private readonly uniforms: GPUBuffer | null;
  /** The uniform buffer's words, and which symbol each is; -1 between regions. */
  private readonly words: Int32Array;
  private readonly order: Int32Array;
  private readonly wordBytes: Uint8Array;
  /** Grids of the last run, and the command buffer for another run with them. */
  private readonly lastGrids: Int32Array;
  private ahead: GPUCommandBuffer | null = null;
  private timing: { readonly set: GPUQuerySet; readonly result: GPUBuffer } | null = null;

  constructor(work: Work, steps: readonly PreparedStep[], symbols: readonly string[]) {
    work.check();
    this.work = work;
    this.steps = steps;
    this.grids = new Int32Array(3 * steps.length);
    this.lastGrids = new Int32Array(3 * steps.length);
    this.symbols = new Int32Array(symbols.length);
    const { offsets, order } = layOutSymbols(steps, symbols, work.gpu.limits.minUniformBufferOffsetAlignment);
    this.order = order;
    this.words = new Int32Array(order.length);
    this.wordBytes = new Uint8Array(this.words.buffer);
    this.uniforms = order.length === 0 ? null : work.create(order.length * 4, USAGE.uniform | USAGE.copyDst);
    this.groups = bindSteps(work, steps, this.uniforms, offsets);
  }

  run(): Promise<void> {
    return attempt(() => {
      this.writeSymbols();
      const same = sameNumbers(this.grids, this.lastGrids);
      const commands = (same ? this.ahead : null) ?? this.record(0, this.steps.length);
      this.ahead = null;
      this.lastGrids.set(this.grids);
      this.work.submit(commands);
      if (same) this.ahead = this.record(0, this.steps.length);
    });
  }

  async runInBackground(): Promise<void> {
    this.writeSymbols();
    for (let first = 0; first < this.steps.length; first += stepsPerSubmit)
      this.work.submit(this.record(first, Math.min(this.steps.length, first + stepsPerSubmit)));
    await this.work.done();
  }

  async runTimed(): Promise<Float64Array> {
    if (!this.work.gpu.features.has("timestamp-query"))
      throw new UserError(`${this.work.name} cannot time kernels`, {
        hint: "it lacks WebGPU's feature timestamp-query; whole tokens can be timed all the same",
      });
    this.writeSymbols();
    const times = new Float64Array(this.steps.length);
    const perSet = queriesPerSet / 2;
    for (let first = 0; first < this.steps.length; first += perSet)
      times.set(await this.timed(first, Math.min(this.steps.length, first + perSet)), first);
    return times;
  }

  free(): void {
    this.ahead = null;
    this.uniforms?.destroy();
    this.timing?.set.destroy();
    this.timing?.result.destroy();
  }

  private writeSymbols(): void {
    const { order, words, symbols, uniforms, wordBytes } = this;
    this.work.check();
    if (uniforms === null) return;
    takeSymbols(order, symbols, words);
    this.work.write(uniforms, 0, wordBytes);
  }

  /** Steps `first` to `end - 1` in one pass. */
  private record(first: number, end: number): GPUCommandBuffer {
    const encoder = this.work.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    let pipeline: GPUComputePipeline | null = null;
    for (let i = first; i < end; i += 1) pipeline = this.launch(pass, i, pipeline);
    pass.end();
    return encoder.finish();
  }

  private launch(pass: GPUComputePassEncoder, i: number, current: GPUComputePipeline | null): GPUComputePipeline | null {
    const [x, y, z] = [this.grids[3 * i]!, this.grids[3 * i + 1]!, this.grids[3 * i + 2]!];
    if (x === 0 || y === 0 || z === 0) return current;
    const { kernel } = this.steps[i]!;
    if (x < 0 || y < 0 || z < 0 || x > MAX_GROUPS || y > MAX_GROUPS || z > MAX_GROUPS)
      throw new Error(`${kernel.entry}: ${x} x ${y} x ${z} workgroups, where WebGPU has up to ${MAX_GROUPS} along an axis`);
    if (kernel.pipeline !== current) pass.setPipeline(kernel.pipeline);
    pass.setBindGroup(0, this.groups[i]);
    pass.dispatchWorkgroups(x, y, z);
    return kernel.pipeline;
  }

  /** A pass for each step, since only passes are timed. */
  private async timed(first: number, end: number): Promise<Float64Array> {
    const { gpu } = this.work;
    const count = end - first;
    const timing = (this.timing ??= {
      set: gpu.createQuerySet({ type: "timestamp", count: 2 * Math.min(this.steps.length, queriesPerSet / 2) }),
      result: this.work.create(8 * queriesPerSet, USAGE.queryResolve | USAGE.copySrc),
    });
    const encoder = gpu.createCommandEncoder();
    for (let i = 0; i < count; i += 1) {
      const pass = encoder.beginComputePass({
        timestampWrites: { querySet: timing.set, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 },
      });
      this.launch(pass, first + i, null);
      pass.end();
    }
    encoder.resolveQuerySet(timing.set, 0, 2 * count, timing.result, 0);
    this.work.submit(encoder.finish());
    const bytes = await this.work.read([{ buffer: timing.result, offset: 0, bytes: 16 * count }]);
    const stamps = new BigUint64Array(bytes.buffer, bytes.byteOffset, 2 * count);
    // A browser rounds its clock, so that a short pass can seem to end before it began.
    return Float64Array.from({ length: count }, (_, i) => Math.max(0, Number(stamps[2 * i + 1]! - stamps[2 * i]!)));
  }
}

/** Bind groups, one for all steps that bind the same. */
function bindSteps(
  work: Work,
  steps: readonly PreparedStep[],
  uniforms: GPUBuffer | null,
  offsets: readonly number[],
): readonly GPUBindGroup[] {
  const numbers = new Map<object, number>();
  const numberOf = (thing: object): number => {
    const known = numbers.get(thing) ?? numbers.size;
    numbers.set(thing, known);
    return known;
  };
  const groups = new Map<string, GPUBindGroup>();
  return steps.map(({ kernel, args }, i) => {
    if (args.length !== kernel.params.length)
      throw new Error(`${kernel.entry} takes ${kernel.params.length} buffers, the step gives ${args.length}`);
    const resources = kernel.params.flatMap(({ windows }, p) => bindingsOf(kernel.entry, args[p]!, windows, p));
    if (kernel.symbols > 0) resources.push({ buffer: uniforms!, offset: offsets[i]!, size: symbolBytes(kernel.symbols) });
    const key = [numberOf(kernel.layout), ...resources.map(({ buffer, offset = 0 }) => `${numberOf(buffer)}+${offset}`)].join(" ");
    const group = groups.get(key) ?? work.bindGroup(kernel.layout, resources);
    groups.set(key, group);
    return group;
  });
}

function bindingsOf(
  entry: string,
  { buffer, offset }: PreparedStep["args"][number],
  windows: number,
  parameter: number,
): GPUBufferBinding[] {
  if (windows > buffer.windows.length)
    throw new Error(
      `${entry}: parameter ${parameter} has ${windows} windows, its buffer of ${buffer.bytes} bytes has ${buffer.windows.length}`,
    );
  if (offset === 0) return buffer.windows.slice(0, windows).map((window) => ({ buffer: window, offset: 0, size: window.size }));
  if (buffer.windows.length > 1) throw new Error(`${entry}: parameter ${parameter} begins within a buffer of several windows`);
  const [window] = buffer.windows;
  return [{ buffer: window!, offset, size: window!.size - offset }];
}
