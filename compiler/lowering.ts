import { BYTES } from "./ir/dtype.ts";
import type { Expr } from "./ir/expr.ts";
import {
  add,
  cast,
  div,
  eq,
  exp,
  f32,
  i32,
  idiv,
  intVar,
  isConst,
  load,
  lt,
  max,
  min,
  mul,
  ne,
  select,
  sub,
  substitute,
  unary,
  variable,
} from "./ir/expr.ts";
import type { Dim, Node, NodeOf } from "./ir/graph.ts";
import { typeOf } from "./ir/graph.ts";
import type { Decisions } from "./decisions.ts";
import { isLinear } from "./decisions.ts";
import type { BufferInfo, KernelPlan, Pointwise, Problem } from "./plan.ts";
import { bufferIndex, delinearize, dimExpr, dimMax, elementCount } from "./plan.ts";
import type { Frame, Get, Out, Prologue, RowProblem, RowStep } from "./template.ts";
import type { At, Held, Scope } from "./values.ts";
import { FusionMismatch, activation, newScope, reshapeCoords, valueAt } from "./values.ts";

/** Turns one stored node, with the anchors that end in it, into a kernel's problem. */
export function kernelOf(d: Decisions, sink: Node, anchors: readonly Node[]): KernelPlan {
  const anchor = anchors[0];
  if (!anchor)
    return sink.op === "update" && d.buffers.get(sink)?.kind === "state" ? cacheWrite(d, sink) : pointwise(d, sink, d.buffers.get(sink)!);
  switch (anchor.op) {
    case "matmul":
      return isLinear(anchor) ? gemm(d, sink, anchors.filter(isLinear)) : matmulRows(d, sink, anchor);
    case "attention":
      return attention(d, sink, anchor);
    case "rmsNorm":
    case "gatedRmsNorm":
      return norm(d, sink, anchor);
    case "softmax":
      return softmax(d, sink, anchor);
    case "reduce":
      return reduction(d, sink, anchor);
    case "scan":
      return runningSum(d, sink, anchor);
    case "get": {
      const tuple = anchor.inputs[0]!;
      if (tuple.op === "ssdScan") return typeOf(anchor).shape[1] === 1 ? ssdStep(d, sink, anchor, tuple) : ssdScan(d, sink, anchor, tuple);
      if (tuple.op === "causalConv1d") return conv(d, sink, anchor, tuple);
      break;
    }
    default:
  }
  throw new Error(`no kernel for ${anchor.op} ${anchor.name}`);
}

// ---- what every lowering shares -------------------------------------------------------------------------------------
interface Kernel {
  readonly scope: Scope;
  readonly frame: Frame;
  /** Value of a node inside this kernel, outside any epilogue. */
  readonly at: At;
  /** Value of the sink where the kernel holds `anchors` at the given coordinates. */
  readonly finish: (held: ReadonlyMap<Node, Held>, coords: readonly Expr[]) => Expr;
}

function begin(d: Decisions, sink: Node, name: string): Kernel {
  const scope = newScope();
  const none: ReadonlyMap<Node, Held> = new Map();
  // inside its own kernel the sink is an expression, even though it is stored for everybody else
  const stored = (n: Node): BufferInfo | undefined => (n === sink ? undefined : d.buffers.get(n));
  const at: At = (n, coords) => valueAt({ scope, stored: (m) => d.buffers.get(m), held: none }, n, coords);
  return {
    scope,
    frame: { name, params: scope.params, symbols: d.graph.symbols },
    at,
    finish: (held, coords) => valueAt({ scope, stored, held }, sink, coords),
  };
}

function plan(k: Kernel, labelled: Node, problem: Problem, flops: Expr): KernelPlan {
  const bytes = k.scope.args.reduce<Expr>(
    (sum, a) => add(sum, mul(elementCount(a.buffer.shape), BYTES[a.buffer.dtype] * (a.access === "readwrite" ? 2 : 1))),
    i32(0),
  );
  return { label: labelled.name || labelled.op, problem, args: k.scope.args, flops, bytes, pointwise: null };
}
const f32Of = (e: Expr): Expr => cast(e, "f32");

