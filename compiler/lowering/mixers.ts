import { times, toIntExpr } from "../int-expr.ts";
import type { Expr } from "../ir/expr.ts";
import { add, div, exp2, f32, i32, idiv, intVar, load, max, min, mul, sub } from "../ir/expr.ts";
import { isConvStep } from "../graph/decompose-conv.ts";
import { isStep } from "../graph/decompose-ssd.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions } from "../decisions.ts";
import type { BufferInfo, KernelPlan } from "../plan.ts";
import { bufferIndex, delinearize, dimExpr, dimMax, elementCount } from "../plan.ts";
import type { Kept, RowProblem, SsdProblem } from "../template.ts";
import { cacheRings, DECODE_QUERIES, partsOfCache } from "../templates/attention-rings.ts";
import { activation } from "../values.ts";
import { convStep } from "./conv-step.ts";
import type { Kernel } from "./kernel.ts";
import { begin, plan, f32Of, outOf, warmRows } from "./kernel.ts";

/** Where blocks have several warps: more parts than this, and combining them costs what sharing saves; a part has at least so many keys. */
const MOST_PARTS = 16;
const LEAST_KEYS = 64;

/** Into how many parts the keys of a decoded query are cut, so that there is a block for every worker: 1 where batch and heads are enough. */
function partsOf(d: Decisions, a: NodeOf<"attention">): number {
  const [batch, seq, heads, dim] = typeOf(a.inputs[0]!).shape as [Dim, Dim, Dim, Dim];
  const [, kvHeads, capacity] = typeOf(a.inputs[1]!).shape as [Dim, Dim, Dim];
  // a CPU's worker goes through a cache as fast as memory gives it
  if (dimMax(seq) > DECODE_QUERIES || d.caps.panel > 0) return 1;
  const blocks = dimMax(kvHeads) * dimMax(batch);
  const { dtype } = d.buffers.get(a.inputs[1]!) ?? typeOf(a.inputs[1]!);
  const shape = { queries: dimMax(seq), sharing: dimMax(heads) / dimMax(kvHeads), dim: dimMax(dim), dtype };
  const rings = cacheRings(shape, d.caps);
  if (!("reject" in rings)) return partsOfCache(blocks, dimMax(capacity), rings[0]!, d.caps);
  return Math.max(1, Math.min(MOST_PARTS, Math.floor(dimMax(capacity) / LEAST_KEYS), Math.floor(d.caps.workers / blocks)));
}

/** One kernel; or one that works on parts of the keys, and one that combines what they give. */
export function attention(d: Decisions, sink: Node, a: NodeOf<"attention">): readonly KernelPlan[] {
  const count = partsOf(d, a);
  const [batch, seq, heads, dim] = typeOf(a.inputs[0]!).shape as [Dim, Dim, Dim, Dim];
  if (count === 1) return [attentionKernel(d, sink, a, null)];
  const shape = [batch, seq, heads, count, dimMax(dim) + 2];
  const buffer: BufferInfo = { kind: "arena", name: `${a.name}.parts`, dtype: "f32", shape, panel: 0 };
  return [attentionKernel(d, sink, a, buffer), combine(d, sink, a, buffer)];
}

