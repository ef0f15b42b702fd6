import { describe, expect, test } from "vitest";
import type { Manifest } from "../../../compiler/artifact.ts";
import { NO_REQUIREMENTS } from "../../../compiler/artifact.ts";
import type { Device, DeviceBuffer, StepSpec } from "../../../runtime/driver.ts";
import { UserError } from "../../../runtime/errors.ts";
import { summarizeProfile } from "../../../runtime/profile.ts";
import { openArtifact } from "../../../runtime/steps.ts";
import type { WeightBank } from "../../../runtime/steps.ts";
import type { WeightSource } from "../../../runtime/weights.ts";

/** A device whose kernels are functions of this file; with `visible` false its memory is out of the host's sight, as a GPU's is. */
function fakeDevice(visible: boolean, limit = Infinity) {
  const log = { allocated: 0, freed: 0, runs: 0, background: 0, copied: 0, uses: new Array<string>() };
  const memory = new WeakMap<DeviceBuffer, Uint8Array>();
  const floats = ({ buffer, offset }: { buffer: DeviceBuffer; offset: number }): Float32Array =>
    new Float32Array(memory.get(buffer)!.buffer, offset);
  type Body = (args: StepSpec["args"], symbols: readonly number[], blocks: number) => void;
  const kernels: Readonly<Record<string, Body>> = {
    // tmp[i] = x[i] * weight[0], one block an element
    scale: ([x, weight, tmp], _, blocks) => {
      for (let i = 0; i < blocks; i += 1) floats(tmp!)[i] = floats(x!)[i]! * floats(weight!)[0]!;
    },
    // state += sum(tmp), y = state + table[past]
    sum: ([tmp, table, state, y], [seq, past]) => {
      for (let i = 0; i < seq!; i += 1) floats(state!)[0]! += floats(tmp!)[i]!;
      floats(y!)[0] = floats(state!)[0]! + floats(table!)[past!]!;
    },
  };
  const device: Device = {
    name: "fake",
    fingerprint: "fake",
    backend: "fake",
    workers: 1,
    get allocations() {
      return log.allocated;
    },
    ready: () => Promise.resolve(),
    alloc: (bytes, use) => {
      if (bytes > limit) throw new RangeError("no");
      log.allocated += 1;
      log.uses.push(`${use} ${bytes}`);
      const data = new Uint8Array(bytes);
      const buffer: DeviceBuffer = {
        bytes,
        host: visible ? data : null,
        write: (from, offset = 0) => data.set(from, offset),
        read: (offset = 0, count = bytes - offset) => Promise.resolve(data.slice(offset, offset + count)),
        clear: (offset = 0, count = bytes - offset) => void data.fill(0, offset, offset + count),
        free: () => (log.freed += 1),
      };
      memory.set(buffer, data);
      return buffer;
    },
    copy: (to, toOffset, from, fromOffset, bytes) => {
      log.copied += bytes;
      memory.get(to)!.set(memory.get(from)!.slice(fromOffset, fromOffset + bytes), toOffset);
    },
    load: () => Promise.resolve({ kernel: (entry) => ({ entry }), free: () => undefined }),
    prepare: (steps, names) => {
      const symbols = new Int32Array(names.length);
      const grids = new Int32Array(3 * steps.length);
      const run = (): void => {
        log.runs += 1;
        steps.forEach((step, i) =>
          kernels[step.kernel.entry]!(
            step.args,
            step.symbols.map((name) => symbols[names.indexOf(name)]!),
            grids[3 * i]! * grids[3 * i + 1]!,
          ),
        );
      };
      return {
        symbols,
        grids,
        run: () => {
          run();
          return Promise.resolve();
        },
        runInBackground: () => {
          log.background += 1;
          return Promise.resolve().then(run);
        },
        runTimed: () => Promise.resolve().then(() => (run(), Float64Array.from(steps, (_, i) => (i + 1) * 1e6))),
        free: () => undefined,
      };
    },
    close: () => Promise.resolve(),
  };
  return { device, log };
}

