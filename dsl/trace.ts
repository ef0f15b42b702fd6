import { CulmError } from "../compiler/diagnostics.ts";
import type { Diagnosis, Site } from "../compiler/diagnostics.ts";
import type { Expr, Var } from "../compiler/ir/expr.ts";
import { intVar } from "../compiler/ir/expr.ts";
import type { Graph, Dim as GraphDim, Node } from "../compiler/ir/graph.ts";
import { callSite } from "./site.ts";
import type { AnyTensor, Dim, Float } from "./types.ts";

/** The least and greatest value of a run-time number, both included. */
export type Range = readonly [min: number, max: number];

export interface ModelOptions {
  /** What the axis names stand for: a size, or the range of a size known only at run time (`batch`, `seq`). */
  readonly dims: Readonly<Record<string, number | Range>>;
  /** Run-time numbers that are no sizes, such as the position at which a cache is written. */
  readonly symbols?: Readonly<Record<string, Range>>;
  /** Outputs that a call may do without, and the symbol from 0 to 1 that says whether it wants them; where it does not, what they hold is anything. */
  readonly optional?: Readonly<Record<string, string>>;
  /** How weights declared without a dtype are stored. They read as f32 in the model whatever this says. Default "f32". */
  readonly weights?: Float;
  /** Name in the checkpoint of the parameter at a dotted path. Default: the path itself. */
  readonly checkpointName?: (path: string) => string;
}

interface Trace {
  readonly model: string;
  readonly dims: ReadonlyMap<string, GraphDim>;
  readonly symbols: ReadonlyMap<string, Var>;
  readonly weights: Float;
  readonly checkpointName: (path: string) => string;
  /** Sources by kind and name: asking twice for a weight gives the same tensor (tied embeddings). */
  readonly sources: Map<string, AnyTensor>;
  readonly states: Map<string, { readonly at: Site | null; next: Node | null }>;
  path: string;
  /** Set while a function of the language runs, so that what it calls inside reports the author's line and its name. */
  site: Site | null | undefined;
  label: string;
}

let current: Trace | null = null;

/** The model being traced. */
export function trace(): Trace {
  if (current) return current;
  throw new CulmError({
    what: "an operation of the language was called outside a model",
    fix: "call it in the function given to model(name, options, build)",
  });
}

/** Throws `d` with the author's line and the module path filled in. */
export function fail(d: Omit<Diagnosis, "at" | "path">): never {
  const t = current;
  const path = !t ? "" : d.what.startsWith(`${t.label}:`) ? t.path : join(t.path, t.label);
  throw new CulmError({ at: t?.site ?? null, path, ...d });
}

export const join = (path: string, name: string): string => (path === "" ? name : name === "" ? path : `${path}.${name}`);

/**
 * Traces a model into a graph: runs `build` once, which declares inputs, parameters and states and returns the outputs by name. The graph's updates
 * are the states' new values.
 *
 * ```
 * const graph = model("mlp", { dims: { batch: [1, 8], hidden: 64, ffn: 256 } }, () => {
 *   const x = input("x", ["batch", "hidden"]);
 *   return { y: linear(silu(linear(x, "up", { out: "ffn" })), "down", { out: "hidden" }) };
 * });
 * ```
 * Throws CulmError, with the line of the model's source, for every mistake that the types could not see.
 */