/** Coordinates of `sink` that hold the same element as `coords` of `anchor`, following the epilogue's reshapes. */
function forward(anchor: Node, sink: Node, coords: readonly Expr[]): readonly Expr[] {
  const path: Node[] = [];
  const find = (n: Node): boolean => {
    if (n === anchor) return true;
    if (n.op !== "reshape" && !n.inputs.some((i) => sameShape(typeOf(i).shape, typeOf(n).shape))) return false;
    for (const i of n.inputs)
      if (find(i)) {
        path.push(n);
        return true;
      }
    return false;
  };
  if (!find(sink)) throw new FusionMismatch(anchor, "the epilogue does not lead back to its anchor");
  let at = coords;
  let shape = typeOf(anchor).shape;
  for (const n of path) {
    if (n.op === "reshape") at = reshapeCoords(shape, typeOf(n).shape, at);
    shape = typeOf(n).shape;
  }
  return at;
}
const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean => a.length === b.length && a.every((x, i) => x === b[i]);

/**
 * The result of an anchor kernel: the sink's buffer, its index and its value, as functions of the anchor's coordinates. The epilogue is worked out
 * once over variables, so that whether it fuses does not depend on what coordinates a template will ask for.
 */
function outOf<C extends readonly Expr[]>(
  d: Decisions,
  k: Kernel,
  sink: Node,
  anchors: readonly Node[],
  coordsOf: (...c: C) => readonly Expr[],
): Out<C> {
  const buffer = d.buffers.get(sink)!;
  const name = k.scope.use(buffer, "write");
  const axes = typeOf(anchors[0]!).shape.map((size, i) => (size === 1 ? i32(0) : intVar(`%${i}`, 0, dimMax(size) - 1)));
  const results = anchors.map((a, i) => variable(`%acc${i}`, typeOf(a).dtype === "i32" ? "i32" : "f32"));
  const held = new Map(anchors.map((a, i) => [a, { coords: axes, value: cast(results[i]!, typeOf(a).dtype) }]));
  const sinkCoords = forward(anchors[0]!, sink, axes);
  const index = bufferIndex(buffer, sinkCoords);
  const value = cast(k.finish(held, sinkCoords), buffer.dtype);
  const bind = (coords: readonly Expr[]): Map<Expr, Expr> =>
    new Map(axes.map((v, i) => [v, coords[i]!] as const).filter(([v]) => v.op === "var"));
  return {
    buffer: name,
    dtype: buffer.dtype,
    index: (...c) => substitute(index, bind(coordsOf(...c))),
    value: (acc, ...c) => substitute(value, new Map([...bind(coordsOf(...c)), ...results.map((r, i) => [r, acc[i]!] as const)])),
  };
}

// ---- GEMM -----------------------------------------------------------------------------------------------------------
function gemm(d: Decisions, sink: Node, anchors: readonly NodeOf<"matmul">[]): KernelPlan {
  const k = begin(d, sink, anchors.length > 1 ? "gemm2" : "gemm");
  const first = anchors[0]!;
  const a = first.inputs[0]!;
  const shape = typeOf(first).shape;
  const lead = shape.slice(0, -1);
  const m = elementCount(lead);
  const n = dimMax(shape.at(-1)!);
  const depth = dimMax(typeOf(a).shape.at(-1)!);
  const weights = anchors.map((x) => {
    const buffer = d.buffers.get(x.inputs[1]!)!;
    return { buffer: k.scope.use(buffer, "read"), dtype: buffer.dtype, panel: buffer.panel };
  });
  const prologue = d.prologues.has(a) ? normPrologue(k.at, a, lead) : plainPrologue(k.at, a, lead);
  const out = outOf(d, k, sink, anchors, (row: Expr, col: Expr) => [...delinearize(lead, row), col]);
  warm(prologue, out, m, depth, n, anchors.length);
  return plan(
    k,
    { ...first, name: anchors.map((x) => x.name).join("+") },
    { kind: "gemm", frame: k.frame, m, n, k: depth, a: prologue, weights, outs: [out] },
    mul(m, 2 * n * depth * anchors.length),
  );
}

/** Problems are functions, and a template may call them after fusion is over; calling each once now makes a mismatch show while it can still be mended, and fixes the argument order. */
function warm(prologue: Prologue, out: Out<[Expr, Expr]>, m: Expr, k: number, n: number, accs: number): void {
  const row = intVar("row", 0, Math.max(0, maxRows(m) - 1));
  const depth = intVar("k", 0, k - 1);
  const stat = prologue.stat ? prologue.stat.value(row, depth) : null;
  prologue.value(row, depth, stat);
  const col = intVar("col", 0, n - 1);
  out.index(row, col);
  out.value(new Array<Expr>(accs).fill(f32(0)), row, col);
}
const maxRows = (m: Expr): number => (isConst(m) ? m.value : 2 ** 31 - 1);