const manifest: Manifest = {
  format: "culm-artifact",
  version: 2,
  compiler: "test",
  name: "sums",
  target: { backend: "fake", caps: "none", toolchain: "none", requires: NO_REQUIREMENTS },
  weights: [{ name: "w", dtype: "f32", parts: [{ tensor: "w", shape: [1] }], rows: 1, cols: 1, panel: 0, bytes: 4 }],
  literals: [
    { name: "unused", dtype: "f32", shape: [1], offset: 0, bytes: 4 },
    { name: "table", dtype: "f32", shape: [4], offset: 4, bytes: 16 },
  ],
  states: [{ name: "total", dtype: "f32", shape: [1], bytes: 4 }],
  programs: [
    {
      name: "prefill",
      symbols: [
        { name: "seq", min: 1, max: 6 },
        { name: "past", min: 0, max: 3 },
      ],
      inputs: [{ name: "x", dtype: "f32", shape: ["seq"], bytes: 24 }],
      outputs: [{ name: "y", dtype: "f32", shape: [1], bytes: 4 }],
      arenas: [128],
      steps: [
        {
          kernel: 0,
          grid: [["idiv", ["add", "seq", 1], 2], 2, 1],
          args: [{ kind: "input", name: "x" }, { kind: "weight", name: "w" }, { kind: "arena", arena: 0, offset: 64 }], // prettier-ignore
          label: "layers.7.scale",
          bytes: ["mul", "seq", 4],
          flops: "seq",
        },
        {
          kernel: 1,
          grid: [1, 1, 1],
          args: [{ kind: "arena", arena: 0, offset: 64 }, { kind: "literal", name: "table" }, { kind: "state", name: "total" }, { kind: "output", name: "y" }], // prettier-ignore
          label: "layers.8.scale",
          bytes: 8,
          flops: ["mul", 2, "seq"],
        },
      ],
    },
  ],
  kernels: [
    { entry: "scale", name: "scale", template: "rows", config: {}, symbols: [], threads: 1, sharedBytes: 0 },
    { entry: "sum", name: "sum", template: "rows", config: {}, symbols: ["seq", "past"], threads: 1, sharedBytes: 0 },
  ],
  metadata: {},
};
const artifact = { manifest, kernels: new Uint8Array(0), literals: new Uint8Array(Float32Array.of(-1, 10, 20, 30, 40).buffer) };
const source: WeightSource = {
  path: "memory",
  tensors: new Map([["w", { dtype: "F32", shape: [1], file: "memory" }]]),
  readInto: (_, target) => target.set(new Uint8Array(Float32Array.of(0.5).buffer)),
};

