import { wgslBackend } from "../../../backends/wgsl/index.ts";
import type { Caps } from "../../../compiler/backend.ts";
import { compileModel } from "../../../compiler/compile.ts";
import type { Graph } from "../../../compiler/ir/graph.ts";
import type { WebgpuDevice } from "../../../runtime/drivers/webgpu/device.ts";
import type { Executor } from "../../../runtime/executor.ts";
import type { LoadedArtifact } from "../../../runtime/steps.ts";
import { openArtifact } from "../../../runtime/steps.ts";
import { median } from "./clock.ts";
import type { PassClock } from "./clock.ts";
import type { Operation } from "./operations.ts";
import { madeWeights } from "./weights.ts";

export interface Setting {
  readonly device: WebgpuDevice;
  readonly clock: PassClock;
  readonly caps: Caps;
  /** Runs that the median is of. */
  readonly runs: number;
}

export interface OperationResult {
  readonly name: string;
  readonly kind: Operation["kind"];
  readonly bound: Operation["bound"];
  /** Of one copy, on the GPU, within a pass in which each kernel waits for the one before it. */
  readonly microseconds: number;
  readonly gigabytesPerSecond: number;
  readonly teraflopsPerSecond: number;
  readonly kernels: readonly string[];
}

export const compileFor = (caps: Caps, name: string, programs: readonly { readonly name: string; readonly graph: Graph }[]): Promise<LoadedArtifact> =>
  compileModel({ name, programs, backend: wgslBackend, caps, metadata: {} });

/** Compiles one operation as a model of its own and measures it. */
export async function measureOperation({ device, clock, caps, runs }: Setting, operation: Operation): Promise<OperationResult> {
  const { name, kind, bound, copies, graph, weights, dtype, symbols, flops, bytes } = operation;
  const artifact = await compileFor(caps, name, [{ name: "main", graph }]);
  const executor = await openArtifact(device, artifact, madeWeights(weights, dtype), { spare: () => true });
  try {
    fillInputs(executor);
    const run = (): void | Promise<void> => executor.run("main", symbols);
    // The first runs compile what the GPU's driver has left to do, and bring the clocks up.
    for (let i = 0; i < 3; i += 1) await clock.time(run);
    const times: number[] = [];
    for (let i = 0; i < runs; i += 1) times.push(await clock.time(run));
    const nanoseconds = median(times) / copies;
    return {
      name,
      kind,
      bound,
      microseconds: nanoseconds / 1000,
      gigabytesPerSecond: bytes / nanoseconds,
      teraflopsPerSecond: flops / nanoseconds / 1000,
      kernels: artifact.manifest.kernels.map(({ template, config }) => `${template} ${JSON.stringify(config)}`),
    };
  } finally {
    executor.close();
  }
}

/** Numbers of about the size of activations; zeros would be multiplied with less power, and so faster. */
function fillInputs(executor: Executor): void {
  for (const { inputs } of executor.programs)
    for (const { name } of inputs) {
      const data = executor.input(name)!;
      for (let i = 0; i < data.length; i += 1) data[i] = ((i * 7919) % 2001) / 1000 - 1;
      executor.wrote(name, 0, data.length);
    }
}

/** Bytes of weights that an artifact brings to the device. */
export const weightBytes = ({ manifest }: LoadedArtifact): number => manifest.weights.reduce((sum, { bytes }) => sum + bytes, 0);
