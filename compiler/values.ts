import type { DType } from "./ir/dtype.ts";
import type { Expr } from "./ir/expr.ts";
import {
  add,
  and,
  binary,
  cast,
  constant,
  div,
  exp,
  f32,
  i32,
  isConst,
  le,
  load,
  lt,
  max,
  min,
  mod,
  mul,
  neg,
  select,
  sub,
  unary,
} from "./ir/expr.ts";
import type { Activation, Dim, Node } from "./ir/graph.ts";
import { typeOf } from "./ir/graph.ts";
import type { Access, Param } from "./ir/tile.ts";
import type { BufferInfo } from "./plan.ts";
import { delinearize, dimExpr, dimMax, elementCount, linearize, maxElements, partIndex } from "./plan.ts";

/**
 * The value of a graph node as a function of its coordinates. Nodes that are stored are loads; everything else is arithmetic around its inputs'
 * values, so that movement operations (reshape, slice, transpose, broadcast) cost nothing and pointwise ones fuse into whoever reads them.
 */

/** The buffers one kernel touches, in argument order. */
export interface Scope {
  readonly params: Param[];
  readonly args: { buffer: BufferInfo; access: Access }[];
  /** Buffers of which the kernel touches a part (rows that indices name, positions so far), and how many elements that is: for rooflines. */
  readonly touched: Map<BufferInfo, Expr>;
  use(buffer: BufferInfo, access: Access): string;
}

export function newScope(): Scope {
  const params: Param[] = [];
  const args: { buffer: BufferInfo; access: Access }[] = [];
  return {
    params,
    args,
    touched: new Map(),
    use(buffer, access) {
      let i = args.findIndex((a) => a.buffer === buffer);
      if (i < 0) {
        i = args.length;
        args.push({ buffer, access });
        const constant = buffer.kind === "weight" || buffer.kind === "literal";
        params.push({ name: `p${i}`, dtype: buffer.dtype, access, elements: maxElements(buffer), ...(constant ? { constant } : {}) });
      } else if (args[i]!.access !== access) {
        args[i]!.access = "readwrite";
        params[i] = { ...params[i]!, access: "readwrite" };
      }
      return params[i]!.name;
    },
  };
}

/** A node whose value the kernel being built holds in registers (the template's result), and the coordinates at which it holds it. */
export interface Held {
  readonly coords: readonly Expr[];
  readonly value: Expr;
}

export class FusionMismatch extends Error {
  readonly node: Node;
  constructor(node: Node, why: string) {
    super(why);
    this.node = node;
  }
}

export interface ValueContext {
  readonly scope: Scope;
  /** Where a node's value lies in memory, or undefined when it is only an expression. */
  readonly stored: (n: Node) => BufferInfo | undefined;
  /** Of each node one element or several. */
  readonly held: ReadonlyMap<Node, readonly Held[]>;
}

export type At = (n: Node, coords: readonly Expr[]) => Expr;

/** Value of `n` at `coords` in n's dtype. Throws FusionMismatch when `n` is neither stored nor expressible here. */
export function valueAt(ctx: ValueContext, n: Node, coords: readonly Expr[]): Expr {
  const held = ctx.held.get(n);
  if (held) {
    const found = held.find((h) => h.coords.length === coords.length && h.coords.every((c, i) => c === coords[i]));
    if (found) return found.value;
    throw new FusionMismatch(n, `${n.op} ${n.name} is read at other coordinates than it is computed at`);
  }
  const buffer = ctx.stored(n);
  // what only products read may be stored as they take it
  if (buffer) return convert(elementOf(ctx.scope, buffer, coords), typeOf(n).dtype);
  const table = n.op === "gather" ? ctx.stored(n.inputs[0]!) : undefined;
  if (table) ctx.scope.touched.set(table, elementCount(typeOf(n).shape));
  const at: At = (m, c) => valueAt(ctx, m, c);
  return expressionAt(n, coords, at);
}

