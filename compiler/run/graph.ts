import { CulmError } from "../diagnostics.ts";
import type { Expr } from "../ir/expr.ts";
import { evaluateInt } from "../ir/expr.ts";
import { printType } from "../ir/graph-text.ts";
import type { Attrs, Dim, Graph, Node, Op, Packed, TensorType } from "../ir/graph.ts";
import { topological } from "../ir/graph.ts";
import * as composite from "./composites.ts";
import * as primitive from "./primitives.ts";
import * as sampling from "./sampling.ts";
import type { Tensor } from "./tensor.ts";
import { roundInPlace, sizeOf, zeros } from "./tensor.ts";

export type { Tensor } from "./tensor.ts";
export { tensor } from "./tensor.ts";

export type Tensors = Readonly<Record<string, Tensor>>;

/** Values for everything that a graph leaves open. Tensors are taken as they are: make them with `tensor`, which rounds to the dtype. */
export interface Bindings {
  readonly symbols: Readonly<Record<string, number>>;
  readonly inputs?: Tensors;
  readonly params?: Tensors;
  /** States not given are zero. */
  readonly states?: Tensors;
  /** Keep f32 values in double precision (the other dtypes still round), so that algebraic laws hold to 1e-12. */
  readonly f64?: boolean;
  /** Called with each operation's results, in the order of `topological`. */
  readonly observe?: (node: Node, results: readonly Tensor[]) => void;
}

export interface Results {
  readonly outputs: Tensors;
  /** Every state of the graph: the new value of those it updates, the old one of the others. */
  readonly states: Tensors;
}

/**
 * The meaning of a graph: every operation in double precision, its results rounded to their dtype. Slow and plain on purpose, yet fast enough to
 * run small models (`--backend interpret`).
 */
export function interpretGraph(graph: Graph, bindings: Bindings): Results {
  checkSymbols(graph, bindings.symbols);
  const order = topological(graph);
  const values = new Map<Node, readonly Tensor[]>();
  const states = new Map<string, Tensor>();
  const uses = countUses(graph, order);
  for (const n of order) {
    const results = interpretNode(n, n.inputs.flatMap((i) => values.get(i)!), bindings); // prettier-ignore
    values.set(n, results);
    if (n.op === "state") states.set(n.attrs.name, results[0]!);
    bindings.observe?.(n, results);
    for (const i of n.inputs) {
      const left = uses.get(i)! - 1;
      uses.set(i, left);
      if (left === 0) values.delete(i);
    }
  }
  const outputs = Object.fromEntries(graph.outputs.map((o) => [o.name, values.get(o.value)![0]!]));
  for (const u of graph.updates) states.set(u.state, values.get(u.value)![0]!);
  return { outputs, states: Object.fromEntries(states) };
}

/** How often each value is still needed, the graph's own results counting as uses, so that the rest can be dropped early. */
function countUses(graph: Graph, order: readonly Node[]): Map<Node, number> {
  const uses = new Map<Node, number>();
  const use = (n: Node): void => void uses.set(n, (uses.get(n) ?? 0) + 1);
  for (const n of order) n.inputs.forEach(use);
  for (const r of [...graph.outputs, ...graph.updates]) use(r.value);
  return uses;
}

function checkSymbols(graph: Graph, symbols: Readonly<Record<string, number>>): void {
  for (const s of graph.symbols) {
    const value = symbols[s.name];
    if (value === undefined || !Number.isInteger(value) || value < s.min || value > s.max)
      throw new CulmError({
        what: `graph ${graph.name}: ${value === undefined ? "no value" : "a wrong value"} for ${s.name}`,
        expected: `a whole number from ${s.min} to ${s.max}`,
        got: String(value),
        fix: `call it with ${s.name} in that range, or declare a wider range`,
      });
  }
}

