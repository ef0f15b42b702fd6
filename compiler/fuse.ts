import type { Caps } from "./backend.ts";
import type { DType } from "./ir/dtype.ts";
import type { Dim, Graph, Node, NodeOf } from "./ir/graph.ts";
import { topological, typeOf } from "./ir/graph.ts";
import type { BufferInfo, KernelPlan } from "./plan.ts";
import { dimMax, elementCount, maxOf } from "./plan.ts";
import { isAnchor, isLinear, isMainResult, isPointwise, isSource, isTuple, statesOf } from "./decisions.ts";
import type { Decisions } from "./decisions.ts";
import { joinsOf } from "./joins.ts";
import { kernelsOf } from "./lowering.ts";
import { copyKernel } from "./lowering/pointwise.ts";
import { addedNorm, mergeRows, tooWide } from "./merge.ts";
import { productsInParts, storedForParts } from "./parts.ts";
import type { Cutting } from "./parts.ts";
import { partsOfProduct, streams } from "./templates/stream-tiles.ts";
import { FusionMismatch, cost } from "./values.ts";

/**
 * Fusion: decides which nodes of the graph are stored, and groups every other node into the kernel that stores its reader. A forward walk gives
 * each node one of four states: stored; a pending expression (recomputed where it is read); the result of a kernel being built (an "anchor":
 * matmul, attention, scan, convolution, norm, reduction) that flows on into the pointwise operations after it (its epilogue); or a norm that
 * becomes the prologue of the GEMV that reads it.
 */
export interface Fused {
  readonly kernels: readonly KernelPlan[];
  readonly outputs: readonly BufferInfo[];
}

/** Rows up to which a product with weights of a type is a GEMV: its block recomputes the whole left operand, so a norm folds into it. */
export const gemvRows = (dtype: DType, k: number, caps: Caps): number => (streams({ dtype, k }, caps) ? 4 : 8);

/** Rows up to which a product that does not stream is computed in pairs of columns: twice as many do not fit in a GEMV's registers. */
const PAIRED_ROWS = 4;

const rowsOf = (n: Node): number => maxOf(elementCount(typeOf(n).shape.slice(0, -1)));

/** Splits a graph into kernels. Every operation without a kernel or expression of its own has been decomposed before. */
export function fuse(graph: Graph, caps: Caps): Fused {
  const forced = new Set<Node>();
  for (let attempt = 0; attempt < 200; attempt++) {
    try {
      return tryFuse(graph, caps, forced);
    } catch (e) {
      // An epilogue or expression that cannot be fused after all is stored instead, and the walk starts again: rare, and always ends.
      if (!(e instanceof FusionMismatch) || forced.has(e.node)) throw e;
      forced.add(e.node);
    }
  }
  throw new Error(`fusion of ${graph.name} did not settle after 200 attempts`);
}

