import fc from "fast-check";
import { add, i32, intVar, mul } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import type { Kept, ReplayProblem } from "../../../compiler/template.ts";
import type { Array_, Case } from "./case.ts";
import { dimension, memory, seed, size, storage } from "./case.ts";

/**
 * Random steps with a ring of inputs (`steep`: some with time steps and decays so large that nothing of the state is left), and a reference that is the recurrence
 * over the inputs that are there and this one. What lies in the ring beyond those is infinite. Some of the inputs are padding, with a time step of 0.
 */
export const replayCases = (sizes: { readonly steep: boolean }): fc.Arbitrary<Case<ReplayProblem>> =>
  replayShapes(sizes).map(replayProblem);

/** Of states and inputs of 16 bits, in whole tiles of matrix hardware. */
export const replayStreamCases = (sizes: { readonly steep: boolean }): fc.Arbitrary<Case<ReplayProblem>> =>
  fc
    .tuple(replayShapes(sizes), fc.constantFrom(16, 32, 64), fc.constantFrom(16, 32, 128), fc.constantFrom<DType>("bf16", "f16"))
    .map(([shape, headDim, stateSize, stored]) => replayProblem({ ...shape, headDim, stateSize, stored, ring: stored }));

interface ReplayShape {
  readonly seed: number;
  readonly batch: number;
  readonly length: number;
  /** How much of the ring is there. */
  readonly fill: number;
  readonly groups: number;
  readonly perGroup: number;
  readonly headDim: number;
  readonly stateSize: number;
  readonly symbolic: boolean;
  readonly steep: boolean;
  readonly stored: DType;
  readonly ring: DType;
}

const replayShapes = ({ steep }: { readonly steep: boolean }): fc.Arbitrary<ReplayShape> =>
  fc.record({
    seed,
    batch: fc.integer({ min: 1, max: 2 }),
    length: fc.constantFrom(1, 2, 3, 7, 16),
    fill: fc.constantFrom(0, 0.5, 1),
    groups: fc.integer({ min: 1, max: 2 }),
    perGroup: fc.integer({ min: 1, max: 3 }),
    headDim: size(20),
    // the state is in vectors of memory where it is long enough
    stateSize: fc.oneof(size(20), fc.constantFrom(64, 128, 256)),
    symbolic: fc.boolean(),
    steep: steep ? fc.boolean() : fc.constant(false),
    stored: storage,
    ring: storage,
  });

