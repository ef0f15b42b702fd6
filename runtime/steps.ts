import type { DType, IntExpr, Manifest, ProgramEntry, TensorEntry, WeightEntry } from "../compiler/artifact.ts";
import { elementBytes, evaluateIntExpr } from "../compiler/artifact.ts";
import type { BufferUse, Device, DeviceBuffer, Kernel, Slice, StepList } from "./driver.ts";
import { UserError } from "./errors.ts";
import type { Executor, HostArray, StepTime, Symbols } from "./executor.ts";
import type { MemoryPlan } from "./memory-plan.ts";
import { arenaSizes, largestRow, literalOffsets, memoryPlan, memoryRefusal } from "./memory-plan.ts";
import { operationOf } from "./profile.ts";
import { copyRows } from "./rows.ts";
import { checkWeights, createStaging, isIgnoredTensor, loadWeight, sourceBytes } from "./weights.ts";
import type { WeightSource } from "./weights.ts";

/** What the compiler made of a model; runtime/node/artifact.ts reads it from a folder. */
export interface LoadedArtifact {
  readonly manifest: Manifest;
  readonly kernels: Uint8Array;
  readonly literals: Uint8Array;
}

export interface OpenArtifactOptions {
  /** Weights that are on this device already; those that this artifact brings are added. Artifacts of one model so hold them once. */
  readonly bank?: WeightBank;
  /** Tensors that may be in the checkpoint although this artifact does not read them; those that no model reads unless given. */
  readonly spare?: (name: string) => boolean;
  /** Bytes of weights read so far, and in all. */
  readonly onLoad?: (bytes: number, total: number) => void;
}

/** Packed weights on a device, by what they are. Frees nothing itself: they live as long as the device. */
export type WeightBank = Map<string, DeviceBuffer>;

/** Two entries with one key are the same bytes. */
export const bankKey = ({ dtype, parts, rows, cols, panel }: WeightEntry): string => JSON.stringify([dtype, parts, rows, cols, panel]);

/**
 * Puts an artifact on a device: memory for everything, weights packed as they stream from their checkpoint, and the steps of each program prepared once.
 * Afterwards a run allocates nothing.
 * @throws UserError when the artifact is for another kind of device, the checkpoint does not fit it, or the device has too little memory: all before
 * weights are read.
 */
export async function openArtifact(
  device: Device,
  artifact: LoadedArtifact,
  source: WeightSource,
  { bank = new Map(), spare = isIgnoredTensor, onLoad = () => undefined }: OpenArtifactOptions = {},
): Promise<Executor> {
  const { manifest } = artifact;
  const { backend, caps } = manifest.target;
  if (backend !== device.backend)
    throw new UserError(`the artifact was compiled for ${backend} (${caps}), ${device.name} runs artifacts for ${device.backend}`, {
      hint: `compile the model with --target ${device.backend}`,
    });
  checkWeights(manifest, source, spare);
  const memory = new Memory(
    device,
    memoryPlan(manifest, (entry) => bank.has(bankKey(entry))),
  );
  const module = await device.load(artifact.kernels);
  const lists: StepList[] = [];
  const close = (): void => {
    for (const list of lists) list.free();
    memory.free();
    module.free();
  };
  try {
    const missing = manifest.weights.filter((entry) => !bank.has(bankKey(entry)));
    const fresh = missing.map((entry) => ({ entry, buffer: memory.take(entry.bytes, "weights", `weight ${entry.name}`) }));
    const literals = placeLiterals(memory, artifact);
    const states = new Map(manifest.states.map((entry) => [entry.name, memory.take(entry.bytes, "state", `state ${entry.name}`)]));
    const arenas = arenaSizes(manifest).map((bytes) => memory.take(bytes, "arena", "the values between kernels"));
    const tensors = hostTensors(memory, manifest);
    const spareBytes = largestRow(manifest);
    const spare = spareBytes === 0 ? null : memory.take(spareBytes, "state", "a row on its way to another");
    await memory.ready();
    await inTurn(device, () => loadWeights(device, fresh, source, onLoad));
    for (const { entry, buffer } of fresh) bank.set(bankKey(entry), memory.keep(buffer));
    const weights = new Map(manifest.weights.map((entry) => [entry.name, bank.get(bankKey(entry))!]));
    const kernels = manifest.kernels.map(({ entry }) => module.kernel(entry));
    const whole = (buffer: DeviceBuffer): Slice => ({ buffer, offset: 0 });
    const slices: Slices = {
      weight: (name) => whole(weights.get(name)!),
      literal: (name) => literals.get(name)!,
      state: (name) => whole(states.get(name)!),
      input: (name) => whole(tensors.get(name)!.buffer),
      output: (name) => whole(tensors.get(name)!.buffer),
      arena: (index, offset) => ({ buffer: arenas[index]!, offset }),
    };
    const programs = new Map(manifest.programs.map((program) => [program.name, new Program(device, program, manifest, kernels, slices)]));
    for (const { list } of programs.values()) lists.push(list);
    return executorOf(device, manifest, programs, { tensors, states, spare, close });
  } catch (error) {
    close();
    throw error;
  }
}

