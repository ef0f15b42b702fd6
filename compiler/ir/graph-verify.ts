import { CulmError } from "../diagnostics.ts";
import type { Expr, Var } from "./expr.ts";
import { walk } from "./expr.ts";
import { printType, printTypes } from "./graph-text.ts";
import type { Graph, Node, TensorType } from "./graph.ts";
import { topological, typeOf } from "./graph.ts";
import { sameType } from "./infer.ts";
import { inferTypes, isDeclared } from "./ops.ts";

/**
 * Checks everything about a graph that its types cannot say: that each node has the types its operands give, that tuples are only taken apart, that
 * names mean one thing, that states are replaced by values like them, that every symbol is declared. Throws at the first fault. Run after each
 * pass in tests and with CHECK=1: what it finds is then a mistake of that pass.
 */
export function verify(graph: Graph): void {
  const order = topological(graph);
  const symbols = new Set<Expr>(graph.symbols);
  unique(
    graph.symbols.map((s) => s.name),
    "symbol",
  );
  for (const n of order) {
    verifyTypes(n);
    verifySymbols(n, symbols);
  }
  const states = verifyNames(order);
  unique(
    graph.outputs.map((o) => o.name),
    "output",
  );
  unique(
    graph.updates.map((u) => u.state),
    "state update",
  );
  for (const { name, value, when } of graph.outputs) {
    single(value, `output ${name}`);
    if (when && !(symbols.has(when) && when.min === 0 && when.max === 1))
      throw new CulmError({
        what: `output ${name} is wanted where ${when.name} is 1`,
        expected: "a symbol of the graph from 0 to 1",
        got: `${when.min} to ${when.max}`,
      });
  }
  for (const { state, value } of graph.updates) {
    single(value, `update of state ${state}`);
    const type = states.get(state);
    if (!type)
      throw new CulmError({
        what: `the graph updates state ${state} but never reads it`,
        fix: "read the state, or make it an output: its type is not known otherwise",
      });
    if (!sameType(type, typeOf(value)))
      throw fault(value, `state ${state} is replaced by a value of another type`, printType(type), printType(typeOf(value)));
  }
}

const fault = (n: Node, what: string, expected: string, got: string): CulmError =>
  new CulmError({ what: n.name === "" ? what : `${n.op}: ${what}`, at: n.at, path: n.name === "" ? n.op : n.name, expected, got });

function verifyTypes(n: Node): void {
  const types = inferTypes(n.op, n.inputs, n.attrs as never, isDeclared(n) ? typeOf(n) : null, { at: n.at, name: n.name });
  if (types.length !== n.types.length || !types.every((t, i) => sameType(t, n.types[i]!)))
    throw fault(n, "the node's type is not what its operands give", printTypes(types), printTypes(n.types));
}

function verifySymbols(n: Node, declared: ReadonlySet<Expr>): void {
  const check = (v: Var): void => {
    if (!declared.has(v))
      throw fault(
        n,
        `symbol ${v.name} in ${v.min}..${v.max} is not declared by the graph`,
        [...declared].map((s) => (s as Var).name).join(", "),
        v.name,
      );
  };
  for (const d of n.types.flatMap((t) => t.shape)) if (typeof d !== "number") check(d);
  for (const e of expressionsOf(n))
    walk(e, (x) => {
      if (x.op === "var") check(x);
      else if (x.op === "load" || x.op === "elem" || x.op === "reg" || x.op === "shuffle")
        throw fault(n, "an expression over symbols reads memory", "constants, symbols and arithmetic", x.op);
    });
}

/** The expressions over symbols among an operation's attributes. */
function expressionsOf(n: Node): Expr[] {
  switch (n.op) {
    case "scalar":
      return [n.attrs.expr];
    case "slice":
    case "update":
      return [n.attrs.start];
    case "attention":
      return [n.attrs.past];
    case "ssdReplay":
      return [n.attrs.held];
    case "ssdScan":
    case "causalConv1d":
      return n.attrs.past ? [n.attrs.past] : [];
    default:
      return [];
  }
}

/** A name stands for one buffer, so two nodes may not share it; equal literals may. Gives the types of the states. */
function verifyNames(order: readonly Node[]): Map<string, TensorType> {
  const states = new Map<string, TensorType>();
  const seen = new Map<string, Node>();
  for (const n of order) {
    if (n.op !== "input" && n.op !== "param" && n.op !== "state" && n.op !== "literal") continue;
    const key = `${n.op} ${n.attrs.name}`;
    const other = seen.get(key);
    const sameData = other?.op === "literal" && n.op === "literal" && other.attrs.data === n.attrs.data;
    if (other && !sameData)
      throw fault(n, `two nodes are called ${key}`, "one node for each name", `${printType(typeOf(other))} and ${printType(typeOf(n))}`);
    seen.set(key, n);
    if (n.op === "state") states.set(n.attrs.name, typeOf(n));
  }
  return states;
}

function unique(names: readonly string[], what: string): void {
  const twice = names.find((n, i) => names.indexOf(n) !== i);
  if (twice !== undefined) throw new CulmError({ what: `there are two ${what}s called ${twice}`, fix: "give them different names" });
}

function single(value: Node, what: string): void {
  if (value.types.length !== 1)
    throw fault(value, `${what} is the tuple of all results of ${value.op}`, "one result", printTypes(value.types));
}
