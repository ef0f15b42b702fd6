import { isAnchor, isLinear, isMainResult, isPointwise, isSource, isTuple } from "./decisions.ts";
import type { ArgmaxJoin, ConvJoin, HeadsJoin, Join } from "./decisions.ts";
import { shapeOf } from "./graph/build.ts";
import { isConvStep } from "./graph/decompose-conv.ts";
import { isConst } from "./ir/expr.ts";
import type { Var } from "./ir/expr.ts";
import type { Node, NodeOf } from "./ir/graph.ts";
import { sameShape } from "./ir/infer.ts";
import { dimMax } from "./plan.ts";

/** What `joinsOf` has to know of what fusion has decided so far. */
export interface Joining {
  readonly order: readonly Node[];
  readonly sinks: ReadonlyMap<Node, Node>;
  readonly usersOf: (n: Node) => readonly Node[];
  /** Whether it is an output or the new value of a state. */
  readonly isRoot: (n: Node) => boolean;
  /** The symbol that says whether an output is wanted; null: it always is, or it is none. */
  readonly wantedWhen: (n: Node) => Var | null;
  readonly isStored: (n: Node) => boolean;
  /** Whether a convolution's state is replaced in place, or an update writes its state. */
  readonly inPlace: (n: Node) => boolean;
  /** Whether nothing may join the kernel that stores a node. */
  readonly isApart: (n: Node) => boolean;
  /** Whether a product may be computed with each of its columns beside another one. */
  readonly inPairs: (product: NodeOf<"matmul">) => boolean;
  /** Whether the blocks of a product may look for the best of their columns. */
  readonly inShares: (product: NodeOf<"matmul">) => boolean;
}

/** Rows up to which a convolution joins: a block reads and replaces its states after all else, element by element, and has nothing to do meanwhile. */
const MOST_ROWS = 8;

/** What joins the kernel of a product, by the node that the product's kernel stores. */
export function joinsOf(j: Joining): ReadonlyMap<Node, readonly Join[]> {
  const products = productsOf(j);
  return new Map<Node, readonly Join[]>([...argmaxJoins(j, products), ...headsJoins(j, products), ...convJoins(j, products)]);
}

function argmaxJoins(j: Joining, products: Products): ReadonlyMap<Node, readonly ArgmaxJoin[]> {
  const joins = new Map<Node, readonly ArgmaxJoin[]>();
  for (const reduce of j.order) {
    if (reduce.op !== "reduce" || reduce.attrs.fn !== "argmax") continue;
    const x = reduce.inputs[0]!;
    const product = products.get(x);
    const shape = shapeOf(x);
    const sink = j.sinks.get(reduce)!;
    if (!product || reduce.attrs.axis !== shape.length - 1 || !j.inShares(product)) continue;
    if (!between(reduce, sink).every((n) => isGiven(n, j.isStored))) continue;
    const only = j.usersOf(x).length === 1;
    const columns = [0, dimMax(shape.at(-1)!)] as const;
    joins.set(x, [{ kind: "argmax", reduce, sink, columns, alone: only && !j.isRoot(x), when: only ? j.wantedWhen(x) : null }]);
  }
  return joins;
}

function convJoins(j: Joining, products: Products): ReadonlyMap<Node, readonly ConvJoin[]> {
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
    joins.set(from.product, [...(joins.get(from.product) ?? []), { kind: "conv", conv, main, sink, columns: from.columns, alone }]);
  }
  return joins;
}

/** Products by what their kernels store, where the columns of both are the same. */
type Products = ReadonlyMap<Node, NodeOf<"matmul">>;

function productsOf({ sinks, isApart }: Joining): Products {
  const anchors = new Map<Node, Node[]>();
  for (const [anchor, sink] of sinks) anchors.set(sink, [...(anchors.get(sink) ?? []), anchor]);
  const products = new Map<Node, NodeOf<"matmul">>();
  for (const [sink, [a, ...more]] of anchors)
    if (a && more.length === 0 && isLinear(a) && sameShape(shapeOf(a), shapeOf(sink)) && !isApart(sink)) products.set(sink, a);
  return products;
}

interface Columns {
  readonly product: Node;
  readonly columns: Join["columns"];
}

