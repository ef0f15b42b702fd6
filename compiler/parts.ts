import type { Caps } from "./backend.ts";
import { isAnchor, isLinear, isTuple } from "./decisions.ts";
import type { Join } from "./decisions.ts";
import type { DType } from "./ir/dtype.ts";
import type { Node, NodeOf } from "./ir/graph.ts";
import { typeOf } from "./ir/graph.ts";
import type { BufferInfo } from "./plan.ts";
import { dimMax, elementCount, maxOf } from "./plan.ts";
import { partsOfProduct } from "./templates/stream-tiles.ts";

/** What `productsInParts` has to know of what fusion has decided so far. */
export interface Cutting {
  readonly caps: Caps;
  readonly sinks: ReadonlyMap<Node, Node>;
  readonly joins: ReadonlyMap<Node, readonly Join[]>;
  readonly usersOf: (n: Node) => readonly Node[];
  readonly isRoot: (n: Node) => boolean;
  /** What a value lies in memory as; null where its readers compute it. */
  readonly storedType: (n: Node) => DType | null;
}

/**
 * Products whose blocks share k: each writes what it has summed up to a place of its own, and who reads the product adds the parts up, in order. Chosen where few
 * rows of a product of few columns would leave workers idle.
 */
export function productsInParts(c: Cutting): ReadonlyMap<Node, BufferInfo> {
  const anchorsOf = new Map<Node, number>();
  for (const sink of c.sinks.values()) anchorsOf.set(sink, (anchorsOf.get(sink) ?? 0) + 1);
  const found = new Map<Node, BufferInfo>();
  for (const [product, sink] of c.sinks) {
    if (!isLinear(product) || anchorsOf.get(sink) !== 1 || (c.joins.get(sink) ?? []).length > 0) continue;
    const parts = partsOf(c, product);
    if (parts > 1)
      found.set(product, { kind: "arena", name: `${product.name}.parts`, dtype: "f32", shape: typeOf(product).shape, panel: 0, parts });
  }
  return found;
}

/** Into how many parts of k the blocks of a product cut it: where its operand lies in memory as it is multiplied, and it has few rows. */
function partsOf({ caps, storedType }: Cutting, product: NodeOf<"matmul">): number {
  const [a, w] = product.inputs as [Node, Node];
  const { dtype } = typeOf(w);
  if (storedType(a) !== dtype || caps.panel > 0) return 1;
  const { shape } = typeOf(product);
  const m = maxOf(elementCount(shape.slice(0, -1)));
  return partsOfProduct({ m, n: dimMax(shape.at(-1)!), k: dimMax(typeOf(a).shape.at(-1)!), weights: 1, dtype }, caps);
}

/**
 * What has to be stored so that the readers of a product can add its parts up themselves, about once each: operands of other products and of attentions, whose
 * blocks would all do it. Null where that is the product itself, or where the program gives it away: a kernel of its own then adds up its parts.
 */
export function storedForParts(c: Cutting, product: Node): ReadonlySet<Node> | null {
  const operands = new Set<Node>();
  if (c.sinks.get(product) !== product) return operands;
  if (c.isRoot(product)) return null;
  const collect = (n: Node): void => {
    for (const u of c.usersOf(n))
      if (u.op === "matmul" || u.op === "attention") operands.add(n);
      else if (c.storedType(u) === null && !isTuple(u)) collect(u);
  };
  collect(product);
  return [...operands].some((n) => n === product || isAnchor(n)) ? null : operands;
}
