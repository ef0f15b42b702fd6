import type { IntExpr } from "./artifact.ts";
import type { DType } from "./ir/dtype.ts";
import { BYTES } from "./ir/dtype.ts";
import type { Expr } from "./ir/expr.ts";
import { add, i32, idiv, mod, mul, rangeOf } from "./ir/expr.ts";
import type { Dim, Node } from "./ir/graph.ts";
import type { Access } from "./ir/tile.ts";
import type {
  AttentionProblem,
  ConvProblem,
  GemmProblem,
  LogitsProblem,
  ReplayProblem,
  RowProblem,
  SsdProblem,
  TokenProblem,
} from "./template.ts";

/** A tensor in memory while a program runs. */
export interface BufferInfo {
  readonly kind: "weight" | "literal" | "state" | "input" | "output" | "arena";
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  /** Weights only: rows per panel, 0 = row-major. */
  readonly panel: number;
  /** An element is the sum of so many, in order, each of a tensor of `shape`, which lie one after another; 1 unless given. */
  readonly parts?: number;
}

/** What a kernel has to compute, before a template turns it into a program. */
export type Problem =
  | ({ readonly kind: "gemm" } & GemmProblem)
  | ({ readonly kind: "attention" } & AttentionProblem)
  | ({ readonly kind: "ssd" } & SsdProblem)
  | ({ readonly kind: "replay" } & ReplayProblem)
  | ({ readonly kind: "conv" } & ConvProblem)
  | ({ readonly kind: "rows" } & RowProblem)
  | ({ readonly kind: "logits" } & LogitsProblem)
  | ({ readonly kind: "token" } & TokenProblem);

export interface Argument {
  readonly buffer: BufferInfo;
  readonly access: Access;
  /** A state that no other kernel of the program touches. */
  readonly alone?: boolean;
}

export interface KernelPlan {
  /** Model path of the operation whose result it stores. */
  readonly label: string;
  readonly problem: Problem;
  /** One buffer for each of the problem's params, in order. */
  readonly args: readonly Argument[];
  /** Operations, and bytes read and written, at the symbols' values. */
  readonly flops: IntExpr;
  readonly bytes: IntExpr;
  /** Set for kernels that only write pointwise values, so that two neighbours over one domain can become one. */
  readonly pointwise: Pointwise | null;
}

export interface Pointwise {
  /** The node of which it stores all, where it stores nothing else. */
  readonly node: Node | null;
  readonly rows: Expr;
  readonly cols: number;
  readonly writes: readonly unknown[];
  join(other: Pointwise): KernelPlan;
}

export const dimExpr = (d: Dim): Expr => (typeof d === "number" ? i32(d) : d);
export const dimMax = (d: Dim): number => (typeof d === "number" ? d : d.max);

export const elementCount = (shape: readonly Dim[]): Expr => shape.reduce<Expr>((n, d) => mul(n, dimExpr(d)), i32(1));

/** Elements a buffer holds at the largest values of the symbols, of all its parts; panels are padded to whole panels. */
export function maxElements(b: Pick<BufferInfo, "shape" | "panel" | "parts">): number {
  if (b.panel > 0) {
    const [n, k] = [dimMax(b.shape[0]!), dimMax(b.shape[1]!)];
    return Math.ceil(n / b.panel) * b.panel * k;
  }
  return b.shape.reduce<number>((n, d) => n * dimMax(d), b.parts ?? 1);
}
export const maxBytes = (b: BufferInfo): number => maxElements(b) * BYTES[b.dtype];

/** Row-major position of `coords`; for panels, of [row, k] in its panel. */
export function bufferIndex(b: { readonly shape: readonly Dim[]; readonly panel: number }, coords: readonly Expr[]): Expr {
  if (b.panel > 0) {
    const [n, k] = [coords[0]!, coords[1]!];
    return add(mul(idiv(n, b.panel), dimMax(b.shape[1]!) * b.panel), add(mul(k, b.panel), mod(n, b.panel)));
  }
  return linearize(b.shape, coords);
}

/** Position of `coords` in a part of a buffer. */
export const partIndex = (b: BufferInfo, part: Expr, coords: readonly Expr[]): Expr =>
  add(mul(part, elementCount(b.shape)), bufferIndex(b, coords));

export function linearize(shape: readonly Dim[], coords: readonly Expr[]): Expr {
  let index: Expr = i32(0);
  shape.forEach((d, i) => {
    index = add(mul(index, dimExpr(d)), coords[i]!);
  });
  return index;
}

/** The coordinates of row-major position `index` in `shape`; the first axis that is not 1 takes what is left without a remainder. */
export function delinearize(shape: readonly Dim[], index: Expr): Expr[] {
  const coords: Expr[] = new Array<Expr>(shape.length).fill(i32(0));
  const first = shape.findIndex((d) => d !== 1);
  let rest = index;
  for (let i = shape.length - 1; i >= 0; i--) {
    const d = shape[i]!;
    if (d === 1) continue;
    if (i === first) coords[i] = rest;
    else {
      coords[i] = mod(rest, dimExpr(d));
      rest = idiv(rest, dimExpr(d));
    }
  }
  return coords;
}
/** The largest value an integer expression can take. */
export const maxOf = (e: Expr): number => rangeOf(e).max;