/** Brings the parts to one maximum, adds them up and divides by the sum of all weights. Of the parts that saw no key, all is 0 but the maximum, which is very low. */
function combine(d: Decisions, sink: Node, a: NodeOf<"attention">, parts: BufferInfo): KernelPlan {
  const k = begin(d, sink, "attention_combine");
  const [batch, seq, heads, count, width] = parts.shape as [Dim, Dim, Dim, number, number];
  const dim = width - 2;
  const name = k.scope.use(parts, "read");
  const coords = (row: Expr, col: Expr): readonly Expr[] => [...delinearize([batch, seq, heads], row), col];
  const out = outOf(d, k, sink, [a], (row: Expr, col: Expr) => coords(row, col));
  const value = (row: Expr, col: Expr): Expr => {
    const at = (part: number, i: Expr | number): Expr => load(name, "f32", add(mul(add(mul(row, count), part), width), i));
    const all = Array.from({ length: count }, (_, i) => i);
    const top = all.map((i) => at(i, dim)).reduce((x, y) => max(x, y));
    const weighted = (i: number, e: Expr): Expr => mul(exp2(sub(at(i, dim), top)), e);
    const sum = (of: (i: number) => Expr): Expr => all.map(of).reduce((x, y) => add(x, y));
    // the key with the largest score weighs 1, so a smaller total means that there was none
    return div(
      sum((i) => weighted(i, at(i, col))),
      max(
        sum((i) => weighted(i, at(i, dim + 1))),
        1,
      ),
    );
  };
  const rows = mul(mul(dimExpr(batch), dimExpr(seq)), dimExpr(heads));
  const problem: RowProblem = {
    frame: k.frame,
    rows,
    cols: dim,
    steps: [],
    stores: [
      {
        buffer: out.buffer,
        dtype: out.dtype,
        per: "element",
        guard: null,
        index: out.index,
        value: (row, col) => out.value([value(row, col)], row, col),
      },
    ],
  };
  warmRows(problem);
  return plan(k, a, { kind: "rows", ...problem }, times(toIntExpr(rows), 5 * dim * count));
}

function attentionKernel(d: Decisions, sink: Node, a: NodeOf<"attention">, parts: BufferInfo | null): KernelPlan {
  const k = begin(d, sink, "attention");
  const [q, keys, values, ids] = a.inputs as [Node, Node, Node, Node | undefined];
  const [batch, seq, heads, dim] = typeOf(q).shape as [Dim, Dim, Dim, Dim];
  const [, kvHeads, capacity] = typeOf(keys).shape as [Dim, Dim, Dim];
  const h = dimMax(heads);
  const out = parts ? null : outOf(d, k, sink, [a], (b: Expr, t: Expr, head: Expr, i: Expr) => [b, t, head, i]);
  const problem = {
    kind: "attention" as const,
    frame: k.frame,
    batch: dimExpr(batch),
    seq: dimExpr(seq),
    past: a.attrs.past,
    heads: h,
    kvHeads: dimMax(kvHeads),
    dim: dimMax(dim),
    capacity: dimMax(capacity),
    causal: a.attrs.causal,
    scale: a.attrs.scale,
    q: (b: Expr, t: Expr, head: Expr, i: Expr) => f32Of(k.at(q, [b, t, head, i])),
    k: (b: Expr, head: Expr, j: Expr, i: Expr) => f32Of(k.at(keys, [b, head, j, i])),
    v: (b: Expr, head: Expr, j: Expr, i: Expr) => f32Of(k.at(values, [b, head, j, i])),
    ids: ids ? (b: Expr, j: Expr) => k.at(ids, [b, j]) : null,
    outs: out ? [out] : [],
    parts: parts && {
      count: dimMax(parts.shape[3]!),
      buffer: k.scope.use(parts, "write"),
      index: (b: Expr, t: Expr, head: Expr, part: Expr, i: Expr) => bufferIndex(parts, [b, t, head, part, i]),
    },
  };
  const [v0, v1, v2, v3] = ["b", "t", "h", "i"].map((name) => intVar(name, 0, 1 << 20)) as [Expr, Expr, Expr, Expr];
  problem.q(v0, v1, v2, v3);
  problem.k(v0, v2, v1, v3);
  problem.v(v0, v2, v1, v3);
  problem.ids?.(v0, v1);
  out?.index(v0, v1, v2, v3);
  out?.value([f32(0)], v0, v1, v2, v3);
  const visible = add(a.attrs.past, dimExpr(seq));
  for (const cached of [keys, values]) {
    const buffer = d.buffers.get(cached);
    if (buffer) k.scope.touched.set(buffer, mul(mul(mul(dimExpr(batch), dimExpr(kvHeads)), visible), dimExpr(dim)));
  }
  return plan(k, a, problem, times(toIntExpr(mul(dimExpr(batch), dimExpr(seq))), times(toIntExpr(visible), 4 * h * dimMax(dim))));
}

