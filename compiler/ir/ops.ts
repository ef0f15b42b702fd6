import type { Site } from "../diagnostics.ts";
import { CulmError, printSite } from "../diagnostics.ts";
import { printTypes } from "./graph-text.ts";
import type { Attrs, Node, NodeOf, Op, TensorType } from "./graph.ts";
import { typeOf } from "./graph.ts";
import * as composite from "./infer-composites.ts";
import type { Infer, Types } from "./infer.ts";
import * as rule from "./infer.ts";

/**
 * The table of operations. A row says what an operation's operands are called (which is also how many there are), how its result types follow from
 * them, and of which kind it is. An IR imports nothing but itself, so the other columns are tables of their own, in which a missing cell is a
 * compile error too: `INTERPRET` (run/graph.ts) has a cell for every operation, `DECOMPOSE` (graph/decompose.ts) one for every composite.
 */
export interface Row<K extends Op> {
  /** `declared`: a source whose type its maker states. `composite`: has a decomposition into the others. */
  readonly kind: "declared" | "primitive" | "composite";
  /** Names of the operands, in order. `given` is how many there are, for an operation that takes any number. */
  readonly operands: (attrs: Attrs[K], given: number) => readonly string[];
  /** Result types, or throws `ctx.error(...)`. Operands are as many as `operands` says. */
  readonly infer: (inputs: Types, attrs: Attrs[K], ctx: Infer) => Types;
}

const named =
  (...names: readonly string[]) =>
  (): readonly string[] =>
    names;

export const OPS = {
  input: { kind: "declared", operands: named(), infer: rule.inferDeclared },
  param: { kind: "declared", operands: named(), infer: rule.inferDeclared },
  state: { kind: "declared", operands: named(), infer: rule.inferDeclared },
  literal: { kind: "declared", operands: named(), infer: rule.inferLiteral },
  fill: { kind: "declared", operands: named(), infer: rule.inferDeclared },
  iota: { kind: "declared", operands: named(), infer: rule.inferIota },
  scalar: { kind: "primitive", operands: named(), infer: rule.inferScalar },
  unary: { kind: "primitive", operands: named("x"), infer: rule.inferUnary },
  binary: { kind: "primitive", operands: named("a", "b"), infer: rule.inferBinary },
  select: { kind: "primitive", operands: named("cond", "a", "b"), infer: rule.inferSelect },
  cast: { kind: "primitive", operands: named("x"), infer: ([x], { to }) => [{ dtype: to, shape: x!.shape }] },
  broadcast: { kind: "primitive", operands: named("x"), infer: rule.inferBroadcast },
  reshape: { kind: "primitive", operands: named("x"), infer: rule.inferReshape },
  transpose: { kind: "primitive", operands: named("x"), infer: rule.inferTranspose },
  slice: { kind: "primitive", operands: named("x"), infer: rule.inferSlice },
  pad: { kind: "primitive", operands: named("x"), infer: rule.inferPad },
  concat: {
    kind: "primitive",
    operands: (_, given) => Array.from({ length: Math.max(1, given) }, (__, i) => `part${i}`),
    infer: rule.inferConcat,
  },
  reduce: { kind: "primitive", operands: named("x"), infer: rule.inferReduce },
  scan: { kind: "primitive", operands: named("x"), infer: rule.inferScan },
  gather: { kind: "primitive", operands: named("data", "indices"), infer: rule.inferGather },
  update: { kind: "primitive", operands: named("target", "value"), infer: rule.inferUpdate },
  matmul: { kind: "primitive", operands: named("a", "b"), infer: rule.inferMatmul },
  // `infer` sees the types of all results of the operand: `get` is the one operation that takes a tuple
  get: {
    kind: "primitive",
    operands: named("tuple"),
    infer: (results, { index }, ctx) => {
      const t = results[index];
      if (results.length === 1) throw ctx.error("the operand has one result", { fix: "use the operand itself" });
      if (t) return [t];
      throw ctx.error(`there is no result ${index}`, {
        expected: `0 to ${results.length - 1}`,
        got: String(index),
        fix: "name a result that the operation has",
      });
    },
  },
  activation: { kind: "composite", operands: named("x"), infer: composite.inferActivation },
  softmax: { kind: "composite", operands: named("x"), infer: composite.inferSoftmax },
  rmsNorm: { kind: "composite", operands: named("x", "weight"), infer: composite.inferRmsNorm },
  gatedRmsNorm: { kind: "composite", operands: named("x", "gate", "weight"), infer: composite.inferGatedRmsNorm },
  rope: { kind: "composite", operands: named("x", "positions", "cos", "sin"), infer: composite.inferRope },
  causalConv1d: {
    kind: "composite",
    operands: ({ bias, past }) => ["x", "weight", ...(bias ? ["bias"] : []), ...(past ? ["ids", "ends"] : []), "state"],
    infer: composite.inferCausalConv1d,
  },
  ssdScan: {
    kind: "composite",
    operands: ({ past }) => ["x", "dt", "A", "B", "C", "D", "dtBias", ...(past ? ["ids"] : []), "state"],
    infer: composite.inferSsdScan,
  },
  ssdReplay: {
    kind: "composite",
    operands: named("x", "dt", "A", "B", "C", "D", "dtBias", "state", "xs", "Bs", "dts"),
    infer: composite.inferSsdReplay,
  },
  attention: { kind: "composite", operands: ({ ids }) => ["q", "k", "v", ...(ids ? ["ids"] : [])], infer: composite.inferAttention },
  crossEntropy: { kind: "composite", operands: named("logits", "labels"), infer: composite.inferCrossEntropy },
  processLogits: { kind: "composite", operands: named("logits", "seen", "settings"), infer: composite.inferProcessLogits },
  sampleToken: { kind: "composite", operands: named("scores", "draw"), infer: composite.inferSampleToken },
} as const satisfies { readonly [K in Op]: Row<K> };