function plainPrologue(at: At, a: Node, lead: readonly Dim[]): Prologue {
  return { stat: null, value: (row, k) => f32Of(at(a, [...delinearize(lead, row), k])) };
}

/** A norm folded into the product that reads it: the row's sum of squares is reduced once a block. */
function normPrologue(at: At, a: Node, lead: readonly Dim[]): Prologue {
  if (a.op !== "rmsNorm" && a.op !== "gatedRmsNorm") throw new Error(`${a.op} is not a norm`);
  const size = dimMax(typeOf(a).shape.at(-1)!);
  const weight = a.inputs.at(-1)!;
  const x = (row: Expr, k: Expr): Expr => normInput(at, a, [...delinearize(lead, row), k]);
  return {
    stat: { fn: "sum", value: (row, k) => mul(x(row, k), x(row, k)) },
    value: (row, k, stat) => mul(mul(x(row, k), rsqrtMean(stat!, size, a.attrs.eps)), f32Of(at(weight, [k]))),
  };
}

function normInput(at: At, a: NodeOf<"rmsNorm"> | NodeOf<"gatedRmsNorm">, coords: readonly Expr[]): Expr {
  const x = f32Of(at(a.inputs[0]!, coords));
  return a.op === "rmsNorm" ? x : mul(x, activation("silu", f32Of(at(a.inputs[1]!, coords))));
}
const rsqrtMean = (sumOfSquares: Expr, size: number, eps: number): Expr => unary("rsqrt", add(mul(sumOfSquares, 1 / size), eps));

// ---- attention, scan, convolution -----------------------------------------------------------------------------------
function attention(d: Decisions, sink: Node, a: NodeOf<"attention">): KernelPlan {
  const k = begin(d, sink, "attention");
  const [q, keys, values, mask] = a.inputs as [Node, Node, Node, Node | undefined];
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
    mask: mask ? (b: Expr, j: Expr) => ne(f32Of(k.at(mask, [b, j])), 0) : null,
    outs: [out],
  };
  const [v0, v1, v2, v3] = ["b", "t", "h", "i"].map((name) => intVar(name, 0, 1 << 20)) as [Expr, Expr, Expr, Expr];
  problem.q(v0, v1, v2, v3);
  problem.k(v0, v2, v1, v3);
  problem.v(v0, v2, v1, v3);
  problem.mask?.(v0, v1);
  out.index(v0, v1, v2, v3);
  out.value([f32(0)], v0, v1, v2, v3);
  const visible = add(a.attrs.past, dimExpr(seq));
  return plan(k, a, problem, mul(mul(mul(dimExpr(batch), dimExpr(seq)), visible), 4 * h * dimMax(dim)));
}

/** dt' = clamp(softplus(dt + bias)): spec/ssd.md section 1. */
function timeStep(k: Kernel, n: NodeOf<"ssdScan">, b: Expr, t: Expr, h: Expr): Expr {
  const [, dt, , , , , bias] = n.inputs as [Node, Node, Node, Node, Node, Node, Node, Node];
  const raw = activation("softplus", add(f32Of(k.at(dt, [b, t, h])), f32Of(k.at(bias, [h]))));
  const { dtMin, dtMax } = n.attrs;
  const low = dtMin > 0 ? max(raw, f32(dtMin)) : raw;
  return dtMax < Infinity ? min(low, f32(dtMax)) : low;
}

function ssdScan(d: Decisions, sink: Node, anchor: Node, n: NodeOf<"ssdScan">): KernelPlan {
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
  out.index(v0, v1, v2, v3);
  out.value([f32(0)], v0, v1, v2, v3);
  const q = n.attrs.chunk;
  return plan(k, n, problem, mul(mul(dimExpr(batch), dimExpr(seq)), 2 * q * N * G + H * (2 * q * P + 4 * N * P)));
}