/** An element of a tensor in memory; of one in parts, their sum. */
function elementOf(scope: Scope, buffer: BufferInfo, coords: readonly Expr[]): Expr {
  const name = scope.use(buffer, "read");
  const parts = Array.from({ length: buffer.parts ?? 1 }, (_, i) => load(name, buffer.dtype, partIndex(buffer, i32(i), coords)));
  return parts.reduce((sum, part) => add(sum, part));
}

/** Arithmetic happens in f32; a node of a storage dtype rounds its result. */
const wide = (e: Expr): Expr => (e.dtype === "bf16" || e.dtype === "f16" ? cast(e, "f32") : e);

function expressionAt(n: Node, coords: readonly Expr[], at: At): Expr {
  const type = typeOf(n);
  const x = n.inputs[0];
  const xType = x && typeOf(x);
  switch (n.op) {
    case "fill":
      return constant(n.attrs.value, type.dtype);
    case "iota":
      return coords[n.attrs.axis]!;
    case "scalar":
      return n.attrs.expr;
    case "unary":
      return narrow(unary(n.attrs.fn, wide(at(x!, coords))), type.dtype);
    case "binary":
      return narrow(binary(n.attrs.fn, wide(at(x!, coords)), wide(at(n.inputs[1]!, coords))), type.dtype);
    case "select":
      return select(at(x!, coords), at(n.inputs[1]!, coords), at(n.inputs[2]!, coords));
    case "cast":
      return convert(at(x!, coords), n.attrs.to);
    case "broadcast":
      return at(
        x!,
        n.attrs.axes.map((axis, i) => (xType!.shape[i] === 1 && n.attrs.shape[axis] !== 1 ? i32(0) : coords[axis]!)),
      );
    case "reshape":
      return at(x!, reshapeCoords(type.shape, xType!.shape, coords));
    case "transpose": {
      const inner: Expr[] = [];
      n.attrs.perm.forEach((p, i) => {
        inner[p] = coords[i]!;
      });
      return at(x!, inner);
    }
    case "slice":
      return at(x!, replace(coords, n.attrs.axis, add(coords[n.attrs.axis]!, n.attrs.start)));
    case "pad": {
      const { axis, low, value } = n.attrs;
      const size = dimExpr(xType!.shape[axis]!);
      const c = sub(coords[axis]!, low);
      const inside = and(le(0, c), lt(c, size));
      return select(inside, at(x!, replace(coords, axis, clampIndex(c, size))), constant(value, type.dtype));
    }
    case "concat": {
      const { axis } = n.attrs;
      let start = 0;
      let result: Expr | undefined;
      for (const part of n.inputs) {
        const size = dimMax(typeOf(part).shape[axis]!);
        const c = sub(coords[axis]!, start);
        const value = at(part, replace(coords, axis, clampIndex(c, i32(size))));
        result = result === undefined ? value : select(le(start, coords[axis]!), value, result);
        start += size;
      }
      return result!;
    }
    case "gather": {
      const rank = typeOf(n.inputs[1]!).shape.length;
      const index = at(n.inputs[1]!, coords.slice(0, rank));
      return at(x!, [index, ...coords.slice(rank)]);
    }
    case "update": {
      const { axis, start } = n.attrs;
      const value = n.inputs[1]!;
      const size = dimExpr(typeOf(value).shape[axis]!);
      const c = sub(coords[axis]!, start);
      const inside = and(le(0, c), lt(c, size));
      return select(inside, at(value, replace(coords, axis, clampIndex(c, size))), at(x!, coords));
    }
    case "activation":
      return narrow(activation(n.attrs.fn, wide(at(x!, coords))), type.dtype);
    case "rope":
      return ropeAt(n, coords, at);
    default:
      throw new FusionMismatch(n, `${n.op} ${n.name} has to be computed by a kernel of its own`);
  }
}