function replayProblem(c: ReplayShape): Case<ReplayProblem> {
  const m = memory(c.seed);
  const H = c.groups * c.perGroup;
  const [L, P, N, G] = [c.length, c.headDim, c.stateSize, c.groups];
  const held = Math.round(c.fill * (L - 1));
  const x = m.input("f32", c.batch * H * P);
  const dt = m.input("f32", c.batch * H, 0, c.steep ? 30 : 0.5);
  // WebGPU binds ten buffers: decay rates and D lie in one, B and C in another, as a model's convolution gives them
  const perHead = m.input("f32", 2 * H, c.steep ? -128 : -2, 0);
  for (let h = 0; h < H; h++) perHead.set(H + h, Math.fround(Math.sin(h + c.seed)));
  const BC = m.input("f32", c.batch * 2 * G * N);
  const decayOf = (h: number): number => perHead.get(h);
  const DOf = (h: number): number => perHead.get(H + h);
  const BOf = (b: number, i: number): number => BC.get(b * 2 * G * N + i);
  const COf = (b: number, i: number): number => BC.get(b * 2 * G * N + G * N + i);
  const filled = (dtype: Array_["dtype"], count: number, value: (i: number) => number): Array_ => {
    const array = m.output(dtype, count, "readwrite");
    for (let i = 0; i < count; i++) array.set(i, Math.fround(value(i)));
    return array;
  };
  const state = filled(c.stored, c.batch * H * P * N, (i) => Math.sin(i + c.seed));
  const ring = (dtype: Array_["dtype"], width: number, value: (i: number) => number): Array_ =>
    filled(dtype, c.batch * L * width, (i) => (Math.floor(i / width) % L < held ? value(i) : Infinity));
  const xs = ring(c.ring, H * P, (i) => Math.cos(3 * i + c.seed));
  const Bs = ring(c.ring, G * N, (i) => Math.sin(5 * i + c.seed));
  const dts = ring("f32", H, (i) => (i % 4 === 3 ? 0 : (c.steep ? 30 : 0.5) * Math.abs(Math.sin(i))));
  const y = m.output("f32", c.batch * H * P);

  const batch = dimension("batch", c.batch, c.symbolic, 4);
  const heldAt = c.symbolic ? intVar("held", 0, L - 1) : i32(held);
  const flat = (sizes: readonly number[], at: readonly Expr[]): Expr =>
    at.reduce<Expr>((index, e, i) => add(mul(index, sizes[i]!), e), i32(0));
  const kept = <C extends readonly Expr[]>(a: Array_, sizes: readonly number[]): Kept<C> => ({
    buffer: a.name,
    dtype: a.dtype,
    index: (...at) => flat(sizes, at),
  });
  const problem: ReplayProblem = {
    frame: m.frame("replay", [...batch.symbols, ...(heldAt.op === "var" ? [heldAt] : [])]),
    batch: batch.expr,
    seq: i32(1),
    heads: H,
    headDim: P,
    groups: G,
    stateSize: N,
    length: L,
    held: heldAt,
    x: (b, _, h, p) => x.at(flat([0, H, P], [b, h, p])),
    dt: (b, _, h) => dt.at(flat([0, H], [b, h])),
    decay: (h) => perHead.at(h),
    B: (b, _, g, n) => BC.at(flat([0, 2 * G, N], [b, g, n])),
    C: (b, _, g, n) => BC.at(flat([0, 2 * G, N], [b, add(g, G), n])),
    D: (h) => perHead.at(add(h, H)),
    state: kept(state, [0, H, P, N]),
    ring: { x: kept(xs, [0, L, H, P]), B: kept(Bs, [0, L, G, N]), dt: kept(dts, [0, L, H]) },
    outs: [{ buffer: y.name, dtype: "f32", index: (b, _, h, p) => flat([0, H, P], [b, h, p]), value: ([acc]) => mul(acc!, 2) }],
  };

  const ys = new Float64Array(c.batch * H * P);
  const next = Float64Array.from({ length: c.batch * H * P * N }, (_, i) => state.get(i));
  const own = {
    x: new Float64Array(c.batch * L * H * P),
    B: new Float64Array(c.batch * L * G * N),
    dt: new Float64Array(c.batch * L * H),
  };
  for (const values of Object.values(own)) values.fill(NaN);
  for (let b = 0; b < c.batch; b++) {
    const last = b * L + held;
    for (let g = 0; g < G * N; g++) own.B[last * G * N + g] = BOf(b, g);
    for (let h = 0; h < H; h++) {
      own.dt[last * H + h] = dt.get(b * H + h);
      const group = Math.floor(h / c.perGroup) * N;
      for (let p = 0; p < P; p++) {
        const at = (b * H + h) * P + p;
        own.x[last * H * P + h * P + p] = x.get(at);
        const S = Float64Array.from({ length: N }, (_, n) => state.get(at * N + n));
        for (let j = 0; j <= held; j++) {
          const entry = b * L + j;
          const [step, value] = j < held ? [dts.get(entry * H + h), xs.get((entry * H + h) * P + p)] : [dt.get(b * H + h), x.get(at)];
          const a = Math.exp(step * decayOf(h));
          for (let n = 0; n < N; n++) {
            const input = j < held ? Bs.get(entry * G * N + group + n) : BOf(b, group + n);
            S[n] = S[n]! * a + step * value * input;
          }
        }
        ys[at] = 2 * S.reduce((sum, s, n) => sum + s * COf(b, group + n), DOf(h) * x.get(at));
        if (held === L - 1) next.set(S, at * N);
      }
    }
  }
  // a state that is not stored keeps its bits
  if (held < L - 1) next.fill(NaN);
  return {
    problem,
    buffers: m.buffers,
    symbols: { ...batch.values, ...(c.symbolic ? { held } : {}) },
    expected: { [y.name]: ys, [state.name]: next, [xs.name]: own.x, [Bs.name]: own.B, [dts.name]: own.dt },
    tolerance: c.steep ? 1e-3 : 5e-5,
    about: JSON.stringify({ ...c, held }),
  };
}
