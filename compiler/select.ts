import type { Caps } from "./backend.ts";
import { CulmError } from "./diagnostics.ts";
import { rows } from "./generate/rows.ts";
import { gemvRows } from "./fuse.ts";
import type { TileProgram } from "./ir/tile.ts";
import type { KernelPlan } from "./plan.ts";
import { maxOf } from "./plan.ts";
import type { Config, GemmProblem, Template } from "./template.ts";
import { attentionDecode } from "./templates/attention-decode.ts";
import { DECODE_QUERIES } from "./templates/attention-rings.ts";
import { attentionStream } from "./templates/attention-stream.ts";
import { attention } from "./templates/attention.ts";
import { conv1d } from "./templates/conv1d.ts";
import { gemmStream } from "./templates/gemm-stream.ts";
import { gemm } from "./templates/gemm.ts";
import { gemvStream } from "./templates/gemv-stream.ts";
import { gemv } from "./templates/gemv.ts";
import { processLogits } from "./templates/process-logits.ts";
import { sampleToken } from "./templates/sample-token.ts";
import { ssdReplayStream } from "./templates/ssd-replay-stream.ts";
import { ssdReplay } from "./templates/ssd-replay.ts";
import { ssdScan } from "./templates/ssd-scan.ts";
import { ssdStep } from "./templates/ssd-step.ts";

/** The template and configuration a kernel got, and what was turned down on the way. */
export interface Choice {
  readonly template: string;
  readonly config: Config;
  readonly rejected: readonly { readonly template: string; readonly why: string }[];
  readonly program: TileProgram;
}

/** Builds the tile program of a kernel: the first template that fits, with its default configuration. */
export function buildKernel(kernel: KernelPlan, caps: Caps): Choice {
  const p = kernel.problem;
  switch (p.kind) {
    case "gemm":
      return first(kernel, p, productTemplates(p, caps), caps);
    case "attention":
      return first(kernel, p, maxOf(p.seq) <= DECODE_QUERIES ? [attentionStream, attentionDecode, attention] : [attention], caps);
    case "ssd":
      return first(kernel, p, [ssdStep, ssdScan], caps);
    case "replay":
      return first(kernel, p, [ssdReplayStream, ssdReplay], caps);
    case "conv":
      return first(kernel, p, [conv1d], caps);
    case "rows":
      return first(kernel, p, [rows], caps);
    case "logits":
      return first(kernel, p, [processLogits], caps);
    case "token":
      return first(kernel, p, [sampleToken], caps);
  }
}

function productTemplates(p: GemmProblem, caps: Caps): readonly Template<GemmProblem>[] {
  if (p.parts) return [gemmStream];
  if (p.best) return [gemvStream, gemmStream];
  return maxOf(p.m) <= gemvRows(p.weights[0]!.dtype, p.k, caps) ? [gemvStream, gemv, gemm] : [gemmStream, gemm];
}

function first<P>(kernel: KernelPlan, problem: NoInfer<P>, templates: readonly Template<P>[], caps: Caps): Choice {
  const rejected: { template: string; why: string }[] = [];
  for (const t of templates) {
    const configs = t.configs(problem, caps);
    if ("reject" in configs) {
      rejected.push({ template: t.name, why: configs.reject });
      continue;
    }
    const config = configs[0];
    if (config) return { template: t.name, config, rejected, program: t.build(problem, config, caps) };
    rejected.push({ template: t.name, why: "it has no configuration for this problem" });
  }
  throw new CulmError({
    what: `no template of target ${caps.name} can compute it`,
    path: kernel.label,
    operands: rejected.map((r) => ({ label: r.template, is: r.why, from: "" })),
  });
}
