import { isAnchor, isLinear, isMainResult, isSource, isTuple } from "./decisions.ts";
import type { ConvJoin } from "./decisions.ts";
import { shapeOf } from "./graph/build.ts";
import { isConvStep } from "./graph/decompose-conv.ts";
import { isConst } from "./ir/expr.ts";
import type { Node } from "./ir/graph.ts";
import { sameShape } from "./ir/infer.ts";
import { dimMax } from "./plan.ts";

/** What `convJoins` has to know of what fusion has decided so far. */
export interface Joining {
  readonly order: readonly Node[];
  readonly sinks: ReadonlyMap<Node, Node>;
  readonly usersOf: (n: Node) => readonly Node[];
  /** Whether it is an output or the new value of a state. */
  readonly isRoot: (n: Node) => boolean;
  readonly isStored: (n: Node) => boolean;
  /** Whether the convolution's state is replaced in place. */
  readonly inPlace: (conv: Node) => boolean;
}

/** Rows up to which a convolution joins: a block reads and replaces its states after all else, element by element, and has nothing to do meanwhile. */
const MOST_ROWS = 8;

/** The convolutions that join the kernel of a product, by the node that the product's kernel stores. */
export function convJoins(j: Joining): ReadonlyMap<Node, readonly ConvJoin[]> {
  const products = productsOf(j.sinks);
  const joins = new Map<Node, ConvJoin[]>();
  for (const main of j.order) {
    const conv = isMainResult(main) ? main.inputs[0]! : null;
    if (conv?.op !== "causalConv1d" || !isConvStep(conv) || !j.inPlace(conv) || dimMax(shapeOf(conv.inputs[0]!)[0]!) > MOST_ROWS) continue;
    const x = conv.inputs[0]!;
    const from = columnsOf(x, products);
    const sink = j.sinks.get(main)!;
    // the kernel runs where the product does: what else it reads has to be there from the beginning
    if (!from || ![...conv.inputs.slice(1, -1), ...between(main, sink)].every((n) => isGiven(n, j.isStored))) continue;
    const alone = x !== from.product && !j.isRoot(x) && j.usersOf(x).length === 1;
    joins.set(from.product, [...(joins.get(from.product) ?? []), { conv, main, sink, columns: from.columns, alone }]);
  }
  return joins;
}

/** What kernels of one product store, where its columns are those of the product. */
function productsOf(sinks: ReadonlyMap<Node, Node>): ReadonlySet<Node> {
  const anchors = new Map<Node, Node[]>();
  for (const [anchor, sink] of sinks) anchors.set(sink, [...(anchors.get(sink) ?? []), anchor]);
  const ofOne = [...anchors].filter(([sink, [a, ...more]]) => more.length === 0 && isLinear(a!) && sameShape(shapeOf(a), shapeOf(sink)));
  return new Set(ofOne.map(([sink]) => sink));
}

/** The product of which `x` is all columns or a slice. */
function columnsOf(x: Node, products: ReadonlySet<Node>): { readonly product: Node; readonly columns: ConvJoin["columns"] } | null {
  const shape = shapeOf(x);
  const width = dimMax(shape.at(-1)!);
  if (products.has(x)) return { product: x, columns: [0, width] };
  if (x.op !== "slice" || x.attrs.axis !== shape.length - 1 || !isConst(x.attrs.start) || !products.has(x.inputs[0]!)) return null;
  const start = x.attrs.start.value;
  return { product: x.inputs[0]!, columns: [start, start + width] };
}

/** The operands that an epilogue from `main` to `sink` has besides `main`. */
function between(main: Node, sink: Node): readonly Node[] {
  if (sink === main) return [];
  const leads = (n: Node): boolean => n === main || n.inputs.some(leads);
  return sink.inputs.flatMap((i) => (i === main ? [] : leads(i) ? between(main, i) : [i]));
}

/** Made of weights, inputs and constants, with no kernel of its own in between. */
const isGiven = (n: Node, isStored: (n: Node) => boolean): boolean =>
  isSource(n)
    ? n.op !== "state"
    : !isStored(n) && !isAnchor(n) && !isTuple(n) && n.op !== "get" && n.op !== "update" && n.inputs.every((i) => isGiven(i, isStored));
