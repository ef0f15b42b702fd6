import { decompose } from "../graph/decompose.ts";
import type { Expr } from "../ir/expr.ts";
import { add, cast, f32, i32, intVar, load, mul, sub, substitute, variable } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { ConvJoin, Decisions } from "../decisions.ts";
import type { BufferInfo, KernelPlan } from "../plan.ts";
import { bufferIndex, dimExpr, dimMax } from "../plan.ts";
import type { ProductOut, RowProblem } from "../template.ts";
import type { Held } from "../values.ts";
import { activation, valueAt } from "../values.ts";
import type { Kernel } from "./kernel.ts";
import { begin, f32Of, forward, outOf } from "./kernel.ts";
import { rowsPlan } from "./rows.ts";

/**
 * A convolution of one position a row by itself: a row for each of the batch, its channels the columns. All that does not depend on the new input comes first: the
 * kernel needs nothing of the one in front of it for that.
 */
export function convStep(d: Decisions, sink: Node, anchor: Node, n: NodeOf<"causalConv1d">): KernelPlan {
  const k = begin(d, sink, "conv_step");
  const { width, bias, activation: fn } = n.attrs;
  const [x, weight] = n.inputs as [Node, Node];
  const [batch, , channels] = typeOf(x).shape as [Dim, Dim, number];
  const out = outOf(d, k, sink, [anchor], (row: Expr, col: Expr) => [row, i32(0), col]);
  const [state] = d.stateOf.get(n) as readonly [BufferInfo];
  const buffer = k.scope.use(state, "readwrite");
  const place = (row: Expr, tap: number, col: Expr): Expr => bufferIndex(state, [row, i32(tap), col]);
  const scale = (col: Expr, tap: number): Expr => f32Of(k.at(weight, [col, i32(tap)]));
  // the first of the state's inputs is one that no output sees any more
  const seen = Array.from({ length: width - 1 }, (_, tap) => tap);
  const steps: RowProblem["steps"] = [
    ...seen.map((tap): RowProblem["steps"][number] => ({
      name: `input${tap}`,
      kind: "temp",
      value: (row, col) => cast(load(buffer, state.dtype, place(row, tap + 1, col)), "f32"),
    })),
    {
      name: "before",
      kind: "temp",
      value: (_row, col, get) =>
        seen.reduce((sum, tap) => add(sum, mul(get(`input${tap}`), scale(col, tap))), bias ? f32Of(k.at(n.inputs[2]!, [col])) : f32(0)),
    },
    { name: "weight", kind: "temp", value: (_row, col) => scale(col, width - 1) },
    { name: "now", kind: "temp", value: (row, col) => f32Of(k.at(x, [row, i32(0), col])) },
  ];
  const replaced = (tap: number): RowProblem["stores"][number] => ({
    buffer,
    dtype: state.dtype,
    per: "element",
    index: (row, col) => place(row, tap, col),
    value: (_row, _col, get) => cast(get(tap === width - 1 ? "now" : `input${tap}`), state.dtype),
    guard: null,
  });
  const stores: RowProblem["stores"] = [
    {
      buffer: out.buffer,
      dtype: out.dtype,
      per: "element",
      index: (row, col) => out.index(row, col),
      value: (row, col, get) => {
        const sum = add(get("before"), mul(get("now"), get("weight")));
        return out.value([fn ? activation(fn, sum) : sum], row, col);
      },
      guard: null,
    },
    ...Array.from({ length: width }, (_, tap) => replaced(tap)),
  ];
  return rowsPlan(k, n, { frame: k.frame, rows: dimExpr(batch), cols: channels, steps, stores }, 2 * width);
}

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
  const [state] = d.stateOf.get(conv) as readonly [BufferInfo];
  const elements = Array.from({ length: conv.attrs.width }, (_, i) => [b, i32(i), channel]);
  return [
    out(d.buffers.get(join.sink)!, where, at(join.sink, where, held)),
    ...elements.map((element) => out(state, element, at(next, element))),
  ];
}

/** What it computes a row. */
export const convFlops = ({ conv, columns: [from, to] }: ConvJoin): number => 2 * (to - from) * conv.attrs.width;
