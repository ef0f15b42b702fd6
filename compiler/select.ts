import type { Caps } from "./backend.ts";
import { CulmError } from "./diagnostics.ts";
import { rows } from "./generate/rows.ts";
import { GEMV_ROWS } from "./fuse.ts";
import { DECODE_QUERIES } from "./lowering/mixers.ts";
import type { TileProgram } from "./ir/tile.ts";
import type { KernelPlan } from "./plan.ts";
import { maxOf } from "./plan.ts";
import type { Config, Reject, Template } from "./template.ts";
import { attentionDecode } from "./templates/attention-decode.ts";
import { attention } from "./templates/attention.ts";
import { conv1d } from "./templates/conv1d.ts";
import { gemm } from "./templates/gemm.ts";
import { gemv } from "./templates/gemv.ts";
import { processLogits } from "./templates/process-logits.ts";
import { sampleToken } from "./templates/sample-token.ts";
import { ssdScan } from "./templates/ssd-scan.ts";

/** The template and configuration a kernel got, and what was turned down on the way. */
export interface Choice {
  readonly template: string;
  readonly config: Config;
  readonly rejected: readonly { readonly template: string; readonly why: string }[];
  readonly program: TileProgram;
  /** What it is to be placed with: the units that its tiles were cut for, first. */
  readonly caps: Caps;
}

export interface Candidate {
  readonly config: Config;
  readonly caps: Caps;
}

/** Configurations of a template for each unit of the target that fits the problem, in the target's order: a template cuts its tiles for the first unit it is given. */
export function candidates<P>(template: Template<P>, problem: P, caps: Caps): readonly Candidate[] | Reject {
  const found: Candidate[] = [];
  const reasons = new Set<string>();
  caps.units.forEach((_, i) => {
    const from = i === 0 ? caps : { ...caps, units: caps.units.slice(i) };
    const configs = template.configs(problem, from);
    if ("reject" in configs) reasons.add(configs.reject);
    else found.push(...configs.map((config) => ({ config, caps: from })));
  });
  return found.length > 0 ? found : { reject: [...reasons].join("; ") || "it has no configuration for this problem" };
}

/** Builds the tile program of a kernel: the first template that fits, with its default configuration. */
export function buildKernel(kernel: KernelPlan, caps: Caps): Choice {
  const p = kernel.problem;
  switch (p.kind) {
    case "gemm":
      return first(kernel, p, maxOf(p.m) <= GEMV_ROWS ? [gemv, gemm] : [gemm], caps);
    case "attention":
      return first(kernel, p, maxOf(p.seq) <= DECODE_QUERIES ? [attentionDecode, attention] : [attention], caps);
    case "ssd":
      return first(kernel, p, [ssdScan], caps);
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

function first<P>(kernel: KernelPlan, problem: NoInfer<P>, templates: readonly Template<P>[], caps: Caps): Choice {
  const rejected: { template: string; why: string }[] = [];
  for (const t of templates) {
    const found = candidates(t, problem, caps);
    if ("reject" in found) {
      rejected.push({ template: t.name, why: found.reject });
      continue;
    }
    const best = found[0]!;
    return { template: t.name, config: best.config, rejected, program: t.build(problem, best.config, best.caps), caps: best.caps };
  }
  throw new CulmError({
    what: `no template of target ${caps.name} can compute it`,
    path: kernel.label,
    operands: rejected.map((r) => ({ label: r.template, is: r.why, from: "" })),
  });
}
