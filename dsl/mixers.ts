import type { DType } from "../compiler/ir/dtype.ts";
import type { Expr } from "../compiler/ir/expr.ts";
import { i32 } from "../compiler/ir/expr.ts";
import type { Dim as GraphDim, Node } from "../compiler/ir/graph.ts";
import { emit, emitSource, filled, handle, operand, sizes } from "./node.ts";
import * as rules from "./shape.ts";
import type { State } from "./sources.ts";
import { setState, state, writeState } from "./sources.ts";
import { fail, located, sizeOf } from "./trace.ts";
import type { AnyTensor, Dim, Float, Shape, Tensor } from "./types.ts";

/** Parts that mix positions: rotary embedding, attention and the state-space scan, with their states. */

/**
 * State for `causalConv1d`, called `<path>.conv`: its last `width` inputs, [batch, width, channels].
 * @param dtype what it is stored as: inputs of this call are f32, and rounded where they are stored for the next
 */
export function convState<const S extends [Dim, number, Dim], D extends Float = "f32">(
  axes: S,
  name = "conv",
  dtype: D = "f32" as D,
): State<S, D> {
  return located(convState, name, () => state(name, axes, dtype));
}

/**
 * State for `ssdScan`, called `<path>.ssm`: [batch, heads, head size, state size].
 * @param dtype what it is stored as: computed in f32 all the same, and rounded once where a call stores it
 */
export function ssmState<const S extends [Dim, Dim, Dim, Dim], D extends Float = "f32">(
  axes: S,
  name = "ssm",
  dtype: D = "f32" as D,
): State<S, D> {
  return located(ssmState, name, () => state(name, axes, dtype));
}

/** Keys and values of the positions before this call, and where this call's are written. */
export interface KvCache<S extends Shape, D extends Float = "f32"> {
  readonly keys: State<S, D>;
  readonly values: State<S, D>;
  readonly past: Expr;
}

/** States for `attention`, called `<path>.keys` and `<path>.values`: [batch, key heads, capacity, head size]. `past` positions are filled already. */
export function kvCache<const S extends [Dim, Dim, Dim, Dim], D extends Float = "f32">(
  axes: S,
  past: Expr,
  dtype: D = "f32" as D,
): KvCache<S, D> {
  return located(kvCache, "kvCache", () => ({ keys: state("keys", axes, dtype), values: state("values", axes, dtype), past }));
}

function expect(what: string, x: AnyTensor, axes: readonly Dim[]): void {
  if (!rules.same(x.axes, axes))
    fail({ what: `${what}: ${rules.show(x.axes)} is not ${rules.show(axes)}`, operands: [operand("given", x)] });
}

/**
 * Rotates pairs of every head by its position: dimensions j and j + R/2 of the first R, by the angle whose cosine and sine stand at [position, j] of
 * the tables; the dimensions from R on stay as they are.
 * @param rounding what cosines, sines, products and sums are rounded to, each; f32 rounds nothing
 */
export function rope<B extends Dim, T extends Dim, H extends Dim, D extends Dim, P extends Dim, R extends Dim>(
  x: Tensor<[B, T, H, D]>,
  positions: Tensor<[NoInfer<B>, NoInfer<T>], "i32">,
  tables: { readonly cos: Tensor<[P, R]>; readonly sin: Tensor<[NoInfer<P>, NoInfer<R>]> },
  rounding: Float = "f32",
): Tensor<[B, T, H, D]> {
  return located(rope, "rope", () => {
    expect("rope: positions", positions, x.axes.slice(0, 2));
    const pairs = sizeOf(tables.cos.axes[1]);
    if (typeof pairs !== "number") return fail({ what: "rope: the number of rotated pairs is known only at run time" });
    if (rounding !== "f32") return handle(roundedRope(x, positions.node, [tables.cos.node, tables.sin.node], pairs, rounding), x.axes);
    return handle(emit("rope", [x.node, positions.node, tables.cos.node, tables.sin.node], { rotary: 2 * pairs }), x.axes);
  });
}

function roundedRope(x: AnyTensor, positions: Node, tables: readonly [Node, Node], pairs: number, to: Float): Node {
  const [batch, seq, heads, size] = sizes(x.axes) as [GraphDim, GraphDim, GraphDim, number];
  const rounded = (n: Node): Node => emit("cast", [emit("cast", [n], { to })], { to: "f32" });
  const turned = (fn: "add" | "sub", a: Node, b: Node): Node => rounded(emit("binary", [a, b], { fn }));
  const times = (a: Node, b: Node): Node => rounded(emit("binary", [a, b], { fn: "mul" }));
  const piece = (start: number, count: number): Node => emit("slice", [x.node], { axis: 3, start: i32(start), size: count });
  const [cos, sin] = tables.map((table) => {
    const rows = rounded(emit("gather", [table, positions], {}));
    return emit("broadcast", [rows], { shape: [batch, seq, heads, pairs], axes: [0, 1, 3] });
  }) as [Node, Node];
  const [low, high] = [piece(0, pairs), piece(pairs, pairs)];
  const parts = [turned("sub", times(low, cos), times(high, sin)), turned("add", times(high, cos), times(low, sin))];
  const kept = size - 2 * pairs;
  return emit("concat", kept > 0 ? [...parts, piece(2 * pairs, kept)] : parts, { axis: 3 });
}

