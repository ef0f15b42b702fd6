import type { DType } from "../compiler/ir/dtype.ts";
import type { Expr } from "../compiler/ir/expr.ts";
import type { Node } from "../compiler/ir/graph.ts";
import { describe, emit, emitSource, filled, handle, operand, sizes } from "./node.ts";
import * as rules from "./shape.ts";
import { fail, join, located, symbol, trace } from "./trace.ts";
import type { AnyTensor, Dim, Shape, Tensor } from "./types.ts";

type Called = (...args: never[]) => unknown;

/** The tensor called `key`, made by `build` when it is asked for the first time; later requests must agree with the first. */
function once(called: Called, kind: string, key: string, axes: readonly Dim[], dtype: DType, build: () => Node): AnyTensor {
  const { sources } = trace();
  const known = sources.get(`${kind} ${key}`);
  if (!known) {
    const made = handle(build(), axes);
    sources.set(`${kind} ${key}`, made);
    return made;
  }
  if (known.dtype === dtype && rules.same(known.axes, axes)) return known;
  return fail({
    what: `${called.name}: '${key}' is declared twice`,
    operands: [operand("first", known)],
    got: `${dtype}${describe(axes)}`,
  });
}

/** A tensor given at every call of the model. Its name is `name` alone, whatever the module path. */
export function input<const S extends Shape, D extends DType = "f32">(name: string, axes: S, dtype: D = "f32" as D): Tensor<S, NoInfer<D>> {
  return located(input, name, () =>
    once(input, "input", name, axes, dtype, () => emitSource("input", { dtype, shape: sizes(axes) }, { name })),
  ) as Tensor<S, NoInfer<D>>;
}

/**
 * A weight of the checkpoint, called `<module path>.<name>`. Without a dtype it is stored as the model's `weights` option says and reads as f32
 * (`matmul` and `gather` take the stored values directly); with one it is of exactly that type. The same name gives the same tensor.
 */
export function param<const S extends Shape, D extends DType = "f32">(name: string, axes: S, dtype?: D): Tensor<S, NoInfer<D>> {
  return located(param, name, (t) => {
    const path = join(t.path, name);
    return once(param, "param", path, axes, dtype ?? "f32", () => {
      const stored = emitSource("param", { dtype: dtype ?? t.weights, shape: sizes(axes) }, { name: t.checkpointName(path), packed: null });
      return dtype === undefined && t.weights !== "f32" ? emit("cast", [stored], { to: "f32" }) : stored;
    });
  }) as Tensor<S, NoInfer<D>>;
}

/** A table known when the model is built. */
export function literal<const S extends Shape, A extends Float32Array | Int32Array>(
  name: string,
  axes: S,
  data: A,
): Tensor<S, A extends Float32Array ? "f32" : "i32"> {
  const dtype = data instanceof Float32Array ? "f32" : "i32";
  return located(literal, name, () =>
    once(literal, "literal", name, axes, dtype, () => emitSource("literal", { dtype, shape: sizes(axes) }, { name, data })),
  ) as Tensor<S, A extends Float32Array ? "f32" : "i32">;
}

/** The same number in every element. */
export function full<const S extends Shape, D extends "f32" | "i32" = "f32">(
  axes: S,
  value: number,
  dtype: D = "f32" as D,
): Tensor<S, NoInfer<D>> {
  return located(full, "full", () => handle(filled(value, axes, dtype), axes));
}

/** The integers 0, 1, 2, ... along the last of the axes given, repeated along the others. */
export function iota<const S extends Shape>(axes: S): Tensor<S, "i32"> {
  return located(iota, "iota", () => {
    if (axes.length === 0) fail({ what: "iota needs an axis" });
    return handle(emitSource("iota", { dtype: "i32", shape: sizes(axes) }, { axis: axes.length - 1 }), axes);
  });
}

/** A run-time number of the model ("past"), or an expression made of such, as a tensor without axes. */
export function scalar(value: string | Expr): Tensor<[], "i32"> {
  return located(scalar, "scalar", () => handle(emit("scalar", [], { expr: typeof value === "string" ? symbol(value) : value }), []));
}

// ---- state ----------------------------------------------------------------------------------------------------------
/** Session state: reads as its value before this call; whatever it is set to replaces it, in the same memory, for the next call. */
export interface State<S extends Shape, D extends DType = "f32"> extends Tensor<S, D> {
  readonly state: string;
}

/** State called `<module path>.<name>`, zero in a new session. It must be set exactly once. */
export function state<const S extends Shape, D extends DType = "f32">(name: string, axes: S, dtype: D = "f32" as D): State<S, NoInfer<D>> {
  return located(state, name, (t) => {
    const path = join(t.path, name);
    if (t.states.has(path)) fail({ what: `state '${path}' is declared twice` });
    t.states.set(path, { at: t.site ?? null, next: null });
    const value = handle<S, D>(emitSource("state", { dtype, shape: sizes(axes) }, { name: path }), axes);
    return Object.freeze({ ...value, state: path });
  });
}

/** Makes `value` what the state holds from the next call on. */
export function setState<S extends Shape, D extends DType>(held: State<S, D>, value: Tensor<NoInfer<S>, NoInfer<D>>): void {
  located(setState, "setState", (t) => {
    const entry = t.states.get(held.state) ?? fail({ what: `state '${held.state}' belongs to another model` });
    if (entry.next) fail({ what: `state '${held.state}' is set twice`, operands: [operand("value", value)] });
    if (!rules.same(held.axes, value.axes) || held.dtype !== value.dtype)
      fail({ what: `state '${held.state}' cannot hold this value`, operands: [operand("state", held), operand("value", value)] });
    entry.next = value.node;
  });
}

/** Writes `value` into the state along `axis` from `start`, in place, and returns the whole; everything else stays as it was. */
export function writeState<S extends Shape, D extends DType>(
  held: State<S, D>,
  at: { readonly axis: NoInfer<S>[number]; readonly start: Expr },
  value: Tensor<Shape, NoInfer<D>>,
): Tensor<S, D> {
  return located(writeState, "writeState", () => {
    const axis = held.axes.indexOf(at.axis);
    if (axis < 0) fail({ what: `state '${held.state}' has no axis '${at.axis}'`, operands: [operand("state", held)] });
    const whole = handle<S, D>(emit("update", [held.node, value.node], { axis, start: at.start }), held.axes);
    setState(held, whole);
    return whole;
  });
}