/** The product of which `x` is all columns or a slice. */
function columnsOf(x: Node, products: Products): Columns | null {
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

// ---- heads ----------------------------------------------------------------------------------------------------------

/**
 * Where the keys of a product are turned and written to their cache, they, the values and the queries join its kernel: it has the two elements of a pair side
 * by side (`lowering/heads.ts`). A pair is two columns that are half a rotation apart, of values too, and of what of a head is not turned.
 */
function headsJoins(j: Joining, products: Products): ReadonlyMap<Node, readonly HeadsJoin[]> {
  const found = new Map<Node, HeadsJoin[]>();
  for (const n of j.order) {
    const from = n.op === "update" || n.op === "rope" ? headsOf(j, products, n) : null;
    if (from) found.set(from.product, [...(found.get(from.product) ?? []), from.join]);
  }
  const joins = new Map<Node, readonly HeadsJoin[]>();
  for (const [sink, all] of found) {
    const key = all.find((join) => join.sink.op === "update" && join.rope);
    const size = key?.rope?.attrs.rotary;
    const shape = shapeOf(sink);
    if (size === undefined || shape.length !== 3 || shape[1] !== 1 || dimMax(shape[2]!) % size !== 0) continue;
    if (!j.inPairs(products.get(sink)!)) continue;
    const fit = all.filter((join) => fitsPairs(join, size));
    if (fit.includes(key!)) joins.set(sink, fit);
  }
  return joins;
}

/** Heads that a node stores, if they are columns of a product and nothing more is needed than what is there from the beginning. */
function headsOf(
  j: Joining,
  products: Products,
  sink: NodeOf<"update"> | NodeOf<"rope">,
): { readonly product: Node; readonly join: HeadsJoin } | null {
  const isQuery = sink.op === "rope" && !j.isRoot(sink) && !j.isStored(sink) && j.usersOf(sink).every((n) => n.op === "attention");
  const isCached = sink.op === "update" && j.inPlace(sink) && sink.attrs.axis === 2 && shapeOf(sink).length === 4;
  if (!isQuery && !isCached) return null;
  const path = sink.op === "rope" ? throughRope(j, products, sink) : pathOf(j, products, sink.inputs[1]!);
  if (!path) return null;
  const { product, columns, rope, alone } = path;
  return { product, join: { kind: "heads", sink, rope, columns, alone } };
}

interface Path extends Columns, Pick<HeadsJoin, "rope" | "alone"> {}

/** How a value comes from columns of a product, element by element but for one rotation. */
function pathOf(j: Joining, products: Products, n: Node): Path | null {
  const only = !j.isRoot(n) && j.usersOf(n).length === 1;
  const from = columnsOf(n, products);
  if (from) return { ...from, rope: null, alone: n !== from.product && only };
  if (j.isStored(n)) return null;
  if (n.op === "rope") {
    const path = throughRope(j, products, n);
    return path && { ...path, alone: path.alone && only };
  }
  const computed = n.inputs.filter((i) => !isGiven(i, j.isStored));
  if (computed.length !== 1 || !(isPointwise(n) || n.op === "transpose")) return null;
  const path = pathOf(j, products, computed[0]!);
  return path && { ...path, alone: path.alone && only };
}

function throughRope(j: Joining, products: Products, n: NodeOf<"rope">): Path | null {
  const [x, ...given] = n.inputs as [Node, ...Node[]];
  const path = given.every((i) => isGiven(i, j.isStored)) ? pathOf(j, products, x) : null;
  return path && !path.rope ? { ...path, rope: n } : null;
}

/** Heads [batch, heads, 1, dim] or, of a rotation, [batch, 1, heads, dim], that are whole runs of `size` columns. */
function fitsPairs({ sink, rope, columns: [from, to] }: HeadsJoin, size: number): boolean {
  const shape = shapeOf(sink.op === "update" ? sink.inputs[1]! : sink);
  const [heads, one] = sink.op === "update" ? [shape[1]!, shape[2]!] : [shape[2]!, shape[1]!];
  const dim = dimMax(shape[3]!);
  return (
    one === 1 && dim % size === 0 && from % size === 0 && to - from === dimMax(heads) * dim && (rope === null || rope.attrs.rotary === size)
  );
}