function interpretNode(n: Node, inputs: readonly Tensor[], bindings: Bindings): readonly Tensor[] {
  const size = (d: Dim): number => (typeof d === "number" ? d : evaluateInt(d, bindings.symbols));
  const shapes = n.types.map((t) => t.shape.map(size));
  const call: Call = {
    types: n.types,
    shape: shapes[0]!,
    bindings,
    int: (e) => evaluateInt(e, bindings.symbols),
    error: (what, more) =>
      new CulmError({ what: n.name === "" ? what : `${n.op}: ${what}`, at: n.at, path: n.name === "" ? n.op : n.name, ...more }),
  };
  // one cell of the table fits one member of the union; TypeScript does not relate the two through `n.op`
  const results = (INTERPRET[n.op] as Interpret<Op>)(inputs, n.attrs, call);
  return results.map((data, i) => {
    const dtype = n.types[i]!.dtype;
    const shape = shapes[i]!;
    if (data.length !== sizeOf(shape))
      throw new Error(`${n.op} gave ${data.length} values for ${printType(n.types[i]!)} = [${shape.join(", ")}]`);
    if (!(bindings.f64 && dtype === "f32") && !UNROUNDED.has(n.op)) roundInPlace(data, dtype);
    return { dtype, shape, data };
  });
}

// ---- the table ------------------------------------------------------------------------------------------------------
interface Call {
  readonly types: readonly TensorType[];
  /** Shape of the (first) result. */
  readonly shape: readonly number[];
  readonly bindings: Bindings;
  int(e: Expr): number;
  error(what: string, more: { readonly expected?: string; readonly got?: string; readonly fix: string }): CulmError;
}

/** Gives the results' elements, not rounded. They may be an operand's own array only where the operation is in UNROUNDED. */
type Interpret<K extends Op> = (inputs: readonly Tensor[], attrs: Attrs[K], call: Call) => readonly Float64Array[];

/** Operations whose results are values that were rounded before; their arrays may be shared. */
const UNROUNDED: ReadonlySet<Op> = new Set<Op>(["input", "param", "state", "reshape", "get"]);

const INTERPRET: { readonly [K in Op]: Interpret<K> } = {
  input: (_, { name }, call) => [bound(call, "input", name, call.bindings.inputs)],
  param: (_, { name, packed }, call) => [
    packed && !call.bindings.params?.[name] ? stacked(call, packed) : bound(call, "param", name, call.bindings.params),
  ],
  state: (_, { name }, call) => [
    call.bindings.states?.[name] ? bound(call, "state", name, call.bindings.states) : zeros("f32", call.shape).data,
  ],
  literal: (_, { data }) => [Float64Array.from(data)],
  fill: (_, { value }, call) => [new Float64Array(sizeOf(call.shape)).fill(value)],
  iota: (_, { axis }, call) => [primitive.iota(call.shape, axis)],
  scalar: (_, { expr }, call) => [Float64Array.of(call.int(expr))],
  unary: ([x], { fn }) => [primitive.unary(x!, fn)],
  binary: ([a, b], { fn }) => [primitive.binary(a!, b!, fn)],
  select: ([cond, a, b]) => [primitive.select(cond!, a!, b!)],
  cast: ([x], { to }) => [primitive.cast(x!, to)],
  broadcast: ([x], { axes }, call) => [primitive.broadcast(x!, call.shape, axes)],
  reshape: ([x]) => [x!.data],
  transpose: ([x], { perm }) => [primitive.transpose(x!, perm)],
  slice: ([x], { axis, start }, call) => [primitive.slice(x!, call.shape, axis, inside(call, start, call.shape[axis]!, x!.shape[axis]!))],
  pad: ([x], { axis, low, value }, call) => {
    const out = new Float64Array(sizeOf(call.shape)).fill(value);
    primitive.place(out, call.shape, x!, axis, low);
    return [out];
  },
  concat: (parts, { axis }, call) => {
    const out = new Float64Array(sizeOf(call.shape));
    let start = 0;
    for (const p of parts) {
      primitive.place(out, call.shape, p, axis, start);
      start += p.shape[axis]!;
    }
    return [out];
  },
  reduce: ([x], attrs) => [primitive.reduce(x!, attrs)],
  scan: ([x], { axis }) => [primitive.scan(x!, axis)],
  gather: ([data, indices], _, call) => [found(call, primitive.gather(data!, indices!), "index", data!.shape[0]!)],
  update: ([target, value], { axis, start }, call) => {
    const out = target!.data.slice();
    primitive.place(out, target!.shape, value!, axis, inside(call, start, value!.shape[axis]!, target!.shape[axis]!));
    return [out];
  },
  matmul: ([a, b], { transB }) => [primitive.matmul(a!, b!, transB)],
  get: (results, { index }) => [results[index]!.data],
  activation: ([x], { fn }) => [composite.activation(x!, fn)],
  softmax: ([x], { axis }) => [composite.softmax(x!, axis)],
  rmsNorm: ([x, weight], { eps }) => [composite.rmsNorm(x!, null, weight!, eps)],
  gatedRmsNorm: ([x, gate, weight], { eps }) => [composite.rmsNorm(x!, gate!, weight!, eps)],
  rope: ([x, positions, cos, sin], { rotary }, call) => [
    found(call, composite.rope(x!, positions!, cos!, sin!, rotary), "position", cos!.shape[0]!),
  ],
  causalConv1d: (inputs, attrs, call) => {
    const [ids, ends] = inputs.slice(-3) as [Tensor, Tensor];
    const sequences = attrs.past ? { idAt: composite.idsFrom(ids, call.int(attrs.past)), ends } : null;
    return composite.causalConv1d(inputs[0]!, inputs[1]!, attrs.bias ? inputs[2]! : null, inputs.at(-1)!, attrs, sequences);
  },
  ssdScan: (inputs, attrs, call) =>
    composite.ssdScan(inputs, attrs, attrs.past ? composite.idsFrom(inputs[7]!, call.int(attrs.past)) : null),
  ssdReplay: (inputs, attrs, call) => composite.ssdReplay(inputs, attrs, inside(call, attrs.held, 1, inputs.at(-1)!.shape[1]!)),
  attention: ([q, k, v, ids], attrs, call) => [composite.attention(q!, k!, v!, ids ?? null, attrs, call.int(attrs.past))],
  crossEntropy: ([logits, labels], { ignoreIndex }, call) => [
    found(call, composite.crossEntropy(logits!, labels!, ignoreIndex), "label", logits!.shape[2]!),
  ],
  processLogits: ([logits, seen, settings]) => [sampling.processLogits(logits!, seen!, settings!)],
  sampleToken: ([scores, draw]) => [sampling.sampleToken(scores!, draw!)],
};