function tryFuse(graph: Graph, caps: Caps, forced: ReadonlySet<Node>): Fused {
  const order = topological(graph);
  const users = new Map<Node, Node[]>();
  for (const n of order) for (const i of n.inputs) users.set(i, [...(users.get(i) ?? []), n]);
  const roots = new Set<Node>([...graph.outputs.map((o) => o.value), ...graph.updates.map((u) => u.value)]);
  const isRoot = (n: Node): boolean => roots.has(n);
  const usersOf = (n: Node): readonly Node[] => [...new Set(users.get(n) ?? [])];

  const buffers = new Map<Node, BufferInfo>();
  for (const n of order) if (isSource(n)) buffers.set(n, sourceBuffer(n));

  const prologues = new Set<Node>();
  for (const n of order) {
    if ((n.op !== "rmsNorm" && n.op !== "gatedRmsNorm") || roots.has(n) || forced.has(n)) continue;
    const readers = usersOf(n);
    if (readers.length > 0 && readers.every((u) => isLinear(u) && u.inputs[0] === n && rowsOf(u) <= mostGemvRows(u, caps)))
      prologues.add(n);
  }

  const owner = new Map<Node, Node>(); // pointwise node -> the anchor whose epilogue it belongs to
  const sinks = new Map<Node, Node>();
  const inPlace = new Map<Node, BufferInfo>(); // update nodes and pointwise state updates that write their state directly
  const stateOf = new Map<Node, BufferInfo[]>();
  const stored = new Set<Node>([...roots, ...forced]);
  for (const n of order) {
    if (!isAnchor(n) || prologues.has(n)) continue;
    let sink = n;
    while (!stored.has(sink)) {
      const readers = usersOf(sink);
      const next = readers[0];
      if (readers.length !== 1 || !next || !isPointwise(next) || typeOf(next).dtype === "bool") break;
      const other = owner.get(next);
      if (other) {
        // the two halves of a gated MLP: same left operand, same shape, one pointwise operation that joins them
        if (isLinear(n) && isLinear(other) && sameGemm(n, other)) sink = sinks.get(other)!;
        break;
      }
      sink = next;
      owner.set(sink, n);
    }
    sinks.set(n, sink);
    stored.add(sink);
  }
  const isStored = (n: Node): boolean => stored.has(n) || buffers.has(n);
  for (const n of order) {
    if (isStored(n) || isTuple(n) || prologues.has(n) || owner.has(n) || n.op === "fill" || n.op === "scalar" || n.op === "iota") continue;
    if (usersOf(n).length > 1 && cost(n, isStored) > 3) stored.add(n);
  }

  // state: in place when the new value is an update of the state itself, or what a scan or convolution makes of it
  const copies: { from: Node; to: BufferInfo }[] = [];
  const stateBuffers = new Map<string, BufferInfo>();
  for (const n of order) if (n.op === "state") stateBuffers.set(n.attrs.name, buffers.get(n)!);
  for (const u of graph.updates) {
    const state = order.find((n) => n.op === "state" && n.attrs.name === u.state);
    if (!state) throw new Error(`${graph.name}: state ${u.state} is updated but never read`);
    const buffer = stateBuffers.get(u.state)!;
    const readers = usersOf(state);
    const v = u.value;
    if (v.op === "update" && v.inputs[0] === state && readers.length === 1) {
      inPlace.set(v, buffer);
      buffers.set(v, buffer);
    } else if (isStateResult(v) && statesOf(v.inputs[0]!)[v.attrs.index - 1] === state && readers.length === 1) {
      const replaced = stateOf.get(v.inputs[0]!) ?? [];
      replaced[v.attrs.index - 1] = buffer;
      stateOf.set(v.inputs[0]!, replaced);
      buffers.set(v, buffer);
    } else if (v !== state) copies.push({ from: v, to: buffer });
  }

  const outputs: BufferInfo[] = [];
  const outputCopies: { from: Node; to: BufferInfo }[] = [];
  for (const o of graph.outputs) {
    const type = typeOf(o.value);
    const buffer: BufferInfo = { kind: "output", name: o.name, dtype: type.dtype, shape: type.shape, panel: 0 };
    outputs.push(buffer);
    if (buffers.has(o.value)) outputCopies.push({ from: o.value, to: buffer });
    else buffers.set(o.value, buffer);
  }
  let temporaries = 0;
  const arena = (n: Node): BufferInfo => ({
    kind: "arena",
    name: `t${temporaries++}`,
    dtype: roundedType(n, caps) ?? operandType(n, usersOf(n), isRoot(n), caps) ?? typeOf(n).dtype,
    shape: typeOf(n).shape,
    panel: 0,
  });
  for (const n of order) if (stored.has(n) && !buffers.has(n)) buffers.set(n, arena(n));

  const joins = joinsOf({
    order,
    sinks,
    usersOf,
    isRoot,
    wantedWhen: (n) => {
      const [output, ...others] = graph.outputs.filter(({ value }) => value === n);
      return others.length === 0 && !graph.updates.some(({ value }) => value === n) ? (output?.when ?? null) : null;
    },
    isStored: (n) => stored.has(n),
    inPlace: (n) => stateOf.has(n) || inPlace.has(n),
    isApart: (n) => forced.has(n),
    inPairs: (n) => caps.panel === 0 && (rowsOf(n) <= PAIRED_ROWS || isWholeStream(n, caps)),
    inShares: (n) => isWholeStream(n, caps),
  });
  const withOutput = new Set(order.flatMap((n) => (isMainResult(n) ? n.inputs : [])));
  const cutting: Cutting = { caps, sinks, joins, usersOf, isRoot, storedType: (n) => buffers.get(n)?.dtype ?? null };
  const parts = productsInParts(cutting);
  for (const [product, buffer] of parts) {
    const operands = storedForParts(cutting, product);
    if (operands) buffers.set(product, buffer);
    for (const n of operands ?? []) {
      stored.add(n);
      buffers.set(n, arena(n));
    }
  }

  // a scan or convolution whose state is not the session's own works on a copy of it
  const kernels: KernelPlan[] = [];
  const joined = new Set<Node>();
  const decisions: Decisions = { caps, graph, buffers, sinks, prologues, joins, parts, stateOf };
  const anchorsOf = new Map<Node, Node[]>();
  for (const [anchor, sink] of sinks) anchorsOf.set(sink, [...(anchorsOf.get(sink) ?? []), anchor]);
  for (const n of order) {
    if (isTuple(n)) {
      const replaced = stateOf.get(n) ?? [];
      for (const [i, initial] of statesOf(n).entries()) {
        if (replaced[i]) continue;
        const result = order.find((g) => g.op === "get" && g.attrs.index === i + 1 && g.inputs[0] === n);
        const copy = (result && buffers.get(result)) ?? arena(initial);
        if (result) buffers.set(result, copy);
        replaced[i] = copy;
        kernels.push(copyKernel(decisions, initial, copy));
      }
      stateOf.set(n, replaced);
      // of one whose output nobody asks for, the new states are all there is
      if (!withOutput.has(n)) kernels.push(...kernelsOf(decisions, n, []));
    }
    if (!stored.has(n) && !inPlace.has(n)) continue;
    if (isSource(n) || joined.has(n) || isStateResult(n)) continue;
    const withInput = addedNorm(decisions, n, anchorsOf.get(n) ?? [], kernels.at(-1));
    if (withInput) {
      kernels.splice(-1, 1, withInput);
      continue;
    }
    const joining = joins.get(n) ?? [];
    // rotations that nobody else would store
    const rotations = joining.flatMap(({ sink }) => (buffers.has(sink) ? [] : [sink]));
    for (const x of rotations) buffers.set(x, arena(x));
    let made = kernelsOf(decisions, n, anchorsOf.get(n) ?? []);
    if (joining.length > 0 && tooWide(made, caps)) {
      for (const x of rotations) buffers.delete(x);
      made = kernelsOf({ ...decisions, joins: new Map() }, n, anchorsOf.get(n) ?? []);
    } else for (const { sink } of joining) joined.add(sink);
    const wide = tooWide(made, caps);
    const inner = wide && widestValue(anchorsOf.get(n)?.[0] ?? n, (x) => buffers.has(x) || forced.has(x));
    if (wide && inner) throw new FusionMismatch(inner, `${wide.label} has ${wide.args.length} buffers as arguments`);
    kernels.push(...made);
  }
  for (const c of [...copies, ...outputCopies]) kernels.push(copyKernel(decisions, c.from, c.to));
  return { kernels: markLoneStates(mergeRows(kernels, caps)), outputs };
}

