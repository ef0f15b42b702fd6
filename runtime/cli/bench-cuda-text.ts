import type { StepReport } from "../../models/auto/bench-cuda.ts";
import type { KernelShare } from "../../models/auto/bench-cuda-step.ts";
import { describePlan } from "../memory-plan.ts";
import { heading, table } from "./table.ts";
import { formatCount, formatTime, significant } from "./terminal.ts";

const percent = (share: number): string => `${(share * 100).toFixed(0)} %`;

const microseconds = (milliseconds: number): string => `${(milliseconds * 1000).toFixed(0)} us`;

/** `culm bench --device cuda` for people. */
export function printStepBench({ device, target, parameters, dtype, ceilings, steps, prompt }: StepReport): string {
  const { copy, read, fma, mma } = ceilings;
  const lines = [
    heading(`${formatCount(parameters)} parameters in ${dtype}, on ${device} (${target.backend} ${target.caps})`),
    `  the GPU copies ${significant(copy / 1e9)} GB/s, reads ${significant(read / 1e9)} GB/s, multiplies and adds ${significant(fma / 1e12)} TFLOP/s in f32 and ${significant(mma / 1e12)} TFLOP/s by mma.sync in bf16\n\n`,
    table(
      STEP_COLUMNS,
      steps.map((step) => [
        step.batch,
        step.context,
        step.launches,
        step.graphMilliseconds.toFixed(3),
        step.wallMilliseconds.toFixed(3),
        significant(step.tokensPerSecond),
        significant(step.bytesPerSecond / 1e9),
        percent(step.shareOfCopy),
        `${formatTime(step.compile.milliseconds)}${step.compile.cached ? " (cached)" : ""}`,
      ]),
      STEP_COLUMNS.slice(0, -1),
    ),
  ];
  if (prompt !== null)
    lines.push(
      `  a prompt of ${prompt.tokens}, ${prompt.chunk} at once: ${prompt.milliseconds.toFixed(1)} ms, ${significant(prompt.tokensPerSecond)} tokens/s, ${significant(prompt.flopsPerSecond / 1e12)} TFLOP/s\n`,
    );
  for (const { batch, wallMilliseconds, graphMilliseconds, host } of steps)
    lines.push(
      `  a token of ${batch}: ${microseconds(wallMilliseconds - graphMilliseconds)} more than its graph; the host takes ${microseconds(host.write)} to write, ${microseconds(host.launch)} to launch, ${microseconds(host.rest)} for the rest, and waits ${microseconds(host.wait)}\n`,
    );
  for (const { batch, memory, largestContext } of steps)
    lines.push(`  memory for ${batch} at once: ${describePlan(memory)}; up to ${largestContext} positions would fit\n`);
  for (const { batch, context, kernels } of steps)
    lines.push("\n", heading(`a step of ${batch} at ${context}, launches of a kernel one after the other`), kernelTable(kernels));
  if (prompt !== null) lines.push("\n", heading(`${prompt.chunk} tokens of a prompt`), kernelTable(prompt.kernels));
  return lines.join("");
}

const STEP_COLUMNS = ["batch", "context", "launches", "graph ms", "token ms", "tokens/s", "GB/s", "of copying", "compiled in"];
const KERNEL_COLUMNS = ["operation", "kernel", "launches", "us each", "share", "GB/s", "TFLOP/s", "of roofline"];

const kernelTable = (kernels: readonly KernelShare[]): string =>
  table(
    KERNEL_COLUMNS,
    kernels.map((k) => [
      k.label,
      k.kernel,
      k.launches,
      ((1000 * k.milliseconds) / k.launches).toFixed(1),
      percent(k.share),
      k.gigabytesPerSecond.toFixed(0),
      (k.gigaflopsPerSecond / 1000).toFixed(2),
      percent(k.roofline),
    ]),
    KERNEL_COLUMNS.slice(2),
  );
