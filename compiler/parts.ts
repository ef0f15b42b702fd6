import type { Caps } from "./backend.ts";
import { isLinear, isTuple } from "./decisions.ts";
import type { ConvJoin } from "./decisions.ts";
import type { DType } from "./ir/dtype.ts";
import type { Node, NodeOf } from "./ir/graph.ts";
import { typeOf } from "./ir/graph.ts";
import type { BufferInfo } from "./plan.ts";
import { dimMax, elementCount, maxOf } from "./plan.ts";
import { partsOfProduct } from "./templates/gemm-stream.ts";

/** What `productsInParts` has to know of what fusion has decided so far. */
export interface Cutting {
  readonly caps: Caps;
  readonly sinks: ReadonlyMap<Node, Node>;
  readonly joins: ReadonlyMap<Node, readonly ConvJoin[]>;
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
 * Whether the readers of a product add its parts up themselves: where they are read about once. A product that is the end of its kernel's epilogue is added up by a
 * kernel of its own where the program gives it away, or another product or an attention would do so for each of its blocks.
 */
export function isReadInParts(c: Cutting, product: Node): boolean {
  return c.sinks.get(product) !== product || (!c.isRoot(product) && !isReadOften(c, product));
}

function isReadOften(c: Cutting, n: Node): boolean {
  return c.usersOf(n).some((u) => {
    if (u.op === "matmul" || u.op === "attention") return true;
    return c.storedType(u) === null && !isTuple(u) && isReadOften(c, u);
  });
}