const isStateResult = (n: Node): n is NodeOf<"get"> => n.op === "get" && n.attrs.index > 0 && isTuple(n.inputs[0]!);

/** Whether hardware copies a product's operands, and its blocks do not share k: what adds up their parts may as well do what else there is to do. */
function isWholeStream(n: NodeOf<"matmul">, caps: Caps): boolean {
  const { dtype, shape } = typeOf(n.inputs[1]!);
  const [columns, k] = shape.map(dimMax) as [number, number];
  if (!streams({ dtype, k }, caps)) return false;
  return rowsOf(n) <= gemvRows(dtype, k, caps) || partsOfProduct({ m: rowsOf(n), n: columns, k, weights: 1, dtype }, caps) === 1;
}

const mostGemvRows = ({ inputs: [a, w] }: NodeOf<"matmul">, caps: Caps): number =>
  gemvRows(typeOf(w!).dtype, dimMax(typeOf(a!).shape.at(-1)!), caps);

/** The type that a value has just been rounded to, which holds all of it; where hardware copies, and bytes count for more than conversions. */
function roundedType(n: Node, caps: Caps): DType | null {
  if (!caps.asyncCopy) return null;
  const from = n.op === "cast" && typeOf(n).dtype === "f32" ? typeOf(n.inputs[0]!).dtype : null;
  return from === "bf16" || from === "f16" ? from : null;
}

