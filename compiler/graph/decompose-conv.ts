import type { Expr, Var } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Builder } from "./build.ts";
import { shapeOf } from "./build.ts";
import { decomposeActivation } from "./decompose-activation.ts";
import { sequenceBefore, sliceOfCall } from "./decompose-sequences.ts";

/** One position a row, which continues the sequence of the state. */
export const isConvStep = (n: NodeOf<"causalConv1d">): boolean => shapeOf(n.inputs[0]!)[1] === 1 && n.attrs.past === null;

/**
 * y[t] = activation(bias + sum over k of weight[k] * full[t + 1 + k]) over full = state ++ x, whose last K inputs are the new state. With sequence ids
 * an input counts where its id, looked up in the same way, is that of the output.
 */
export function decomposeConv(n: NodeOf<"causalConv1d">, b: Builder): readonly Node[] {
  const { width, bias, activation, past } = n.attrs;
  const [x, weight] = n.inputs.slice(0, 2).map((i) => b.cast(i, "f32")) as [Node, Node];
  const old = n.inputs.at(-1)!;
  const state = b.cast(old, "f32");
  const [batch, seq, C] = shapeOf(x) as [Dim, Dim, number];
  const full = fullOf(b, x, state, width);
  const own = past ? sequences(n, b, past) : null;

  const overTime = (row: Node): Node => b.spread(row, [batch, seq, C], [2]);
  let sum = bias ? overTime(b.cast(n.inputs[2]!, "f32")) : null;
  for (let k = 0; k < width; k++) {
    const tap = b.reshape(b.slice(weight, 1, k, 1), [C]);
    const input = own ? b.select(b.spread(own.counts(k), [batch, seq, C], [0, 1]), full.tap(k), 0) : full.tap(k);
    const product = b.binary("mul", input, overTime(tap));
    sum = sum ? b.binary("add", sum, product) : product;
  }
  const y = activation ? decomposeActivation(b, activation, sum!) : sum!;
  const next = own ? own.last(x, state) : full.last();
  return [y, b.cast(next, typeOf(old).dtype)];
}

/** Values of state ++ x: for tap k those at t + 1 + k for all t; and the last K of all. */
interface Full {
  tap(k: number): Node;
  last(): Node;
}

const fullOf = (b: Builder, x: Node, state: Node, K: number): Full => {
  const seq = shapeOf(x)[1]!;
  return typeof seq === "number" ? joined(b, x, state, K, seq) : gathered(b, x, state, K, seq);
};

/** With a known length the two are simply joined. */
function joined(b: Builder, x: Node, state: Node, K: number, seq: number): Full {
  const full = b.concat([state, x], 1);
  return { tap: (k) => b.slice(full, 1, k + 1, seq), last: () => b.slice(full, 1, seq, K) };
}

/** A symbolic axis cannot be joined to a numeric one: each element is picked from the one or the other by its index. Time comes first for `gather`. */
function gathered(b: Builder, x: Node, state: Node, K: number, seq: Var): Full {
  const [batch, , C] = shapeOf(x) as [Dim, Dim, Dim];
  const byTime = (t: Node): Node => b.transpose(t, [1, 0, 2]);
  const [xs, states] = [byTime(x), byTime(state)];
  const pick = (index: Node, count: Dim): Node => {
    const inX = b.spread(b.binary("le", b.fill(K, [count], "i32"), index), [count, batch, C], [0]);
    const fromX = b.gather(xs, b.binary("max", b.binary("sub", index, K), 0));
    const fromState = b.gather(states, b.binary("min", index, K - 1));
    return byTime(b.select(inX, fromX, fromState));
  };
  return {
    tap: (k) => (k === K - 1 ? x : pick(b.binary("add", b.iota([seq], 0), k + 1), seq)),
    last: () => pick(b.binary("add", b.iota([K], 0), b.scalar(seq, [K])), K),
  };
}

interface Sequences {
  /** Where the input of tap k belongs to the sequence of the output: [batch, seq]. */
  counts(k: number): Node;
  /** The K inputs before ends[row], those of another sequence as 0. */
  last(x: Node, state: Node): Node;
}

function sequences(n: NodeOf<"causalConv1d">, b: Builder, past: Expr): Sequences {
  const [all, ends] = n.inputs.slice(-3) as [Node, Node];
  const [batch, seq, C] = shapeOf(n.inputs[0]!) as [Dim, Dim, number];
  const K = n.attrs.width;
  const before = sequenceBefore(b, all, past);
  const ids = sliceOfCall(b, all, past, seq);
  const full = fullOf(b, b.reshape(ids, [batch, seq, 1]), b.spread(before, [batch, K, 1], [0]), K);

  /** Where position `of` (over `count` positions) is the one that element k of the new state comes from: ends[row] + k, counted over state ++ x. */
  const chosen = (first: number, count: Dim): Node => {
    const shape = [batch, K, count];
    const wanted = b.binary("add", b.spread(ends, shape, [0]), b.iota(shape, 1));
    return b.binary("eq", b.binary("add", b.iota(shape, 2), first), wanted);
  };
  /** The last position's id; the sequence before the call where this call has no token. */
  const atEnd = b.binary("eq", b.binary("add", b.iota([batch, seq], 1), 1), b.spread(ends, [batch, seq], [0]));
  const found = b.reduce("max", b.select(atEnd, b.unary("abs", ids), 0), 1);
  const last = b.select(b.binary("eq", ends, 0), before, found);

  return {
    counts: (k) => b.binary("eq", b.reshape(full.tap(k), [batch, seq]), b.unary("abs", ids)),
    // rows end at different positions, so this is no slice: each element is a sum in which one term is not 0
    last(x, state) {
      const pick = (values: Node, own: Node, first: number, count: Dim): Node => {
        const shape = [batch, K, count, C];
        const same = b.binary("eq", b.spread(own, [batch, K, count], [0, 2]), b.spread(last, [batch, K, count], [0]));
        const here = b.spread(b.binary("and", chosen(first, count), same), shape, [0, 1, 2]);
        return b.reduce("sum", b.select(here, b.spread(values, shape, [0, 2, 3]), 0), 2);
      };
      return b.binary("add", pick(state, b.spread(before, [batch, K], [0]), 0, K), pick(x, ids, K, seq));
    },
  };
}