/** Allocates, and frees all at once. */
class Memory {
  private readonly device: Device;
  private readonly plan: MemoryPlan;
  private readonly buffers = new Set<DeviceBuffer>();

  /** @throws UserError when the device tells that it has less than is planned */
  constructor(device: Device, plan: MemoryPlan) {
    this.device = device;
    this.plan = plan;
    const free = device.freeBytes?.();
    if (free !== undefined && plan.total > free) throw memoryRefusal(device.name, plan, free);
  }

  take(bytes: number, use: BufferUse, what: string): DeviceBuffer {
    try {
      const buffer = this.device.alloc(bytes, use);
      this.buffers.add(buffer);
      return buffer;
    } catch (cause) {
      throw this.refusal(cause, ` for ${what} (${bytes} bytes)`);
    }
  }

  /** Waits until the device has given all that was taken. */
  async ready(): Promise<void> {
    try {
      await this.device.ready();
    } catch (cause) {
      throw this.refusal(cause, "");
    }
  }

  /** Leaves a buffer to somebody else to free. */
  keep(buffer: DeviceBuffer): DeviceBuffer {
    this.buffers.delete(buffer);
    return buffer;
  }

  free(): void {
    for (const buffer of this.buffers) buffer.free();
    this.buffers.clear();
  }

  private refusal(cause: unknown, what: string): unknown {
    if (!(cause instanceof RangeError)) return cause;
    const { device, plan } = this;
    // What was taken on the way here counts as free again.
    const free = device.freeBytes?.();
    const there = free === undefined ? undefined : free + [...this.buffers].reduce((sum, { bytes }) => sum + bytes, 0);
    return memoryRefusal(device.name, plan, there, { what, cause });
  }
}

/** What a device still loads. */
const loads = new WeakMap<Device, Promise<void>>();

/** One load of a device after the other: its staging memory is one, and a second reader would not make the disk faster. */
function inTurn(device: Device, load: () => Promise<void>): Promise<void> {
  const mine = (loads.get(device) ?? Promise.resolve()).then(load);
  loads.set(
    device,
    mine.catch(() => undefined),
  );
  return mine;
}

