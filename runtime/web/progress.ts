import type { Progress } from "./protocol.ts";

/** Milliseconds between two reports. */
const every = 100;
/** Milliseconds over which the rate is taken. */
const window = 3000;

/** Counts what arrives and tells of it now and then. */
export interface ProgressMeter {
  readonly bytes: number;
  readonly cached: number;
  readonly stage: (stage: Progress["stage"]) => void;
  readonly expect: (total: number) => void;
  /** As FilesOptions.onBytes. */
  readonly arrived: (bytes: number, cached: boolean) => void;
}

export function startProgress(onProgress: (progress: Progress) => void): ProgressMeter {
  let stage: Progress["stage"] = "adapter";
  let total = 0;
  let bytes = 0;
  let cached = 0;
  let last = -Infinity;
  /** Bytes from the network by time, the oldest first. */
  const samples: { readonly time: number; readonly bytes: number }[] = [{ time: performance.now(), bytes: 0 }];

  const tell = (): void => {
    const now = performance.now();
    last = now;
    samples.push({ time: now, bytes: bytes - cached });
    while (samples.length > 2 && samples[1]!.time < now - window) samples.shift();
    const { time, bytes: before } = samples[0]!;
    const bytesPerSecond = now > time ? Math.max(0, ((bytes - cached - before) / (now - time)) * 1000) : 0;
    onProgress({ stage, bytes, total, cached, bytesPerSecond });
  };

  tell();
  return {
    get bytes() {
      return bytes;
    },
    get cached() {
      return cached;
    },
    stage(next) {
      if (next === stage) return;
      stage = next;
      tell();
    },
    expect(sum) {
      total = sum;
    },
    arrived(count, fromCache) {
      bytes += count;
      if (fromCache) cached += count;
      if (performance.now() - last >= every || bytes === total) tell();
    },
  };
}