function bound(call: Call, kind: string, name: string, tensors: Tensors | undefined): Float64Array {
  const t = tensors?.[name];
  const type = call.types[0]!;
  const expected = `${printType(type)} = ${type.dtype}[${call.shape.join(", ")}]`;
  if (!t)
    throw call.error(`${kind} ${name} is not given`, {
      expected,
      fix: `bind it; bound are ${Object.keys(tensors ?? {}).join(", ") || "none"}`,
    });
  if (t.dtype !== type.dtype || t.shape.length !== call.shape.length || !t.shape.every((d, i) => d === call.shape[i]))
    throw call.error(`${kind} ${name} has the wrong type`, {
      expected,
      got: `${t.dtype}[${t.shape.join(", ")}]`,
      fix: "check the symbols and the tensor",
    });
  return t.data;
}

/** A packed weight is bound under its own name or as the checkpoint's tensors it is stacked from. Its layout is how memory holds it, not what it is. */
function stacked(call: Call, packed: Packed): Float64Array {
  const out = new Float64Array(sizeOf(call.shape));
  let at = 0;
  for (const { tensor: name } of packed.parts) {
    const part = call.bindings.params?.[name];
    if (!part || at + part.data.length > out.length)
      throw call.error(part ? `${packed.parts.map((p) => p.tensor).join(" + ")} have too many rows` : `param ${name} is not given`, {
        expected: `[${call.shape.join(", ")}] in all`,
        fix: "bind every part of the packed weight, with the rows that the packing counted on",
      });
    out.set(part.data, at);
    at += part.data.length;
  }
  return out;
}

function inside(call: Call, start: Expr, size: number, dim: number): number {
  const first = call.int(start);
  if (first < 0 || first + size > dim)
    throw call.error("outside the axis", {
      expected: `start and start + size between 0 and ${dim}`,
      got: `start ${first}, size ${size}`,
      fix: "the symbols' values ask for more than there is; a cache may be full",
    });
  return first;
}

function found(call: Call, result: Float64Array | { readonly outside: number }, what: string, count: number): Float64Array {
  if (result instanceof Float64Array) return result;
  throw call.error(`${what} ${result.outside} is outside the table`, {
    expected: `0 to ${count - 1}`,
    got: String(result.outside),
    fix: `check where the ${what} comes from`,
  });
}
