import fc from "fast-check";
import type { Builder } from "../../compiler/graph/build.ts";
import { builder } from "../../compiler/graph/build.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import { intVar } from "../../compiler/ir/expr.ts";
import type { Dim, Graph, Node } from "../../compiler/ir/graph.ts";
import { makeNode, makeSource } from "../../compiler/ir/ops.ts";
import type { Tensors } from "../../compiler/run/graph.ts";
import { tensor } from "../../compiler/run/graph.ts";
import type { Execute, Law, LawOptions } from "./laws.ts";
import { cuts, expectNear, pickRows, pickTime, range, shuffled } from "./laws.ts";
import { LAYOUTS, sequenceIds, tokenEnds } from "./sequences.ts";
import type { Layout } from "./sequences.ts";
import type { Random } from "./values.ts";
import { random } from "./values.ts";

/**
 * Laws of the layers around the scan, as functions of an executor of graphs: a whole Mamba mixer (projections, convolution with its state, scan with its
 * state, gated norm) and attention over a cache. Both keep the sequence ids of earlier calls, as a session does.
 */

interface Sizes {
  readonly batch: number;
  readonly seq: number;
}
/** One layer whose tensors over time are called `timed` and are [batch, seq, ...]; everything else follows the batch (`rows`) or is shared. */
interface Layer extends Sizes {
  readonly random: Random;
  /** For symbolic batch and length, or for single positions (`step`). */
  readonly graph: (step: boolean) => Graph;
  readonly params: Tensors;
  readonly timed: Tensors;
  readonly states: Tensors;
}
interface Output {
  readonly y: Float64Array;
  readonly states: Tensors;
}

const MAX_BATCH = 8;
const MAX_SEQ = 64;
const symbols = { batch: intVar("batch", 1, MAX_BATCH), seq: intVar("seq", 1, MAX_SEQ), past: intVar("past", 0, MAX_SEQ) };
/** Keys that a cache has room for; the longest sequence of a case, and no round number. */
const CAPACITY = 29;

// not by `tensor`, which rounds: states that come back in double precision stay as they are
const timesOf = (t: Tensors, { batch, seq }: Sizes, picks: readonly number[]): Tensors =>
  mapTensors(t, (x) => ({ ...x, shape: [batch, picks.length, ...x.shape.slice(2)], data: pickTime(x.data, batch, seq, picks) }));
const rowsOf = (t: Tensors, picks: readonly number[]): Tensors =>
  mapTensors(t, (x) => ({ ...x, shape: [picks.length, ...x.shape.slice(1)], data: pickRows(x.data, x.shape[0]!, picks) }));
const mapTensors = (t: Tensors, f: (x: Tensors[string]) => Tensors[string]): Tensors =>
  Object.fromEntries(Object.entries(t).map(([name, x]) => [name, f(x)]));

// ---- running ------------------------------------------------------------------------------------------------------------
export interface LayerOptions extends LawOptions {
  readonly f64?: boolean;
}

interface Call {
  readonly timed: Tensors;
  /** How many positions the convolution's state is after; up to each row's last token unless given. */
  readonly ends?: Int32Array;
  readonly states: Tensors;
  readonly past: number;
  readonly step?: boolean;
}

const runner =
  (execute: Execute, options: LayerOptions) =>
  async (layer: Layer, call: Call): Promise<Output> => {
    const first = Object.values(call.timed)[0]!;
    const [batch, seq] = first.shape as [number, number];
    const graph = layer.graph(call.step === true);
    const given: Record<string, number> = { batch, seq, past: call.past };
    const ends = call.ends ?? tokenEnds(call.timed["ids"]!.data, batch, 0, seq);
    const results = await execute(graph, {
      symbols: Object.fromEntries(graph.symbols.map((s) => [s.name, given[s.name]!])),
      inputs: { ...call.timed, ends: tensor("i32", [batch], ends) },
      params: layer.params,
      states: call.states,
      f64: options.f64 ?? false,
    });
    return { y: results.outputs["y"]!.data, states: results.states };
  };

type Run = ReturnType<typeof runner>;

