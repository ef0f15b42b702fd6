import type { Caps } from "./backend.ts";
import type { Decisions } from "./decisions.ts";
import type { Node } from "./ir/graph.ts";
import { rowsPerRow } from "./lowering/pointwise.ts";
import { addNorm } from "./lowering/rows.ts";
import type { BufferInfo, KernelPlan } from "./plan.ts";

/** Kernels that become one with the kernel in front of them, once both are known. */

/** The first of some kernels that has more buffers as arguments than the device takes. */
export const tooWide = (kernels: readonly KernelPlan[], { maxBuffers }: Caps): KernelPlan | undefined =>
  kernels.find(({ args }) => args.length > maxBuffers);

/** The kernel of a norm that takes over what the kernel before it does, where that computes the norm's input, element by element. */
export function addedNorm(d: Decisions, sink: Node, [anchor]: readonly Node[], before: KernelPlan | undefined): KernelPlan | null {
  if (anchor?.op !== "rmsNorm" || before?.pointwise?.node !== anchor.inputs[0]) return null;
  const joined = addNorm(d, sink, anchor);
  return tooWide([joined], d.caps) ? null : joined;
}

/** Rows of one kernel that may be to one of another's that it joins: more, and there would be too few lanes with too much to do. */
const MOST_ROWS = 8;

/**
 * Joins a pointwise kernel to the one before it when both run over the same columns, rows that are the same or a few of one to each of the other's, and neither
 * reads what the other writes (what is written to the K and V caches, and queries), as long as the device can take the buffers of both.
 */
export function mergeRows(kernels: readonly KernelPlan[], { maxBuffers }: Caps): KernelPlan[] {
  const out: KernelPlan[] = [];
  for (const k of kernels) {
    const last = out.at(-1);
    const merged = last && joinPointwise(last, k);
    if (merged && merged.args.length <= maxBuffers) out[out.length - 1] = merged;
    else out.push(k);
  }
  return out;
}

function joinPointwise(a: KernelPlan, b: KernelPlan): KernelPlan | undefined {
  if (!a.pointwise || !b.pointwise || a.pointwise.cols !== b.pointwise.cols) return undefined;
  const each = rowsPerRow(a.pointwise.rows, b.pointwise.rows) ?? rowsPerRow(b.pointwise.rows, a.pointwise.rows);
  if (each === null || each > MOST_ROWS) return undefined;
  const writes = (k: KernelPlan): Set<BufferInfo> => new Set(k.args.filter((x) => x.access !== "read").map((x) => x.buffer));
  const [wa, wb] = [writes(a), writes(b)];
  if (a.args.some((x) => wb.has(x.buffer)) || b.args.some((x) => wa.has(x.buffer))) return undefined;
  return a.pointwise.join(b.pointwise);
}
