import type { Var } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Builder } from "./build.ts";
import { shapeOf } from "./build.ts";
import { decomposeActivation } from "./decompose-activation.ts";

/** y[t] = activation(bias + sum over k of weight[k] * full[t + 1 + k]) over full = state ++ x, whose last K inputs are the new state. */
export function decomposeConv(n: NodeOf<"causalConv1d">, b: Builder): readonly Node[] {
  const { width, bias, activation } = n.attrs;
  const [x, weight, ...rest] = n.inputs.map((i) => b.cast(i, "f32")) as [Node, Node, Node, Node];
  const state = rest[bias ? 1 : 0];
  const shape = shapeOf(x);
  const [batch, seq, C] = shape as [Dim, Dim, number];
  const full = typeof seq === "number" ? joined(b, x, state, width, seq) : gathered(b, x, state, width, seq);

  const overTime = (row: Node): Node => b.spread(row, [batch, seq, C], [2]);
  let sum = bias ? overTime(rest[0]) : null;
  for (let k = 0; k < width; k++) {
    const tap = b.reshape(b.slice(weight, 1, k, 1), [C]);
    const product = b.binary("mul", full.tap(k), overTime(tap));
    sum = sum ? b.binary("add", sum, product) : product;
  }
  const y = activation ? decomposeActivation(b, activation, sum!) : sum!;
  const old = n.inputs[n.inputs.length - 1]!;
  return [y, b.cast(full.last(), typeOf(old).dtype)];
}

/** The inputs that the convolution reads: for tap k those at t + 1 + k of state ++ x, for all t; and the last K of all. */
interface Full {
  tap(k: number): Node;
  last(): Node;
}

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
