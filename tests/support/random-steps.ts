import { shapeOf } from "../../compiler/graph/build.ts";
import { i32, mod, sub } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { BinaryFn } from "../../compiler/ir/operators.ts";
import type { Activation, Dim, Node } from "../../compiler/ir/graph.ts";
import { typeOf } from "../../compiler/ir/graph.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";
import type { Growth } from "./random-graph.ts";
import { MAX } from "./random-graph.ts";
import { LAYOUTS, sequenceIds } from "./sequences.ts";

interface StepKind {
  /** A small change of its operands changes its result by little. */
  readonly smooth: boolean;
  /** Null when nothing in the pool fits. */
  readonly make: (g: Growth) => Node | null;
}
const smooth = (make: StepKind["make"]): StepKind => ({ smooth: true, make });
const jumps = (make: StepKind["make"]): StepKind => ({ smooth: false, make });

// ---- helpers --------------------------------------------------------------------------------------------------------
/** Results stay within (-2, 2), so that a long graph neither overflows nor magnifies rounding errors. */
const bounded = (g: Growth, x: Node): Node => g.b.binary("mul", g.b.unary("tanh", g.b.binary("mul", x, 0.5)), 2);
const positive = (g: Growth, x: Node): Node => g.b.binary("add", g.b.unary("abs", x), 0.5);
const rank = (n: Node): number => shapeOf(n).length;
const hasAxis = (n: Node): boolean => rank(n) > 0;
const last = (n: Node): Dim => shapeOf(n)[rank(n) - 1]!;
const numericLast = (n: Node): boolean => rank(n) > 0 && typeof last(n) === "number";

/** Something of the shape of `x`: another node of the pool, or a small parameter or a number repeated. */
function partner(g: Growth, x: Node): Node {
  const same = g.any((n) => typeOf(n).shape.length === rank(x) && shapeOf(n).every((d, i) => d === shapeOf(x)[i]));
  const size = rank(x) > 0 ? last(x) : null;
  switch (g.decide(3)) {
    case 1:
      if (typeof size === "number") return g.b.spread(g.param([size], -1, 1), shapeOf(x), [rank(x) - 1]);
      return g.b.fill(0.7, shapeOf(x));
    case 2:
      return g.b.fill(-0.3, shapeOf(x));
    default:
      return same!;
  }
}

/** A condition over positions: exact in any arithmetic. */
function positional(g: Growth, shape: readonly Dim[]): Node {
  const at = (axis: number): Node => g.b.iota(shape, axis);
  const compare = (["lt", "le", "eq", "ne"] as const satisfies BinaryFn[])[g.decide(4)]!;
  const bounds = [g.past, typeof g.seq === "number" ? i32(g.seq - 1) : sub(g.seq, 1), i32(2)];
  const first = g.b.binary(compare, at(g.decide(shape.length)), g.b.scalar(bounds[g.decide(3)]!, shape));
  const second = g.b.binary("lt", g.b.fill(1, shape, "i32"), at(g.decide(shape.length)));
  return [first, g.b.binary("and", first, second), g.b.binary("or", first, second), g.b.unary("not", first)][g.decide(4)]!;
}

/** Row numbers of a table with `rows` rows, [batch, seq]. */
function positions(g: Growth, rows: number): Node {
  return g.decide(2) === 0
    ? g.input([g.batch, g.seq], 0, rows - 1, "i32")
    : g.b.binary("min", g.b.binary("add", g.b.iota([g.batch, g.seq], 1), g.b.scalar(g.past, [g.batch, g.seq])), rows - 1);
}

const ACTIVATIONS: readonly Activation[] = ["silu", "gelu", "geluTanh", "relu", "softplus", "sigmoid", "tanh"];