/**
 * Which tokens of a row belong together, for parts that carry a state. `ids` [batch, positions] counts absolute positions, of which this call's begin
 * at `past`: a token has the number n >= 1 of its sequence within the row, padding has -n of the last token before it, or -1 when there was none.
 */
export interface Sequences<B extends Dim> {
  readonly ids: Tensor<[B, Dim], "i32">;
  readonly past: Expr;
}

export interface AttentionOptions<B extends Dim, G extends Dim, C extends Dim, D extends Dim, E extends Float> {
  /** Factor of the scores. Default 1 / sqrt(head size). */
  readonly scale?: number;
  /** Position t sees keys up to its own only. Default true. */
  readonly causal?: boolean;
  /** Sequence ids of the keys (see `Sequences`): a query sees those of its own sequence, and no padding. */
  readonly ids?: Tensor<[B, C], "i32">;
  /** Keys and values are appended to the cache, and all of it is attended to. */
  readonly cache?: KvCache<[B, G, C, D], E>;
}

/**
 * softmax(q k^T * scale) v for every head; each of the key heads serves a run of neighbouring query heads. A query that sees no key gives 0. With a
 * cache, position t of this call is position past + t of the sequence.
 */
export function attention<
  B extends Dim,
  T extends Dim,
  H extends Dim,
  D extends Dim,
  S extends Dim,
  G extends Dim,
  C extends Dim = S,
  E extends Float = "f32",
>(
  q: Tensor<[B, T, H, D]>,
  k: Tensor<[NoInfer<B>, S, G, NoInfer<D>]>,
  v: Tensor<[NoInfer<B>, NoInfer<S>, NoInfer<G>, NoInfer<D>]>,
  options: AttentionOptions<NoInfer<B>, NoInfer<G>, C, NoInfer<D>, E> = {},
): Tensor<[B, T, H, D]> {
  return located(attention, "attention", () => {
    const { causal = true, ids, cache } = options;
    const [batch, , , size] = q.axes;
    expect("attention: keys", k, [batch, k.axes[1], k.axes[2], size]);
    expect("attention: values", v, k.axes);
    const headSize = sizeOf(size);
    const scale = options.scale ?? (typeof headSize === "number" ? headSize ** -0.5 : fail({ what: "attention: give a scale" }));
    const byHead = (x: Tensor<[B, S, G, D]>): Node => emit("transpose", [x.node], { perm: [0, 2, 1, 3] });
    const keys = cache ? append(cache.keys, byHead(k), cache.past, k.axes) : byHead(k);
    const values = cache ? append(cache.values, byHead(v), cache.past, k.axes) : byHead(v);
    if (ids) expect("attention: ids", ids, [batch, cache ? cache.keys.axes[2] : k.axes[1]]);
    const inputs = [q.node, keys, values, ...(ids ? [ids.node] : [])];
    return handle(emit("attention", inputs, { scale, causal, ids: ids !== undefined, past: cache?.past ?? i32(0) }), q.axes);
  });
}

function append<S extends [Dim, Dim, Dim, Dim], D extends DType>(
  cache: State<S, D>,
  fresh: Node,
  start: Expr,
  [batch, seq, heads, size]: readonly [Dim, Dim, Dim, Dim],
): Node {
  expect(`attention: cache '${cache.state}'`, cache, [batch, heads, cache.axes[2], size]);
  const node = cache.dtype === "f32" ? fresh : emit("cast", [fresh], { to: cache.dtype });
  return writeState(cache, { axis: cache.axes[2], start }, handle<Shape, D>(node, [batch, heads, seq, size])).node;
}

/** What `ssdScan` works on; B and C are shared by the heads of a group. */
export interface SsdInputs<
  B extends Dim,
  T extends Dim,
  H extends Dim,
  P extends Dim,
  G extends Dim,
  N extends Dim,
  E extends Float = "f32",
