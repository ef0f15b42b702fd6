import type { StepTime } from "./executor.ts";

/** What the steps of one kernel take together. */
export interface KernelTime {
  readonly kernel: string;
  /** Operations of the model that it computes, layers as `*`: "layers.*.mamba.in_proj". */
  readonly label: string;
  readonly launches: number;
  readonly milliseconds: number;
  /** Part of the whole time. */
  readonly share: number;
  readonly gigabytesPerSecond: number;
  readonly gigaflopsPerSecond: number;
}

/** The operation that a step belongs to, whichever layer it is of: "layers.*.mamba.in_proj". */
export const operationOf = (label: string): string => label.replaceAll(/\b\d+\b/g, "*");

/** Sums several profiles of one program by kernel and operation, the costliest first, as the mean of a run. */
export function summarizeProfile(runs: readonly (readonly StepTime[])[]): readonly KernelTime[] {
  const groups = new Map<string, { kernel: string; label: string; launches: number; milliseconds: number; bytes: number; flops: number }>();
  for (const step of runs.flat()) {
    const label = operationOf(step.label);
    const key = `${step.kernel} ${label}`;
    const group = groups.get(key) ?? { kernel: step.kernel, label, launches: 0, milliseconds: 0, bytes: 0, flops: 0 };
    group.launches += 1;
    group.milliseconds += step.milliseconds;
    group.bytes += step.bytes;
    group.flops += step.flops;
    groups.set(key, group);
  }
  const total = [...groups.values()].reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  return [...groups.values()]
    .sort((a, b) => b.milliseconds - a.milliseconds)
    .map(({ kernel, label, launches, milliseconds, bytes, flops }) => ({
      kernel,
      label,
      launches: launches / runs.length,
      milliseconds: milliseconds / runs.length,
      share: total === 0 ? 0 : milliseconds / total,
      gigabytesPerSecond: milliseconds === 0 ? 0 : bytes / milliseconds / 1e6,
      gigaflopsPerSecond: milliseconds === 0 ? 0 : flops / milliseconds / 1e6,
    }));
}