/** One token: state and output in one pass over the state, rows (b, h, p) and columns n. */
function ssdStep(d: Decisions, sink: Node, anchor: Node, n: NodeOf<"ssdScan">): KernelPlan {
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
  return plan(k, n, { kind: "rows", ...problem }, mul(dimExpr(batch), 5 * H * P * N));
}
function conv(d: Decisions, sink: Node, anchor: Node, n: NodeOf<"causalConv1d">): KernelPlan {
  const k = begin(d, sink, "conv1d");
  const [x, weight, bias] = n.inputs as [Node, Node, Node];
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
  out.index(v0, v1, v2);
  out.value([f32(0)], v0, v1, v2);
  return plan(k, n, problem, mul(mul(dimExpr(batch), dimExpr(seq)), 2 * channels * n.attrs.width));
}

// ---- row kernels ----------------------------------------------------------------------------------------------------
function warmRows(p: RowProblem): void {
  const row = intVar("row", 0, Math.max(0, maxRows(p.rows) - 1));
  const col = intVar("col", 0, p.cols - 1);
  const get: Get = (name) => {
    if (!p.steps.some((s) => s.name === name)) throw new Error(`row kernel ${p.frame.name} has no step ${name}`);
    return f32(1);
  };
  for (const s of p.steps) s.value(row, col, get);
  for (const s of p.stores) {
    s.index(row, col);
    s.value(row, col, get);
    s.guard?.(row, col);
  }
}

function rowsPlan(k: Kernel, labelled: Node, problem: RowProblem, flopsPerElement: number): KernelPlan {
  warmRows(problem);
  return plan(k, labelled, { kind: "rows", ...problem }, mul(problem.rows, problem.cols * flopsPerElement));
}

/** A norm over the last axis, with what follows it. */
function norm(d: Decisions, sink: Node, a: NodeOf<"rmsNorm"> | NodeOf<"gatedRmsNorm">): KernelPlan {
  const k = begin(d, sink, "norm");
  const shape = typeOf(a).shape;
  const lead = shape.slice(0, -1);
  const size = dimMax(shape.at(-1)!);
  const out = outOf(d, k, sink, [a], (row: Expr, col: Expr) => [...delinearize(lead, row), col]);
  const weight = a.inputs.at(-1)!;
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: elementCount(lead),
      cols: size,
      steps: [
        { name: "x", kind: "temp", value: (row, col) => normInput(k.at, a, [...delinearize(lead, row), col]) },
        { name: "squares", kind: "sum", value: (_r, _c, get) => mul(get("x"), get("x")) },
      ],
      stores: [
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "element",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) =>
            out.value([mul(mul(get("x"), rsqrtMean(get("squares"), size, a.attrs.eps)), f32Of(k.at(weight, [col])))], row, col),
          guard: null,
        },
      ],
    },
    4,
  );
}

/** Rows and columns of a reduction over `axis` of `shape`: a symbolic axis takes its largest size, and columns beyond the real one are masked. */
function reduceDomain(
  shape: readonly Dim[],
  axis: number,
): { rows: Expr; cols: number; coords: (row: Expr, col: Expr) => Expr[]; inside: (col: Expr) => Expr | null; symbolic: boolean } {
  const rest = shape.filter((_, i) => i !== axis);
  const size = shape[axis]!;
  const symbolic = typeof size !== "number";
  const safe = (col: Expr): Expr => (symbolic ? min(col, sub(size, 1)) : col);
  return {
    rows: elementCount(rest),
    cols: dimMax(size),
    symbolic,
    coords: (row, col) => {
      const c = delinearize(rest, row);
      return [...c.slice(0, axis), safe(col), ...c.slice(axis)];
    },
    inside: (col) => (symbolic ? lt(col, size) : null),
  };
}

const masked = (inside: Expr | null, value: Expr, neutral: number): Expr => (inside ? select(inside, value, f32(neutral)) : value);

function softmax(d: Decisions, sink: Node, a: NodeOf<"softmax">): KernelPlan {
  const k = begin(d, sink, "softmax");
  const x = a.inputs[0]!;
  const dom = reduceDomain(typeOf(x).shape, a.attrs.axis);
  const out = outOf(d, k, sink, [a], (row: Expr, col: Expr) => dom.coords(row, col));
  const e = (get: Get): Expr => exp(sub(get("x"), get("max")));
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: dom.rows,
      cols: dom.cols,
      steps: [
        { name: "x", kind: "temp", value: (row, col) => masked(dom.inside(col), f32Of(k.at(x, dom.coords(row, col))), -Infinity) },
        { name: "max", kind: "max", value: (_r, _c, get) => get("x") },
        { name: "sum", kind: "sum", value: (_r, _c, get) => e(get) },
      ],
      stores: [
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "element",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) => out.value([div(e(get), get("sum"))], row, col),
          guard: dom.symbolic ? (_r, col) => dom.inside(col)! : null,
        },
      ],
    },
    12,
  );
}