const narrow = (e: Expr, dtype: DType): Expr => (dtype === "bf16" || dtype === "f16" ? cast(e, dtype) : e);
/** Casts that pass through f32, since storage types only convert to and from it. */
const convert = (e: Expr, to: DType): Expr => (to === "f32" || to === e.dtype ? cast(e, to) : cast(wide(e), to));
const replace = (coords: readonly Expr[], axis: number, e: Expr): Expr[] => coords.map((c, i) => (i === axis ? e : c));
const clampIndex = (c: Expr, size: Expr): Expr => max(0, min(c, isConst(size) ? size.value - 1 : sub(size, 1)));

/** Rotates halves of the first `rotary` dimensions (NeoX pairing); inputs x, positions, cos, sin. spec/bamba.md c.5. */
function ropeAt(n: Extract<Node, { op: "rope" }>, coords: readonly Expr[], at: At): Expr {
  const [b, t, h, d] = coords as [Expr, Expr, Expr, Expr];
  const { rotary } = n.attrs;
  const half = rotary / 2;
  const [x, positions, cos, sin] = n.inputs as [Node, Node, Node, Node];
  const position = at(positions, [b, t]);
  const j = mod(min(d, rotary - 1), half);
  const rotates = lt(d, rotary);
  const partner = select(rotates, mod(add(min(d, rotary - 1), half), rotary), d);
  const value = at(x, [b, t, h, d]);
  const other = at(x, [b, t, h, partner]);
  const turned = add(mul(value, at(cos, [position, j])), mul(mul(other, at(sin, [position, j])), select(lt(d, half), f32(-1), f32(1))));
  return select(rotates, turned, value);
}

/** spec/bamba.md c.6; softplus is linear above 20 as in torch. */
export function activation(fn: Activation, x: Expr): Expr {
  switch (fn) {
    case "silu":
      return div(x, add(exp(neg(x)), 1));
    case "sigmoid":
      return div(f32(1), add(exp(neg(x)), 1));
    case "relu":
      return binary("max", x, 0);
    case "tanh":
      return unary("tanh", x);
    case "softplus":
      return select(lt(20, x), x, unary("log1p", exp(min(x, 20))));
    case "gelu":
      return mul(mul(x, 0.5), add(unary("erf", mul(x, Math.SQRT1_2)), 1));
    case "geluTanh":
      return mul(mul(x, 0.5), add(unary("tanh", mul(mul(x, Math.sqrt(2 / Math.PI)), add(mul(mul(x, x), 0.044715), 1))), 1));
  }
}

/**
 * Maps coordinates of a reshape's result to coordinates of its input: symbols pass through, and so do the sizes that runs of numbers between them begin with on
 * both sides; the rest of a run is split or merged.
 */
export function reshapeCoords(from: readonly Dim[], to: readonly Dim[], coords: readonly Expr[]): Expr[] {
  const result: Expr[] = [];
  let i = 0;
  let j = 0;
  while (i < from.length || j < to.length) {
    for (; i < from.length && j < to.length && typeof from[i] === "number" && from[i] === to[j]; i++, j++)
      result.push(from[i] === 1 ? i32(0) : coords[i]!);
    const i0 = i;
    const j0 = j;
    while (i < from.length && typeof from[i] === "number") i++;
    while (j < to.length && typeof to[j] === "number") j++;
    result.push(...delinearize(to.slice(j0, j), linearize(from.slice(i0, i), coords.slice(i0, i))));
    if (i < from.length) result.push(coords[i]!);
    i++;
    j++;
  }
  return result.slice(0, to.length);
}

/** A rough count of the arithmetic one element of `n` costs when it is recomputed by its reader. */
export function cost(n: Node, stored: (n: Node) => boolean): number {
  if (stored(n)) return 1;
  const inputs = n.inputs.reduce((s, i) => s + cost(i, stored), 0);
  switch (n.op) {
    case "activation":
      return 12 + inputs;
    case "rope":
      return 6 + 2 * inputs;
    case "unary":
      return (n.attrs.fn === "neg" || n.attrs.fn === "abs" || n.attrs.fn === "not" ? 1 : 8) + inputs;
    case "binary":
      return (n.attrs.fn === "pow" ? 16 : 1) + inputs;
    case "select":
      return 1 + inputs;
    default:
      return inputs;
  }
}
