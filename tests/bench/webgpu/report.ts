import { table } from "../../../runtime/cli/table.ts";
import type { KernelTime } from "../../../runtime/profile.ts";
import type { ModelResult } from "./models.ts";
import type { OperationResult } from "./running.ts";

export interface Report {
  readonly device: string;
  readonly caps: string;
  /** What the device can do, measured in the same run: GB/s (bytes read and written), GB/s, TFLOP/s in f32. */
  readonly ceilings: { readonly copy: number; readonly read: number; readonly fma: number };
  readonly operations: readonly OperationResult[];
  readonly models: readonly ModelResult[];
}

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

/** For people. */
export function printReport({ device, caps, ceilings, operations, models }: Report): string {
  const parts = [
    `${device}, ${caps}: copies ${ceilings.copy.toFixed(0)} GB/s, reads ${ceilings.read.toFixed(0)} GB/s, multiply-adds ${ceilings.fma.toFixed(1)} TFLOP/s in f32\n`,
  ];
  if (operations.length > 0)
    parts.push(
      table(
        ["operation", "us", "GB/s", "of copying", "TFLOP/s", "of multiply-adds"],
        operations.map((o) => [
          o.name,
          o.microseconds.toFixed(1),
          o.gigabytesPerSecond.toFixed(0),
          percent(o.gigabytesPerSecond / ceilings.copy),
          o.teraflopsPerSecond.toFixed(2),
          percent(o.teraflopsPerSecond / ceilings.fma),
        ]),
        ["us", "GB/s", "of copying", "TFLOP/s", "of multiply-adds"],
      ),
    );
  for (const { model, kernelsAToken, decode, prefill } of models) {
    parts.push(
      `\n${model}, ${kernelsAToken} kernels a token\n`,
      table(
        ["position", "GPU ms", "token ms", "tokens/s", "GB/s", "of copying"],
        decode.map((d) => [
          d.position,
          d.gpuMilliseconds.toFixed(3),
          d.wallMilliseconds.toFixed(3),
          (1000 / d.wallMilliseconds).toFixed(1),
          d.gigabytesPerSecond.toFixed(0),
          percent(d.gigabytesPerSecond / ceilings.copy),
        ]),
        ["position", "GPU ms", "token ms", "tokens/s", "GB/s", "of copying"],
      ),
    );
    for (const { tokens, milliseconds } of prefill)
      parts.push(`  prefill of ${tokens}: ${milliseconds.toFixed(1)} ms, ${((1000 * tokens) / milliseconds).toFixed(0)} tokens/s\n`);
    for (const { position, profile } of decode.slice(-1)) parts.push(`  decode at ${position}, each kernel by itself\n`, kernels(profile));
    for (const { tokens, profile } of prefill.slice(0, 1)) parts.push(`  prefill of ${tokens}, each kernel by itself\n`, kernels(profile));
  }
  return parts.join("");
}

const kernels = (profile: readonly KernelTime[]): string =>
  table(
    ["operation", "kernel", "launches", "us each", "share", "GB/s", "TFLOP/s"],
    profile.map((k) => [
      k.label,
      k.kernel,
      k.launches,
      ((1000 * k.milliseconds) / k.launches).toFixed(1),
      percent(k.share),
      k.gigabytesPerSecond.toFixed(0),
      (k.gigaflopsPerSecond / 1000).toFixed(2),
    ]),
    ["launches", "us each", "share", "GB/s", "TFLOP/s"],
  );
