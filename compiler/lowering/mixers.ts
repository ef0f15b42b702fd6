import { times, toIntExpr } from "../int-expr.ts";
import type { Expr } from "../ir/expr.ts";
import { add, cast, exp, f32, i32, idiv, intVar, load, max, min, mul } from "../ir/expr.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import type { Decisions } from "../decisions.ts";
import type { KernelPlan } from "../plan.ts";
import { bufferIndex, delinearize, dimExpr, dimMax } from "../plan.ts";
import type { RowProblem } from "../template.ts";
import { activation } from "../values.ts";
import type { Kernel } from "./kernel.ts";
import { begin, plan, f32Of, outOf, warmRows } from "./kernel.ts";

export function attention(d: Decisions, sink: Node, a: NodeOf<"attention">): KernelPlan {
  const k = begin(d, sink, "attention");
  const [q, keys, values, ids] = a.inputs as [Node, Node, Node, Node | undefined];
  const [batch, seq, heads, dim] = typeOf(q).shape as [Dim, Dim, Dim, Dim];
  const [, kvHeads, capacity] = typeOf(keys).shape as [Dim, Dim, Dim];
  const h = dimMax(heads);
  const out = outOf(d, k, sink, [a], (b: Expr, t: Expr, head: Expr, i: Expr) => [b, t, head, i]);
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
    outs: [out],
  };
  const [v0, v1, v2, v3] = ["b", "t", "h", "i"].map((name) => intVar(name, 0, 1 << 20)) as [Expr, Expr, Expr, Expr];
  problem.q(v0, v1, v2, v3);
  problem.k(v0, v2, v1, v3);
  problem.v(v0, v2, v1, v3);
  problem.ids?.(v0, v1);
  out.index(v0, v1, v2, v3);
  out.value([f32(0)], v0, v1, v2, v3);
  const visible = add(a.attrs.past, dimExpr(seq));
  return plan(k, a, problem, times(toIntExpr(mul(dimExpr(batch), dimExpr(seq))), times(toIntExpr(visible), 4 * h * dimMax(dim))));
}

/** The sequence ids of a call whose first position is `past`, as the templates ask for them: from position -1 on, which at past = 0 is position 0. */
const idsOfCall =
  (k: Kernel, ids: Node, past: Expr) =>
  (b: Expr, t: Expr): Expr =>
    k.at(ids, [b, max(add(past, t), 0)]);

/** dt' = clamp(softplus(dt + bias)), or clamp(dt + bias): spec/ssd.md section 1. */
function timeStep(k: Kernel, n: NodeOf<"ssdScan">, b: Expr, t: Expr, h: Expr): Expr {
  const [, dt, , , , , bias] = n.inputs as [Node, Node, Node, Node, Node, Node, Node];
  const { softplus, dtMin, dtMax } = n.attrs;
  const given = add(f32Of(k.at(dt, [b, t, h])), f32Of(k.at(bias, [h])));
  const raw = softplus ? activation("softplus", given) : given;
  const low = dtMin > 0 || !softplus ? max(raw, f32(dtMin)) : raw;
  return dtMax < Infinity ? min(low, f32(dtMax)) : low;
}

export function ssdScan(d: Decisions, sink: Node, anchor: Node, n: NodeOf<"ssdScan">): KernelPlan {
  const k = begin(d, sink, "ssd_scan");
  const [x, , A, B, C, D] = n.inputs as [Node, Node, Node, Node, Node, Node, Node, Node];
  const [batch, seq, H, P] = typeOf(x).shape as [Dim, Dim, number, number];
  const [, , G, N] = typeOf(B).shape as [Dim, Dim, number, number];
  const state = d.stateOf.get(n)!;
  const out = outOf(d, k, sink, [anchor], (b: Expr, t: Expr, h: Expr, p: Expr) => [b, t, h, p]);
  const problem = {
    kind: "ssd" as const,
    frame: k.frame,
    batch: dimExpr(batch),
    seq: dimExpr(seq),
    heads: H,
    headDim: P,
    groups: G,
    stateSize: N,
    x: (b: Expr, t: Expr, h: Expr, p: Expr) => f32Of(k.at(x, [b, t, h, p])),
    dt: (b: Expr, t: Expr, h: Expr) => timeStep(k, n, b, t, h),
    decay: (h: Expr) => f32Of(k.at(A, [h])),
    B: (b: Expr, t: Expr, g: Expr, i: Expr) => f32Of(k.at(B, [b, t, g, i])),
    C: (b: Expr, t: Expr, g: Expr, i: Expr) => f32Of(k.at(C, [b, t, g, i])),
    D: (h: Expr) => f32Of(k.at(D, [h])),
    ids: n.attrs.past ? idsOfCall(k, n.inputs[7]!, n.attrs.past) : null,
    state: {
      buffer: k.scope.use(state, "readwrite"),
      dtype: state.dtype,
      index: (b: Expr, h: Expr, p: Expr, i: Expr) => bufferIndex(state, [b, h, p, i]),
    },
    outs: [out],
  };
  const [v0, v1, v2, v3] = ["b", "t", "h", "i"].map((name) => intVar(name, 0, 1 << 20)) as [Expr, Expr, Expr, Expr];
  problem.x(v0, v1, v2, v3);
  problem.dt(v0, v1, v2);
  problem.decay(v2);
  problem.B(v0, v1, v2, v3);
  problem.C(v0, v1, v2, v3);
  problem.D(v2);
  problem.ids?.(v0, v1);
  out.index(v0, v1, v2, v3);
  out.value([f32(0)], v0, v1, v2, v3);
  const q = n.attrs.chunk;
  return plan(k, n, problem, times(toIntExpr(mul(dimExpr(batch), dimExpr(seq))), 2 * q * N * G + H * (2 * q * P + 4 * N * P)));
}

