import type { LoadOptions, BambaForCausalLM } from "../../models/auto/model.ts";
import { describePlan, memoryPlan } from "../memory-plan.ts";
import { formatBytes, formatTime, significant } from "./terminal.ts";

/** What `--verbose` tells of a start. */
export interface StartWatch {
  /** The same options, listened to. */
  readonly options: LoadOptions;
  /** Lines about a model that is open: its memory, and how long compiling and loading took. */
  report(model: Pick<BambaForCausalLM, "compiled" | "backend">): string;
}

/** @param now milliseconds */
export function watchStart(options: LoadOptions, now: () => number = () => performance.now()): StartWatch {
  const { onLoad } = options;
  /** Bytes at the first and the last look: what lies between the two is what the rate is of. */
  let first: { readonly bytes: number; readonly at: number } | null = null;
  let last = { bytes: 0, at: 0 };
  return {
    options: {
      ...options,
      onLoad: (bytes, total) => {
        last = { bytes, at: now() };
        first ??= last;
        onLoad?.(bytes, total);
      },
    },
    report: ({ compiled, backend }) => {
      const lines: string[] = [];
      if (compiled !== null) {
        const { artifact, cached, time, caps } = compiled;
        lines.push(
          `${cached ? "kernels of an earlier start" : "compiled"} for ${backend} ${caps.name} in ${formatTime(time)}`,
          `memory ${describePlan(memoryPlan(artifact.manifest))}`,
        );
      }
      if (first !== null) {
        const [bytes, took] = [last.bytes - first.bytes, last.at - first.at];
        const rate = took > 0 && bytes > 0 ? `, ${significant(bytes / took / 1e6)} GB/s` : "";
        lines.push(`loaded ${formatBytes(last.bytes)} of weights${rate}`);
      }
      lines.push(`open ${formatTime(now())} after the program began`);
      return lines.map((line) => `${line}\n`).join("");
    },
  };
}
