import { wgslBackend } from "../../../backends/wgsl/index.ts";
import type { Caps } from "../../../compiler/backend.ts";
import { compileModel } from "../../../compiler/compile.ts";
import type { Graph } from "../../../compiler/ir/graph.ts";
import type { WebgpuDevice } from "../../../runtime/drivers/webgpu/device.ts";
import type { Executor } from "../../../runtime/executor.ts";
import { decodeFloats } from "../../../runtime/numeric.ts";
import type { LoadedArtifact } from "../../../runtime/steps.ts";
import { openArtifact } from "../../../runtime/steps.ts";
import type { WeightSource } from "../../../runtime/weights.ts";
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
  readonly shape: Operation["shape"];
  readonly bound: Operation["bound"];
  /** Of one copy, on the GPU, within a pass in which each kernel waits for the one before it. */
  readonly microseconds: number;
  readonly gigabytesPerSecond: number;
  readonly teraflopsPerSecond: number;
  readonly kernels: readonly string[];
}

export const compileFor = (
  caps: Caps,
  name: string,
  programs: readonly { readonly name: string; readonly graph: Graph }[],
): Promise<LoadedArtifact> => compileModel({ name, programs, backend: wgslBackend, caps, metadata: {} });

/**
 * Compiles one operation as a model of its own and measures it.
 * @throws Error when its result is wrong, as far as it is looked at
 */
export async function measureOperation({ device, clock, caps, runs }: Setting, operation: Operation): Promise<OperationResult> {
  const { name, shape, bound, copies, graph, weights, dtype, symbols, flops, bytes } = operation;
  const artifact = await compileFor(caps, name, [{ name: "main", graph }]);
  const source = madeWeights(weights, dtype);
  const executor = await openArtifact(device, artifact, source, { spare: () => true });
  try {
    fillInputs(executor);
    const run = (): void | Promise<void> => executor.run("main", symbols);
    const nanoseconds = (await clock.median(run, runs)) / copies;
    if (shape.kind === "product") await checkProduct(executor, source, shape, copies - 1);
    return {
      name,
      shape,
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

/** Some elements of the last copy's product, against a sum in double precision. */
async function checkProduct(
  executor: Executor,
  source: WeightSource,
  { m, n, k, dtype }: Extract<Operation["shape"], { kind: "product" }>,
  last: number,
): Promise<void> {
  const x = executor.input(`x${last}`)!;
  await executor.fetch(`y${last}`, m * n);
  const y = executor.output(`y${last}`)!;
  const row = new Uint8Array(k * (dtype === "f32" ? 4 : 2));
  for (let sample = 0; sample < 24; sample += 1) {
    const [i, j] = [(sample * 997 + (sample % 3)) % m, sample === 0 ? n - 1 : (sample * 7919) % n];
    await source.readInto(`c${last}.w.weight`, row, j * row.length);
    const w = decodeFloats(dtype === "f32" ? "F32" : dtype === "bf16" ? "BF16" : "F16", row);
    let [sum, size] = [0, 0];
    for (let at = 0; at < k; at += 1) {
      sum += x[i * k + at]! * w[at]!;
      size += Math.abs(x[i * k + at]! * w[at]!);
    }
    const got = y[i * n + j]!;
    if (!(Math.abs(got - sum) <= 1e-5 * size)) throw new Error(`element ${i}, ${j} is ${got}, it should be ${sum}`);
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
