import fc from "fast-check";
import type { Dim, Graph, Node } from "../../compiler/ir/graph.ts";
import { intVar } from "../../compiler/ir/expr.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";
import type { Bindings, Results, Tensor } from "../../compiler/run/graph.ts";
import { tensor } from "../../compiler/run/graph.ts";
import type { Random } from "./values.ts";
import { difference, random } from "./values.ts";

/**
 * Laws of the state-space scan, as functions of whatever computes it: the interpreter, a decomposition, a template on tiles, native code. Numbers
 * are those of the specification's list of identities.
 */

/** Runs a graph. The same object is handed in for every run of a case, so an executor may cache what it compiles. */
export type Execute = (graph: Graph, bindings: Bindings) => Results | Promise<Results>;

export interface SsdSizes {
  readonly H: number;
  readonly P: number;
  readonly G: number;
  readonly N: number;
  readonly chunk: number;
  readonly dtMin: number;
  readonly dtMax: number;
}
/** Row-major arrays with the shapes of `ssdScan`'s operands. */
export interface SsdProblem extends SsdSizes {
  readonly batch: number;
  readonly seq: number;
  readonly x: Float64Array;
  readonly dt: Float64Array;
  readonly A: Float64Array;
  readonly B: Float64Array;
  readonly C: Float64Array;
  readonly D: Float64Array;
  readonly dtBias: Float64Array;
  readonly state: Float64Array;
}
export interface SsdResult {
  readonly y: Float64Array;
  readonly state: Float64Array;
}
export type RunSsd = (problem: SsdProblem) => SsdResult | Promise<SsdResult>;

/** A law as a property; `fc.assert(law.property, { numRuns })` checks it. */
export interface Law {
  readonly name: string;
  readonly property: fc.IAsyncProperty<unknown>;
}
export interface LawOptions {
  /** Largest difference, relative to 1 + the largest expected value. */
  readonly tolerance: number;
  readonly maxSeq?: number;
}

// ---- an executor of graphs as a runner of scans ----------------------------------------------------------------------
const OPERANDS = ["x", "dt", "A", "B", "C", "D", "dtBias"] as const;

const shapesOf = (batch: Dim, seq: Dim, { H, P, G, N }: SsdSizes): Record<(typeof OPERANDS)[number] | "state", readonly Dim[]> => ({
  x: [batch, seq, H, P],
  dt: [batch, seq, H],
  A: [H],
  B: [batch, seq, G, N],
  C: [batch, seq, G, N],
  D: [H],
  dtBias: [H],
  state: [batch, H, P, N],
});

/** Runs scans through an executor, as graphs with symbolic batch and length (`fixed`: with both built in as numbers). */
export function ssdRunner(
  execute: Execute,
  { fixed = false, f64 = false }: { readonly fixed?: boolean; readonly f64?: boolean } = {},
): RunSsd {
  const graphs = new Map<string, Graph>();
  return async (p) => {
    const key = JSON.stringify([p.H, p.P, p.G, p.N, p.chunk, p.dtMin, String(p.dtMax), ...(fixed ? [p.batch, p.seq] : [])]);
    let graph = graphs.get(key);
    if (!graph) graphs.set(key, (graph = fixed ? ssdGraph(p, p.batch, p.seq) : ssdGraph(p, intVar("batch", 1, 8), intVar("seq", 1, 64))));
    const shapes = shapesOf(p.batch, p.seq, p) as Record<string, readonly number[]>;
    // in double precision the operands are not rounded either: 2x + 3x' would not be exact
    const give = (name: (typeof OPERANDS)[number] | "state"): Tensor =>
      f64 ? { dtype: "f32", shape: shapes[name]!, data: p[name] } : tensor("f32", shapes[name]!, p[name]);
    const results = await execute(graph, {
      symbols: fixed ? {} : { batch: p.batch, seq: p.seq },
      inputs: Object.fromEntries(OPERANDS.map((name) => [name, give(name)])),
      states: { state: give("state") },
      f64,
    });
    return { y: results.outputs["y"]!.data, state: results.states["state"]!.data };
  };
}

