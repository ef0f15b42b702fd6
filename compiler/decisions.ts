import type { Caps } from "./backend.ts";
import type { Var } from "./ir/expr.ts";
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
  /** What the kernel of a product computes too, by the node that the kernel stores. */
  readonly joins: ReadonlyMap<Node, readonly Join[]>;
  /** Products whose blocks share k, and where they put the parts; `buffers` has the same place where all who read the product add them up. */
  readonly parts: ReadonlyMap<Node, BufferInfo>;
  /** The buffers that a tuple operation (scan, convolution) replaces in place, one for each of `statesOf`. */
  readonly stateOf: ReadonlyMap<Node, readonly BufferInfo[]>;
}

/** An operation of one position a row that the kernel of the product before it computes, out of columns of the product's result. */
export type Join = ConvJoin | HeadsJoin | ArgmaxJoin;

interface JoinedColumns {
  /** Columns of the product's result that it is computed from, [from, to), and whether nothing else reads them. */
  readonly columns: readonly [from: number, to: number];
  readonly alone: boolean;
}

/** A convolution: for each channel it is arithmetic on the channel's input, which the kernel holds, and on the channel's state, which nobody else reads. */
export interface ConvJoin extends JoinedColumns {
  readonly kind: "conv";
  readonly conv: NodeOf<"causalConv1d">;
  /** The convolution's result, and the node at the end of its epilogue, which is stored. */
  readonly main: Node;
  readonly sink: Node;
}

/** Heads of keys or values that go into their cache, or of queries for attention, turned by their positions or as they are. */
export interface HeadsJoin extends JoinedColumns {
  readonly kind: "heads";
  /** What is stored: the cache's new positions, or the rotation. */
  readonly sink: NodeOf<"update"> | NodeOf<"rope">;
  /** The rotation on the way; null: none. */
  readonly rope: NodeOf<"rope"> | null;
}

/** The column of each row's largest value: the product's blocks find it among theirs, and a kernel combines what they found. */
export interface ArgmaxJoin extends JoinedColumns {
  readonly kind: "argmax";
  readonly reduce: NodeOf<"reduce">;
  /** Where the caller is the only other one who gets the product: the symbol that says whether it wants it. */
  readonly when: Var | null;
  /** The node at the end of its epilogue, which is stored. */
  readonly sink: Node;
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
export const isTuple = (n: Node): boolean => n.op === "ssdScan" || n.op === "ssdReplay" || n.op === "causalConv1d";
/** The states that a tuple operation reads: its last operands, of which result i + 1 is the new value of number i. */
export const statesOf = (n: Node): readonly Node[] => n.inputs.slice(1 - n.types.length);

const POINTWISE: ReadonlySet<Node["op"]> = new Set(["unary", "binary", "select", "cast", "activation", "reshape"]);
const SOURCE: ReadonlySet<Node["op"]> = new Set(["input", "param", "state", "literal"]);
/** Operations that an epilogue is made of. */
export const isPointwise = (n: Node): boolean => POINTWISE.has(n.op);
/** What is in memory before a program runs. */
export const isSource = (n: Node): boolean => SOURCE.has(n.op);