type OfKind<Kind> = { [K in Op]: (typeof OPS)[K]["kind"] extends Kind ? K : never }[Op];
/** Sources whose type is stated by whoever makes them. */
export type Declared = OfKind<"declared">;
/** Operations whose meaning is their decomposition. */
export type Composite = OfKind<"composite">;

export const isComposite = (n: Node): n is NodeOf<Composite> => OPS[n.op].kind === "composite";
export const isDeclared = (n: Node): n is NodeOf<Declared> => OPS[n.op].kind === "declared";

// ---- nodes ----------------------------------------------------------------------------------------------------------
/** Where an operation stands: its call site and its dotted path (errors, profiles). */
export interface Place {
  readonly at?: Site | null;
  readonly name?: string;
}

/** Makes an operation; its types follow from its operands, and a mistake is reported with the place, the operands and what to do. */
export function makeNode<K extends Exclude<Op, Declared>>(op: K, inputs: readonly Node[], attrs: Attrs[K], place: Place = {}): NodeOf<K> {
  return build(op, inputs, attrs, null, place);
}

/** Makes a source of the type stated. */
export function makeSource<K extends Declared>(op: K, type: TensorType, attrs: Attrs[K], place: Place = {}): NodeOf<K> {
  return build(op, [], attrs, type, place);
}

function build<K extends Op>(op: K, inputs: readonly Node[], attrs: Attrs[K], declared: TensorType | null, place: Place): NodeOf<K> {
  const at = place.at ?? null;
  const name = place.name ?? "";
  const types = inferTypes(op, inputs, attrs, declared, { at, name });
  // one object of the union's member for `op`; TypeScript does not relate a generic key to the member it selects
  return { op, inputs, attrs, types, at, name } as unknown as NodeOf<K>;
}

/** What `op` gives for these operands. `makeNode` uses it, and `verify` compares a node with it. */
export function inferTypes<K extends Op>(
  op: K,
  inputs: readonly Node[],
  attrs: Attrs[K],
  declared: TensorType | null,
  place: Required<Place>,
): Types {
  const row: Row<K> = (OPS as { readonly [J in Op]: Row<J> })[op];
  const labels = row.operands(attrs, inputs.length);
  const error: Infer["error"] = (what, more) =>
    new CulmError({
      what: place.name === "" ? what : `${op}: ${what}`,
      at: place.at,
      path: place.name === "" ? op : place.name,
      operands: inputs.map((n, i) => ({ label: labels[i] ?? `operand ${i}`, is: printTypes(n.types), from: originOf(n) })),
      ...more,
    });
  if (labels.length !== inputs.length)
    throw error("wrong number of operands", {
      expected: `${labels.length} (${labels.join(", ")})`,
      got: String(inputs.length),
      fix: "give the operands that the attributes ask for",
    });
  const tuple = op === "get" ? undefined : inputs.findIndex((n) => n.types.length > 1);
  if (tuple !== undefined && tuple >= 0)
    throw error(`${labels[tuple]!} is the tuple of all results of ${inputs[tuple]!.op}`, { fix: "take one result with get" });
  const types = op === "get" ? inputs[0]!.types : inputs.map(typeOf);
  return row.infer(types, attrs, { declared, error });
}

/** Where a value came from, for a message: "param model.norm.weight", "rmsNorm at model.ts:41:10 (layers.0.norm)". */
export function originOf(n: Node): string {
  switch (n.op) {
    case "input":
    case "param":
    case "state":
    case "literal":
      return `${n.op} ${n.attrs.name}`;
    case "get":
      return `result ${n.attrs.index} of ${originOf(n.inputs[0]!)}`;
    default:
      return `from ${n.op}${n.at ? ` at ${printSite(n.at)}` : ""}${n.name === "" ? "" : ` (${n.name})`}`;
  }
}