// ---- primitives -----------------------------------------------------------------------------------------------------
const PRIMITIVES: Record<string, StepKind> = {
  unary: smooth((g) => {
    const x = g.any()!;
    const { b } = g;
    const options: (() => Node)[] = [
      () => b.unary("neg", x),
      () => b.unary("abs", x),
      () => bounded(g, b.unary("exp", b.binary("min", x, 3))),
      () => b.unary("log", positive(g, x)),
      () => b.unary("log1p", b.unary("abs", x)),
      () => b.unary("sqrt", positive(g, x)),
      () => b.unary("rsqrt", positive(g, x)),
      () => b.unary("sin", x),
      () => b.unary("cos", x),
      () => b.unary("tanh", x),
      () => b.unary("erf", x),
    ];
    return options[g.decide(options.length)]!();
  }),
  floor: jumps((g) => g.b.unary("floor", g.b.binary("add", g.any()!, 0.3217))),
  binary: smooth((g) => {
    const x = g.any()!;
    const y = partner(g, x);
    const fn = (["add", "sub", "mul", "min", "max", "div", "pow"] as const)[g.decide(7)]!;
    switch (fn) {
      case "div":
        return bounded(g, g.b.binary("div", x, positive(g, y)));
      case "pow":
        return bounded(g, g.b.binary("pow", positive(g, x), g.b.binary("max", g.b.binary("min", y, 2), -2)));
      default:
        return bounded(g, g.b.binary(fn, x, y));
    }
  }),
  integers: smooth((g) => {
    const x = g.any(hasAxis);
    if (!x) return null;
    const at = g.b.iota(shapeOf(x), g.decide(rank(x)));
    const fn = (["add", "sub", "mul", "min", "max", "idiv", "mod"] as const)[g.decide(7)]!;
    const value = g.b.unary(g.decide(2) === 0 ? "neg" : "abs", g.b.binary(fn, at, 1 + g.decide(4)));
    return bounded(g, g.b.binary("add", x, g.b.cast(value, "f32")));
  }),
  select: smooth((g) => {
    const x = g.any(hasAxis);
    return x && g.b.select(positional(g, shapeOf(x)), x, partner(g, x));
  }),
  compare: jumps((g) => {
    const x = g.any()!;
    const fn = (["lt", "le", "ne"] as const)[g.decide(3)]!;
    return g.b.select(g.b.binary(fn, x, g.b.binary("add", partner(g, x), 0.1234)), x, g.b.cast(g.b.binary(fn, x, 0.5131), "f32"));
  }),
  storage: jumps((g) => g.b.cast(g.b.cast(g.any()!, g.decide(2) === 0 ? "bf16" : "f16"), "f32")),
  integral: jumps((g) => g.b.cast(g.b.cast(g.b.binary("add", g.b.binary("mul", g.any()!, 3.3), 0.1237), "i32"), "f32")),
  broadcast: smooth((g) => {
    const x = g.any((n) => rank(n) < 4);
    if (!x) return null;
    const axis = g.decide(rank(x) + 1);
    const dim = [g.batch, g.seq, g.size()][g.decide(3)]!;
    const shape = [...shapeOf(x).slice(0, axis), dim, ...shapeOf(x).slice(axis)];
    return g.b.spread(x, shape, shapeOf(x).map((_, i) => (i < axis ? i : i + 1))); // prettier-ignore
  }),
  reshape: smooth((g) => {
    const x = g.any(hasAxis);
    if (!x) return null;
    const shape = shapeOf(x);
    const axis = g.decide(rank(x));
    const [d, after] = [shape[axis]!, shape[axis + 1]];
    const put = (from: number, count: number, ...dims: Dim[]): Node =>
      g.b.reshape(x, [...shape.slice(0, from), ...dims, ...shape.slice(from + count)]);
    if (typeof d === "number" && typeof after === "number") return put(axis, 2, d * after);
    const factor = [2, 3].find((f) => typeof d === "number" && d % f === 0 && d > f);
    if (factor !== undefined) return put(axis, 1, factor, (d as number) / factor);
    return d === 1 ? put(axis, 1) : rank(x) < 4 ? put(axis, 1, 1, d) : null;
  }),
  transpose: smooth((g) => {
    const x = g.any((n) => rank(n) > 1)!;
    const from = shapeOf(x).map((_, i) => i);
    const perm: number[] = [];
    while (from.length > 0) perm.push(...from.splice(g.decide(from.length), 1));
    return g.b.transpose(x, perm);
  }),
  slice: smooth((g) => {
    const x = g.any(hasAxis);
    if (!x) return null;
    const axis = g.decide(rank(x));
    const d = shapeOf(x)[axis]!;
    if (typeof d !== "number") return g.decide(2) === 0 ? g.b.slice(x, axis, sub(d, 1), 1) : g.b.slice(x, axis, 0, d);
    const size = 1 + g.decide(d);
    return g.b.slice(x, axis, g.decide(d - size + 1), size);
  }),
  pad: smooth((g) => {
    const x = g.any(numericLast);
    if (!x) return null;
    const axis = shapeOf(x).findIndex((d) => typeof d === "number");
    return makeNode("pad", [x], { axis, low: g.decide(3), high: g.decide(3), value: g.decide(2) * 0.25 });
  }),
  concat: smooth((g) => {
    const x = g.any((n) => shapeOf(n).some((d) => typeof d === "number"));
    if (!x) return null;
    const axis = shapeOf(x).findLastIndex((d) => typeof d === "number");
    return g.b.concat([x, partner(g, x), x].slice(0, 1 + g.decide(3)), axis);
  }),
  reduce: smooth((g) => {
    const x = g.any(hasAxis);
    return x && bounded(g, g.b.reduce((["sum", "max", "min"] as const)[g.decide(3)]!, x, g.decide(rank(x))));
  }),
  argmax: jumps((g) => {
    const x = g.any(hasAxis);
    if (!x) return null;
    const axis = g.decide(rank(x));
    // equal elements would make the index depend on the last bit
    const distinct = g.b.binary("add", x, g.b.binary("mul", g.b.cast(g.b.iota(shapeOf(x), axis), "f32"), 0.0137));
    return g.b.reduce("argmax", distinct, axis);
  }),
  scan: smooth((g) => {
    const x = g.any(hasAxis);
    return x && bounded(g, makeNode("scan", [x], { fn: "sum", axis: g.decide(rank(x)) }));
  }),
  gather: smooth((g) => {
    if (g.decide(2) === 0) {
      const rows = g.size();
      return g.b.gather(g.param([rows, g.channels], -1, 1), positions(g, rows));
    }
    // rows of a computed tensor, in another order
    const x = g.any((n) => rank(n) > 0 && rank(n) < 4);
    if (!x) return null;
    const rows = shapeOf(x)[0]!;
    const shape = [g.size()];
    const index = g.b.binary("add", g.b.binary("mul", g.b.iota(shape, 0), 3), 1);
    return g.b.gather(x, g.b.binary("mod", index, g.b.scalar(typeof rows === "number" ? i32(rows) : rows, shape)));
  }),
  update: smooth((g) => {
    const capacity = MAX.past + MAX.seq;
    const cache = g.state([g.batch, capacity, g.channels]);
    const next = makeNode("update", [cache, g.hidden()], { axis: 1, start: g.past });
    if (g.decide(4) > 0) g.update(cache, next);
    return next;
  }),
  matmul: smooth((g) => {
    const x = g.any((n) => rank(n) > 1 && numericLast(n));
    if (!x) return null;
    const K = last(x) as number;
    const transB = g.decide(2) === 0;
    const N = g.size();
    const dtype = (["f32", "bf16", "f16"] as const)[g.decide(3)]!;
    return bounded(g, g.b.matmul(x, g.param(transB ? [N, K] : [K, N], -1, 1, dtype), transB));
  }),
  batchedMatmul: smooth((g) => {
    const x = g.any((n) => rank(n) > 2);
    if (!x) return null;
    if (g.decide(2) === 0) return bounded(g, g.b.matmul(x, x, true));
    const axes = shapeOf(x).map((_, i) => i);
    return bounded(g, g.b.matmul(x, g.b.transpose(x, [...axes.slice(0, -2), axes.length - 1, axes.length - 2]), false));
  }),
  literal: smooth((g) => {
    const x = g.any(numericLast);
    if (!x) return null;
    const size = last(x) as number;
    const type = { dtype: "f32", shape: [size] } as const;
    const data = Float32Array.from(g.random.values(size, -1, 1));
    const table = makeSource("literal", type, { name: `table${g.pool.length}`, data });
    return bounded(g, g.b.binary("mul", x, g.b.spread(table, shapeOf(x), [rank(x) - 1])));
  }),
};