/** The sequence ids of a call whose first position is `past`, as the templates ask for them: from position -1 on, which at past = 0 is position 0. */
const idsOfCall =
  (k: Kernel, ids: Node, past: Expr) =>
  (b: Expr, t: Expr): Expr =>
    k.at(ids, [b, max(add(past, t), 0)]);

/** dt' = clamp(softplus(dt + bias)), or clamp(dt + bias): spec/ssd.md section 1. */
function timeStep(k: Kernel, n: NodeOf<"ssdScan" | "ssdReplay">, b: Expr, t: Expr, h: Expr): Expr {
  const [, dt, , , , , bias] = n.inputs as [Node, Node, Node, Node, Node, Node, Node];
  const { softplus, dtMin, dtMax } = n.attrs;
  const given = add(f32Of(k.at(dt, [b, t, h])), f32Of(k.at(bias, [h])));
  const raw = softplus ? activation("softplus", given) : given;
  const low = dtMin > 0 || !softplus ? max(raw, f32(dtMin)) : raw;
  return dtMax < Infinity ? min(low, f32(dtMax)) : low;
}

/** The scan, or where there is one token a row, a step of it: the same problem, for which there is a template of its own. */
export function ssdScan(d: Decisions, sink: Node, anchor: Node | null, n: NodeOf<"ssdScan">): KernelPlan {
  const step = isStep(n);
  const k = begin(d, sink, step ? "ssd_step" : "ssd_scan");
  const ids = n.attrs.past ? idsOfCall(k, n.inputs[7]!, n.attrs.past) : null;
  const problem = { kind: "ssd" as const, ...scanProblem(d, k, sink, anchor, n), ids };
  ids?.(intVar("b", 0, 1 << 20), intVar("t", 0, 1 << 20));
  const { batch, seq, heads: H, headDim: P, groups: G, stateSize: N } = problem;
  const q = n.attrs.chunk;
  const each = step ? 5 * H * P * N : 2 * q * N * G + H * (2 * q * P + 4 * N * P);
  return plan(k, n, problem, times(toIntExpr(mul(batch, seq)), each));
}

/** A step with a ring of inputs. What it moves is the state, of which a share of the steps stores it, the inputs that are there, and its own. */
export function ssdReplay(d: Decisions, sink: Node, anchor: Node | null, n: NodeOf<"ssdReplay">): KernelPlan {
  const k = begin(d, sink, "ssd_replay");
  const common = scanProblem(d, k, sink, anchor, n);
  const [state, xs, Bs, dts] = d.stateOf.get(n) as readonly [BufferInfo, BufferInfo, BufferInfo, BufferInfo];
  const { held } = n.attrs;
  const length = dimMax(xs.shape[1]!);
  const ring = { x: heldIn(k, xs), B: heldIn(k, Bs), dt: heldIn(k, dts) };
  // each is counted as read and written: half of a state counts as read
  k.scope.touched.set(state, mul(idiv(elementCount(state.shape), 2 * length), length + 1));
  for (const buffer of [xs, Bs, dts]) k.scope.touched.set(buffer, idiv(mul(idiv(elementCount(buffer.shape), length), add(held, 1)), 2));
  const { batch, heads: H, headDim: P, groups: G, stateSize: N } = common;
  const each = add(mul(add(held, 1), 2 * (G * N + H * P)), 2 * H * P * N);
  return plan(k, n, { kind: "replay", ...common, length, held, ring }, toIntExpr(mul(batch, each)));
}