> {
  readonly x: Tensor<[B, T, H, P]>;
  /** Raw step sizes: the scan uses clamp(softplus(dt + dtBias), ...dtLimit), or clamp(dt, ...dtLimit) where no dtBias is given. */
  readonly dt: Tensor<[NoInfer<B>, NoInfer<T>, NoInfer<H>]>;
  readonly dtBias?: Tensor<[NoInfer<H>]>;
  /** Negative decay rates. */
  readonly A: Tensor<[NoInfer<H>]>;
  readonly B: Tensor<[NoInfer<B>, NoInfer<T>, G, N]>;
  readonly C: Tensor<[NoInfer<B>, NoInfer<T>, NoInfer<G>, NoInfer<N>]>;
  /** Share of x that goes straight to the output. */
  readonly D: Tensor<[NoInfer<H>]>;
  readonly dtLimit?: readonly [min: number, max: number];
  /** Positions that are computed together; changes speed and nothing else. */
  readonly chunk: number;
  /** The state starts anew where a sequence begins, and padding leaves it alone; without it everything continues one sequence. */
  readonly sequences?: Sequences<NoInfer<B>>;
  /** The recurrent state [batch, heads, head size, state size]; without it the sequence begins here. */
  readonly state?: State<[NoInfer<B>, NoInfer<H>, NoInfer<P>, NoInfer<N>], E>;
}

/**
 * The selective state-space recurrence of Mamba-2, per head: S = exp(dt A) S + (dt x) B^T, y = S C + D x. Advances the state. A single step is the
 * same at seq = 1.
 */
export function ssdScan<B extends Dim, T extends Dim, H extends Dim, P extends Dim, G extends Dim, N extends Dim, E extends Float = "f32">(
  inputs: SsdInputs<B, T, H, P, G, N, E>,
): Tensor<[B, T, H, P]> {
  return located(ssdScan, "ssdScan", () => {
    const { x, sequences, state, chunk } = inputs;
    const { operands, kept, limits } = scanOperands("ssdScan", inputs);
    if (state) expect(`ssdScan: state '${state.state}'`, state, kept);
    const before = state?.node ?? filled(0, kept, "f32");
    if (sequences) expect("ssdScan: ids", sequences.ids, [x.axes[0], sequences.ids.axes[1]]);
    const both = emit("ssdScan", [...operands, ...(sequences ? [sequences.ids.node] : []), before], {
      chunk,
      ...limits,
      past: sequences?.past ?? null,
    });
    if (state) setState(state, handle<[B, H, P, N], E>(emit("get", [both], { index: 1 }), kept));
    return handle(emit("get", [both], { index: 0 }), x.axes);
  });
}

/** The operands that scans and single steps have in common, the axes of their state, and what makes step sizes of dt. */
function scanOperands(
  what: string,
  { x, dt, dtBias, A, B, C, D, dtLimit = [0, Infinity] }: ScanInputs,
): {
  readonly operands: readonly Node[];
  readonly kept: [Dim, Dim, Dim, Dim];
  readonly limits: { readonly softplus: boolean; readonly dtMin: number; readonly dtMax: number };
} {
  const [batch, seq, heads, size] = x.axes;
  expect(`${what}: dt`, dt, [batch, seq, heads]);
  expect(`${what}: B`, B, [batch, seq, B.axes[2], B.axes[3]]);
  expect(`${what}: C`, C, B.axes);
  for (const [name, t] of Object.entries({ ...(dtBias ? { dtBias } : {}), A, D })) expect(`${what}: ${name}`, t, [heads]);
  const bias = dtBias?.node ?? filled(0, [heads], "f32");
  return {
    operands: [x.node, dt.node, A.node, B.node, C.node, D.node, bias],
    kept: [batch, heads, size, B.axes[3]],
    limits: { softplus: dtBias !== undefined, dtMin: dtLimit[0], dtMax: dtLimit[1] },
  };
}
type ScanInputs = Omit<SsdInputs<Dim, Dim, Dim, Dim, Dim, Dim>, "chunk" | "state" | "sequences">;

/**
 * A ring of the last inputs of a scan, for `ssdReplay`: with it the recurrent state is that before them, so that a step only reads it. `held` counts
 * the inputs that are there, the same in all rows; whoever calls the model counts on.
 */
export interface InputRing<
  B extends Dim,
  L extends Dim,
  H extends Dim,
  P extends Dim,
  G extends Dim,
  N extends Dim,
  E extends Float = "f32",
> {
  readonly x: State<[B, L, H, P], E>;
  readonly B: State<[B, L, G, N], E>;
  /** Step sizes, after bias, softplus and limits. */
  readonly dt: State<[B, L, H]>;
  readonly held: Expr;
}

/**
 * States for `ssdReplay`, called `<path>.ring_x`, `.ring_B` and `.ring_dt`: [batch, length, heads, head size], [batch, length, groups, state size], [batch, length, heads].
 * @param dtype what x and B are stored as
 */
export function inputRing<
  const B extends Dim,
  const L extends Dim,
  const H extends Dim,
  const P extends Dim,
  const G extends Dim,
  const N extends Dim,
  E extends Float = "f32",