// ---- composites -----------------------------------------------------------------------------------------------------
/** Back to [batch, seq, channels], so that composites follow one another. */
const merged = (g: Growth, y: Node): Node => {
  const width = shapeOf(y).slice(2).reduce<number>((n, d) => n * (d as number), 1); // prettier-ignore
  const flat = g.b.reshape(y, [g.batch, g.seq, width]);
  if (width === g.channels) return flat;
  const limit = 1.5 / Math.sqrt(width);
  return g.b.matmul(flat, g.param([g.channels, width], -limit, limit), true);
};
const get = (n: Node, index: number): Node => makeNode("get", [n], { index });

/** `stateDType`: a state in bf16 is rounded, which is a jump. */
/** Sequence ids for a call, one of the choices being none. */
const idsOf = (g: Growth): { readonly ids: Node; readonly past: Expr } | null => {
  if (g.decide(2) === 0) return null;
  const kind = LAYOUTS[g.decide(LAYOUTS.length)]!;
  return {
    past: g.past,
    ids: g.given([g.batch, MAX.past + MAX.seq], (rows, length) => sequenceIds(kind, rows, length, () => g.random.uniform(0, 1))),
  };
};

const conv = (g: Growth, stateDType: "f32" | "bf16"): Node => {
  const [C, width] = [g.size(), 1 + g.decide(5)];
  const bias = g.decide(2) === 0;
  const state = g.state([g.batch, width, C], stateDType);
  const activation = [null, ...ACTIVATIONS][g.decide(8)]!;
  const sequences = idsOf(g);
  // any number of positions up to the shortest call that the graph admits
  const operands = sequences ? [sequences.ids, g.input([g.batch], 0, g.elements([g.seq]), "i32")] : [];
  const inputs = [g.projected(C), g.param([C, width], -1, 1), ...(bias ? [g.param([C], -1, 1)] : []), ...operands, state];
  const n = makeNode("causalConv1d", inputs, { width, bias, activation, past: sequences?.past ?? null });
  g.update(state, get(n, 1));
  return merged(g, get(n, 0));
};