/** Reads weights into memory that is there. */
async function loadWeights(
  device: Device,
  weights: readonly { readonly entry: WeightEntry; readonly buffer: DeviceBuffer }[],
  source: WeightSource,
  onLoad: (bytes: number, total: number) => void,
): Promise<void> {
  const entries = weights.map(({ entry }) => entry);
  const total = sourceBytes(entries, source);
  const staging = createStaging();
  let done = 0;
  let reported = 0;
  for (const { entry, buffer } of weights) {
    await loadWeight(entry, source, sinkOf(device, buffer), staging, (bytes) => (done += bytes));
    // Loading keeps this thread busy; a pause now and then lets others have it.
    if (done - reported > 1 << 26) {
      reported = done;
      onLoad(done, total);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }
  if (weights.length > 0) onLoad(total, total);
}

/** Memory that the host sees is filled in place; other memory from the device's own staging, or a block that is used again. */
function sinkOf(device: Device, buffer: DeviceBuffer): Parameters<typeof loadWeight>[2] {
  const { host } = buffer;
  if (host !== null) return { window: (offset, bytes) => host.subarray(offset, offset + bytes), commit: () => undefined };
  let block = new Uint8Array(0);
  let window: Uint8Array = block;
  let at = 0;
  return {
    window: (offset, bytes) => {
      at = offset;
      const staged = device.staging?.(bytes) ?? null;
      if (staged === null && block.length < bytes) block = new Uint8Array(bytes);
      window = staged ?? block.subarray(0, bytes);
      return window;
    },
    commit: () => {
      buffer.write(window, at);
      return device.ready();
    },
  };
}

/** All literals in one buffer, each where a binding or a vector load may begin. */
function placeLiterals(memory: Memory, { manifest, literals }: LoadedArtifact): ReadonlyMap<string, Slice> {
  const offsets = literalOffsets(manifest);
  const bytes = offsets.at(-1)!;
  if (bytes === 0) return new Map();
  const buffer = memory.take(bytes, "weights", "tables");
  return new Map(
    manifest.literals.map((entry, i) => {
      buffer.write(literals.subarray(entry.offset, entry.offset + entry.bytes), offsets[i]);
      return [entry.name, { buffer, offset: offsets[i]! }];
    }),
  );
}

interface HostTensor {
  readonly buffer: DeviceBuffer;
  /** The device's own memory where the host sees it, else a copy. */
  readonly data: HostArray;
  readonly bytes: Uint8Array;
  readonly width: number;
}

/** The most that an output has whose kernels may write it straight to the host: a token for each row. */
const RESULT_BYTES = 4096;

/** One buffer a name, as large as the program that needs most of it asks for: what one program gives under a name is what another takes under it. */
function hostTensors(memory: Memory, { programs }: Manifest): ReadonlyMap<string, HostTensor> {
  const inputs = new Set(programs.flatMap((program) => program.inputs.map(({ name }) => name)));
  const largest = new Map<string, TensorEntry>();
  for (const entry of programs.flatMap((program) => [...program.inputs, ...program.outputs])) {
    const known = largest.get(entry.name);
    if (known !== undefined && known.dtype !== entry.dtype)
      throw new UserError(`the artifact's programs disagree on ${entry.name}: ${known.dtype} and ${entry.dtype}`);
    if (known === undefined || known.bytes < entry.bytes) largest.set(entry.name, entry);
  }
  return new Map(
    [...largest].map(([name, { dtype, bytes }]) => {
      const buffer = memory.take(bytes, bytes <= RESULT_BYTES && !inputs.has(name) ? "result" : "io", name);
      const host = buffer.host ?? new Uint8Array(bytes);
      const view = host.subarray(0, bytes);
      return [name, { buffer, data: viewAs(dtype, view), bytes: view, width: elementBytes(dtype) }];
    }),
  );
}

function viewAs(dtype: DType, { buffer, byteOffset, length }: Uint8Array): HostArray {
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, length / 4);
    case "i32":
      return new Int32Array(buffer, byteOffset, length / 4);
    case "f16":
    case "bf16":
      return new Uint16Array(buffer, byteOffset, length / 2);
    case "bool":
      return new Uint8Array(buffer, byteOffset, length);
  }
}

interface Slices extends Readonly<Record<"weight" | "literal" | "state" | "input" | "output", (name: string) => Slice>> {
  readonly arena: (index: number, offset: number) => Slice;
}

/** A program's prepared steps, and what of them changes from run to run. */
class Program {
  readonly list: StepList;
  private readonly entry: ProgramEntry;
  private readonly manifest: Manifest;
  private readonly moving: readonly { readonly at: number; readonly size: IntExpr }[];

  constructor(device: Device, entry: ProgramEntry, manifest: Manifest, kernels: readonly Kernel[], slices: Slices) {
    this.entry = entry;
    this.manifest = manifest;
    this.list = device.prepare(
      entry.steps.map((step) => {
        const { symbols, sharedBytes } = manifest.kernels[step.kernel]!;
        const args = step.args.map((arg) => (arg.kind === "arena" ? slices.arena(arg.arena, arg.offset) : slices[arg.kind](arg.name)));
        return { kernel: kernels[step.kernel]!, args, symbols, sharedBytes };
      }),
      entry.symbols.map(({ name }) => name),
    );
    const sizes = entry.steps.flatMap((step, i) => step.grid.map((size, axis) => ({ at: 3 * i + axis, size })));
    for (const { at, size } of sizes) if (typeof size === "number") this.list.grids[at] = size;
    this.moving = sizes.filter(({ size }) => typeof size !== "number");
  }

  /** @throws Error for a symbol without a value in its range: kernels trust these numbers with addresses. */
  set(symbols: Symbols): void {
    const { list, entry, moving } = this;
    for (let i = 0; i < entry.symbols.length; i += 1) {
      const { name, min, max } = entry.symbols[i]!;
      const value = symbols[name];
      if (value === undefined || !(value >= min && value <= max))
        throw new Error(`${entry.name}: ${name} is ${String(value)}, expected ${min} to ${max}`);
      list.symbols[i] = value;
    }
    for (let i = 0; i < moving.length; i += 1) list.grids[moving[i]!.at] = evaluateIntExpr(moving[i]!.size, symbols);
  }

