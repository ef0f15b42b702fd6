import { add } from "../ir/expr.ts";
import type { Graph, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Composite } from "../ir/ops.ts";
import { isComposite } from "../ir/ops.ts";
import type { Builder } from "./build.ts";
import { builder, shapeOf } from "./build.ts";
import { decomposeActivation } from "./decompose-activation.ts";
import { decomposeConv } from "./decompose-conv.ts";
import { decomposeProcessLogits, decomposeSampleToken } from "./decompose-sampling.ts";
import { decomposeReplay } from "./decompose-replay.ts";
import { decomposeSsd } from "./decompose-ssd.ts";
import { rewriteGraph } from "./rewrite.ts";

/** Replaces the composites that `which` accepts (all of them when it is not given) by primitives. */
export const decomposeGraph = (graph: Graph, which: (n: NodeOf<Composite>) => boolean = () => true): Graph =>
  rewriteGraph(graph, (n) => (isComposite(n) && which(n) ? decompose(n) : undefined));

/** The primitives that a composite stands for, one node for each of its results. */
export function decompose(n: NodeOf<Composite>): readonly Node[] {
  // one cell of the table fits one member of the union; TypeScript does not relate the two through `n.op`
  return (DECOMPOSE[n.op] as Decompose<Composite>)(n, builder({ at: n.at, name: n.name }));
}

type Decompose<K extends Composite> = (n: NodeOf<K>, b: Builder) => readonly Node[];

const DECOMPOSE: { readonly [K in Composite]: Decompose<K> } = {
  activation: (n, b) => [decomposeActivation(b, n.attrs.fn, b.cast(n.inputs[0]!, "f32"))],
  softmax: (n, b) => [softmax(b, b.cast(n.inputs[0]!, "f32"), n.attrs.axis)],
  rmsNorm: (n, b) => {
    const [x, weight] = floats(n, b);
    return [rmsNorm(b, x!, weight!, n.attrs.eps)];
  },
  gatedRmsNorm: (n, b) => {
    const [x, gate, weight] = floats(n, b);
    return [rmsNorm(b, b.binary("mul", x!, decomposeActivation(b, "silu", gate!)), weight!, n.attrs.eps)];
  },
  rope: (n, b) => [rope(n, b)],
  causalConv1d: decomposeConv,
  ssdScan: decomposeSsd,
  ssdReplay: decomposeReplay,
  attention: (n, b) => [attention(n, b)],
  crossEntropy: (n, b) => [crossEntropy(n, b)],
  processLogits: (n, b) => [decomposeProcessLogits(n, b)],
  sampleToken: (n, b) => [decomposeSampleToken(n, b)],
};

const floats = (n: Node, b: Builder): readonly Node[] => n.inputs.map((i) => b.cast(i, "f32"));

/** The largest value is taken off first, so that exp cannot overflow. */
function softmax(b: Builder, x: Node, axis: number): Node {
  const e = b.unary("exp", b.binary("sub", x, b.reduceSpread("max", x, axis)));
  return b.binary("div", e, b.reduceSpread("sum", e, axis));
}

function rmsNorm(b: Builder, x: Node, weight: Node, eps: number): Node {
  const shape = shapeOf(x);
  const last = shape.length - 1;
  const mean = b.binary("div", b.reduce("sum", b.binary("mul", x, x), last), shape[last] as number);
  const factor = b.unary("rsqrt", b.binary("add", mean, eps));
  const normal = b.binary("mul", x, b.spread(factor, shape, shape.slice(0, last).map((_, i) => i))); // prettier-ignore
  return b.binary("mul", normal, b.spread(weight, shape, [last]));
}

