import type { Backend, Caps } from "../../compiler/backend.ts";
import { evaluateInt } from "../../compiler/ir/expr.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { HostArray } from "../../compiler/run/tile.ts";
import type { Device, KernelModule } from "../../runtime/driver.ts";

/** What lies behind a buffer's last element; it must still be there afterwards. */
const BEYOND = 0xa5;
const MARGIN = 64;

/** Runs placed programs as models run: compiled by a backend's toolchain, loaded and launched by a driver. Results are left in the host's memory. */
export class DeviceRunner {
  private readonly device: Device;
  private readonly backend: Backend;
  private readonly caps: Caps;
  /** By the kernel's text and its symbols, of which one that nothing reads leaves no trace in the text: a property runs one program many times. */
  private readonly modules = new Map<string, Promise<KernelModule>>();

  constructor(device: Device, backend: Backend, caps: Caps) {
    this.device = device;
    this.backend = backend;
    this.caps = caps;
  }

  async run(placed: ThreadProgram, buffers: Readonly<Record<string, HostArray>>, symbols: Readonly<Record<string, number>>): Promise<void> {
    const { device, backend, caps } = this;
    const program = backend.legalize?.(placed, caps) ?? placed;
    const source = backend.print(program, caps);
    const names = program.symbols.map(({ name }) => name);
    const key = `${names.join(" ")}\n${source.text}`;
    const module = await (this.modules.get(key) ?? this.load(key, source));
    const params = program.params.map(({ name }) => {
      const data = buffers[name];
      if (data === undefined) throw new Error(`there is no buffer for ${name}`);
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      const buffer = device.alloc(bytes.length + MARGIN, "io");
      buffer.write(bytes);
      buffer.write(new Uint8Array(MARGIN).fill(BEYOND), bytes.length);
      return { name, bytes, buffer };
    });
    const args = params.map(({ buffer }) => ({ buffer, offset: 0 }));
    const list = device.prepare([{ kernel: module.kernel(source.entry), args, symbols: names, sharedBytes: source.sharedBytes }], names);
    list.grids.set(program.grid.map((size) => evaluateInt(size, symbols)));
    list.symbols.set(names.map((name) => symbols[name]!));
    await list.runInBackground();
    for (const { name, bytes, buffer } of params) {
      const got = await buffer.read();
      if (got.subarray(bytes.length).some((byte) => byte !== BEYOND)) throw new Error(`${program.name} writes past the end of ${name}`);
      bytes.set(got.subarray(0, bytes.length));
      buffer.free();
    }
    list.free();
  }

  private load(key: string, source: ReturnType<Backend["print"]>): Promise<KernelModule> {
    const loading = this.backend.toolchain!.compile([source], this.caps).then((binary) => this.device.load(binary));
    this.modules.set(key, loading);
    return loading;
  }
}
