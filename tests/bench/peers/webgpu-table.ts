import { readFileSync } from "node:fs";
import type { Report } from "../webgpu/report.ts";

/** What webgpu_ops.py writes. */
interface Peers {
  readonly device: string;
  readonly torch: string;
  readonly copy: number;
  /** Microseconds by the operation's name, in the types of the report's kernels, and in bf16 throughout where that is another path. */
  readonly operations: Readonly<Record<string, { readonly us: number; readonly us_bf16?: number }>>;
  /** Milliseconds of a decode step, by model and position. */
  readonly models: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

/**
 * The tables of docs/benchmarks.md from a report of webgpu.ts and what webgpu_ops.py measured after it on the same GPU:
 * `npx tsx tests/bench/peers/webgpu-table.ts REPORT.json PEERS.json`.
 */
function tables({ device, caps, ceilings, operations, models }: Report, peers: Peers): string {
  const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;
  const row = (cells: readonly (string | number)[]): string => `| ${cells.join(" | ")} |`;
  const head = (titles: readonly string[]): string => `${row(titles)}\n${row(titles.map(() => "---"))}`;
  const time = (us: number | undefined): string => (us === undefined ? "-" : us.toFixed(us < 100 ? 1 : 0));
  const ratio = (ours: number, theirs: number | undefined): string => (theirs === undefined ? "-" : (theirs / ours).toFixed(2));

  const ofOperations = operations.map((o) => {
    const peer = peers.operations[o.name];
    const memory = o.bound === "memory";
    const rate = memory ? `${o.gigabytesPerSecond.toFixed(0)} GB/s` : `${o.teraflopsPerSecond.toFixed(1)} TFLOP/s`;
    const share = memory
      ? `${percent(o.gigabytesPerSecond / ceilings.copy)} of copying`
      : `${percent(o.teraflopsPerSecond / ceilings.fma)} of FMA`;
    return row([o.name, time(o.microseconds), rate, share, time(peer?.us), ratio(o.microseconds, peer?.us), time(peer?.us_bf16)]);
  });
  const ofModels = models.flatMap(({ model, decode, kernelsAToken }) =>
    decode.map((d) => {
      const peer = peers.models[model]?.[String(d.position)];
      return row([
        model,
        d.position,
        kernelsAToken,
        d.gpuMilliseconds.toFixed(3),
        `${d.gigabytesPerSecond.toFixed(0)} GB/s`,
        percent(d.gigabytesPerSecond / ceilings.copy),
        d.wallMilliseconds.toFixed(3),
        (1000 / d.wallMilliseconds).toFixed(0),
        peer === undefined ? "-" : peer.toFixed(3),
        ratio(d.gpuMilliseconds, peer),
      ]);
    }),
  );
  const ofPrompts = models.flatMap(({ model, prefill }) =>
    prefill.map(({ tokens, milliseconds }) => row([model, tokens, milliseconds.toFixed(1), ((1000 * tokens) / milliseconds).toFixed(0)])),
  );
  return [
    `${device}, ${caps}: copies ${ceilings.copy.toFixed(0)} GB/s, reads ${ceilings.read.toFixed(0)} GB/s, f32 multiply-adds ${ceilings.fma.toFixed(1)} TFLOP/s. PyTorch ${peers.torch} on ${peers.device}, whose copy runs at ${peers.copy.toFixed(0)} GB/s.`,
    `${head(["model", "position", "kernels", "step, GPU ms", "rate", "of copying", "token, ms", "tokens/s", "PyTorch's step, ms", "its time / ours"])}\n${ofModels.join("\n")}`,
    `${head(["operation", "us", "rate", "share", "PyTorch, us", "its time / ours", "PyTorch in bf16, us"])}\n${ofOperations.join("\n")}`,
    `${head(["model", "prompt", "ms", "tokens/s"])}\n${ofPrompts.join("\n")}`,
  ].join("\n\n");
}

const [reportFile, peersFile] = process.argv.slice(2);
if (reportFile === undefined || peersFile === undefined) throw new Error("expected REPORT.json and PEERS.json");
const read = (file: string): unknown => JSON.parse(readFileSync(file, "utf8"));
console.log(tables(read(reportFile) as Report, read(peersFile) as Peers));