  /** Of each step; steps of one kernel and one kind of operation share their time where the device times them together. */
  async nanoseconds(): Promise<Float64Array> {
    const { list, entry } = this;
    if (list.timeGroups === undefined) return list.runTimed();
    const groups = new Map<string, number[]>();
    entry.steps.forEach(({ kernel, label }, i) => {
      const key = `${kernel} ${operationOf(label)}`;
      groups.set(key, [...(groups.get(key) ?? []), i]);
    });
    const members = [...groups.values()];
    const times = new Float64Array(entry.steps.length);
    (await list.timeGroups(members)).forEach((time, i) => {
      for (const step of members[i]!) times[step] = time / members[i]!.length;
    });
    return times;
  }

  timed(nanoseconds: Float64Array, symbols: Symbols): readonly StepTime[] {
    return this.entry.steps.map((step, i) => ({
      label: step.label,
      kernel: this.manifest.kernels[step.kernel]!.entry,
      milliseconds: nanoseconds[i]! / 1e6,
      bytes: evaluateIntExpr(step.bytes, symbols),
      flops: evaluateIntExpr(step.flops, symbols),
    }));
  }
}

interface Parts {
  /** Inputs and outputs. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  readonly states: ReadonlyMap<string, DeviceBuffer>;
  /** Room for one row of any state; null where there is only one row. */
  readonly spare: DeviceBuffer | null;
  readonly close: () => void;
}

function executorOf(device: Device, manifest: Manifest, programs: ReadonlyMap<string, Program>, parts: Parts): Executor {
  const { tensors, states, spare, close } = parts;
  const named = (of: (program: ProgramEntry) => readonly TensorEntry[]): ReadonlyMap<string, HostTensor> =>
    new Map(manifest.programs.flatMap(of).map(({ name }) => [name, tensors.get(name)!]));
  const inputs = named((program) => program.inputs);
  const outputs = named((program) => program.outputs);
  const widths = new Map(manifest.states.map(({ name, dtype }) => [name, elementBytes(dtype)]));
  const copy = device.copy.bind(device);
  const find = (name: string): Program => {
    const program = programs.get(name);
    if (program === undefined) throw new Error(`there is no program ${name}`);
    return program;
  };
  const bytesOf = (data: HostArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return {
    programs: manifest.programs,
    states: manifest.states,
    description: `${manifest.target.backend}/${manifest.target.caps}, ${device.name}`,
    get allocations() {
      return device.allocations;
    },
    input: (name) => inputs.get(name)?.data,
    wrote: (name, first, count) => {
      const tensor = inputs.get(name);
      if (tensor === undefined || tensor.buffer.host !== null) return;
      const { width, bytes, buffer } = tensor;
      // Whole words, which devices write best, as far as the host knows what the others' bytes are: not where a program writes them.
      const word = outputs.has(name) ? width : 4;
      const start = Math.floor((first * width) / word) * word;
      const end = Math.min(bytes.length, Math.ceil(((first + count) * width) / word) * word);
      buffer.write(bytes.subarray(start, end), start);
    },
    output: (name) => outputs.get(name)?.data,
    fetch: (name, count) => {
      const tensor = outputs.get(name);
      if (tensor === undefined || tensor.buffer.host !== null) return undefined;
      return tensor.buffer.read(0, count * tensor.width).then((bytes) => tensor.bytes.set(bytes));
    },
    run: (name, symbols) => {
      const program = find(name);
      program.set(symbols);
      // A token is over before another thread could be woken for it; a prompt takes so long that a server would stand still.
      if (symbols["seq"] !== undefined && symbols["seq"] > 1) return program.list.runInBackground();
      return program.list.run();
    },
    profile: async (name, symbols) => {
      const program = find(name);
      program.set(symbols);
      return program.timed(await program.nanoseconds(), symbols);
    },
    readState: async (name, first, target) => {
      const offset = first * widths.get(name)!;
      bytesOf(target).set(await states.get(name)!.read(offset, target.byteLength));
    },
    writeState: (name, first, stored) => states.get(name)!.write(bytesOf(stored), first * widths.get(name)!),
    moveRows: (name, moves, { size, runs, length, stride }) => {
      const width = widths.get(name) ?? outputs.get(name)!.width;
      const buffer = states.get(name) ?? outputs.get(name)!.buffer;
      if (moves.length === 0) return;
      if (spare === null) throw new Error(`${name} has one row`);
      copyRows(buffer, spare, moves, { size: size * width, runs, length: length * width, stride: stride * width }, copy);
    },
    clearState: (name) => states.get(name)!.clear(),
    close,
  };
}
