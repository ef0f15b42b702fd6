import { summarizeProfile } from "../../profile.ts";
import type { KernelTime } from "../../profile.ts";
import type { Profile } from "../protocol.ts";

/** What a kernel is for, in the order in which the bar shows it: what takes longest in most models first. */
export const KINDS = {
  matrix: { name: "Matrix products", about: "projections, MLPs and the head: they read the weights" },
  scan: { name: "State-space scan", about: "the state of the Mamba layers, decayed, updated and read" },
  convolution: { name: "Convolution", about: "the last few inputs of a Mamba layer, mixed" },
  attention: { name: "Attention", about: "the key and value caches, written and read" },
  token: { name: "Choice of the token", about: "from scores to a token" },
  rows: { name: "Norms and the rest", about: "what works on a row at a time" },
} as const;

export type Kind = keyof typeof KINDS;

export const kindNames = Object.keys(KINDS) as readonly Kind[];

/** Steps of one kernel that do the same in every layer: a segment of the bar. Times are of one decode step. */
export interface Segment extends KernelTime {
  readonly kind: Kind;
  /** What it computes, short: "gate_proj + up_proj". */
  readonly title: string;
  /** Where it begins, as a part of the whole time. */
  readonly from: number;
}

export interface KindTime {
  readonly kind: Kind;
  readonly launches: number;
  readonly milliseconds: number;
  readonly share: number;
}

export interface Breakdown {
  readonly segments: readonly Segment[];
  /** Those that occur. */
  readonly kinds: readonly KindTime[];
  readonly milliseconds: number;
  readonly launches: number;
}

/** By the kernel's name, which is that of the operation it computes. */
export function kindOf(kernel: string): Kind {
  if (/^gem[mv]/.test(kernel)) return "matrix";
  if (/^ssd/.test(kernel)) return "scan";
  if (/^conv/.test(kernel)) return "convolution";
  if (/^(attention|cache)/.test(kernel)) return "attention";
  if (/argmax|^(process_logits|sample_token)/.test(kernel)) return "token";
  return "rows";
}

/** "layers.*.feed_forward.gate_proj+layers.*.feed_forward.up_proj" as "gate_proj + up_proj"; an operation without a name as its kernel. */
function titleOf({ label, kernel }: KernelTime): string {
  if (label === "matmulT") return "lm_head";
  const ends = label.split("+").map((part) => part.split(".").at(-1)!);
  return ends.some((end) => end === "" || end === "*") ? kernel : ends.join(" + ");
}

/** Groups the kernels of a decode step by kind, each kind costliest first, so that the bar reads from left to right. */
export function breakDown(steps: Profile["steps"]): Breakdown {
  const times = summarizeProfile([steps]);
  const milliseconds = times.reduce((sum, time) => sum + time.milliseconds, 0);
  const ordered = kindNames.flatMap((kind) => times.filter(({ kernel }) => kindOf(kernel) === kind).map((time) => ({ ...time, kind })));
  let from = 0;
  const segments = ordered.map((time): Segment => {
    const segment = { ...time, title: titleOf(time), from };
    from += time.share;
    return segment;
  });
  const kinds = kindNames.flatMap((kind): KindTime[] => {
    const own = segments.filter((segment) => segment.kind === kind);
    if (own.length === 0) return [];
    const sum = (of: (segment: Segment) => number): number => own.reduce((total, segment) => total + of(segment), 0);
    return [{ kind, launches: sum((s) => s.launches), milliseconds: sum((s) => s.milliseconds), share: sum((s) => s.share) }];
  });
  return { segments, kinds, milliseconds, launches: steps.length };
}