describe.each([
  ["that the host sees", true],
  ["of its own", false],
])("an artifact on a device with memory %s", (_, visible) => {
  test("runs: inputs, weights, tables, states, symbols and grids arrive", async () => {
    const { device, log } = fakeDevice(visible);
    const executor = await openArtifact(device, artifact, source);
    const call = async (values: readonly number[], past: number): Promise<number> => {
      (executor.input("x") as Float32Array).set(values);
      executor.wrote("x", 0, values.length);
      await executor.run("prefill", { seq: values.length, past });
      await executor.fetch("y", 1);
      return executor.output("y")![0]!;
    };
    expect(await call([2, 4, 6], 1)).toBe(6 + 20);
    expect(await call([8], 3)).toBe(10 + 40);
    expect(log).toMatchObject({ runs: 2, background: 1 });

    const held = new Float32Array(1);
    await executor.readState("total", 0, held);
    expect(held[0]).toBe(10);
    await executor.writeState("total", 0, Float32Array.of(100));
    expect(await call([2], 0)).toBe(101 + 10);
    await executor.clearState("total");
    expect(await call([2], 0)).toBe(1 + 10);

    const before = [log.allocated, executor.allocations];
    for (let i = 0; i < 10; i += 1) await call([1, 1], 2);
    expect([log.allocated, executor.allocations]).toEqual(before);
    executor.close();
    expect(log.freed).toBe(log.allocated - 1); // the weight belongs to whoever holds the bank
  });

  test("rows of a state and of an output change places on the device, through one spare row", async () => {
    const { device, log } = fakeDevice(visible);
    const [program] = manifest.programs;
    const rowed: Manifest = {
      ...manifest,
      states: [{ name: "total", dtype: "f32", shape: [3, 4], bytes: 48 }],
      programs: [
        {
          ...program!,
          symbols: [...program!.symbols, { name: "batch", min: 1, max: 3 }],
          outputs: [{ name: "y", dtype: "f32", shape: ["batch"], bytes: 12 }],
        },
      ],
    };
    const executor = await openArtifact(device, { ...artifact, manifest: rowed }, source);
    const { allocations } = executor;
    await executor.writeState(
      "total",
      0,
      Float32Array.from({ length: 12 }, (_, i) => i),
    );
    // Of each row the elements 0 and 2 are in use.
    const moves = [
      { to: -1, from: 0 },
      { to: 0, from: 2 },
      { to: 2, from: -1 },
    ];
    await executor.moveRows("total", moves, { size: 4, runs: 2, length: 1, stride: 2 });
    const held = new Float32Array(12);
    await executor.readState("total", 0, held);
    expect([...held]).toEqual([8, 1, 10, 3, 4, 5, 6, 7, 0, 9, 2, 11]);
    await executor.run("prefill", { seq: 1, past: 0, batch: 1 });
    await executor.moveRows("y", [{ to: 1, from: 0 }], { size: 1, runs: 1, length: 1, stride: 0 });
    await executor.fetch("y", 2);
    const y = executor.output("y")!;
    expect(y[0]).not.toBe(0);
    expect(y[1]).toBe(y[0]);
    expect([log.copied, executor.allocations]).toEqual([28, allocations]);
  });

  test("an output is the memory of another program's input of its name", async () => {
    const [prefill] = manifest.programs;
    const again = {
      ...prefill!,
      name: "again",
      inputs: [{ ...prefill!.outputs[0]!, bytes: 8, shape: [2] }],
      outputs: [{ ...prefill!.outputs[0]!, name: "z" }],
      // z = total + y + 10, y being what the other program gave
      steps: [
        {
          ...prefill!.steps[1]!,
          args: [{ kind: "input" as const, name: "y" }, { kind: "literal" as const, name: "table" }, { kind: "state" as const, name: "total" }, { kind: "output" as const, name: "z" }], // prettier-ignore
        },
      ],
    };
    const both = { ...artifact, manifest: { ...manifest, programs: [prefill!, again] } };
    const { device, log } = fakeDevice(visible);
    const executor = await openArtifact(device, both, source);
    // y is no result: the device reads it too
    expect(log.uses.filter((use) => /^(io|result)/.test(use))).toEqual(["io 24", "io 8", "result 4"]);
    expect(executor.input("y")).toBe(executor.output("y"));
    expect(executor.input("y")).toHaveLength(2);
    expect([executor.output("x"), executor.input("z")]).toEqual([undefined, undefined]);
    executor.input("x")!.set([2, 4]);
    executor.wrote("x", 0, 2);
    await executor.run("prefill", { seq: 2, past: 0 });
    await executor.run("again", { seq: 1, past: 0 });
    await executor.fetch("z", 1);
    expect(executor.output("z")![0]).toBe(3 + (3 + 10) + 10);
    executor.input("y")![0] = 5; // the host may write there in between
    executor.wrote("y", 0, 1);
    await executor.run("again", { seq: 1, past: 0 });
    await executor.fetch("z", 1);
    expect(executor.output("z")![0]).toBe(16 + 5 + 10);
    const wrong = { ...again, inputs: [{ ...again.inputs[0]!, dtype: "i32" as const }] };
    await expect(
      openArtifact(fakeDevice(visible).device, { ...both, manifest: { ...manifest, programs: [prefill!, wrong] } }, source),
    ).rejects.toThrow("programs disagree on y: f32 and i32");
  });

  test("a second artifact of the same weights loads none", async () => {
    const { device } = fakeDevice(visible);
    const bank: WeightBank = new Map();
    const loads: number[] = [];
    for (let i = 0; i < 2; i += 1) await openArtifact(device, artifact, source, { bank, onLoad: (bytes) => loads.push(bytes) });
    expect(bank.size).toBe(1);
    expect(loads).toEqual([4]);
  });

  test("artifacts that are opened at once load one after the other: a device's staging memory is one", async () => {
    const staged = new Uint8Array(4);
    const device: Device = { ...fakeDevice(visible).device, staging: () => staged };
    const scaledBy = async (weight: number, turns: number): Promise<number> => {
      const slow: WeightSource = {
        ...source,
        readInto: async (_name, target) => {
          target.set(new Uint8Array(Float32Array.of(weight).buffer));
          for (let i = 0; i < turns; i += 1) await Promise.resolve();
        },
      };
      const executor = await openArtifact(device, artifact, slow);
      (executor.input("x") as Float32Array).set([1]);
      executor.wrote("x", 0, 1);
      await executor.run("prefill", { seq: 1, past: 0 });
      await executor.fetch("y", 1);
      return executor.output("y")![0]! - 10;
    };
    const failing = { ...source, readInto: () => Promise.reject(new Error("not this one")) };
    const all = [scaledBy(3, 20), openArtifact(device, artifact, failing), scaledBy(5, 1)] as const;
    await expect(all[1]).rejects.toThrow("not this one");
    expect([await all[0], await all[2]]).toEqual([3, 5]);
  });

  test("kernels that a device times together share the time of their operation", async () => {
    const { device } = fakeDevice(visible);
    const groups: (readonly (readonly number[])[])[] = [];
    const together: Device = {
      ...device,
      prepare: (...args) => ({
        ...device.prepare(...args),
        timeGroups: (asked) => {
          groups.push(asked);
          return Promise.resolve(Float64Array.from(asked, (group) => 3e6 * group.length));
        },
      }),
    };
    const { programs } = manifest;
    const steps = [0, 1, 0].map((i) => programs[0]!.steps[i]!);
    const twice = {
      ...manifest,
      programs: [{ ...programs[0]!, steps: [...steps.slice(0, 2), { ...steps[2]!, label: "layers.9.scale" }] }],
    };
    const executor = await openArtifact(together, { ...artifact, manifest: twice }, source);
    const times = await executor.profile!("prefill", { seq: 4, past: 0 });
    expect(groups).toEqual([[[0, 2], [1]]]);
    expect(times.map(({ label, milliseconds }) => [label, milliseconds])).toEqual([
      ["layers.7.scale", 3],
      ["layers.8.scale", 3],
      ["layers.9.scale", 3],
    ]);
  });

  test("a profile has a line a kernel and operation", async () => {
    const executor = await openArtifact(fakeDevice(visible).device, artifact, source);
    const times = await executor.profile!("prefill", { seq: 4, past: 0 });
    expect(times).toEqual([
      { label: "layers.7.scale", kernel: "scale", milliseconds: 1, bytes: 16, flops: 4 },
      { label: "layers.8.scale", kernel: "sum", milliseconds: 2, bytes: 8, flops: 8 },
    ]);
    const [first, second] = summarizeProfile([times, times]);
    expect(first).toMatchObject({ kernel: "sum", label: "layers.*.scale", launches: 1, milliseconds: 2 });
    expect(first!.share + second!.share).toBeCloseTo(1);
    expect(second!.gigabytesPerSecond).toBeCloseTo(16 / 1e6);
  });
});

