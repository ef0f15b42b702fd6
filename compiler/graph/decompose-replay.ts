import { add } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import { makeNode } from "../ir/ops.ts";
import type { Builder } from "./build.ts";
import { shapeOf } from "./build.ts";
import { stepSizes } from "./decompose-ssd.ts";

/**
 * The scan's matrix form over a ring of inputs of which the first held + 1 count, and of whose outputs the last is wanted: with e[j] = exp(sum of dt A after
 * input j), y = exp(sum of dt A) C S^T + sum over j of (C . B[j]) e[j] dt[j] x[j] + D x. What lies in the ring beyond that may be anything.
 */
export function decomposeReplay(n: NodeOf<"ssdReplay">, b: Builder): readonly Node[] {
  const [x, raw, A, B, C, D, dtBias, state, xs, Bs, dts] = n.inputs as readonly [Node, Node, Node, Node, Node, Node, Node, Node, Node, Node, Node]; // prettier-ignore
  const { held } = n.attrs;
  const [batch, L, H, P] = shapeOf(xs) as [Dim, number, number, number];
  const [G, N] = shapeOf(Bs).slice(2) as [number, number];
  const put = (ring: Node, value: Node): Node => makeNode("update", [ring, b.cast(value, typeOf(ring).dtype)], { axis: 1, start: held }, n);
  const counted = (ring: Node, value: Node): Node => {
    const shape = shapeOf(ring);
    return b.select(b.binary("lt", b.iota(shape, 1), b.scalar(add(held, 1), shape)), put(b.cast(ring, "f32"), value), 0);
  };

  const dt = stepSizes(raw, dtBias, n.attrs, b);
  const steps = b.transpose(counted(dts, dt), [0, 2, 1]); // [batch, H, L]
  const perEntry = [batch, H, L];
  const a = b.binary("mul", steps, b.spread(A, perEntry, [1]));
  const square = [...perEntry, L];
  const later = b.binary("lt", b.iota(square, 2), b.iota(square, 3));
  const decays = b.unary("exp", b.reduce("sum", b.select(later, b.spread(a, square, [0, 1, 3]), 0), 3));
  const ofState = b.unary("exp", b.reduce("sum", a, 2)); // [batch, H]

  const headsFirst = (v: Node): Node => b.transpose(v, [0, 2, 1, 3]);
  const perHead = (v: Node, length: number): Node =>
    b.reshape(b.spread(headsFirst(v), [batch, G, H / G, length, N], [0, 1, 3, 4]), [batch, H, length, N]);
  const Bh = perHead(counted(Bs, B), L);
  const Ch = perHead(C, 1);
  const added = [batch, H, L, P];
  const X = b.binary("mul", headsFirst(counted(xs, x)), b.spread(b.binary("mul", decays, steps), added, [0, 1, 2]));
  const S = b.cast(state, "f32");
  const decayed = b.binary("mul", b.spread(ofState, [batch, H, P, N], [0, 1]), S);
  const read = b.matmul(Ch, decayed, true); // [batch, H, 1, P]
  const replayed = b.matmul(b.matmul(Ch, Bh, true), X, false);
  const skip = b.binary("mul", x, b.spread(D, shapeOf(x), [2]));
  const y = b.binary("add", headsFirst(b.binary("add", read, replayed)), skip);

  const all = b.binary("add", decayed, b.matmul(b.transpose(X, [0, 1, 3, 2]), Bh, false));
  const full = b.binary("eq", b.scalar(held, shapeOf(S)), L - 1);
  return [y, b.cast(b.select(full, all, S), typeOf(state).dtype), put(xs, x), put(Bs, B), put(dts, dt)];
}
