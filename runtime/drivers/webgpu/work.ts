import { DeviceLostError, UserError } from "../../errors.ts";
import { MAP_READ, USAGE } from "./constants.ts";

/** What was made on the device since it was opened. */
export interface Counts {
  buffers: number;
  bindGroups: number;
  pipelines: number;
  submits: number;
}

/** Staging memory of a read is kept for the next one up to this size. */
const keptStaging = 1 << 20;
/** Bytes of writes on their way, beyond which `ready` waits: the API holds a copy of each until the GPU has it. */
const writesAhead = 64 << 20;

/**
 * A GPUDevice as the parts of the driver share it: one queue, whose order is the order of calls, and one place that knows whether the device still
 * works. Errors of WebGPU are no exceptions. One that nobody waited for, or a lost device, fails every call from then on: results after it would be wrong.
 */
export class Work {
  readonly gpu: GPUDevice;
  /** The adapter's, for messages. */
  readonly name: string;
  readonly counts: Counts = { buffers: 0, bindGroups: 0, pipelines: 0, submits: 0 };
  private failure: Error | null = null;
  /** Copies that wait for whatever is submitted next. */
  private copies: GPUCommandEncoder | null = null;
  /** Scopes of allocations that have not been looked at. */
  private readonly allocations: Promise<void>[] = [];
  /** Staging buffers that are free, by size. */
  private readonly staging = new Map<number, GPUBuffer[]>();
  private written = 0;

  constructor(gpu: GPUDevice, name: string) {
    this.gpu = gpu;
    this.name = name;
    void gpu.lost.then(({ reason, message }) => {
      this.failure ??= new DeviceLostError(`${name}: the GPU device was lost (${reason}${message === "" ? "" : `: ${message}`})`, {
        hint: "open the model again and repeat the call; what the session held is gone",
      });
    });
    gpu.onuncapturederror = (event) => {
      event.preventDefault();
      this.failure ??= this.errorOf(event.error);
    };
  }

  private errorOf(error: GPUError): Error {
    // The class is a global in a page only; its name is the same everywhere.
    if (error.constructor.name === "GPUOutOfMemoryError")
      return new UserError(`${this.name}: the GPU has no memory left`, { hint: "close what else uses it, or open a smaller model" });
    return new Error(`${this.name}: WebGPU refused a call: ${error.message}`);
  }

  /** @throws what has gone wrong so far. */
  check(): void {
    if (this.failure !== null) throw this.failure;
  }

  /** Fails every later call. The first reason stays. */
  fail(error: Error): void {
    this.failure ??= error;
  }

  /** The result of a promise of WebGPU, if all is well when it comes. */
  async settled<T>(promise: Promise<T>): Promise<T> {
    try {
      const value = await promise;
      this.check();
      return value;
    } catch (error) {
      // Whatever waits when a device is lost is rejected; why, is known a moment later.
      if (this.failure === null) await new Promise((resolve) => setTimeout(resolve, 0));
      this.check();
      throw error;
    }
  }

  /** A zeroed buffer. That there is no memory for it comes out in `ready`. */
  allocate(bytes: number, usage: number): GPUBuffer {
    this.check();
    this.gpu.pushErrorScope("out-of-memory");
    try {
      return this.create(bytes, usage);
    } finally {
      const scope = this.gpu.popErrorScope().then((error) => {
        if (error !== null) throw new RangeError(`${this.name}: no memory for a buffer of ${bytes} bytes`);
      });
      // It is looked at in `ready`; until then it is nobody's.
      scope.catch(() => undefined);
      this.allocations.push(scope);
    }
  }

  /** Waits until it is known that all allocated memory is there, and for writes if there are many. @throws RangeError when it is not there. */
  async ready(): Promise<void> {
    await this.settled(Promise.all(this.allocations.splice(0)));
    if (this.written < writesAhead) return;
    this.written = 0;
    // Writes go out with the next submit.
    this.gpu.queue.submit([]);
    await this.done();
  }

  /** A buffer of the driver's own. */
  create(bytes: number, usage: number): GPUBuffer {
    this.counts.buffers += 1;
    return this.gpu.createBuffer({ size: bytes, usage });
  }

  bindGroup(layout: GPUBindGroupLayout, resources: readonly GPUBufferBinding[]): GPUBindGroup {
    this.counts.bindGroups += 1;
    return this.gpu.createBindGroup({ layout, entries: resources.map((resource, binding) => ({ binding, resource })) });
  }

  /** Where a copy is recorded. It is done before anything that is written or submitted later. */
  copying(): GPUCommandEncoder {
    this.check();
    this.copies ??= this.gpu.createCommandEncoder();
    return this.copies;
  }

  submit(...commands: GPUCommandBuffer[]): void {
    this.check();
    if (this.copies !== null) commands.unshift(this.copies.finish());
    this.copies = null;
    if (commands.length === 0) return;
    this.counts.submits += 1;
    this.gpu.queue.submit(commands);
  }

  /** Multiples of 4 only. */
  write(buffer: GPUBuffer, offset: number, data: Uint8Array): void {
    this.submit();
    this.gpu.queue.writeBuffer(buffer, offset, data);
    this.written += data.length;
  }

  /** When all that was submitted is done. */
  async done(): Promise<void> {
    await this.settled(this.gpu.queue.onSubmittedWorkDone());
  }

  /** The bytes of buffers as they are now, one after the other. Offsets and lengths are multiples of 4. */
  async read(parts: readonly { readonly buffer: GPUBuffer; readonly offset: number; readonly bytes: number }[]): Promise<Uint8Array> {
    const copies = this.copying();
    const staged = parts.map(({ buffer, offset, bytes }) => {
      const staging = this.takeStaging(bytes);
      copies.copyBufferToBuffer(buffer, offset, staging, 0, bytes);
      return { staging, bytes };
    });
    this.submit();
    const result = new Uint8Array(parts.reduce((sum, { bytes }) => sum + bytes, 0));
    let at = 0;
    // Mapped at once, so that none is left behind unwatched when the first fails.
    await this.settled(Promise.all(staged.map(({ staging, bytes }) => staging.mapAsync(MAP_READ, 0, bytes))));
    for (const { staging, bytes } of staged) {
      result.set(new Uint8Array(staging.getMappedRange(0, bytes)), at);
      at += bytes;
      staging.unmap();
      this.giveStaging(staging);
    }
    return result;
  }

  private takeStaging(bytes: number): GPUBuffer {
    const size = bytes > keptStaging ? bytes : 2 ** Math.ceil(Math.log2(Math.max(256, bytes)));
    return this.staging.get(size)?.pop() ?? this.create(size, USAGE.mapRead | USAGE.copyDst);
  }

  private giveStaging(buffer: GPUBuffer): void {
    if (buffer.size > keptStaging) {
      buffer.destroy();
      return;
    }
    const free = this.staging.get(buffer.size);
    if (free === undefined) this.staging.set(buffer.size, [buffer]);
    else free.push(buffer);
  }
}