/** Runs pieces of the sequence one after another, the states carried on. */
async function pieces(run: Run, layer: Layer, at: readonly number[], step = false): Promise<Output> {
  const edges = [0, ...at, layer.seq];
  const parts: Float64Array[] = [];
  let states = layer.states;
  const ends = tokenEnds(layer.timed["ids"]!.data, layer.batch, 0, layer.seq);
  for (const [i, from] of edges.slice(0, -1).entries()) {
    const to = edges[i + 1]!;
    const timed = timesOf(layer.timed, layer, range(from, to));
    // padding that later tokens follow belongs to the piece
    const r = await run(layer, { timed, states, past: from, step, ends: ends.map((end) => Math.min(Math.max(end - from, 0), to - from)) });
    parts.push(r.y);
    states = r.states;
  }
  return { y: joined(parts, layer.batch, edges), states };
}

function joined(parts: readonly Float64Array[], batch: number, edges: readonly number[]): Float64Array {
  const seq = edges[edges.length - 1]!;
  const width = parts[0]!.length / batch / (edges[1]! - edges[0]!);
  const out = new Float64Array(batch * seq * width);
  for (const [i, part] of parts.entries()) {
    const n = (edges[i + 1]! - edges[i]!) * width;
    for (let b = 0; b < batch; b++) out.set(part.subarray(b * n, (b + 1) * n), (b * seq + edges[i]!) * width);
  }
  return out;
}

function expectSame(got: Output, expected: Output, tolerance: number, what: string): void {
  expectNear(got.y, expected.y, tolerance, `${what}: outputs`);
  for (const [name, s] of Object.entries(expected.states)) expectNear(got.states[name]!.data, s.data, tolerance, `${what}: state ${name}`);
}