/** What scans and steps with a ring have in common. Without an anchor, nobody asks for the output. */
function scanProblem(
  d: Decisions,
  k: Kernel,
  sink: Node,
  anchor: Node | null,
  n: NodeOf<"ssdScan" | "ssdReplay">,
): Omit<SsdProblem, "ids"> {
  const [x, , A, B, C, D] = n.inputs as readonly [Node, Node, Node, Node, Node, Node];
  const [batch, seq, H, P] = typeOf(x).shape as [Dim, Dim, number, number];
  const [, , G, N] = typeOf(B).shape as [Dim, Dim, number, number];
  const [state] = d.stateOf.get(n) as readonly [BufferInfo];
  const out = anchor && outOf(d, k, sink, [anchor], (b: Expr, t: Expr, h: Expr, p: Expr) => [b, t, h, p]);
  const problem: Omit<SsdProblem, "ids"> = {
    frame: k.frame,
    batch: dimExpr(batch),
    seq: dimExpr(seq),
    heads: H,
    headDim: P,
    groups: G,
    stateSize: N,
    x: (b, t, h, p) => f32Of(k.at(x, [b, t, h, p])),
    dt: (b, t, h) => timeStep(k, n, b, t, h),
    decay: (h) => f32Of(k.at(A, [h])),
    B: (b, t, g, i) => f32Of(k.at(B, [b, t, g, i])),
    C: (b, t, g, i) => f32Of(k.at(C, [b, t, g, i])),
    D: (h) => f32Of(k.at(D, [h])),
    state: heldIn(k, state),
    outs: out ? [out] : [],
  };
  const [v0, v1, v2, v3] = ["b", "t", "h", "i"].map((name) => intVar(name, 0, 1 << 20)) as [Expr, Expr, Expr, Expr];
  problem.x(v0, v1, v2, v3);
  problem.dt(v0, v1, v2);
  problem.decay(v2);
  problem.B(v0, v1, v2, v3);
  problem.C(v0, v1, v2, v3);
  problem.D(v2);
  out?.index(v0, v1, v2, v3);
  out?.value([f32(0)], v0, v1, v2, v3);
  return problem;
}

/** A state as templates read and replace it. */
const heldIn = <C extends readonly Expr[]>(k: Kernel, state: BufferInfo): Kept<C> => ({
  buffer: k.scope.use(state, "readwrite"),
  dtype: state.dtype,
  index: (...at) => bufferIndex(state, at),
});

export function conv(d: Decisions, sink: Node, anchor: Node | null, n: NodeOf<"causalConv1d">): KernelPlan {
  if (anchor && isConvStep(n)) return convStep(d, sink, anchor, n);
  const k = begin(d, sink, "conv1d");
  const [x, weight, bias] = n.inputs as [Node, Node, Node];
  const [ids, ends] = n.inputs.slice(-3) as [Node, Node];
  const { past } = n.attrs;
  const [batch, seq, channels] = typeOf(x).shape as [Dim, Dim, number];
  const [state] = d.stateOf.get(n) as readonly [BufferInfo];
  const act = n.attrs.activation;
  const plain = anchor && outOf(d, k, sink, [anchor], (b: Expr, t: Expr, c: Expr) => [b, t, c]);
  const out: typeof plain = plain && {
    ...plain,
    value: (acc, b, t, c) => plain.value([act ? activation(act, acc[0]!) : acc[0]!], b, t, c),
  };
  const problem = {
    kind: "conv" as const,
    frame: k.frame,
    batch: dimExpr(batch),
    seq: dimExpr(seq),
    channels,
    width: n.attrs.width,
    x: (b: Expr, t: Expr, c: Expr) => f32Of(k.at(x, [b, t, c])),
    weight: (c: Expr, tap: number) => f32Of(k.at(weight, [c, i32(tap)])),
    bias: n.attrs.bias ? (c: Expr) => f32Of(k.at(bias, [c])) : null,
    sequences: past ? { id: idsOfCall(k, ids, past), end: (b: Expr) => k.at(ends, [b]) } : null,
    state: heldIn<[b: Expr, tap: Expr, c: Expr]>(k, state),
    outs: out ? [out] : [],
  };
  const [v0, v1, v2] = ["b", "t", "c"].map((name) => intVar(name, 0, 1 << 20)) as [Expr, Expr, Expr];
  problem.x(v0, v1, v2);
  problem.weight(v2, 0);
  problem.bias?.(v2);
  problem.sequences?.id(v0, v1);
  problem.sequences?.end(v0);
  out?.index(v0, v1, v2);
  out?.value([f32(0)], v0, v1, v2);
  return plan(k, n, problem, times(toIntExpr(mul(dimExpr(batch), dimExpr(seq))), 2 * channels * n.attrs.width));
}