export function model(name: string, options: ModelOptions, build: () => Readonly<Record<string, AnyTensor>>): Graph {
  if (current) throw new CulmError({ what: `model '${name}' is traced inside model '${current.model}'`, fix: "trace one after the other" });
  const symbols = new Map<string, Var>();
  const dims = new Map<string, GraphDim>();
  const declare = (key: string, range: Range, least: number): Var => {
    if (symbols.has(key)) throw new CulmError({ what: `model '${name}': '${key}' stands in dims and in symbols` });
    if (!range.every(Number.isInteger) || range[0] < least || range[1] < range[0])
      throw new CulmError({ what: `model '${name}': '${key}' has no range of integers from ${least}`, got: `[${range[0]}, ${range[1]}]` });
    const v = intVar(key, range[0], range[1]);
    symbols.set(key, v);
    return v;
  };
  for (const [key, size] of Object.entries(options.dims)) {
    if (typeof size !== "number") dims.set(key, declare(key, size, 1));
    else if (Number.isInteger(size) && size >= 1) dims.set(key, size);
    else throw new CulmError({ what: `model '${name}': dimension '${key}' is not a positive integer`, got: String(size) });
  }
  for (const [key, range] of Object.entries(options.symbols ?? {})) declare(key, range, 0);
  const t: Trace = {
    model: name,
    dims,
    symbols,
    weights: options.weights ?? "f32",
    checkpointName: options.checkpointName ?? ((path) => path),
    sources: new Map(),
    states: new Map(),
    path: "",
    site: undefined,
    label: "",
  };
  current = t;
  try {
    const given = build();
    for (const [key, symbol] of Object.entries(options.optional ?? {}))
      if (!given[key] || !symbols.has(symbol))
        throw new CulmError({
          what: `model '${name}': there is no output '${key}', or no symbol '${symbol}' that says whether it is wanted`,
        });
    const outputs = Object.entries(given).map(([key, value]) => {
      const symbol = options.optional?.[key];
      return { name: key, value: value.node, ...(symbol === undefined ? {} : { when: symbols.get(symbol)! }) };
    });
    const updates = [...t.states].map(([state, { at, next }]) => {
      if (next) return { state, value: next };
      throw new CulmError({
        at,
        path: state,
        what: "this state is declared but nothing updates it",
        fix: "give it to the operation that advances it",
      });
    });
    return { name, symbols: [...symbols.values()], outputs, updates };
  } finally {
    current = null;
  }
}

/** Runs `build` one module deeper: names of parameters, states and operations inside begin with `name.`. */
export function scope<T>(name: string, build: () => T): T {
  const t = trace();
  const before = t.path;
  t.path = join(before, name);
  try {
    return build();
  } finally {
    t.path = before;
  }
}

/**
 * Runs the body of `called`, a function of the language, so that everything in it reports the line on which the author called it. `label` is the
 * operation's own name below the module path.
 */
export function located<T>(called: (...args: never[]) => unknown, label: string, body: (t: Trace) => T): T {
  const t = trace();
  if (t.site !== undefined) return body(t);
  t.site = callSite(called);
  t.label = label;
  try {
    return body(t);
  } finally {
    t.site = undefined;
    t.label = "";
  }
}

/** A run-time number declared in `dims` or `symbols`, for positions in `slice`, `attention` and caches. */
export function symbol(name: string): Expr {
  return (
    trace().symbols.get(name) ??
    fail({ what: `'${name}' is not a run-time number of this model`, fix: `declare it: symbols: { ${name}: [0, ...] }` })
  );
}

/** The size that an axis stands for. A name that is not declared itself is read as a sum of products of names and numbers: "inner+2*groups*state". */
export function sizeOf(axis: Dim): GraphDim {
  if (typeof axis === "number") return Number.isInteger(axis) && axis >= 1 ? axis : fail({ what: `${axis} is not the size of an axis` });
  const declared = trace().dims.get(axis);
  if (declared !== undefined) return declared;
  if (/^\d+$/.test(axis)) return sizeOf(Number(axis));
  for (const [operator, combine] of OPERATORS) {
    if (!axis.includes(operator)) continue;
    return axis
      .split(operator)
      .map((part) => numberOf(part, axis))
      .reduce(combine);
  }
  const known = [...trace().dims.keys()].join(", ");
  return fail({
    what: `'${axis}' is not a dimension of model '${trace().model}'`,
    expected: `one of ${known}`,
    fix: `declare it: dims: { ${axis}: ... }`,
  });
}

const OPERATORS: readonly (readonly [string, (a: number, b: number) => number])[] = [
  ["+", (a, b) => a + b],
  ["*", (a, b) => a * b],
];

function numberOf(part: string, whole: string): number {
  const size = sizeOf(part);
  return typeof size === "number"
    ? size
    : fail({ what: `axis '${whole}': '${part}' is known only at run time and cannot be merged or added` });
}