function rope(n: NodeOf<"rope">, b: Builder): Node {
  const [x, positions, cos, sin] = n.inputs as [Node, Node, Node, Node];
  const values = b.cast(x, "f32");
  const [batch, seq, heads, D] = shapeOf(x) as [number, number, number, number];
  const half = n.attrs.rotary / 2;
  const shape = [batch, seq, heads, half];
  const rows = (table: Node): Node => b.spread(b.cast(b.gather(table, positions), "f32"), shape, [0, 1, 3]);
  const [c, s] = [rows(cos), rows(sin)];
  const [low, high] = [b.slice(values, 3, 0, half), b.slice(values, 3, half, half)];
  const parts = [
    b.binary("sub", b.binary("mul", low, c), b.binary("mul", high, s)),
    b.binary("add", b.binary("mul", high, c), b.binary("mul", low, s)),
  ];
  if (2 * half < D) parts.push(b.slice(values, 3, 2 * half, D - 2 * half));
  return b.concat(parts, 3);
}

/** Below every score that can occur, yet finite: the difference of two of them is 0 and not NaN. */
const UNSEEN = -3e38;

/**
 * Scores, masks and softmax over the whole key axis. A row that sees no key has the sum 0 and gives 0. Keys that are not seen get the weight 0, so what
 * a cache holds there has to be finite (states begin at zero).
 */
function attention(n: NodeOf<"attention">, b: Builder): Node {
  const [q, k, v, ids] = n.inputs as [Node, Node, Node, Node | undefined];
  const { scale, causal, past } = n.attrs;
  const [batch, seq, H, D] = shapeOf(q) as [number, number, number, number];
  const [, Hkv, T] = shapeOf(k) as [number, number, number, number];
  const perHead = (x: Node): Node => b.reshape(b.spread(x, [batch, Hkv, H / Hkv, T, D], [0, 1, 3, 4]), [batch, H, T, D]);
  const shape = [batch, H, seq, T];
  const scores = b.binary("mul", b.matmul(b.transpose(q, [0, 2, 1, 3]), perHead(k), true), scale);

  const grid = [seq, T];
  const end = causal ? b.binary("add", b.binary("add", b.iota(grid, 0), b.scalar(past, grid)), 1) : b.scalar(add(past, seq), grid);
  const inTime = b.spread(b.binary("lt", b.iota(grid, 1), end), shape, [2, 3]);
  const sequence = (keys: Node): Node => b.unary("abs", b.slice(keys, 1, past, seq));
  const together = (keys: Node): Node => b.binary("eq", b.spread(keys, shape, [0, 3]), b.spread(sequence(keys), shape, [0, 2]));
  const seen = ids ? b.binary("and", inTime, together(ids)) : inTime;

  const visible = b.select(seen, scores, UNSEEN);
  const e = b.select(seen, b.unary("exp", b.binary("sub", visible, b.reduceSpread("max", visible, 3))), 0);
  const total = b.reduceSpread("sum", e, 3);
  const weights = b.binary("div", e, b.select(b.binary("eq", total, 0), b.fill(1, shape), total));
  return b.transpose(b.matmul(weights, perHead(v), false), [0, 2, 1, 3]);
}

/** -log softmax at the label is log(sum(exp(x - max))) + max - x[label]; ignored positions count neither in the sum nor in the mean. */
function crossEntropy(n: NodeOf<"crossEntropy">, b: Builder): Node {
  const [logits, labels] = n.inputs as [Node, Node];
  const shape = shapeOf(logits);
  const top = b.reduce("max", logits, 2);
  const e = b.unary("exp", b.binary("sub", logits, b.spread(top, shape, [0, 1])));
  const logSum = b.binary("add", b.unary("log", b.reduce("sum", e, 2)), top);
  const atLabel = b.binary("eq", b.iota(shape, 2), b.spread(labels, shape, [0, 1]));
  const picked = b.reduce("sum", b.select(atLabel, logits, 0), 2);
  const counted = b.binary("ne", labels, n.attrs.ignoreIndex);
  const total = (x: Node): Node => b.reduce("sum", b.reduce("sum", x, 1), 0);
  const losses = b.select(counted, b.binary("sub", logSum, picked), 0);
  return b.binary("div", total(losses), total(b.cast(counted, typeOf(logits).dtype)));
}