function ssdGraph(sizes: SsdSizes, batch: Dim, seq: Dim): Graph {
  const shapes = shapesOf(batch, seq, sizes);
  const inputs: Node[] = OPERANDS.map((name) => makeSource("input", { dtype: "f32", shape: shapes[name] }, { name }));
  const state = makeSource("state", { dtype: "f32", shape: shapes.state }, { name: "state" });
  const { chunk, dtMin, dtMax } = sizes;
  const scan = makeNode("ssdScan", [...inputs, state], { chunk, softplus: true, dtMin, dtMax, past: null });
  return {
    name: "ssd",
    symbols: [batch, seq].filter((d) => typeof d !== "number"),
    outputs: [{ name: "y", value: makeNode("get", [scan], { index: 0 }) }],
    updates: [{ state: "state", value: makeNode("get", [scan], { index: 1 }) }],
  };
}

// ---- cases ------------------------------------------------------------------------------------------------------------
interface Case extends SsdProblem {
  readonly random: Random;
}

const cases = ({ maxSeq = 17 }: LawOptions): fc.Arbitrary<Case> =>
  fc
    .record({
      seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
      batch: fc.integer({ min: 1, max: 3 }),
      seq: fc.constantFrom(...[1, 2, 3, 5, 7, 8, 13, 17, 33].filter((n) => n <= maxSeq)),
      G: fc.integer({ min: 1, max: 3 }),
      perGroup: fc.integer({ min: 1, max: 3 }),
      P: fc.constantFrom(1, 2, 3, 5, 8),
      N: fc.constantFrom(1, 2, 3, 5, 8),
      chunk: fc.constantFrom(1, 2, 3, 4, 7, 16, 64, 256),
      limits: fc.constantFrom<[number, number]>([0, Infinity], [0.05, 0.7]),
    })
    .map(({ seed, perGroup, limits, ...c }) => {
      const rng = random(seed);
      const sizes = { ...c, H: c.G * perGroup, dtMin: limits[0], dtMax: limits[1] };
      return { ...sizes, ...operands(rng, sizes), random: rng, [fc.toStringMethod]: () => JSON.stringify({ seed, ...sizes }) };
    });

function operands(
  rng: Random,
  { batch, seq, H, P, G, N }: SsdSizes & { readonly batch: number; readonly seq: number },
): Pick<SsdProblem, (typeof OPERANDS)[number] | "state"> {
  return {
    x: rng.values(batch * seq * H * P, -2, 2),
    dt: rng.values(batch * seq * H, -3, 3),
    A: rng.values(H, -3, 2).map((a) => -Math.exp(a)),
    B: rng.values(batch * seq * G * N, -1.5, 1.5),
    C: rng.values(batch * seq * G * N, -1.5, 1.5),
    D: rng.values(H, -1, 1),
    dtBias: rng.values(H, -1, 1),
    state: rng.values(batch * H * P * N, -1, 1),
  };
}

/** The definition, without any of the project's code: what every executor has to agree with. */
export function recurrence(p: SsdProblem): SsdResult {
  const { batch, seq, H, P, G, N } = p;
  const y = new Float64Array(p.x.length);
  const S = p.state.slice();
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < H; h++)
      for (let t = 0; t < seq; t++) {
        const dt = delta(p, b, t, h);
        const g = ((b * seq + t) * G + Math.floor(h / (H / G))) * N;
        for (let i = 0; i < P; i++) {
          const at = ((b * seq + t) * H + h) * P + i;
          let sum = 0;
          for (let n = 0; n < N; n++) {
            const s = ((b * H + h) * P + i) * N + n;
            S[s] = Math.exp(dt * p.A[h]!) * S[s]! + dt * p.x[at]! * p.B[g + n]!;
            sum += S[s] * p.C[g + n]!;
          }
          y[at] = sum + p.D[h]! * p.x[at]!;
        }
      }
  return { y, state: S };
}

