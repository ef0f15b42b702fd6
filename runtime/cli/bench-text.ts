import type { BenchReport } from "../../models/auto/bench.ts";
import { heading, table } from "./table.ts";
import { formatBytes, formatCount, formatTime, significant } from "./terminal.ts";

const percent = (share: number): string => `${(share * 100).toFixed(0)} %`;

/** A GPU has no threads to choose, and its bandwidth is that of copying. */
const columnsFor = (gpu: boolean): readonly string[] => [
  ...(gpu ? [] : ["threads"]),
  "decode tokens/s",
  "GB/s",
  gpu ? "GPU copies" : "machine reads",
  "share",
  "prefill tokens/s",
  "GFLOP/s",
  gpu ? "GPU's FMA" : "machine's FMA",
  "share ",
  "load",
];

/** `culm bench` for people. */
export function printBench(report: BenchReport): string {
  const { parameters, dtype, target, checkpointBytes, peakBytes, compile, launches, runs } = report;
  const columns = columnsFor(runs.every(({ threads }) => threads === null));
  const lines = [
    heading(`${formatCount(parameters)} parameters in ${dtype}, on ${target.backend} ${target.caps}`),
    `  ${compile.cached ? "compiled earlier, read" : "compiled"} in ${formatTime(compile.milliseconds)}; launches a token ${launches.decode}, a prompt ${launches.prefill}\n\n`,
    table(
      columns,
      runs.map(({ threads, decode, prefill, ceiling, loadMilliseconds }) => [
        ...(threads === null ? [] : [threads]),
        significant(decode.tokensPerSecond),
        significant(decode.bytesPerSecond / 1e9),
        significant(ceiling.bandwidth / 1e9),
        percent(decode.share),
        significant(prefill.tokensPerSecond),
        significant(prefill.flopsPerSecond / 1e9),
        significant(ceiling.flops / 1e9),
        percent(prefill.share),
        formatTime(loadMilliseconds),
      ]),
      columns,
    ),
    `  decode: ${formatBytes(runs[0]?.decode.bytesPerToken ?? 0)} of weights a token; prefill: ${runs[0]?.prefill.tokens ?? 0} tokens, ${significant((runs[0]?.prefill.flopsPerToken ?? 0) / 1e9)} GFLOP a token\n`,
    `  peak memory ${formatBytes(peakBytes)}, ${(peakBytes / checkpointBytes).toFixed(2)} times the checkpoint's ${formatBytes(checkpointBytes)}\n`,
  ];
  for (const { threads, profile } of runs) {
    if (profile === null) continue;
    for (const [program, kernels] of Object.entries(profile)) {
      const total = kernels.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
      lines.push(
        "\n",
        heading(
          `${program}${threads === null ? "" : `, ${threads} ${threads === 1 ? "thread" : "threads"}`}: ${formatTime(total)}, each kernel timed by itself`,
        ),
        table(
          ["operation", "kernel", "launches", "time", "share", "GB/s", "GFLOP/s"],
          kernels.map(({ label, kernel, launches: count, milliseconds, share, gigabytesPerSecond, gigaflopsPerSecond }) => [
            label,
            kernel,
            count,
            formatTime(milliseconds),
            percent(share),
            significant(gigabytesPerSecond),
            significant(gigaflopsPerSecond),
          ]),
          ["launches", "time", "share", "GB/s", "GFLOP/s"],
        ),
      );
    }
  }
  return lines.join("");
}