/** sum, max, min over one axis; argmax as the least index among those that reach the maximum. */
function reduction(d: Decisions, sink: Node, a: NodeOf<"reduce">): KernelPlan {
  const k = begin(d, sink, `reduce_${a.attrs.fn}`);
  const x = a.inputs[0]!;
  const shape = typeOf(x).shape;
  const dom = reduceDomain(shape, a.attrs.axis);
  const rest = typeOf(a).shape;
  const out = outOf(d, k, sink, [a], (row: Expr, _col: Expr) => delinearize(rest, row));
  const fn = a.attrs.fn === "argmax" ? "max" : a.attrs.fn;
  const neutral = fn === "sum" ? 0 : fn === "max" ? -Infinity : Infinity;
  const value = (row: Expr, col: Expr): Expr => masked(dom.inside(col), f32Of(k.at(x, dom.coords(row, col))), neutral);
  const steps: RowStep[] = [{ name: "result", kind: fn, value }];
  if (a.attrs.fn === "argmax")
    steps.push({
      name: "index",
      kind: "min",
      value: (row, col, get) => select(eq(value(row, col), get("result")), cast(col, "f32"), f32(dom.cols - 1)),
    });
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: dom.rows,
      cols: dom.cols,
      steps,
      stores: [
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "row",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) => out.value([a.attrs.fn === "argmax" ? cast(get("index"), "i32") : get("result")], row, col),
          guard: null,
        },
      ],
    },
    1,
  );
}

/** Inclusive running sum as a masked reduction: quadratic in the axis, for graphs outside the templates' reach. */
function runningSum(d: Decisions, sink: Node, a: NodeOf<"scan">): KernelPlan {
  const k = begin(d, sink, "running_sum");
  const x = a.inputs[0]!;
  const shape = typeOf(x).shape;
  const { axis } = a.attrs;
  const out = outOf(d, k, sink, [a], (row: Expr, _col: Expr) => delinearize(shape, row));
  const cols = dimMax(shape[axis]!);
  const last = sub(dimExpr(shape[axis]!), 1);
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: elementCount(shape),
      cols,
      steps: [
        {
          name: "sum",
          kind: "sum",
          value: (row, col) => {
            const c = delinearize(shape, row);
            return select(
              lt(c[axis]!, col),
              f32(0),
              f32Of(
                k.at(
                  x,
                  c.map((e, i) => (i === axis ? min(col, last) : e)),
                ),
              ),
            );
          },
        },
      ],
      stores: [
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "row",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) => out.value([get("sum")], row, col),
          guard: null,
        },
      ],
    },
    1,
  );
}

/** A product of two activations, as multiply and sum: for graphs outside the GEMM template's reach. */
function matmulRows(d: Decisions, sink: Node, a: NodeOf<"matmul">): KernelPlan {
  const k = begin(d, sink, "matmul");
  const [x, y] = a.inputs as [Node, Node];
  const shape = typeOf(a).shape;
  const out = outOf(d, k, sink, [a], (row: Expr, _col: Expr) => delinearize(shape, row));
  const depth = typeOf(x).shape.at(-1)!;
  const inside = (col: Expr): Expr | null => (typeof depth === "number" ? null : lt(col, depth));
  const safe = (col: Expr): Expr => (typeof depth === "number" ? col : min(col, sub(depth, 1)));
  /** Coordinates of an operand's batch axes: right-aligned with the result's, axes of size 1 repeat. */
  const batchOf = (n: Node, c: readonly Expr[]): Expr[] => {
    const own = typeOf(n).shape.slice(0, -2);
    return own.map((size, i) => (size === 1 ? i32(0) : c[shape.length - 2 - own.length + i]!));
  };
  return rowsPlan(
    k,
    a,
    {
      frame: k.frame,
      rows: elementCount(shape),
      cols: dimMax(depth),
      steps: [
        {
          name: "sum",
          kind: "sum",
          value: (row, col) => {
            const c = delinearize(shape, row);
            const [m, n] = [c.at(-2)!, c.at(-1)!];
            const i = safe(col);
            const left = f32Of(k.at(x, [...batchOf(x, c), m, i]));
            const right = f32Of(k.at(y, [...batchOf(y, c), ...(a.attrs.transB ? [n, i] : [i, n])]));
            return masked(inside(col), mul(left, right), 0);
          },
        },
      ],
      stores: [
        {
          buffer: out.buffer,
          dtype: out.dtype,
          per: "row",
          index: (row, col) => out.index(row, col),
          value: (row, col, get) => out.value([get("sum")], row, col),
          guard: null,
        },
      ],
    },
    2,
  );
}