/** dt after bias, softplus and limits. */
function delta(p: SsdProblem, b: number, t: number, h: number): number {
  const v = p.dt[(b * p.seq + t) * p.H + h]! + p.dtBias[h]!;
  return Math.min(Math.max(v > 20 ? v : Math.log1p(Math.exp(v)), p.dtMin), p.dtMax);
}

// ---- changing problems --------------------------------------------------------------------------------------------------
/** Positions `picks` of a [batch, seq, width] array, in that order. */
export function pickTime(data: Float64Array, batch: number, seq: number, picks: readonly number[]): Float64Array {
  const width = data.length / batch / seq;
  const out = new Float64Array(batch * picks.length * width);
  for (let b = 0; b < batch; b++)
    for (const [i, t] of picks.entries())
      out.set(data.subarray((b * seq + t) * width, (b * seq + t + 1) * width), (b * picks.length + i) * width);
  return out;
}
export const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

/** Rows `picks` of an array whose first axis has `count` rows. */
export const pickRows = (data: Float64Array, count: number, picks: readonly number[]): Float64Array => pickTime(data, 1, count, picks);

const TIMED = ["x", "dt", "B", "C"] as const;
const atTimes = (p: SsdProblem, picks: readonly number[]): SsdProblem => ({
  ...p,
  seq: picks.length,
  ...Object.fromEntries(TIMED.map((k) => [k, pickTime(p[k], p.batch, p.seq, picks)])),
});
const atRows = (p: SsdProblem, picks: readonly number[]): SsdProblem => ({
  ...p,
  batch: picks.length,
  ...Object.fromEntries([...TIMED, "state" as const].map((k) => [k, pickRows(p[k], p.batch, picks)])),
});

/** `a * x + b * y`, element by element. */
const combine = (a: number, x: Float64Array, b: number, y: Float64Array): Float64Array => x.map((v, i) => a * v + b * y[i]!);

