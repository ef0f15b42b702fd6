import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseKernels } from "../../../backends/metal/toolchain.ts";
import type { MetalKernel } from "../../../backends/metal/toolchain.ts";
import type { Device, DeviceBuffer, KernelModule, Slice, StepList, StepSpec } from "../../../runtime/driver.ts";
import { attempt } from "../../../runtime/drivers/steps.ts";
import type { Build, Launch } from "./run.ts";
import { runMapped } from "./run.ts";

/** Where memory begins: no vector and no cache line is shared. */
const ALIGN = 256;

/** A device of the runtime that is the stand-in: its memory is a file, and a list of steps is one job. Buffers are not used again. */
export class StandinDevice implements Device {
  readonly name = "a stand-in for Metal";
  readonly fingerprint = "metal-standin";
  readonly backend = "metal";
  readonly workers = null;
  allocations = 0;
  /** Launches so far. */
  launches = 0;
  private readonly build: Build;
  private readonly order: number;
  private readonly folder = mkdtempSync(join(tmpdir(), "culm-metal-device-"));
  private readonly file = join(this.folder, "memory");
  private readonly fd = openSync(this.file, "w+");
  private end = 0;

  constructor(build: Build, order: number) {
    this.build = build;
    this.order = order;
  }

  alloc(bytes: number): DeviceBuffer {
    const at = this.end;
    this.end += Math.ceil(Math.max(1, bytes) / ALIGN) * ALIGN;
    ftruncateSync(this.fd, this.end);
    this.allocations++;
    return new FileBuffer(this.fd, at, bytes);
  }

  ready(): Promise<void> {
    return Promise.resolve();
  }

  copy(to: DeviceBuffer, toOffset: number, from: DeviceBuffer, fromOffset: number, bytes: number): void {
    to.write(own(from).bytesAt(fromOffset, bytes), toOffset);
  }

  load(binary: Uint8Array): Promise<KernelModule> {
    const kernels = new Map(parseKernels(binary).map((k) => [k.entry, k]));
    return Promise.resolve({
      kernel: (entry) => {
        const found = kernels.get(entry);
        if (!found) throw new Error(`there is no kernel ${entry}`);
        return found;
      },
      free: () => {}, // nothing is held
    });
  }

  prepare(steps: readonly StepSpec[], symbols: readonly string[]): StepList {
    const list = { grids: new Int32Array(3 * steps.length), symbols: new Int32Array(symbols.length) };
    const run = (): void => {
      const launches = steps.flatMap((s, i) => this.launchOf(s, list.grids.subarray(3 * i, 3 * i + 3), symbols, list.symbols) ?? []);
      this.launches += launches.length;
      runMapped({ build: this.build, order: this.order, launches }, this.file, [[0, this.end]]);
    };
    return {
      ...list,
      run: () => attempt(run),
      runInBackground: () => attempt(run),
      runTimed: () => attempt(run).then(() => new Float64Array(steps.length)),
      free: () => {}, // nothing is held
    };
  }

  private launchOf(step: StepSpec, grid: Int32Array, names: readonly string[], values: Int32Array): Launch | null {
    const [x, y, z] = grid as unknown as readonly [number, number, number];
    if (x === 0 || y === 0 || z === 0) return null;
    const kernel = step.kernel as MetalKernel;
    const source = {
      language: "metal",
      text: kernel.source,
      entry: kernel.entry,
      sharedBytes: step.sharedBytes,
      bindings: kernel.bindings,
    } as const;
    return {
      source,
      threads: kernel.threads,
      grid: [x, y, z],
      args: step.args.map(({ buffer, offset }: Slice) => [0, own(buffer).at + offset]),
      symbols: step.symbols.map((name) => values[names.indexOf(name)]!),
    };
  }

  close(): Promise<void> {
    closeSync(this.fd);
    rmSync(this.folder, { recursive: true });
    return Promise.resolve();
  }
}

function own(buffer: DeviceBuffer): FileBuffer {
  if (buffer instanceof FileBuffer) return buffer;
  throw new Error("a buffer of another device");
}

class FileBuffer implements DeviceBuffer {
  readonly host = null;
  readonly at: number;
  readonly bytes: number;
  private readonly fd: number;

  constructor(fd: number, at: number, bytes: number) {
    this.fd = fd;
    this.at = at;
    this.bytes = bytes;
  }
  bytesAt(offset: number, bytes: number): Uint8Array {
    const data = new Uint8Array(bytes);
    readSync(this.fd, data, 0, bytes, this.at + offset);
    return data;
  }
  write(data: Uint8Array, offset = 0): void {
    writeSync(this.fd, data, 0, data.byteLength, this.at + offset);
  }
  read(offset = 0, bytes = this.bytes - offset): Promise<Uint8Array> {
    return Promise.resolve(this.bytesAt(offset, bytes));
  }
  clear(offset = 0, bytes = this.bytes - offset): void {
    this.write(new Uint8Array(bytes), offset);
  }
  free(): void {
    // the file goes with its device
  }
}
