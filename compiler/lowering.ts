import type { Node } from "./ir/graph.ts";
import type { Decisions } from "./decisions.ts";
import { isLinear, isTuple } from "./decisions.ts";
import type { KernelPlan } from "./plan.ts";
import { gemm } from "./lowering/gemm.ts";
import { attention, ssdReplay, ssdScan, conv } from "./lowering/mixers.ts";
import { processLogits, sampleToken } from "./lowering/sampling.ts";
import { reduction } from "./lowering/reduction.ts";
import { norm, softmax, runningSum, matmulRows } from "./lowering/rows.ts";
import { pointwise, cacheWrite } from "./lowering/pointwise.ts";

/** Turns one stored node, with the anchors that end in it, into the problems of its kernels, mostly one. */
export function kernelsOf(d: Decisions, sink: Node, anchors: readonly Node[]): readonly KernelPlan[] {
  const anchor = anchors[0];
  if (anchor?.op === "attention") return attention(d, sink, anchor);
  if (anchor?.op === "matmul" && isLinear(anchor)) return gemm(d, sink, anchors.filter(isLinear));
  if (anchor?.op === "reduce") return reduction(d, sink, anchor);
  return [kernelOf(d, sink, anchors)];
}

function kernelOf(d: Decisions, sink: Node, anchors: readonly Node[]): KernelPlan {
  const anchor = anchors[0];
  if (!anchor && isTuple(sink)) return tupleKernel(d, sink, null, sink);
  if (!anchor) return sink.op === "update" && d.buffers.get(sink)?.kind === "state" ? cacheWrite(d, sink) : pointwise(d, sink);
  switch (anchor.op) {
    case "matmul":
      return matmulRows(d, sink, anchor);
    case "rmsNorm":
    case "gatedRmsNorm":
      return norm(d, sink, anchor);
    case "softmax":
      return softmax(d, sink, anchor);
    case "scan":
      return runningSum(d, sink, anchor);
    case "processLogits":
      return processLogits(d, sink, anchor);
    case "sampleToken":
      return sampleToken(d, sink, anchor);
    case "get":
      return tupleKernel(d, sink, anchor, anchor.inputs[0]!);
    default:
      throw new Error(`no kernel for ${anchor.op} ${anchor.name}`);
  }
}

/** The kernel of an operation with states; without an anchor, of its new states alone. */
function tupleKernel(d: Decisions, sink: Node, anchor: Node | null, tuple: Node): KernelPlan {
  switch (tuple.op) {
    case "ssdScan":
      return ssdScan(d, sink, anchor, tuple);
    case "ssdReplay":
      return ssdReplay(d, sink, anchor, tuple);
    case "causalConv1d":
      return conv(d, sink, anchor, tuple);
    default:
      throw new Error(`no kernel for ${tuple.op} ${tuple.name}`);
  }
}