/** A convolution of some columns of a projection, whose others go elsewhere: where a Mamba mixer begins. */
const splitConv = (g: Growth): Node => {
  const [before, C, after] = [g.size() - 1, g.size(), g.size() - 1];
  const [width, hasBias, shifted] = [1 + g.decide(5), g.decide(2) === 0, g.decide(3) === 0];
  const product = g.projected(before + C + after);
  const whole = shifted ? g.b.binary("add", product, g.b.spread(g.param([before + C + after], -1, 1), shapeOf(product), [2])) : product;
  const columns = (start: number, size: number): Node => g.b.slice(whole, 2, start, size);
  if (before > 0) g.pool.push(columns(0, before));
  if (after > 0) g.pool.push(columns(before + C, after));
  const x = columns(before, C);
  if (g.decide(4) === 3) g.pool.push(x);
  const state = g.state([g.batch, width, C]);
  const activation = [null, ...ACTIVATIONS][g.decide(8)]!;
  const bias = hasBias ? [g.param([C], -1, 1)] : [];
  const n = makeNode("causalConv1d", [x, g.param([C, width], -1, 1), ...bias, state], { width, bias: hasBias, activation, past: null });
  g.update(state, get(n, 1));
  const y = get(n, 0);
  return bounded(g, merged(g, g.decide(2) === 0 ? y : g.b.binary("add", y, g.b.spread(g.param([C], -1, 1), shapeOf(y), [2]))));
};

/** What a scan and a step of one have in common: sizes, a state, decay rates, step sizes and their limits. */
function scanParts(g: Growth, stateDType: "f32" | "bf16") {
  const [G, perGroup, P, N] = [1 + g.decide(3), 1 + g.decide(3), g.size(), g.size()];
  const H = G * perGroup;
  const state = g.state([g.batch, H, P, N], stateDType);
  const A = g.b.unary("neg", g.b.unary("exp", g.param([H], -1, 2)));
  const [dtMin, dtMax] = [[0, Infinity], [0.05, 0.7]][g.decide(2)] as [number, number]; // prettier-ignore
  // a factor of 30 reaches the linear part of softplus
  const dt = g.b.binary("mul", g.projected(H), g.decide(3) === 2 ? 30 : 1);
  return { G, H, P, N, state, A, dt, dtMin, dtMax };
}

const ssd = (g: Growth, stateDType: "f32" | "bf16"): Node => {
  const { G, H, P, N, state, A, dt, dtMin, dtMax } = scanParts(g, stateDType);
  const sequences = idsOf(g);
  const perHead = [g.param([H], -1, 1), g.param([H], -1, 1)];
  const inputs = [g.projected(H, P), dt, A, g.projected(G, N), g.projected(G, N), ...perHead, ...(sequences ? [sequences.ids] : []), state];
  const n = makeNode("ssdScan", inputs, { chunk: 1 + g.decide(8), softplus: g.decide(4) > 0, dtMin, dtMax, past: sequences?.past ?? null });
  g.update(state, get(n, 1));
  return bounded(g, merged(g, get(n, 0)));
};

