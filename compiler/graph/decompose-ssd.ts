import type { Expr } from "../ir/expr.ts";
import { i32, sub } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Builder } from "./build.ts";
import { builder, shapeOf } from "./build.ts";
import { decomposeActivation } from "./decompose-activation.ts";
import { sequenceBefore, sliceOfCall } from "./decompose-sequences.ts";

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
  readonly sequences: Sequences | null;
}

/** dt' of raw step sizes [batch, seq, H] and biases [H]. */
export function stepSizes(raw: Node, dtBias: Node, { softplus, dtMin, dtMax }: StepLimits, b: Builder): Node {
  let dt = b.binary("add", raw, b.spread(dtBias, shapeOf(raw), [2]));
  if (softplus) dt = decomposeActivation(b, "softplus", dt);
  // softplus is not negative, so the limits (0, Infinity) of every published model cost nothing
  if (dtMin > 0 || !softplus) dt = b.binary("max", dt, dtMin);
  if (dtMax < Infinity) dt = b.binary("min", dt, dtMax);
  return dt;
}
type StepLimits = Pick<NodeOf<"ssdScan">["attrs"], "softplus" | "dtMin" | "dtMax">;

function scanOf(n: NodeOf<"ssdScan">, b: Builder): Scan {
  const [x, raw, A, B, C, D, dtBias] = n.inputs as [Node, Node, Node, Node, Node, Node, Node];
  const state = n.inputs.at(-1)!;
  const [batch, seq, H, P] = shapeOf(x) as [Dim, Dim, number, number];
  const [G, N] = shapeOf(B).slice(2) as [number, number];
  const perHead = (v: Node): Node => b.spread(v, [batch, seq, H], [2]);
  let dt = stepSizes(raw, dtBias, n.attrs, b);
  const sequences = n.attrs.past ? sequencesOf(b, n.inputs[7]!, n.attrs.past, [batch, seq]) : null;
  if (sequences) dt = b.select(b.spread(sequences.real, [batch, seq, H], [0, 1]), dt, 0);
  return { batch, seq, H, P, G, N, x, dt, a: b.binary("mul", dt, perHead(A)), B, C, D, state: b.cast(state, "f32"), sequences };
}

/** What the ids of a call say. A sequence is one run of positions, so two positions of the same one have no other between them. */
interface Sequences {
  /** Not padding: [batch, seq]. */
  readonly real: Node;
  /** The sequence of each position [batch, seq], of the incoming state and of the last position [batch]. */
  readonly own: Node;
  readonly before: Node;
  readonly last: Node;
}

function sequencesOf(b: Builder, all: Node, past: Expr, [batch, seq]: readonly [Dim, Dim]): Sequences {
  const ids = sliceOfCall(b, all, past, seq);
  const own = b.unary("abs", ids);
  const real = b.binary("lt", b.fill(0, [batch, seq], "i32"), ids);
  return { real, own, before: sequenceBefore(b, all, past), last: b.reshape(b.slice(own, 1, lastOf(seq), 1), [batch]) };
}

const lastOf = (seq: Dim): Expr => (typeof seq === "number" ? i32(seq - 1) : sub(seq, 1));

/** One position at a time, in the sequence of the state, is a kernel of its own; anything else takes the matrix form. */
export const isStep = (n: NodeOf<"ssdScan">): boolean => typeOf(n.inputs[0]!).shape[1] === 1 && n.attrs.past === null;

export const decomposeSsd = (n: NodeOf<"ssdScan">, b: Builder): readonly Node[] => (isStep(n) ? step(n, b) : matrix(n, b));

/** The step S' = exp(dt A) S + (dt x) (outer) B, y = S' C + D x of a scan whose sequence length is the number 1. */
export function decomposeSsdStep(n: NodeOf<"ssdScan">): readonly [y: Node, state: Node] {
  if (!isStep(n)) throw new Error("decomposeSsdStep: the sequence length is not the number 1, or there are sequence ids");
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
  return [b.reshape(y, [batch, 1, H, P]), b.cast(next, typeOf(n.inputs.at(-1)!).dtype)];
}

/**
 * The whole sequence at once: y = (L o C B^T)(dt x) + diag(e^s) C S0^T + D x with L[i, j] = exp(a[j+1] + ... + a[i]) for i >= j. The exponents are summed
 * directly, down the columns of a triangle of a's, and not as differences of one running sum: that loses the digits of late positions
 * when an early decay was strong. With sequence ids, what belongs to another sequence than its reader is dropped: elements of L, S0, and terms of S'.
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
  const { sequences } = s;
  const inOrder = onSquare(b.binary("le", cols, rows));
  const own = (axis: number): Node => b.spread(sequences!.own, square, [0, axis]);
  const seen = sequences ? b.binary("and", inOrder, b.binary("eq", own(2), own(3))) : inOrder;
  // masked before exp: what lies above the diagonal may be anything
  const L = b.unary("exp", b.select(seen, exponents, -Infinity));

  const headsFirst = (v: Node): Node => b.transpose(v, [0, 2, 1, 3]);
  const [Bg, Cg] = [headsFirst(s.B), headsFirst(s.C)]; // [batch, G, seq, N]
  const perHead = (v: Node, last: Dim): Node => b.reshape(b.spread(v, [batch, G, H / G, seq, last], [0, 1, 3, 4]), [batch, H, seq, last]);
  const X = headsFirst(b.binary("mul", s.x, b.spread(s.dt, [batch, seq, H, P], [0, 1, 2])));
  const within = b.matmul(b.binary("mul", perHead(b.matmul(Cg, Bg, true), seq), L), X, false);
  const sums = b.scan(a, 2);
  const decayed = b.spread(b.unary("exp", sums), [batch, H, seq, P], [0, 1, 2]);
  const read = b.binary("mul", b.matmul(perHead(Cg, N), s.state, true), decayed);
  const continues = (sequence: Node): Node => b.binary("eq", sequence, b.spread(sequences!.before, shapeOf(sequence), [0]));
  const fromState = sequences ? b.select(b.spread(continues(sequences.own), shapeOf(read), [0, 2]), read, 0) : read;
  const skip = b.binary("mul", s.x, b.spread(s.D, [batch, seq, H, P], [2]));
  const y = b.binary("add", headsFirst(b.binary("add", within, fromState)), skip);

  const end = lastOf(seq);
  const toEnd = b.reshape(b.slice(L, 2, end, 1), [batch, H, seq]);
  const weighted = b.binary("mul", X, b.spread(toEnd, [batch, H, seq, P], [0, 1, 2]));
  const added = b.matmul(b.transpose(weighted, [0, 1, 3, 2]), perHead(Bg, N), false);
  const whole = b.spread(b.unary("exp", b.reshape(b.slice(sums, 2, end, 1), [batch, H])), [batch, H, P, N], [0, 1]);
  const kept = b.binary("mul", whole, s.state);
  const next = b.binary("add", sequences ? b.select(b.spread(continues(sequences.last), shapeOf(kept), [0]), kept, 0) : kept, added);
  return [y, b.cast(next, typeOf(n.inputs.at(-1)!).dtype)];
}