/** Laws that hold for every layer with state. */
function layerLaws(execute: Execute, layers: fc.Arbitrary<Layer>, options: LayerOptions): readonly Law[] {
  const { tolerance } = options;
  const run = runner(execute, options);
  const whole = (l: Layer): Promise<Output> => run(l, { timed: l.timed, states: l.states, past: 0 });
  const law = lawOf(layers);
  return [
    law("3: a sequence in pieces equals the whole, with padding and other sequences in it", async (plain) => {
      for (const l of [plain, arranged(plain)])
        expectSame(atTokens(l, await pieces(run, l, cuts(l.random, l.seq))), atTokens(l, await whole(l)), tolerance, "pieces and whole");
    }),
    law("7: no output depends on later positions", async (l) => {
      const from = l.random.integer(0, l.seq);
      // later positions swap places
      const times = [...range(0, from), ...range(from, l.seq).reverse()];
      const r = await run(l, { timed: timesOf(l.timed, l, times), states: l.states, past: 0 });
      const before = range(0, from);
      const { y } = await whole(l);
      expectNear(pickTime(r.y, l.batch, l.seq, before), pickTime(y, l.batch, l.seq, before), 0, "outputs before the change");
    }),
    law("9: rows of a batch do not see each other", async (plain) => {
      const l = arranged(plain);
      const all = await whole(l);
      for (const picks of [shuffled(l.random, l.batch), [l.random.integer(0, l.batch - 1)]]) {
        const r = await run(l, { timed: rowsOf(l.timed, picks), states: rowsOf(l.states, picks), past: 0 });
        expectSame(r, { y: pickRows(all.y, l.batch, picks), states: rowsOf(all.states, picks) }, tolerance, `rows ${picks.join(", ")}`);
      }
    }),
    law("15: single positions, by the graph for one position, equal all at once", async (l) => {
      expectSame(await pieces(run, l, range(1, l.seq), true), await whole(l), tolerance, "steps and prefill");
    }),
    law("16: left padding changes nothing", async (l) => {
      const pads = l.random.integer(1, 4);
      // the padding repeats position 0, from a layer that has seen nothing yet
      const zero = mapTensors(l.states, (s) => tensor(s.dtype, s.shape, s.data.map(() => 0))); // prettier-ignore
      const padded = { ...timesOf(l.timed, l, [...range(0, pads).map(() => 0), ...range(0, l.seq)]) };
      padded["ids"] = withIds(padded["ids"]!, (t) => (t < pads ? -1 : 1));
      const [p, r] = [await run(l, { timed: padded, states: zero, past: 0 }), await run(l, { timed: l.timed, states: zero, past: 0 })];
      const real = range(pads, l.seq + pads);
      expectNear(pickTime(p.y, l.batch, l.seq + pads, real), r.y, tolerance, "outputs");
      // a cache keeps what the padding wrote and hides it; recurrent state has to be as if it had not been there
      for (const name of ["conv", "ssm"] as const)
        if (r.states[name]) expectNear(p.states[name]!.data, r.states[name].data, tolerance, `state ${name}`);
    }),
    law("16: right padding changes neither outputs nor recurrent states, nor what follows", async (l) => {
      const pads = l.random.integer(1, 4);
      const at = l.random.integer(1, l.seq);
      const padded = { ...timesOf(l.timed, l, [...range(0, at), ...range(0, pads).map(() => 0)]) };
      padded["ids"] = withIds(padded["ids"]!, (t) => (t < at ? 1 : -1));
      const first = await run(l, { timed: timesOf(l.timed, l, range(0, at)), states: l.states, past: 0 });
      const p = await run(l, { timed: padded, states: l.states, past: 0 });
      expectNear(pickTime(p.y, l.batch, at + pads, range(0, at)), first.y, tolerance, "outputs");
      for (const name of ["conv", "ssm"] as const)
        if (first.states[name]) expectNear(p.states[name]!.data, first.states[name].data, tolerance, `state ${name}`);
      for (let t = at, { states } = p; t < l.seq; t++) {
        const r = await run(l, { timed: timesOf(l.timed, l, [t]), states, past: t + pads, step: t % 2 === 0 });
        expectNear(r.y, pickTime((await whole(l)).y, l.batch, l.seq, [t]), tolerance, `output ${t} after the padding`);
        ({ states } = r);
      }
    }),
    law("packed sequences are what each of them is alone, in one call and in pieces", async (plain) => {
      const l = arranged(plain, "packed");
      const ids = l.timed["ids"]!.data;
      for (const packed of [await whole(l), await pieces(run, l, cuts(l.random, l.seq))])
        for (let row = 0; row < l.batch; row++) {
          const own = (t: number): number => ids[row * l.seq + t]!;
          const alone = { ...l, timed: rowsOf(l.timed, [row]), states: rowsOf(l.states, [row]), batch: 1 };
          for (let n = 1; n <= own(l.seq - 1); n++) {
            const times = range(0, l.seq).filter((t) => own(t) === n);
            const timed = { ...timesOf(alone.timed, alone, times) };
            timed["ids"] = withIds(timed["ids"]!, () => 1);
            const states = n === 1 ? alone.states : mapTensors(alone.states, (s) => tensor(s.dtype, s.shape, s.data.map(() => 0))); // prettier-ignore
            const r = await run(alone, { timed, states, past: 0 });
            expectNear(pickTime(pickRows(packed.y, l.batch, [row]), 1, l.seq, times), r.y, tolerance, `outputs of sequence ${n}`);
            for (const name of ["conv", "ssm"] as const)
              if (r.states[name] && n === own(l.seq - 1))
                expectNear(rowsOf(packed.states, [row])[name]!.data, r.states[name].data, tolerance, `state ${name}`);
          }
        }
    }),
    law("18: two runs give the same bits", async (l) => {
      expectSame(await whole(l), await whole(l), 0, "two runs");
    }),
  ];
}

const lawOf =
  (layers: fc.Arbitrary<Layer>) =>
  (name: string, check: (l: Layer) => Promise<void>): Law => ({
    name,
    property: fc.asyncProperty(layers, check),
  });

/** With 0 for the outputs of padding, which are finite and nothing more. */
function atTokens(l: Layer, { y, states }: Output): Output {
  const width = y.length / l.batch / l.seq;
  return { y: y.map((v, i) => (l.timed["ids"]!.data[Math.floor(i / width)]! > 0 || !Number.isFinite(v) ? v : 0)), states };
}

/** Sequence ids of a layer's calls, the same for each row. */
const withIds = (like: Tensors[string], id: (t: number) => number): Tensors[string] =>
  tensor("i32", like.shape, like.data.map((_, i) => id(i % like.shape[1]!))); // prettier-ignore

/** The layer with its tokens laid out at random. */
function arranged<L extends Layer>(l: L, kind: Layout = LAYOUTS[l.random.integer(0, LAYOUTS.length - 1)]!): L {
  const ids = sequenceIds(kind, l.batch, l.seq, () => l.random.uniform(0, 1));
  return { ...l, timed: { ...l.timed, ids: tensor("i32", [l.batch, l.seq], ids) } };
}

const lengths = fc.constantFrom(1, 2, 3, 4, 5, 6, 11, 17);

