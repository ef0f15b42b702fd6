import { i32, sub } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Builder } from "./build.ts";
import { builder, shapeOf } from "./build.ts";
import { decomposeActivation } from "./decompose-activation.ts";

interface Scan {
  readonly batch: Dim;
  readonly seq: Dim;
  readonly H: number;
  readonly P: number;
  readonly G: number;
  readonly N: number;
  readonly x: Node;
  /** After bias, softplus and limits: [batch, seq, H]. */
  readonly dt: Node;
  /** dt * A, the logarithm of each step's decay: [batch, seq, H]. */
  readonly a: Node;
  readonly B: Node;
  readonly C: Node;
  readonly D: Node;
  /** [batch, H, P, N] in f32. */
  readonly state: Node;
}

function scanOf(n: NodeOf<"ssdScan">, b: Builder): Scan {
  const [x, raw, A, B, C, D, dtBias, state] = n.inputs as [Node, Node, Node, Node, Node, Node, Node, Node];
  const [batch, seq, H, P] = shapeOf(x) as [Dim, Dim, number, number];
  const [G, N] = shapeOf(B).slice(2) as [number, number];
  const perHead = (v: Node): Node => b.spread(v, [batch, seq, H], [2]);
  const { softplus, dtMin, dtMax } = n.attrs;
  let dt = b.binary("add", raw, perHead(dtBias));
  if (softplus) dt = decomposeActivation(b, "softplus", dt);
  // softplus is not negative, so the limits (0, Infinity) of every published model cost nothing
  if (dtMin > 0 || !softplus) dt = b.binary("max", dt, dtMin);
  if (dtMax < Infinity) dt = b.binary("min", dt, dtMax);
  return { batch, seq, H, P, G, N, x, dt, a: b.binary("mul", dt, perHead(A)), B, C, D, state: b.cast(state, "f32") };
}

/** One position at a time is a kernel of its own; longer sequences take the matrix form. */
export const decomposeSsd = (n: NodeOf<"ssdScan">, b: Builder): readonly Node[] =>
  typeOf(n.inputs[0]!).shape[1] === 1 ? step(n, b) : matrix(n, b);

/** The step S' = exp(dt A) S + (dt x) (outer) B, y = S' C + D x of a scan whose sequence length is the number 1. */
export function decomposeSsdStep(n: NodeOf<"ssdScan">): readonly [y: Node, state: Node] {
  if (typeOf(n.inputs[0]!).shape[1] !== 1) throw new Error("decomposeSsdStep: the sequence length is not the number 1");
  return step(n, builder({ at: n.at, name: n.name }));
}

function step(n: NodeOf<"ssdScan">, b: Builder): [y: Node, state: Node] {
  const s = scanOf(n, b);
  const { batch, H, P, G, N } = s;
  const full = [batch, H, P, N];
  const perHead = (v: Node): Node => b.reshape(b.spread(b.reshape(v, [batch, G, N]), [batch, G, H / G, N], [0, 1, 3]), [batch, H, N]);
  const overState = (v: Node): Node => b.spread(perHead(v), full, [0, 1, 3]);
  const x = b.reshape(s.x, [batch, H, P]);
  const dt = b.reshape(s.dt, [batch, H]);
  const decay = b.spread(b.unary("exp", b.reshape(s.a, [batch, H])), full, [0, 1]);
  const added = b.binary("mul", b.spread(b.binary("mul", x, b.spread(dt, [batch, H, P], [0, 1])), full, [0, 1, 2]), overState(s.B));
  const next = b.binary("add", b.binary("mul", decay, s.state), added);
  const read = b.reduce("sum", b.binary("mul", next, overState(s.C)), 3);
  const y = b.binary("add", read, b.binary("mul", x, b.spread(s.D, [batch, H, P], [1])));
  return [b.reshape(y, [batch, 1, H, P]), b.cast(next, typeOf(n.inputs[7]!).dtype)];
}

/**
 * The whole sequence at once: y = (L o C B^T)(dt x) + diag(e^s) C S0^T + D x with L[i, j] = exp(a[j+1] + ... + a[i]) for i >= j. The exponents are summed
 * directly, down the columns of a triangle of a's, and not as differences of one running sum: that loses the digits of late positions
 * when an early decay was strong.
 */
function matrix(n: NodeOf<"ssdScan">, b: Builder): [y: Node, state: Node] {
  const s = scanOf(n, b);
  const { batch, seq, H, P, G, N } = s;
  const square = [batch, H, seq, seq];
  const [rows, cols] = [b.iota([seq, seq], 0), b.iota([seq, seq], 1)];
  const onSquare = (m: Node): Node => b.spread(m, square, [2, 3]);
  const a = b.transpose(s.a, [0, 2, 1]);
  const triangle = b.select(onSquare(b.binary("lt", cols, rows)), b.spread(a, square, [0, 1, 2]), 0);
  const exponents = b.scan(triangle, 2);
  // masked before exp: what lies above the diagonal may be anything
  const L = b.unary("exp", b.select(onSquare(b.binary("le", cols, rows)), exponents, -Infinity));

  const headsFirst = (v: Node): Node => b.transpose(v, [0, 2, 1, 3]);
  const [Bg, Cg] = [headsFirst(s.B), headsFirst(s.C)]; // [batch, G, seq, N]
  const perHead = (v: Node, last: Dim): Node => b.reshape(b.spread(v, [batch, G, H / G, seq, last], [0, 1, 3, 4]), [batch, H, seq, last]);
  const X = headsFirst(b.binary("mul", s.x, b.spread(s.dt, [batch, seq, H, P], [0, 1, 2])));
  const within = b.matmul(b.binary("mul", perHead(b.matmul(Cg, Bg, true), seq), L), X, false);
  const sums = b.scan(a, 2);
  const decayed = b.spread(b.unary("exp", sums), [batch, H, seq, P], [0, 1, 2]);
  const fromState = b.binary("mul", b.matmul(perHead(Cg, N), s.state, true), decayed);
  const skip = b.binary("mul", s.x, b.spread(s.D, [batch, seq, H, P], [2]));
  const y = b.binary("add", headsFirst(b.binary("add", within, fromState)), skip);

  const end = typeof seq === "number" ? i32(seq - 1) : sub(seq, 1);
  const toEnd = b.unary("exp", b.reshape(b.slice(exponents, 2, end, 1), [batch, H, seq]));
  const weighted = b.binary("mul", X, b.spread(toEnd, [batch, H, seq, P], [0, 1, 2]));
  const own = b.matmul(b.transpose(weighted, [0, 1, 3, 2]), perHead(Bg, N), false);
  const whole = b.spread(b.unary("exp", b.reshape(b.slice(sums, 2, end, 1), [batch, H])), [batch, H, P, N], [0, 1]);
  const next = b.binary("add", b.binary("mul", whole, s.state), own);
  return [y, b.cast(next, typeOf(n.inputs[7]!).dtype)];
}
