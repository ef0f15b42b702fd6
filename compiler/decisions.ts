import type { Caps } from "./backend.ts";
import type { Graph, Node, NodeOf } from "./ir/graph.ts";
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
  /** Convolutions of one position a row that the kernel of a product computes too, by the node that the kernel stores. */
  readonly joins: ReadonlyMap<Node, readonly ConvJoin[]>;
  /** Products whose blocks share k, and where they put the parts; `buffers` has the same place where all who read the product add them up. */
  readonly parts: ReadonlyMap<Node, BufferInfo>;
  /** State buffer that a tuple operation (scan, convolution) replaces in place. */
  readonly stateOf: ReadonlyMap<Node, BufferInfo>;
}

/**
 * A convolution of one position a row that the kernel of the product before it computes: for each channel it is arithmetic on the channel's input, which
 * the kernel holds, and on the channel's state, which nobody else reads.
 */
export interface ConvJoin {
  readonly conv: NodeOf<"causalConv1d">;
  /** The convolution's result, and the node at the end of its epilogue, which is stored. */
  readonly main: Node;
  readonly sink: Node;
  /** Columns of the product's result that are the convolution's input, [from, to), and whether nothing else reads them. */
  readonly columns: readonly [from: number, to: number];
  readonly alone: boolean;
}

/** A GEMM with a checkpoint weight as its right operand: the only matmul a template is for. */
export const isLinear = (n: Node): n is Extract<Node, { op: "matmul" }> =>
  n.op === "matmul" && n.attrs.transB && n.inputs[1]!.op === "param" && typeOf(n.inputs[1]).shape.length === 2;

/** Operations that need a kernel of their own; `get 0` of a tuple stands for its main result. */
export const isAnchor = (n: Node): boolean =>
  n.op === "matmul" ||
  n.op === "attention" ||
  n.op === "rmsNorm" ||
  n.op === "gatedRmsNorm" ||
  n.op === "softmax" ||
  n.op === "reduce" ||
  n.op === "scan" ||
  n.op === "processLogits" ||
  n.op === "sampleToken" ||
  isMainResult(n);
export const isMainResult = (n: Node): boolean => n.op === "get" && n.attrs.index === 0 && isTuple(n.inputs[0]!);
export const isTuple = (n: Node): boolean => n.op === "ssdScan" || n.op === "causalConv1d";

const POINTWISE: ReadonlySet<Node["op"]> = new Set(["unary", "binary", "select", "cast", "activation", "reshape"]);
const SOURCE: ReadonlySet<Node["op"]> = new Set(["input", "param", "state", "literal"]);
/** Operations that an epilogue is made of. */
export const isPointwise = (n: Node): boolean => POINTWISE.has(n.op);
/** What is in memory before a program runs. */
export const isSource = (n: Node): boolean => SOURCE.has(n.op);