/** A step with a ring of inputs, of which a part is there: of a single position, or of a call's last one. */
const replay = (g: Growth, stateDType: "f32" | "bf16"): Node => {
  const { G, H, P, N, state, A, dt, dtMin, dtMax } = scanParts(g, stateDType);
  const [length, filling] = [1 + g.decide(6), g.decide(3) === 0];
  const own = (n: Node): Node => g.b.slice(n, 1, typeof g.seq === "number" ? g.seq - 1 : sub(g.seq, 1), 1);
  // as a model's convolution gives them, in one buffer: WebGPU has no more than ten
  const channels = own(g.projected(H * P + 2 * G * N));
  const part = (start: number, shape: readonly number[]): Node => {
    const size = shape.reduce((a, d) => a * d, 1);
    return g.b.reshape(g.b.slice(channels, 2, start, size), [g.batch, 1, ...shape]);
  };
  const rings = [g.state([g.batch, length, H, P], stateDType), g.state([g.batch, length, G, N], stateDType)];
  // a step size is not negative
  const steps = g.state([g.batch, length, H], "f32", 0, 1);
  const inputs = [
    part(0, [H, P]),
    own(dt),
    A,
    part(H * P, [G, N]),
    part(H * P + G * N, [G, N]),
    g.param([H], -1, 1),
    g.param([H], -1, 1),
    state,
    ...rings,
    steps,
  ];
  const held = filling ? i32(length - 1) : mod(g.past, length);
  const n = makeNode("ssdReplay", inputs, { softplus: g.decide(4) > 0, dtMin, dtMax, held });
  for (const [i, held] of [state, ...rings, steps].entries()) g.update(held, get(n, i + 1));
  return bounded(g, get(n, 0));
};

const attention = (g: Growth, cacheDType: "f32" | "bf16"): Node => {
  const [Hkv, perKv, D] = [1 + g.decide(2), 1 + g.decide(3), g.size()];
  const cached = g.decide(2) === 0;
  const causal = g.decide(3) > 0;
  const past = cached ? g.past : i32(0);
  const T = cached ? MAX.past + MAX.seq : g.seq;
  const stored = (): Node => {
    const fresh = g.b.cast(g.b.transpose(g.projected(Hkv, D), [0, 2, 1, 3]), cacheDType);
    if (!cached) return fresh;
    const cache = g.state([g.batch, Hkv, T, D], cacheDType);
    const next = makeNode("update", [cache, fresh], { axis: 2, start: past });
    g.update(cache, next);
    return next;
  };
  const kind = g.decide(2) === 0 ? null : LAYOUTS[g.decide(LAYOUTS.length)]!;
  const ids = kind ? [g.given([g.batch, T], (rows, length) => sequenceIds(kind, rows, length, () => g.random.uniform(0, 1)))] : [];
  const q = g.projected(Hkv * perKv, D);
  return merged(g, makeNode("attention", [q, stored(), stored(), ...ids], { scale: 1 / Math.sqrt(D), causal, ids: ids.length > 0, past }));
};

/** Keys, values and queries that are columns of one projection, turned or not, with caches: where an attention mixer begins. */
const splitHeads = (g: Growth): Node => {
  const [Hkv, perKv, half, runs] = [1 + g.decide(2), 1 + g.decide(2), 1 + g.decide(3), 1 + g.decide(3)];
  // of some heads what is not turned is no multiple of what is
  const D = 2 * half * runs + (g.decide(8) === 7 ? 1 : 0);
  // and some projections have other columns before and behind, which are no pairs either
  const beside = (): number => (g.decide(12) === 11 ? 1 : 2 * half * g.decide(2));
  const widths = [beside(), ...[Hkv, Hkv, Hkv * perKv].map((heads) => heads * D), beside()];
  const N = widths.reduce((n, w) => n + w, 0);
  const product = g.projected(N);
  const whole = g.decide(3) === 2 ? g.b.binary("add", product, g.b.spread(g.param([N], -1, 1), shapeOf(product), [2])) : product;
  const columns = (i: number): Node => {
    const x = g.b.slice(
      whole,
      2,
      widths.slice(0, i).reduce((n, w) => n + w, 0),
      widths[i]!,
    );
    return i > 0 && i < 4 && g.decide(4) === 3 ? g.b.binary("add", x, g.b.spread(g.param([widths[i]!], -1, 1), shapeOf(x), [2])) : x;
  };
  for (const i of [0, 4]) if (widths[i]! > 0) g.pool.push(columns(i));
  const rows = 3 + g.size();
  const tables = [positions(g, rows), g.param([rows, half], -1, 1), g.param([rows, half], -1, 1)];
  const heads = (i: number, turned: boolean): Node => {
    const x = columns(i);
    if (g.decide(5) === 4) g.pool.push(x);
    const split = g.b.reshape(x, [g.batch, g.seq, widths[i]! / D, D]);
    return turned ? makeNode("rope", [split, ...tables], { rotary: 2 * half }) : split;
  };
  const cached = (x: Node): Node => {
    const cache = g.state([g.batch, Hkv, MAX.past + MAX.seq, D]);
    const next = makeNode("update", [cache, g.b.transpose(x, [0, 2, 1, 3])], { axis: 2, start: g.past });
    g.update(cache, next);
    return next;
  };
  const [k, v, q] = [cached(heads(1, true)), cached(heads(2, false)), heads(3, g.decide(3) < 2)];
  return merged(g, makeNode("attention", [q, k, v], { scale: 1 / Math.sqrt(D), causal: true, ids: false, past: g.past }));
};

