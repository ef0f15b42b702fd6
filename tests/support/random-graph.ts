import fc from "fast-check";
import type { Builder } from "../../compiler/graph/build.ts";
import { builder, shapeOf } from "../../compiler/graph/build.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import type { Expr, Var } from "../../compiler/ir/expr.ts";
import { i32, intVar } from "../../compiler/ir/expr.ts";
import { printGraph } from "../../compiler/ir/graph-text.ts";
import type { Dim, Graph, Node } from "../../compiler/ir/graph.ts";
import { topological, typeOf } from "../../compiler/ir/graph.ts";
import { makeSource } from "../../compiler/ir/ops.ts";
import type { Bindings, Tensor } from "../../compiler/run/graph.ts";
import { tensor } from "../../compiler/run/graph.ts";
import { STEPS } from "./random-steps.ts";
import type { Random } from "./values.ts";
import { random } from "./values.ts";

/** A graph and everything it leaves open. */
export interface GraphCase {
  readonly graph: Graph;
  readonly bindings: Required<Pick<Bindings, "symbols" | "inputs" | "params" | "states">>;
}

/** What a random graph grows from: plain data, so that fast-check shrinks it and prints it. */
export interface Recipe {
  /** Of the values, not of the graph. */
  readonly seed: number;
  readonly batch: number;
  readonly seq: number;
  readonly past: number;
  readonly channels: number;
  /** Which of the three are symbols of the graph; the others are built in as numbers. */
  readonly symbolic: { readonly batch: boolean; readonly seq: boolean; readonly past: boolean };
  readonly steps: readonly Step[];
}
export interface Step {
  readonly op: string;
  /** Read one after another by the step for its decisions; when they run out, zeros follow. */
  readonly choices: readonly number[];
}

export interface RecipeOptions {
  /**
   * Leave out operations that jump (floor, comparisons of floats, rounding to bf16, argmax): where results differ by a rounding error before
   * them, they may differ by anything after.
   */
  readonly smooth?: boolean;
  readonly maxSteps?: number;
  /** One position a row, known when the graph is built: a decode step. */
  readonly single?: boolean;
  /** Only these steps (names of STEPS). */
  readonly only?: readonly string[];
}

export const MAX = { batch: 4, seq: 13, past: 6 } as const;

export function recipes({ smooth = false, maxSteps = 10, single = false, only }: RecipeOptions = {}): fc.Arbitrary<Recipe> {
  const names = Object.keys(STEPS).filter((n) => (!smooth || STEPS[n]!.smooth) && (!only || only.includes(n)));
  return fc.record({
    seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
    batch: single ? fc.constantFrom(1, 2, 3, 11) : fc.integer({ min: 1, max: MAX.batch }),
    seq: single ? fc.constant(1) : fc.constantFrom(1, 2, 3, 5, 8, 11, MAX.seq),
    past: fc.integer({ min: 0, max: MAX.past }),
    channels: fc.constantFrom(1, 2, 3, 4, 6, 7),
    symbolic: fc.record({ batch: fc.boolean(), seq: single ? fc.constant(false) : fc.boolean(), past: fc.boolean() }),
    steps: fc.array(fc.record({ op: fc.constantFrom(...names), choices: fc.array(fc.nat(59), { minLength: 8, maxLength: 8 }) }), {
      minLength: 1,
      maxLength: maxSteps,
    }),
  });
}

/** Random well-typed graphs with values for their sources; a counterexample prints as its text. */
export const graphCases = (options: RecipeOptions = {}): fc.Arbitrary<GraphCase> =>
  recipes(options).map((r) => {
    const c = buildCase(r);
    return { ...c, [fc.toStringMethod]: () => `${JSON.stringify(r)}\n${printGraph(c.graph)}${JSON.stringify(c.bindings.symbols)}` };
  });

/** Graphs of one position a row in which convolutions, or caches and attention, read columns of a product. */
const stepsWith = (op: string): fc.Arbitrary<GraphCase> =>
  graphCases({ smooth: true, single: true, maxSteps: 4, only: [op, "rmsNorm", "activation"] });
export const convSteps = stepsWith("splitConv");
export const headsSteps = stepsWith("splitHeads");

/** A graph while it grows. Steps add operations to it and are handed earlier results. */
export interface Growth {
  readonly b: Builder;
  readonly batch: Dim;
  readonly seq: Dim;
  readonly past: Expr;
  readonly channels: number;
  /** f32 nodes of any shape. */
  readonly pool: Node[];
  readonly random: Random;
  /** Whether rounding to a storage type would be a jump that the recipe excludes is the step's business; this only decides. */
  decide(options: number): number;
  /** One of the pool, a late one by preference of shrinking. */
  any(fits?: (n: Node) => boolean): Node | null;
  /** A [batch, seq, channels] node. */
  hidden(): Node;
  /** `hidden` times a new weight: [batch, seq, ...rest]. */
  projected(...rest: number[]): Node;
  /** A small size, primes and 1 among them. */
  size(): number;
  param(shape: readonly number[], low: number, high: number, dtype?: DType): Node;
  input(shape: readonly Dim[], low: number, high: number, dtype?: DType): Node;
  /** An i32 input [rows, length] with the numbers that `make` gives. */
  given(shape: readonly [Dim, Dim], make: (rows: number, length: number) => Int32Array): Node;
  state(shape: readonly Dim[], dtype?: DType, low?: number, high?: number): Node;
  update(state: Node, value: Node): void;
  /** How many elements a shape has with this case's symbols. */
  elements(shape: readonly Dim[]): number;
}

