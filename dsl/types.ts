import type { DType } from "../compiler/ir/dtype.ts";
import type { Node } from "../compiler/ir/graph.ts";

/**
 * The types behind the language. A shape is a tuple of axes; an axis is a name ("hidden", "heads*head_dim") or a literal number. Names are bound to
 * sizes when the model is traced, so two axes of equal size and different names are different types. Everything here has a run-time twin in shape.ts.
 */
export type Dim = string | number;
export type Shape = Dim[];

/** Element types that arithmetic works on. `f16` and `bf16` only store: cast them, or give them to `matmul`, `gather` and `cast`, which read them directly. */
export type Numeric = "f32" | "i32";
export type Float = "f32" | "f16" | "bf16";

/** A value of the graph being traced: an immutable handle that knows its axes and element type, in its type and at run time. */
export interface Tensor<S extends Shape, D extends DType = "f32"> {
  readonly axes: S;
  readonly dtype: D;
  readonly node: Node;
}

/** A tensor of a shape and type that the checker does not know. */
export type AnyTensor = Tensor<Shape, DType>;

declare const wrong: unique symbol;
/** Never constructed: a parameter of this type exists to put its message into the compiler's error text. */
export interface ShapeError<Message extends string> {
  readonly [wrong]: Message;
}

// ---- showing --------------------------------------------------------------------------------------------------------
type Join<S extends Shape> = S extends [infer A extends Dim, ...infer R extends Shape] ? (R extends [] ? `${A}` : `${A}, ${Join<R>}`) : "";
export type Show<S extends Shape> = `[${Join<S>}]`;

// ---- tuples ---------------------------------------------------------------------------------------------------------
export type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
export type Init<S extends Shape> = S extends [...infer I extends Shape, Dim] ? I : [];
export type Last<S extends Shape> = S extends [...Shape, infer L extends Dim] ? L : S extends [] ? never : S[number];

/** S without its first axis X; never when X is not there. */
export type Drop<S extends Shape, X extends Dim, Out extends Shape = []> = S extends [infer H extends Dim, ...infer R extends Shape]
  ? Same<H, X> extends true
    ? [...Out, ...R]
    : Drop<R, X, [...Out, H]>
  : never;

/** S with its axis X replaced by the axes N. */
export type Replace<S extends Shape, X extends Dim, N extends Shape, Out extends Shape = []> = S extends [
  infer H extends Dim,
  ...infer R extends Shape,
]
  ? Same<H, X> extends true
    ? [...Out, ...N, ...R]
    : Replace<R, X, N, [...Out, H]>
  : never;

/** S with every axis that `Names` lists renamed. */
export type Renamed<S extends Shape, Names extends Readonly<Record<string, string>>> = {
  [I in keyof S]: S[I] extends keyof Names ? Names[S[I]] : S[I];
};

// ---- broadcasting: right-aligned, literal 1 grows -------------------------------------------------------------------
type Pair<X extends Dim, Y extends Dim> = Same<X, Y> extends true ? X : X extends 1 ? Y : Y extends 1 ? X : never;
type Align<A extends Shape, B extends Shape, Out extends Shape = []> = A extends [...infer AI extends Shape, infer X extends Dim]
  ? B extends [...infer BI extends Shape, infer Y extends Dim]
    ? [Pair<X, Y>] extends [never]
      ? never
      : Align<AI, BI, [Pair<X, Y>, ...Out]>
    : [...A, ...Out]
  : [...B, ...Out];
/** The shape of an elementwise result; never when the two do not meet. */
export type Broadcast<A extends Shape, B extends Shape> = Same<A, B> extends true ? A : Align<A, B>;

/** What the second operand of an elementwise operation must also be. */
export type BinaryCheck<Op extends string, A extends Shape, D extends DType, B extends Shape, E extends DType> =
  Same<D, E> extends true
    ? [Broadcast<A, B>] extends [never]
      ? ShapeError<`${Op}: ${Show<A>} and ${Show<B>} do not broadcast`>
      : unknown
    : ShapeError<`${Op}: ${D} ${Show<A>} and ${E} ${Show<B>} differ in element type; cast one of them`>;

// ---- matmul: [..., m, k] x [k, n] or [..., k, n]; transposed: x [n, k] or [..., n, k] --------------------------------
type Flip<B extends Shape> = B extends [...infer I extends Shape, infer N extends Dim, infer K extends Dim] ? [...I, K, N] : never;
export type MatMul<A extends Shape, B extends Shape> = B extends [...infer BB extends Shape, infer K extends Dim, infer N extends Dim]
  ? Same<Last<A>, K> extends true
    ? BB extends []
      ? [...Init<A>, N]
      : [Broadcast<Init<Init<A>>, BB>] extends [never]
        ? never
        : [...Broadcast<Init<Init<A>>, BB>, Last<Init<A>>, N]
    : never
  : never;
export type MatMulT<A extends Shape, B extends Shape> = MatMul<A, Flip<B>>;