/** Graphs by their sizes, so that an executor meets the same object again. */
function memo<K extends object>(make: (key: K, step: boolean) => Graph): (key: K) => (step: boolean) => Graph {
  const made = new Map<string, Graph>();
  return (key) => (step) => {
    const text = JSON.stringify([key, step]);
    const graph = made.get(text) ?? make(key, step);
    made.set(text, graph);
    return graph;
  };
}

const param = (name: string, shape: readonly Dim[]): Node => makeSource("param", { dtype: "f32", shape }, { name, packed: null });
const input = (name: string, shape: readonly Dim[], dtype: DType = "f32"): Node => makeSource("input", { dtype, shape }, { name });
const state = (name: string, shape: readonly Dim[], dtype: DType = "f32"): Node => makeSource("state", { dtype, shape }, { name });
/** A state with the positions of this call written to it. */
const cached = (name: string, fresh: Node, shape: readonly Dim[], axis: number): { readonly state: string; readonly value: Node } => ({
  state: name,
  value: makeNode("update", [state(name, shape, fresh.types[0]!.dtype), fresh], { axis, start: symbols.past }),
});
const cachedIds = (batch: Dim, seq: Dim): ReturnType<typeof cached> =>
  cached("seen", input("ids", [batch, seq], "i32"), [batch, CAPACITY], 1);
const get = (n: Node, index: number): Node => makeNode("get", [n], { index });

// ---- the Mamba mixer ------------------------------------------------------------------------------------------------------
interface MixerSizes {
  readonly hidden: number;
  readonly H: number;
  readonly P: number;
  readonly G: number;
  readonly N: number;
  readonly K: number;
  readonly chunk: number;
}

/** Steps 1 to 9 of the mixer's specification, in f32. A step (`seq` is 1) takes no ids: it continues its row's sequence. */
export function mixerGraph({ hidden, H, P, G, N, K, chunk }: MixerSizes, batch: Dim, seq: Dim): Graph {
  const b = builder({});
  const E = H * P;
  const channels = E + 2 * G * N;
  const ids = cachedIds(batch, seq);
  const past = seq === 1 ? null : symbols.past;
  const projected = b.matmul(input("x", [batch, seq, hidden]), param("in_proj", [E + channels + H, hidden]), true);
  const z = b.slice(projected, 2, 0, E);
  const convState = state("conv", [batch, K, channels]);
  const conv = makeNode(
    "causalConv1d",
    [
      b.slice(projected, 2, E, channels),
      param("conv_w", [channels, K]),
      param("conv_b", [channels]),
      ...(past ? [ids.value, input("ends", [batch], "i32")] : []),
      convState,
    ],
    { width: K, bias: true, activation: "silu", past },
  );
  const xBC = get(conv, 0);
  const part = (start: number, heads: number, width: number): Node =>
    b.reshape(b.slice(xBC, 2, start, heads * width), [batch, seq, heads, width]);
  const ssmState = state("ssm", [batch, H, P, N]);
  const A = b.unary("neg", b.unary("exp", param("A_log", [H])));
  const dt = b.slice(projected, 2, E + channels, H);
  const scan = makeNode(
    "ssdScan",
    [
      part(0, H, P),
      dt,
      A,
      part(E, G, N),
      part(E + G * N, G, N),
      param("D", [H]),
      param("dt_bias", [H]),
      ...(past ? [ids.value] : []),
      ssmState,
    ],
    { chunk, softplus: true, dtMin: 0, dtMax: Infinity, past },
  );
  const norm = makeNode("gatedRmsNorm", [b.reshape(get(scan, 0), [batch, seq, E]), z, param("norm", [E])], { eps: 1e-5 });
  return {
    name: "mixer",
    symbols: [batch, seq, symbols.past].filter((d) => typeof d !== "number"),
    outputs: [{ name: "y", value: b.matmul(norm, param("out_proj", [hidden, E]), true) }],
    updates: [{ state: "conv", value: get(conv, 1) }, { state: "ssm", value: get(scan, 1) }, ids],
  };
}

const mixerGraphs = memo((sizes: MixerSizes, step) => mixerGraph(sizes, symbols.batch, step ? 1 : symbols.seq));

interface Mixer extends Layer, MixerSizes {}