/** A random order of 0 .. n-1. */
export function shuffled(rng: Random, n: number): number[] {
  const out = range(0, n);
  for (let i = n - 1; i > 0; i--) {
    const j = rng.integer(0, i);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}

/** Increasing cut points inside (0, n), at least one when there is room. */
export function cuts(rng: Random, n: number): number[] {
  const inside = shuffled(rng, Math.max(0, n - 1)).map((i) => i + 1);
  return inside.slice(0, Math.min(inside.length, rng.integer(1, 3))).sort((a, b) => a - b);
}

export function expectNear(got: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, what: string): void {
  const d = difference(got, expected);
  if (!(d <= tolerance)) throw new Error(`${what} differ by ${d}, allowed is ${tolerance}`);
}

/** Runs pieces of a sequence one after another, the state carried on. */
async function pieces(run: RunSsd, p: SsdProblem, at: readonly number[]): Promise<SsdResult> {
  const y = new Float64Array(p.x.length);
  const width = p.H * p.P;
  let state = p.state;
  const edges = [0, ...at, p.seq];
  for (const [i, from] of edges.slice(0, -1).entries()) {
    const to = edges[i + 1]!;
    const r = await run({ ...atTimes(p, range(from, to)), state });
    for (let b = 0; b < p.batch; b++)
      y.set(r.y.subarray(b * (to - from) * width, (b + 1) * (to - from) * width), (b * p.seq + from) * width);
    state = r.state;
  }
  return { y, state };
}

// ---- the laws -----------------------------------------------------------------------------------------------------------
export function ssdLaws(run: RunSsd, options: LawOptions): readonly Law[] {
  const { tolerance } = options;
  const same = (got: SsdResult, expected: SsdResult, what: string, allowed: number = tolerance): void => {
    expectNear(got.y, expected.y, allowed, `${what}: outputs`);
    expectNear(got.state, expected.state, allowed, `${what}: states`);
  };
  const law = (name: string, check: (c: Case) => Promise<void>): Law => ({
    name,
    property: fc.asyncProperty(cases(options), check),
  });
  return [
    law("1: equals the recurrence, for every chunk size", async (c) => {
      same(await run(c), recurrence(c), "run and recurrence");
    }),
    law("2: does not depend on the chunk size", async (c) => {
      same(await run({ ...c, chunk: c.chunk + 1 }), await run(c), "two chunk sizes");
    }),
    law("3: a sequence in pieces equals the whole", async (c) => {
      same(await pieces(run, c, cuts(c.random, c.seq)), await run(c), "pieces and whole");
    }),
    law("4: is affine in the initial state", async (c) => {
      const [from, fromZero] = [await run(c), await run({ ...c, state: c.state.map(() => 0) })];
      const silent = recurrence({ ...c, x: c.x.map(() => 0) }); // e^s S0 C, and e^s_last S0
      same(from, { y: combine(1, fromZero.y, 1, silent.y), state: combine(1, fromZero.state, 1, silent.state) }, "with and without state");
    }),
    law("5: is linear in x, in B and in C", async (c) => {
      const p = { ...c, D: c.D.map(() => 0) };
      const other = operands(c.random, c);
      for (const key of ["x", "B", "C"] as const) {
        // C reads the state; x and B only add to it
        const base = key === "C" ? p : { ...p, state: p.state.map(() => 0) };
        const [a, b] = [await run(base), await run({ ...base, [key]: other[key] })];
        const mixed = await run({ ...base, [key]: combine(2, base[key], -3, other[key]) });
        expectNear(mixed.y, combine(2, a.y, -3, b.y), 10 * tolerance, `linear in ${key}: outputs`);
        if (key !== "C") expectNear(mixed.state, combine(2, a.state, -3, b.state), 10 * tolerance, `linear in ${key}: states`);
      }
    }),
    law("6: a position with dt = 0 keeps the state and reads it", async (c) => {
      const p = { ...c, dtMin: 0 };
      const at = c.random.integer(0, c.seq);
      // position `at` is a copy of another one whose dt is then switched off
      const times = [...range(0, at), Math.min(at, c.seq - 1), ...range(at, c.seq)];
      const longer = atTimes(p, times);
      const dt = longer.dt.slice();
      for (let b = 0; b < c.batch; b++) dt.fill(-1e4, (b * longer.seq + at) * c.H, (b * longer.seq + at + 1) * c.H);
      const [r, whole] = [await run({ ...longer, dt }), await run(p)];
      const others = range(0, longer.seq).filter((t) => t !== at);
      same({ y: pickTime(r.y, c.batch, longer.seq, others), state: r.state }, whole, "with and without the position");
      const reading = recurrence({ ...longer, dt });
      expectNear(pickTime(r.y, c.batch, longer.seq, [at]), pickTime(reading.y, c.batch, longer.seq, [at]), tolerance, "y = S C + D x");
    }),
    law("7: no output depends on later positions", async (c) => {
      const from = c.random.integer(0, c.seq);
      const other = operands(c.random, c);
      const width = (k: (typeof TIMED)[number]): number => c[k].length / c.batch / c.seq;
      const changed = TIMED.map((k): [string, Float64Array] => [
        k,
        c[k].map((v, i) => (Math.floor(i / width(k)) % c.seq < from ? v : other[k][i]!)),
      ]);
      const [a, b] = [await run(c), await run({ ...c, ...Object.fromEntries(changed) })];
      const before = range(0, from);
      expectNear(pickTime(b.y, c.batch, c.seq, before), pickTime(a.y, c.batch, c.seq, before), 0, "outputs before the change");
    }),
    law("8: heads are interchangeable within a group, and groups with their heads", async (c) => {
      const perGroup = c.H / c.G;
      const groups = shuffled(c.random, c.G);
      const heads = groups.flatMap((g) => shuffled(c.random, perGroup).map((h) => g * perGroup + h));
      const moved: SsdProblem = {
        ...c,
        x: pickTime(c.x, c.batch * c.seq, c.H, heads),
        dt: pickTime(c.dt, c.batch * c.seq, c.H, heads),
        B: pickTime(c.B, c.batch * c.seq, c.G, groups),
        C: pickTime(c.C, c.batch * c.seq, c.G, groups),
        A: pickRows(c.A, c.H, heads),
        D: pickRows(c.D, c.H, heads),
        dtBias: pickRows(c.dtBias, c.H, heads),
        state: pickTime(c.state, c.batch, c.H, heads),
      };
      const r = await run(c);
      same(
        await run(moved),
        { y: pickTime(r.y, c.batch * c.seq, c.H, heads), state: pickTime(r.state, c.batch, c.H, heads) },
        "moved heads",
      );
    }),
    law("8: one group for each head, with copies of B and C, changes nothing", async (c) => {
      const groupOf = range(0, c.H).map((h) => Math.floor(h / (c.H / c.G)));
      const copies = (v: Float64Array): Float64Array => pickTime(v, c.batch * c.seq, c.G, groupOf);
      same(await run({ ...c, G: c.H, B: copies(c.B), C: copies(c.C) }), await run(c), "copied groups");
    }),
    law("9: rows of a batch do not see each other", async (c) => {
      const order = shuffled(c.random, c.batch);
      const r = await run(c);
      const rows = (picks: readonly number[]): SsdResult => ({
        y: pickRows(r.y, c.batch, picks),
        state: pickRows(r.state, c.batch, picks),
      });
      same(await run(atRows(c, order)), rows(order), "another order of rows");
      same(await run(atRows(c, [order[0]!])), rows([order[0]!]), "a row alone");
    }),
    law("10: strong decay leaves only the position itself", async (c) => {
      const p = { ...c, A: c.A.map(() => -1e6) };
      const y = c.x.map((v, i) => {
        const [h, row] = [Math.floor(i / c.P) % c.H, Math.floor(i / c.P / c.H)];
        const g = (row * c.G + Math.floor(h / (c.H / c.G))) * c.N;
        const dot = range(0, c.N).reduce((sum, n) => sum + c.C[g + n]! * c.B[g + n]!, 0);
        return delta(p, Math.floor(row / c.seq), row % c.seq, h) * dot * v + c.D[h]! * v;
      });
      expectNear((await run(p)).y, y, tolerance, "outputs");
    }),
    law("10: no decay is a running sum", async (c) => {
      const p = { ...c, A: c.A.map(() => -1e-30) };
      const silent = { ...p, state: c.state.map(() => 0) };
      const sum = c.state.slice();
      for (let t = 0; t < c.seq; t++) {
        const one = recurrence(atTimes(silent, [t])).state;
        for (let i = 0; i < sum.length; i++) sum[i]! += one[i]!;
      }
      expectNear((await run(p)).state, sum, tolerance, "states");
    }),
    law("12: extreme steps give no NaN and no infinity", async (c) => {
      const extreme = (i: number): number => [30, -50, 0][i % 3]!;
      const p = {
        ...c,
        dtMin: 0,
        dtMax: Infinity,
        A: c.A.map(() => -128),
        dt: c.dt.map((_, i) => extreme(Math.floor(c.random.uniform(0, 3)) + i)),
      };
      const r = await run(p);
      if (![...r.y, ...r.state].every(Number.isFinite)) throw new Error("a result is not finite");
      same(r, recurrence(p), "run and recurrence");
    }),
    law("15: position by position equals all at once", async (c) => {
      same(await pieces(run, c, range(1, c.seq)), await run(c), "steps and prefill");
    }),
    law("18: two runs give the same bits", async (c) => {
      same(await run(c), await run(c), "two runs", 0);
    }),
  ];
}