// ---- pointwise ------------------------------------------------------------------------------------------------------
interface PointwiseDomain {
  readonly rows: Expr;
  readonly cols: number;
  readonly coords: (row: Expr, col: Expr) => Expr[];
  readonly guard: ((row: Expr, col: Expr) => Expr) | null;
}

/** Rows x columns over a whole tensor: the last numeric axis is the columns; a symbolic last axis makes rows of one column. */
function domainOf(shape: readonly Dim[]): PointwiseDomain {
  const last = shape.at(-1);
  if (typeof last !== "number") return { rows: elementCount(shape), cols: 1, coords: (row) => delinearize(shape, row), guard: null };
  const lead = shape.slice(0, -1);
  return { rows: elementCount(lead), cols: last, coords: (row, col) => [...delinearize(lead, row), col], guard: null };
}

interface Write {
  readonly sink: Node;
  readonly target: BufferInfo;
  readonly domain: readonly Dim[];
  readonly index: (coords: readonly Expr[]) => Expr;
  readonly value: (at: At, self: At, coords: readonly Expr[]) => Expr;
}

function pointwiseKernel(d: Decisions, name: string, writes: readonly Write[]): KernelPlan {
  const first = writes[0]!;
  const dom = domainOf(first.domain);
  const k = begin(d, first.sink, name);
  const stores = writes.map((w) => {
    // each write sees its own node as an expression, and all share one argument list
    const at: At = (n, coords) => valueAt({ scope: k.scope, stored: (m) => d.buffers.get(m), held: new Map() }, n, coords);
    const own: At = (n, coords) =>
      valueAt({ scope: k.scope, stored: (m) => (m === w.sink ? undefined : d.buffers.get(m)), held: new Map() }, n, coords);
    return {
      buffer: k.scope.use(w.target, "write"),
      dtype: w.target.dtype,
      per: "element" as const,
      index: (row: Expr, col: Expr) => w.index(domainOf(w.domain).coords(row, col)),
      value: (row: Expr, col: Expr) => cast(w.value(at, own, domainOf(w.domain).coords(row, col)), w.target.dtype),
      guard: null,
    };
  });
  const problem: RowProblem = { frame: k.frame, rows: dom.rows, cols: dom.cols, steps: [], stores };
  warmRows(problem);
  const base = plan(k, first.sink, { kind: "rows", ...problem }, mul(dom.rows, dom.cols));
  const pointwise: Pointwise = {
    rows: dom.rows,
    cols: dom.cols,
    writes,
    join: (other) => pointwiseKernel(d, name, [...writes, ...(other.writes as readonly Write[])]),
  };
  return { ...base, pointwise };
}

const pointwise = (d: Decisions, sink: Node, target: BufferInfo): KernelPlan =>
  pointwiseKernel(d, "pointwise", [
    { sink, target, domain: typeOf(sink).shape, index: (c) => bufferIndex(target, c), value: (_at, self, c) => self(sink, c) },
  ]);

/** Copies a node's stored value into another buffer. */
export const copyKernel = (d: Decisions, from: Node, to: BufferInfo): KernelPlan =>
  pointwiseKernel(d, "copy", [
    { sink: from, target: to, domain: typeOf(from).shape, index: (c) => bufferIndex(to, c), value: (at, _self, c) => at(from, c) },
  ]);

/** Writes a slice of a state in place. */
function cacheWrite(d: Decisions, n: NodeOf<"update">): KernelPlan {
  const target = d.buffers.get(n)!;
  const value = n.inputs[1]!;
  const { axis, start } = n.attrs;
  return pointwiseKernel(d, "cache_write", [
    {
      sink: n,
      target,
      domain: typeOf(value).shape,
      index: (c) =>
        bufferIndex(
          target,
          c.map((e, i) => (i === axis ? add(e, start) : e)),
        ),
      value: (at, _self, c) => at(value, c),
    },
  ]);
}