const mixers: fc.Arbitrary<Mixer> = fc
  .record({
    seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
    batch: fc.integer({ min: 1, max: 3 }),
    seq: lengths,
    sizes: fc.constantFrom<MixerSizes>(
      { hidden: 5, H: 2, P: 3, G: 1, N: 4, K: 4, chunk: 4 },
      { hidden: 4, H: 4, P: 2, G: 2, N: 3, K: 3, chunk: 2 },
      { hidden: 1, H: 1, P: 1, G: 1, N: 1, K: 1, chunk: 1 },
      { hidden: 7, H: 3, P: 5, G: 3, N: 2, K: 2, chunk: 256 },
    ),
  })
  .map(({ seed, batch, seq, sizes }) => {
    const { hidden, H, P, G, N, K } = sizes;
    const rng = random(seed);
    const E = H * P;
    const channels = E + 2 * G * N;
    const r = (shape: number[], low: number, high: number): Tensors[string] => rng.tensor("f32", shape, low, high);
    return {
      batch,
      seq,
      ...sizes,
      random: rng,
      graph: mixerGraphs(sizes),
      params: {
        in_proj: r([E + channels + H, hidden], -0.7, 0.7),
        conv_w: r([channels, K], -1, 1),
        conv_b: r([channels], -0.5, 0.5),
        A_log: r([H], -2, 2),
        D: r([H], -1, 1),
        dt_bias: r([H], -1, 1),
        norm: r([E], 0.5, 1.5),
        out_proj: r([hidden, E], -0.7, 0.7),
      },
      timed: { x: r([batch, seq, hidden], -2, 2), ids: tensor("i32", [batch, seq], new Float64Array(batch * seq).fill(1)) },
      states: {
        conv: r([batch, K, channels], -1, 1),
        ssm: r([batch, H, P, N], -1, 1),
        seen: tensor("i32", [batch, CAPACITY], new Float64Array(batch * CAPACITY)),
      },
      [fc.toStringMethod]: () => JSON.stringify({ seed, batch, seq, sizes }),
    };
  });

export function mixerLaws(execute: Execute, options: LayerOptions): readonly Law[] {
  const run = runner(execute, options);
  const law = lawOf(mixers) as (name: string, check: (m: Mixer) => Promise<void>) => Law;
  return [
    ...layerLaws(execute, mixers, options),
    law("3: a cut at each of 1 to K + 1 positions equals the whole", async (m) => {
      const whole = await run(m, { timed: m.timed, states: m.states, past: 0 });
      for (const at of range(1, Math.min(m.K + 2, m.seq))) expectSame(await pieces(run, m, [at]), whole, options.tolerance, `cut at ${at}`);
    }),
    law("17: one norm group over the full width is the plain gated norm", async (m) => {
      const graph = normGraphs({ E: m.H * m.P })(false);
      const shape = [m.batch, m.seq, m.H * m.P];
      const { outputs } = await execute(graph, {
        symbols: { batch: m.batch, seq: m.seq },
        inputs: { y: m.random.tensor("f32", shape, -2, 2), z: m.random.tensor("f32", shape, -2, 2) },
        params: { norm: m.params["norm"]! },
        f64: options.f64 ?? false,
      });
      expectNear(outputs["grouped"]!.data, outputs["plain"]!.data, options.tolerance, "norms");
    }),
  ];
}

/** The gated norm, and the norm by groups with one group. */
const normGraphs = memo(({ E }: { readonly E: number }) => {
  const b: Builder = builder({});
  const { batch, seq } = symbols;
  const [y, z, weight] = [input("y", [batch, seq, E]), input("z", [batch, seq, E]), param("norm", [E])];
  const gated = b.binary("mul", y, makeNode("activation", [z], { fn: "silu" }));
  const grouped = makeNode("rmsNorm", [b.reshape(gated, [batch, seq, 1, E]), weight], { eps: 1e-5 });
  return {
    name: "norms",
    symbols: [batch, seq],
    outputs: [
      { name: "plain", value: makeNode("gatedRmsNorm", [y, z, weight], { eps: 1e-5 }) },
      { name: "grouped", value: b.reshape(grouped, [batch, seq, E]) },
    ],
    updates: [],
  };
});

// ---- attention over a cache -------------------------------------------------------------------------------------------------
interface AttentionSizes {
  readonly H: number;
  readonly Hkv: number;
  readonly D: number;
}