describe("refused", () => {
  test("numbers outside their range, before a kernel sees them", async () => {
    const executor = await openArtifact(fakeDevice(true).device, artifact, source);
    for (const symbols of [{ seq: 7, past: 0 }, { seq: 1, past: -1 }, { seq: 1 }, { seq: NaN, past: 0 }])
      expect(() => executor.run("prefill", symbols)).toThrow(/expected \d to \d/);
    expect(() => executor.run("decode.1", { seq: 1, past: 0 })).toThrow("no program decode.1");
  });

  test("a checkpoint that does not fit, with nothing allocated", async () => {
    const { device, log } = fakeDevice(true);
    await expect(openArtifact(device, artifact, { ...source, tensors: new Map() })).rejects.toThrow("tensor w is missing");
    expect(log.allocated).toBe(0);
  });

  test("too little memory, with what was allocated given back", async () => {
    const { device, log } = fakeDevice(true, 100);
    const opening = openArtifact(device, artifact, source);
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(/not enough memory for the values between kernels \(128 bytes\)|not enough memory for tables/);
    expect(log.freed).toBe(log.allocated);
  });

  test("too little memory that the device tells of later: with what everything needs, and before weights are read", async () => {
    const { device, log } = fakeDevice(false);
    const late: Device = { ...device, ready: () => Promise.reject(new RangeError("none left")) };
    let read = 0;
    const opening = openArtifact(late, artifact, { ...source, readInto: () => void (read += 1) });
    await expect(opening).rejects.toThrow(
      "not enough memory; the model needs 676 B: weights 516 B, states 4 B, between kernels 128 B, inputs and outputs 28 B",
    );
    await expect(opening).rejects.toThrow(UserError);
    expect([read, log.freed]).toEqual([0, log.allocated]);
  });

  test("more memory than the device says is free, with the numbers and what would fit, before anything is taken or read", async () => {
    const { device, log } = fakeDevice(false);
    const cached = {
      ...artifact,
      manifest: {
        ...manifest,
        states: [...manifest.states, { name: "keys", dtype: "f32", shape: [1, 4, 100], bytes: 1600 } as const],
        metadata: { positionAxes: { keys: 1 } },
      },
    };
    const needs = 676 + 1600;
    const opening = openArtifact({ ...device, freeBytes: () => needs - 405 }, cached, source);
    await expect(opening).rejects.toThrow(
      "fake: not enough memory; the model needs 2.28 kB: weights 516 B, states 4 B, keys and values 1.60 kB (404 B a position, 4 positions, 1 row), between kernels 128 B, inputs and outputs 28 B; 1.87 kB are free",
    );
    await expect(opening).rejects.toMatchObject({
      name: "UserError",
      hint: expect.stringContaining("at most 2 positions fit (--max-length 2)") as string,
    });
    const none = openArtifact({ ...device, freeBytes: () => 600 }, cached, source);
    await expect(none).rejects.toMatchObject({ hint: expect.stringContaining("a smaller --max-length") as string });
    expect(log.allocated).toBe(0);
    await openArtifact({ ...device, freeBytes: () => needs }, cached, source);
    expect(log.allocated).toBeGreaterThan(0);
  });

  test("an artifact for another kind of device, with nothing allocated", async () => {
    const { device, log } = fakeDevice(true);
    const other = { ...artifact, manifest: { ...manifest, target: { ...manifest.target, backend: "wgsl", caps: "base" } } };
    await expect(openArtifact(device, other, source)).rejects.toThrow("compiled for wgsl (base), fake runs artifacts for fake");
    expect(log.allocated).toBe(0);
  });
});