/** One row of scores for each row of the batch. */
const scores = (g: Growth): Node => {
  const V = 1 + g.size();
  return g.b.reshape(g.b.slice(g.projected(V), 1, 0, 1), [g.batch, V]);
};

const COMPOSITES: Record<string, StepKind> = {
  activation: smooth((g) => makeNode("activation", [g.any()!], { fn: ACTIVATIONS[g.decide(7)]! })),
  softmax: smooth((g) => {
    const x = g.any(hasAxis);
    return x && makeNode("softmax", [x], { axis: g.decide(rank(x)) });
  }),
  rmsNorm: smooth((g) => {
    const x = g.any(numericLast);
    return x && makeNode("rmsNorm", [x, g.param([last(x) as number], 0.5, 1.5, g.decide(2) === 0 ? "f32" : "bf16")], { eps: 0.01 });
  }),
  gatedRmsNorm: smooth((g) => {
    const x = g.any(numericLast);
    return x && makeNode("gatedRmsNorm", [x, partner(g, x), g.param([last(x) as number], 0.5, 1.5)], { eps: 0.01 });
  }),
  rope: smooth((g) => {
    const [heads, half, rest, rows] = [g.size(), 1 + g.decide(3), g.decide(4), 3 + g.size()];
    const x = g.projected(heads, 2 * half + rest);
    const [cos, sin] = [g.param([rows, half], -1, 1), g.param([rows, half], -1, 1)];
    return merged(g, makeNode("rope", [x, positions(g, rows), cos, sin], { rotary: 2 * half }));
  }),
  conv: smooth((g) => conv(g, "f32")),
  splitConv: smooth(splitConv),
  convBf16: jumps((g) => conv(g, "bf16")),
  ssd: smooth((g) => ssd(g, "f32")),
  ssdBf16: jumps((g) => ssd(g, "bf16")),
  replay: smooth((g) => replay(g, "f32")),
  replayBf16: jumps((g) => replay(g, "bf16")),
  attention: smooth((g) => attention(g, "f32")),
  attentionBf16: jumps((g) => attention(g, "bf16")),
  splitHeads: smooth(splitHeads),
  crossEntropy: smooth((g) => {
    const V = 1 + g.size();
    const labels = g.input([g.batch, g.seq], 0, V, "i32"); // V itself stands for "ignore"
    return makeNode("crossEntropy", [g.projected(V), labels], { ignoreIndex: V });
  }),
  processLogits: jumps((g) => {
    const logits = scores(g);
    const column = (low: number, high: number): Node => g.input([g.batch, 1], low, high);
    const topK = g.b.cast(g.input([g.batch, 1], 0, 4, "i32"), "f32");
    const settings = g.b.concat([column(0.5, 2), column(0.5, 2), topK, column(0.1, 1.2), column(-0.5, 0.5)], 1);
    const seen = g.b.binary("lt", g.input(shapeOf(logits), -1, 1), 0);
    // probabilities, since what is removed is not finite
    return makeNode("softmax", [makeNode("processLogits", [logits, seen, settings], {})], { axis: 1 });
  }),
  sampleToken: jumps((g) => makeNode("sampleToken", [scores(g), g.input([g.batch], -0.5, 1)], {})),
};

/** What a random graph can grow by: every operation of the table is reachable. */
export const STEPS: Readonly<Record<string, StepKind>> = { ...PRIMITIVES, ...COMPOSITES };