export function attentionGraph({ H, Hkv, D }: AttentionSizes, batch: Dim, seq: Dim): Graph {
  const b = builder({});
  const { past } = symbols;
  const headsFirst = (name: string): Node => b.transpose(input(name, [batch, seq, Hkv, D]), [0, 2, 1, 3]);
  const kv = ["k", "v"].map((name) => cached(name, headsFirst(name), [batch, Hkv, CAPACITY, D], 2));
  const seen = cachedIds(batch, seq);
  const operands = [input("q", [batch, seq, H, D]), kv[0]!.value, kv[1]!.value, seen.value];
  const y = makeNode("attention", operands, { scale: 1 / Math.sqrt(D), causal: true, ids: true, past });
  return {
    name: "attention",
    symbols: [batch, seq, past].filter((d) => typeof d !== "number"),
    outputs: [{ name: "y", value: y }],
    updates: [...kv, seen],
  };
}

const attentionGraphs = memo((sizes: AttentionSizes, step) => attentionGraph(sizes, symbols.batch, step ? 1 : symbols.seq));

interface AttentionLayer extends Layer, AttentionSizes {}

const attentions: fc.Arbitrary<AttentionLayer> = fc
  .record({
    seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
    batch: fc.integer({ min: 1, max: 3 }),
    seq: lengths,
    sizes: fc.constantFrom<AttentionSizes>({ H: 4, Hkv: 2, D: 8 }, { H: 3, Hkv: 1, D: 5 }, { H: 2, Hkv: 2, D: 1 }, { H: 1, Hkv: 1, D: 16 }),
  })
  .map(({ seed, batch, seq, sizes }) => {
    const { H, Hkv, D } = sizes;
    const rng = random(seed);
    const zero = (shape: number[]): Tensors[string] => tensor("f32", shape, new Float64Array(shape.reduce((a, d) => a * d, 1)));
    return {
      batch,
      seq,
      ...sizes,
      random: rng,
      graph: attentionGraphs(sizes),
      params: {},
      timed: {
        q: rng.tensor("f32", [batch, seq, H, D], -2, 2),
        k: rng.tensor("f32", [batch, seq, Hkv, D], -2, 2),
        v: rng.tensor("f32", [batch, seq, Hkv, D], -2, 2),
        ids: tensor("i32", [batch, seq], new Float64Array(batch * seq).fill(1)),
      },
      states: {
        k: zero([batch, Hkv, CAPACITY, D]),
        v: zero([batch, Hkv, CAPACITY, D]),
        seen: tensor("i32", [batch, CAPACITY], new Float64Array(batch * CAPACITY)),
      },
      [fc.toStringMethod]: () => JSON.stringify({ seed, batch, seq, sizes }),
    };
  });

export function attentionLaws(execute: Execute, options: LayerOptions): readonly Law[] {
  const run = runner(execute, options);
  const law = lawOf(attentions) as (name: string, check: (a: AttentionLayer) => Promise<void>) => Law;
  return [
    ...layerLaws(execute, attentions, options),
    law("8: shared key heads equal copies of them", async (a) => {
      const headOf = range(0, a.H).map((h) => Math.floor(h / (a.H / a.Hkv)));
      const copies = (t: Tensors[string]): Tensors[string] =>
        tensor("f32", [a.batch, a.seq, a.H, a.D], pickTime(t.data, a.batch * a.seq, a.Hkv, headOf));
      const cache = tensor("f32", [a.batch, a.H, CAPACITY, a.D], new Float64Array(a.batch * a.H * CAPACITY * a.D));
      const copied = { ...a, graph: attentionGraphs({ H: a.H, Hkv: a.H, D: a.D }) };
      const timed = { ...a.timed, k: copies(a.timed["k"]!), v: copies(a.timed["v"]!) };
      const r = await run(copied, { timed, states: { ...a.states, k: cache, v: cache }, past: 0 });
      const { y } = await run(a, { timed: a.timed, states: a.states, past: 0 });
      expectNear(r.y, y, options.tolerance, "outputs");
    }),
    law("16: a query that sees no key gives zeros", async (a) => {
      const timed = { ...a.timed, ids: withIds(a.timed["ids"]!, () => -1) };
      const { y } = await run(a, { timed, states: a.states, past: 0 });
      expectNear(y, y.map(() => 0), 0, "outputs"); // prettier-ignore
    }),
  ];
}