/** Larger tensors than this are not made: the tests should try many graphs, not large ones. */
const MAX_ELEMENTS = 4096;
const SIZES = [1, 2, 3, 4, 5, 7];

export function buildCase(recipe: Recipe): GraphCase {
  const symbols: Var[] = [];
  const values: Record<string, number> = {};
  const symbol = (name: "batch" | "seq" | "past", min: number): Var | number => {
    if (!recipe.symbolic[name]) return recipe[name];
    const v = intVar(name, min, Math.max(MAX[name], recipe[name]));
    symbols.push(v);
    values[name] = recipe[name];
    return v;
  };
  const batch = symbol("batch", 1);
  const seq = symbol("seq", 1);
  const past = symbol("past", 0);
  const rng = random(recipe.seed);
  const bound = { inputs: {}, params: {}, states: {} } as Record<"inputs" | "params" | "states", Record<string, Tensor>>;
  const updates: { state: string; value: Node }[] = [];
  const sizeOfDim = (d: Dim): number => (typeof d === "number" ? d : values[d.name]!);
  let choices: readonly number[] = [];
  let next = 0;

  const source = (
    op: "input" | "param" | "state",
    kind: keyof typeof bound,
    type: { dtype: DType; shape: readonly Dim[] },
    low: number,
    high: number,
  ): Node => {
    const name = `${op}${Object.keys(bound[kind]).length}`;
    bound[kind][name] = rng.tensor(type.dtype, type.shape.map(sizeOfDim), low, high);
    return op === "param" ? makeSource(op, type, { name, packed: null }) : makeSource(op, type, { name });
  };
  const g: Growth = {
    b: builder({}),
    batch,
    seq,
    past: typeof past === "number" ? i32(past) : past,
    channels: recipe.channels,
    pool: [],
    random: rng,
    decide: (options) => (choices[next++] ?? 0) % options,
    any: (fits = () => true) => {
      const fitting = g.pool.filter(fits);
      return fitting.length === 0 ? null : fitting[fitting.length - 1 - g.decide(fitting.length)]!;
    },
    hidden: () => g.any((n) => sameShapes(shapeOf(n), [batch, seq, recipe.channels]))!,
    projected: (...rest) => {
      const n = rest.reduce((a, c) => a * c, 1);
      const bound = 1.5 / Math.sqrt(recipe.channels);
      const dtype = (["f32", "bf16", "f16"] as const)[g.decide(3)]!;
      return g.b.reshape(g.b.matmul(g.hidden(), g.param([n, recipe.channels], -bound, bound, dtype), true), [batch, seq, ...rest]);
    },
    size: () => SIZES[g.decide(SIZES.length)]!,
    param: (shape, low, high, dtype = "f32") => source("param", "params", { dtype, shape }, low, high),
    input: (shape, low, high, dtype = "f32") => source("input", "inputs", { dtype, shape }, low, high),
    given: (shape, make) => {
      const node = source("input", "inputs", { dtype: "i32", shape }, 0, 0);
      const { name } = node.attrs as { readonly name: string };
      const [rows, length] = shape.map(sizeOfDim) as [number, number];
      bound.inputs[name] = tensor("i32", [rows, length], make(rows, length));
      return node;
    },
    state: (shape, dtype = "f32", low = -1, high = 1) => source("state", "states", { dtype, shape }, low, high),
    update: (state, value) => {
      updates.push({ state: (state.attrs as { readonly name: string }).name, value });
    },
    elements: (shape) => shape.reduce<number>((n, d) => n * sizeOfDim(d), 1),
  };
  g.pool.push(g.input([batch, seq, recipe.channels], -2, 2));
  const first = g.pool[0]!;
  const outputs: Node[] = [];
  for (const step of recipe.steps) {
    choices = step.choices;
    next = 0;
    const made = STEPS[step.op]!.make(g);
    if (!made || g.elements(shapeOf(made)) > MAX_ELEMENTS) continue;
    if (typeOf(made).dtype === "f32") g.pool.push(made);
    else outputs.push(made);
  }
  const used = new Set(topological(graphOf("all", symbols, [...g.pool, ...outputs], updates)).flatMap((n) => n.inputs));
  outputs.push(...g.pool.filter((n) => !used.has(n) && n !== first));
  // an inner value that is also a result, and never a graph without results
  outputs.push(g.pool[1] && !outputs.includes(g.pool[1]) ? g.pool[1] : g.b.unary("neg", first));
  return { graph: graphOf("random", symbols, outputs, updates), bindings: { symbols: values, ...bound } };
}

const sameShapes = (a: readonly Dim[], b: readonly Dim[]): boolean => a.length === b.length && a.every((d, i) => d === b[i]);

const graphOf = (name: string, symbols: readonly Var[], outputs: readonly Node[], updates: Graph["updates"]): Graph => ({
  name,
  symbols,
  outputs: outputs.map((value, i) => ({ name: `out${i}`, value })),
  updates,
});