/** One token: state and output in one pass over the state, rows (b, h, p) and columns n. */
export function ssdStep(d: Decisions, sink: Node, anchor: Node, n: NodeOf<"ssdScan">): KernelPlan {
  const k = begin(d, sink, "ssd_step");
  const [x, , A, B, C, D] = n.inputs as [Node, Node, Node, Node, Node, Node, Node, Node];
  const [batch, , H, P] = typeOf(x).shape as [Dim, Dim, number, number];
  const [, , G, N] = typeOf(B).shape as [Dim, Dim, number, number];
  const state = d.stateOf.get(n)!;
  const stateName = k.scope.use(state, "readwrite");
  const t = i32(0);
  const where = (row: Expr): [Expr, Expr, Expr] => delinearize([batch, H, P], row) as [Expr, Expr, Expr];
  const out = outOf(d, k, sink, [anchor], (row: Expr, _col: Expr) => {
    const [b, h, p] = where(row);
    return [b, t, h, p];
  });
  const problem: RowProblem = {
    frame: k.frame,
    rows: mul(dimExpr(batch), H * P),
    cols: N,
    steps: [
      {
        name: "state",
        kind: "temp",
        value: (row, col) => {
          const [b, h, p] = where(row);
          const dt = timeStep(k, n, b, t, h);
          const old = f32Of(load(stateName, state.dtype, bufferIndex(state, [b, h, p, col])));
          const input = mul(mul(dt, f32Of(k.at(x, [b, t, h, p]))), f32Of(k.at(B, [b, t, idiv(h, H / G), col])));
          return add(mul(old, exp(mul(dt, f32Of(k.at(A, [h]))))), input);
        },
      },
      {
        name: "y",
        kind: "sum",
        value: (row, col, get) => {
          const [b, h] = where(row);
          return mul(get("state"), f32Of(k.at(C, [b, t, idiv(h, H / G), col])));
        },
      },
    ],
    stores: [
      {
        buffer: stateName,
        dtype: state.dtype,
        per: "element",
        index: (row, col) => bufferIndex(state, [...where(row), col]),
        value: (_r, _c, get) => cast(get("state"), state.dtype),
        guard: null,
      },
      {
        buffer: out.buffer,
        dtype: out.dtype,
        per: "row",
        index: (row, col) => out.index(row, col),
        value: (row, col, get) => {
          const [b, h, p] = where(row);
          return out.value([add(get("y"), mul(f32Of(k.at(D, [h])), f32Of(k.at(x, [b, t, h, p]))))], row, col);
        },
        guard: null,
      },
    ],
  };
  warmRows(problem);
  return plan(k, n, { kind: "rows", ...problem }, times(toIntExpr(dimExpr(batch)), 5 * H * P * N));
}
export function conv(d: Decisions, sink: Node, anchor: Node, n: NodeOf<"causalConv1d">): KernelPlan {
  const k = begin(d, sink, "conv1d");
  const [x, weight, bias] = n.inputs as [Node, Node, Node];
  const [ids, ends] = n.inputs.slice(-3) as [Node, Node];
  const { past } = n.attrs;
  const [batch, seq, channels] = typeOf(x).shape as [Dim, Dim, number];
  const state = d.stateOf.get(n)!;
  const act = n.attrs.activation;
  const plain = outOf(d, k, sink, [anchor], (b: Expr, t: Expr, c: Expr) => [b, t, c]);
  const out: typeof plain = { ...plain, value: (acc, b, t, c) => plain.value([act ? activation(act, acc[0]!) : acc[0]!], b, t, c) };
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
    state: {
      buffer: k.scope.use(state, "readwrite"),
      dtype: state.dtype,
      index: (b: Expr, tap: Expr, c: Expr) => bufferIndex(state, [b, tap, c]),
    },
    outs: [out],
  };
  const [v0, v1, v2] = ["b", "t", "c"].map((name) => intVar(name, 0, 1 << 20)) as [Expr, Expr, Expr];
  problem.x(v0, v1, v2);
  problem.weight(v2, 0);
  problem.bias?.(v2);
  problem.sequences?.id(v0, v1);
  problem.sequences?.end(v0);
  out.index(v0, v1, v2);
  out.value([f32(0)], v0, v1, v2);
  return plan(k, n, problem, times(toIntExpr(mul(dimExpr(batch), dimExpr(seq))), 2 * channels * n.attrs.width));
}
