import { decompose } from "../graph/decompose.ts";
import type { Expr } from "../ir/expr.ts";
import { cast, i32, intVar, sub, substitute, variable } from "../ir/expr.ts";
import type { Dim, Node } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { ConvJoin, Decisions } from "../decisions.ts";
import type { BufferInfo } from "../plan.ts";
import { bufferIndex, dimMax } from "../plan.ts";
import type { ProductOut } from "../template.ts";
import type { Held } from "../values.ts";
import { valueAt } from "../values.ts";
import type { Kernel } from "./kernel.ts";
import { forward } from "./kernel.ts";

/**
 * What the kernel of a product stores for a convolution of one position a row: its result and its new state, by its decomposition, which for one channel
 * reads the product at the channel's column and the channel's state. An element of the new state is the old one's next, so that stored oldest first none
 * is read after it is replaced.
 * @param coords the product's coordinates of a row and column
 */
export function convOuts(
  d: Decisions,
  k: Kernel,
  sink: Node,
  product: Node,
  join: ConvJoin,
  coords: (row: Expr, col: Expr) => readonly Expr[],
): readonly ProductOut[] {
  const { conv, main, columns } = join;
  const x = conv.inputs[0]!;
  const [from, to] = columns;
  const [y, next] = decompose(conv) as [Node, Node];
  const batch = typeOf(product).shape[0] as Dim;
  const b = batch === 1 ? i32(0) : intVar("%b", 0, dimMax(batch) - 1);
  const column = intVar("%column", from, to - 1);
  const channel = sub(column, from);
  const sum = variable("%sum", "f32");
  const stored = (n: Node): BufferInfo | undefined => (n === sink || n === join.sink || n === x ? undefined : d.buffers.get(n));
  const inProduct: ReadonlyMap<Node, readonly Held[]> = new Map([[product, [{ coords: [b, i32(0), column], value: sum }]]]);
  const at = (n: Node, where: readonly Expr[], held = inProduct): Expr => valueAt({ scope: k.scope, stored, held }, n, where);

  const out = (buffer: BufferInfo, where: readonly Expr[], value: Expr): ProductOut => {
    const name = k.scope.use(buffer, "write");
    const index = bufferIndex(buffer, where);
    const rounded = cast(value, buffer.dtype);
    const bind = (row: Expr, col: Expr): Map<Expr, Expr> => new Map([[b, coords(row, col)[0]!], [column, col]]); // prettier-ignore
    return {
      buffer: name,
      dtype: buffer.dtype,
      columns,
      index: (row, col) => substitute(index, bind(row, col)),
      value: ([acc], row, col) => substitute(rounded, bind(row, col).set(sum, acc!)),
    };
  };

  const result = [b, i32(0), channel];
  const held = new Map([[main, [{ coords: result, value: at(y, result) }]]]);
  const where = forward(main, join.sink, result);
  const state = d.stateOf.get(conv)!;
  const elements = Array.from({ length: conv.attrs.width }, (_, i) => [b, i32(i), channel]);
  return [
    out(d.buffers.get(join.sink)!, where, at(join.sink, where, held)),
    ...elements.map((element) => out(state, element, at(next, element))),
  ];
}

/** What it computes a row. */
export const convFlops = ({ conv, columns: [from, to] }: ConvJoin): number => 2 * (to - from) * conv.attrs.width;
