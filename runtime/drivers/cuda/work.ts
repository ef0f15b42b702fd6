import type { Cuda, CudaContext, CudaStream } from "../../../ffi/cuda.ts";
import { faultOf } from "./faults.ts";

/**
 * A context with its one stream, as the parts of the driver share it: everything is done in the order of the calls, and one place knows whether the device
 * still works. A kernel's fault comes out in some later call; from then on every call fails with it.
 */
export class Work {
  readonly cuda: Cuda;
  /** The device's, for messages. */
  readonly name: string;
  readonly stream: CudaStream;
  /** Waits after each launch, to know which kernel a fault is of. */
  readonly cautious: boolean;
  /** Pieces of memory, here and on the device, and events that were made. */
  made = 0;
  private readonly context: CudaContext;
  private failure: Error | null = null;
  private running: readonly string[] = [];
  /** Runs of lists that were begun, and how many of them are known to be over. */
  private begun = 0;
  private over = 0;

  constructor(cuda: Cuda, name: string, context: CudaContext, cautious: boolean) {
    this.cuda = cuda;
    this.name = name;
    this.context = context;
    this.cautious = cautious;
    cuda.enter(context);
    this.stream = cuda.createStream();
  }

  get lost(): boolean {
    return this.failure !== null;
  }

  /**
   * Calls the driver. @throws what went wrong, now or earlier
   * @param kernel that is to blame, where it is known
   */
  call<T>(body: (cuda: Cuda) => T, kernel?: string): T {
    if (this.failure !== null) throw this.failure;
    try {
      this.cuda.enter(this.context);
      return body(this.cuda);
    } catch (thrown) {
      const { error, lost } = faultOf(thrown, this.name, kernel === undefined ? this.running : [kernel]);
      if (lost) this.failure = error;
      throw error;
    }
  }

  /** Fails every later call. The first reason stays. */
  fail(error: Error): void {
    this.failure ??= error;
  }

  /** Memory and the like are freed as far as the device still answers: with a lost one they are gone. */
  release(body: (cuda: Cuda) => void): void {
    try {
      this.cuda.enter(this.context);
      body(this.cuda);
    } catch (error) {
      if (this.failure === null) throw error;
    }
  }

  /** A run of a list begins. @param kernels for messages @returns its number */
  begin(kernels: readonly string[]): number {
    this.running = kernels;
    this.begun += 1;
    return this.begun;
  }

  /** Waits, if need be, until a run is over: then what it reads from pinned memory may change. */
  settle(run: number): void {
    if (run > this.over) this.synchronize();
  }

  /** Waits for all that was called before. The thread stands still: for waits that are short or rare. */
  synchronize(kernel?: string): void {
    this.call((cuda) => cuda.synchronize(this.stream), kernel);
    this.over = this.begun;
  }

  /**
   * Waits for all that was called before, and lets the event loop live. The stream is asked in every turn of the loop: a timer's millisecond would be a
   * quarter of a token, and a thread of Node's pool, which could wait instead, has no context current.
   */
  async idle(): Promise<void> {
    for (;;) {
      const begun = this.begun;
      if (this.call((cuda) => cuda.done(this.stream))) {
        this.over = begun;
        return;
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** How long the stream is at work on what `body` puts into it, by the device's clock. */
  async milliseconds(body: () => void | Promise<void>): Promise<number> {
    const [start, end] = this.call((cuda) => [cuda.createEvent(), cuda.createEvent()] as const);
    try {
      this.call((cuda) => cuda.record(start, this.stream));
      await body();
      this.call((cuda) => cuda.record(end, this.stream));
      await this.idle();
      return this.call((cuda) => cuda.milliseconds(start, end));
    } finally {
      for (const event of [start, end]) this.release((cuda) => cuda.destroyEvent(event));
    }
  }

  close(): void {
    this.release((cuda) => cuda.destroyStream(this.stream));
  }
}