/**
 * The type of the weights that a value is multiplied with, where nothing else is done with it, by hardware that copies both operands from memory: it rounds the value
 * to that type anyway.
 */
function operandType(n: Node, readers: readonly Node[], isRoot: boolean, caps: Caps): DType | null {
  if (isRoot || readers.length === 0 || typeOf(n).dtype !== "f32") return null;
  const products = readers.filter((u) => isLinear(u) && u.inputs[0] === n && rowsOf(u) > mostGemvRows(u, caps));
  const types = new Set(products.map((u) => typeOf(u.inputs[1]!).dtype));
  const [dtype] = types;
  const fits = products.length === readers.length && types.size === 1 && dtype !== undefined;
  return fits && streams({ dtype, k: dimMax(typeOf(n).shape.at(-1)!) }, caps) ? dtype : null;
}

/** Of the values that a node's kernel computes for itself, the operand that reads most buffers: stored, it is one. */
function widestValue(n: Node, isStored: (n: Node) => boolean): Node | undefined {
  const reads = (x: Node, seen: Set<Node>): Set<Node> => {
    if (isStored(x)) seen.add(x);
    else for (const i of x.inputs) reads(i, seen);
    return seen;
  };
  const counted = n.inputs.filter((i) => !isStored(i)).map((node) => ({ node, count: reads(node, new Set()).size }));
  return counted.sort((a, b) => b.count - a.count).find(({ count }) => count > 1)?.node;
}

const sameGemm = (a: Node, b: Node): boolean => a.inputs[0] === b.inputs[0] && sameShape(typeOf(a).shape, typeOf(b).shape);
const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean => a.length === b.length && a.every((d, i) => d === b[i]);

function sourceBuffer(n: Node): BufferInfo {
  const { dtype, shape } = typeOf(n);
  switch (n.op) {
    case "param": {
      const layout = n.attrs.packed?.layout;
      return { kind: "weight", name: n.attrs.name, dtype, shape, panel: layout?.kind === "panels" ? layout.width : 0 };
    }
    case "literal":
      return { kind: "literal", name: n.attrs.name, dtype, shape, panel: 0 };
    case "state":
      return { kind: "state", name: n.attrs.name, dtype, shape, panel: 0 };
    case "input":
      return { kind: "input", name: n.attrs.name, dtype, shape, panel: 0 };
    default:
      throw new Error(`${n.op} is not a source`);
  }
}

/** Marks the states that one kernel alone touches. */
function markLoneStates(kernels: readonly KernelPlan[]): readonly KernelPlan[] {
  const users = new Map<BufferInfo, number>();
  for (const { args } of kernels) for (const { buffer } of args) users.set(buffer, (users.get(buffer) ?? 0) + 1);
  const isAlone = (buffer: BufferInfo): boolean => buffer.kind === "state" && users.get(buffer) === 1;
  return kernels.map((k) => ({ ...k, args: k.args.map((a) => (isAlone(a.buffer) ? { ...a, alone: true } : a)) }));
}