export type MatMulCheck<A extends Shape, B extends Shape> = [MatMul<A, B>] extends [never]
  ? Same<Last<A>, Last<Init<B>>> extends true
    ? ShapeError<`matmul: ${Show<A>} x ${Show<B>}: leading axes do not broadcast`>
    : ShapeError<`matmul: ${Show<A>} x ${Show<B>}: inner dimension '${Last<A>}' does not meet '${Last<Init<B>>}'`>
  : unknown;
export type MatMulTCheck<A extends Shape, B extends Shape> = [MatMulT<A, B>] extends [never]
  ? Same<Last<A>, Last<B>> extends true
    ? ShapeError<`matmulT: ${Show<A>} x ${Show<B>}: leading axes do not broadcast`>
    : ShapeError<`matmulT: ${Show<A>} x ${Show<B>} transposed: inner dimension '${Last<A>}' does not meet '${Last<B>}'`>
  : unknown;

// ---- reshape: the names on both sides must cancel; "h*d" counts as h and d; numbers are left to the trace ------------
type Split<N extends string> = N extends `${infer A}*${infer B}` ? [A, ...Split<B>] : [N];
type Factors<S extends Shape, Out extends string[] = []> = S extends [infer A extends Dim, ...infer R extends Shape]
  ? Factors<R, A extends string ? [...Out, ...Split<A>] : Out>
  : Out;
type Remove<L extends string[], X extends string, Seen extends string[] = []> = L extends [
  infer H extends string,
  ...infer T extends string[],
]
  ? H extends X
    ? [...Seen, ...T]
    : Remove<T, X, [...Seen, H]>
  : never;
type Cancels<A extends string[], B extends string[]> = A extends [infer H extends string, ...infer T extends string[]]
  ? [Remove<B, H>] extends [never]
    ? never
    : Cancels<T, Remove<B, H>>
  : B extends []
    ? true
    : never;
export type ReshapeCheck<A extends Shape, B extends Shape> = [Cancels<Factors<A>, Factors<B>>] extends [never]
  ? ShapeError<`reshape: ${Show<A>} to ${Show<B>} loses or invents a named dimension`>
  : unknown;

// ---- axes -----------------------------------------------------------------------------------------------------------
type Permutes<A extends Shape, B extends Shape> = A extends [infer H extends Dim, ...infer T extends Shape]
  ? [Drop<B, H>] extends [never]
    ? never
    : Permutes<T, Drop<B, H>>
  : B extends []
    ? true
    : never;
export type TransposeCheck<A extends Shape, B extends Shape> = [Permutes<A, B>] extends [never]
  ? ShapeError<`transpose: ${Show<B>} is not an order of the axes ${Show<A>}`>
  : unknown;

/** The name of an axis of S, as editors should suggest it; any other string gets as far as `AxisCheck`, which says what is wrong with it. */
export type AxisOf<S extends Shape> = S[number] | (string & {});
/** An axis that occurs twice ([heads, seq, seq]) cannot be meant by its name. */
export type AxisCheck<Op extends string, S extends Shape, X extends Dim> = [Drop<S, X>] extends [never]
  ? ShapeError<`${Op}: ${Show<S>} has no axis '${X}'`>
  : [Drop<Drop<S, X>, X>] extends [never]
    ? unknown
    : ShapeError<`${Op}: ${Show<S>} has two axes '${X}'; rename one of them`>;

export type WeightCheck<Op extends string, A extends Shape, W extends Shape> =
  Same<W, [Last<A>]> extends true ? unknown : ShapeError<`${Op}: the weight ${Show<W>} does not fit the last axis of ${Show<A>}`>;
export type GateCheck<A extends Shape, G extends Shape> =
  Same<G, A> extends true ? unknown : ShapeError<`gatedRmsNorm: the gate ${Show<G>} is not like ${Show<A>}`>;

/** Everything but X must agree; the result's axis is called "a+b". */
export type Concat<A extends Shape, B extends Shape, X extends Dim, Out extends Shape = []> = A extends [
  infer P extends Dim,
  ...infer AR extends Shape,
]
  ? B extends [infer Q extends Dim, ...infer BR extends Shape]
    ? Same<P, X> extends true
      ? Concat<AR, BR, never, [...Out, `${P}+${Q}`]>
      : Same<P, Q> extends true
        ? Concat<AR, BR, X, [...Out, P]>
        : never
    : never
  : B extends []
    ? Out
    : never;
export type ConcatCheck<A extends Shape, B extends Shape, X extends Dim> = [Concat<A, B, X>] extends [never]
  ? ShapeError<`concat along '${X}': ${Show<A>} and ${Show<B>} differ in another axis`>
  : unknown;

/** How `split` names the pieces of an axis: one axis, several, or a number of elements (the axis is then called like the piece). */
export type Piece = Dim | Shape;
export type PieceShape<K, P extends Piece> = P extends Shape ? P : P extends string ? [P] : K extends string ? [K] : never;
export type Pieces<S extends Shape, X extends Dim, P extends Readonly<Record<string, Piece>>, D extends DType> = {
  readonly [K in keyof P]: Tensor<Replace<S, X, PieceShape<K, P[K]>>, D>;
};
