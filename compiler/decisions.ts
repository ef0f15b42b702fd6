import type { Caps } from "./backend.ts";
import type { Graph, Node } from "./ir/graph.ts";
import { typeOf } from "./ir/graph.ts";
import type { BufferInfo } from "./plan.ts";

/** What fusion decided, read by the lowering of each kernel. */
export interface Decisions {
  readonly caps: Caps;
  readonly graph: Graph;
  readonly buffers: ReadonlyMap<Node, BufferInfo>;
  /** The node an anchor's kernel stores: the end of its epilogue. */
  readonly sinks: ReadonlyMap<Node, Node>;
  /** Norms computed by their readers' prologue. */
  readonly prologues: ReadonlySet<Node>;
  /** State buffer that a tuple operation (scan, convolution) replaces in place. */
  readonly stateOf: ReadonlyMap<Node, BufferInfo>;
}

/** A GEMM with a checkpoint weight as its right operand: the only matmul a template is for. */
export const isLinear = (n: Node): n is Extract<Node, { op: "matmul" }> =>
  n.op === "matmul" && n.attrs.transB && n.inputs[1]!.op === "param" && typeOf(n.inputs[1]).shape.length === 2;
