import { readFileSync } from "node:fs";
import type { StepReport } from "../../../models/auto/bench-cuda.ts";

/** A system of cuda_decode.py: by batch, or why there is none. */
type Peer = Readonly<Record<string, { readonly milliseconds: number; readonly context: number }>> | { readonly error: string };

/** What cuda_decode.py writes; `copy` in bytes a second. */
interface Peers {
  readonly device: string;
  readonly torch: string;
  readonly copy: number;
  readonly autotuned: boolean;
  readonly eager?: Peer;
  readonly compiled?: Peer;
}

/**
 * The tables of docs/benchmarks.md from a report of `culm bench --device cuda --json` and what cuda_decode.py measured after it on the same GPU:
 * `npx tsx tests/bench/peers/cuda-table.ts REPORT.json PEERS.json`.
 */
function tables({ device, target, parameters, dtype, ceilings, steps, prompt }: StepReport, peers: Peers): string {
  const peerOf = (system: Peer | undefined, batch: number): { readonly milliseconds: number; readonly context: number } | undefined =>
    system === undefined || "error" in system ? undefined : system[String(batch)];
  const peerCells = (system: Peer | undefined, batch: number, context: number, ours: number): readonly string[] => {
    const peer = peerOf(system, batch);
    if (peer === undefined) return ["-", "-"];
    const at = peer.context === context ? "" : ` (at ${peer.context})`;
    return [`${peer.milliseconds.toFixed(2)}${at}`, (peer.milliseconds / ours).toFixed(2)];
  };
  const ofSteps = steps.map((step) =>
    row([
      step.batch,
      step.context,
      step.launches,
      step.graphMilliseconds.toFixed(3),
      step.wallMilliseconds.toFixed(3),
      step.tokensPerSecond.toFixed(0),
      (step.bytesPerSecond / 1e9).toFixed(0),
      percent(step.shareOfCopy),
      ...peerCells(peers.compiled, step.batch, step.context, step.graphMilliseconds),
      ...peerCells(peers.eager, step.batch, step.context, step.wallMilliseconds),
    ]),
  );
  const ofKernels = steps
    .slice(0, 1)
    .flatMap(({ kernels }) =>
      kernels.map((k) =>
        row([
          k.label.replaceAll("*", "n"),
          k.launches,
          ((1000 * k.milliseconds) / k.launches).toFixed(1),
          k.gigabytesPerSecond.toFixed(0),
          percent(k.roofline),
          percent(k.share),
        ]),
      ),
    );
  return [
    `${(parameters / 1e9).toFixed(2)} B parameters in ${dtype} on ${device} (${target.backend} ${target.caps}): copies ${(ceilings.copy / 1e9).toFixed(0)} GB/s, reads ${(ceilings.read / 1e9).toFixed(0)} GB/s, f32 multiply-adds ${(ceilings.fma / 1e12).toFixed(1)} TFLOP/s, mma.sync in bf16 ${(ceilings.mma / 1e12).toFixed(0)} TFLOP/s. PyTorch ${peers.torch} on ${peers.device}${peers.autotuned ? ", max-autotune" : ""}, whose copy runs at ${(peers.copy / 1e9).toFixed(0)} GB/s.`,
    `${head(["batch", "context", "kernels", "graph, ms", "token, ms", "tokens/s", "GB/s", "of copying", "PyTorch compiled, ms", "its time / ours", "Transformers, ms", "its time / ours"])}\n${ofSteps.join("\n")}`,
    `${head(["operation", "launches", "us each", "GB/s", "of roofline", "share"])}\n${ofKernels.join("\n")}`,
    ...(prompt === null
      ? []
      : [
          `A prompt of ${prompt.tokens}: ${prompt.milliseconds.toFixed(1)} ms, ${prompt.tokensPerSecond.toFixed(0)} tokens/s, ${(prompt.flopsPerSecond / 1e12).toFixed(0)} TFLOP/s.`,
        ]),
  ].join("\n\n");
}

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;
const row = (cells: readonly (string | number)[]): string => `| ${cells.join(" | ")} |`;
const head = (titles: readonly string[]): string => `${row(titles)}\n${row(titles.map(() => "---"))}`;

const [reportFile, peersFile] = process.argv.slice(2);
if (reportFile === undefined || peersFile === undefined) throw new Error("expected REPORT.json and PEERS.json");
const read = (file: string): unknown => JSON.parse(readFileSync(file, "utf8"));
console.log(tables(read(reportFile) as StepReport, read(peersFile) as Peers));