>(
  axes: { readonly x: readonly [B, L, H, P]; readonly B: readonly [NoInfer<B>, NoInfer<L>, G, N] },
  held: Expr,
  dtype: E = "f32" as E,
): InputRing<B, L, H, P, G, N, E> {
  return located(inputRing, "inputRing", () => {
    const [batch, length, heads, size] = axes.x;
    return {
      x: state("ring_x", [batch, length, heads, size], dtype),
      B: state("ring_B", [batch, length, axes.B[2], axes.B[3]], dtype),
      dt: state("ring_dt", [batch, length, heads]),
      held,
    };
  });
}

/** A single step, as `ssdScan` at seq = 1, of a state that is from before the ring's inputs. */
export interface SsdReplayInputs<
  B extends Dim,
  T extends Dim,
  H extends Dim,
  P extends Dim,
  G extends Dim,
  N extends Dim,
  L extends Dim,
  E extends Float = "f32",
> extends Omit<SsdInputs<B, T, H, P, G, N, E>, "chunk" | "state" | "sequences"> {
  readonly state: State<[NoInfer<B>, NoInfer<H>, NoInfer<P>, NoInfer<N>], E>;
  readonly ring: InputRing<NoInfer<B>, L, NoInfer<H>, NoInfer<P>, NoInfer<G>, NoInfer<N>, E>;
}

/**
 * A step of `ssdScan` that only reads the state: y is what the state, the ring's inputs and this one give; this one is put into the ring. With the input that fills the ring
 * the state is stored, as it is after all of them, and the ring is empty again: `held` has to count from 0 to its length less 1, and then from 0.
 */
export function ssdReplay<
  B extends Dim,
  T extends Dim,
  H extends Dim,
  P extends Dim,
  G extends Dim,
  N extends Dim,
  L extends Dim,
  E extends Float = "f32",
>(inputs: SsdReplayInputs<B, T, H, P, G, N, L, E>): Tensor<[B, T, H, P]> {
  return located(ssdReplay, "ssdReplay", () => {
    const { x, state: before, ring } = inputs;
    const { operands, kept, limits } = scanOperands("ssdReplay", inputs);
    expect(`ssdReplay: state '${before.state}'`, before, kept);
    const states = [before, ring.x, ring.B, ring.dt] as const;
    const all = emit("ssdReplay", [...operands, ...states.map(({ node }) => node)], { ...limits, held: ring.held });
    for (const [i, held] of states.entries()) setState<Shape, Float>(held, handle(emit("get", [all], { index: i + 1 }), held.axes));
    return handle(emit("get", [all], { index: 0 }), x.axes);
  });
}

/**
 * Makes the state what it is after the ring's first `held` inputs: from then on the ring is empty. A scan over the ring in which the step sizes of the other inputs are 0.
 * @param A negative decay rates, [heads]
 */
export function ssdSettle<
  B extends Dim,
  L extends Dim,
  H extends Dim,
  P extends Dim,
  G extends Dim,
  N extends Dim,
  E extends Float = "f32",
>(
  { x, B, dt, held }: InputRing<B, L, H, P, G, N, E>,
  before: State<[NoInfer<B>, NoInfer<H>, NoInfer<P>, NoInfer<N>], E>,
  A: Tensor<[NoInfer<H>]>,
): void {
  located(ssdSettle, "ssdSettle", () => {
    const length = sizeOf(x.axes[1]);
    if (typeof length !== "number") return fail({ what: "ssdSettle: the length of the ring is known only at run time" });
    // what lies behind the inputs that count may be anything, even no number
    const counted = (ring: AnyTensor): Node => {
      const shape = sizes(ring.axes);
      const first = emitSource("iota", { dtype: "i32", shape }, { axis: 1 });
      const count = emit("broadcast", [emit("scalar", [], { expr: held })], { shape, axes: [] });
      const values = ring.dtype === "f32" ? ring.node : emit("cast", [ring.node], { to: "f32" });
      return emit("select", [emit("binary", [first, count], { fn: "lt" }), values, filled(0, ring.axes, "f32")], {});
    };
    const none = filled(0, [x.axes[2]], "f32");
    const inputs = counted(B);
    // nobody asks for outputs, so what reads the state may be any vectors
    const both = emit("ssdScan", [counted(x), counted(dt), A.node, inputs, inputs, none, none, before.node], {
      chunk: length,
      softplus: false,
      dtMin: 0,
      dtMax: Infinity,
      past: null,
    });
    setState<Shape, Float>(before, handle(emit("get", [both], { index: 1 }), before.axes));
    for (const ring of [x, B, dt]) setState<Shape, Float>(ring, ring);
  });
}
