import { axisOf, emit, filled, grow, handle } from "./node.ts";
import { located, sizeOf } from "./trace.ts";
import type { AnyTensor, AxisCheck, AxisOf, Dim, Drop, Numeric, Shape, Tensor } from "./types.ts";

type Called = (...args: never[]) => unknown;

function reduce(called: Called, label: string, fn: "sum" | "max" | "min" | "argmax", x: AnyTensor, axis: Dim): AnyTensor {
  return located(called, label, () => {
    const i = axisOf(x, axis, label);
    return handle(
      emit("reduce", [x.node], { fn, axis: i }),
      x.axes.filter((_, k) => k !== i),
    );
  });
}

/** The sum along an axis, which goes. */
export function sum<A extends Shape, D extends Numeric, const X extends AxisOf<A>>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"sum", A, X>,
): Tensor<Drop<A, X>, D> {
  return reduce(sum, "sum", "sum", x, axis) as Tensor<Drop<A, X>, D>;
}
/** The greatest element along an axis, which goes. */
export function amax<A extends Shape, D extends Numeric, const X extends AxisOf<A>>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"amax", A, X>,
): Tensor<Drop<A, X>, D> {
  return reduce(amax, "amax", "max", x, axis) as Tensor<Drop<A, X>, D>;
}
/** The least element along an axis, which goes. */
export function amin<A extends Shape, D extends Numeric, const X extends AxisOf<A>>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"amin", A, X>,
): Tensor<Drop<A, X>, D> {
  return reduce(amin, "amin", "min", x, axis) as Tensor<Drop<A, X>, D>;
}
/** The position of the greatest element along an axis (of the first one, where several are equal), which goes. */
export function argmax<A extends Shape, const X extends AxisOf<A>>(
  x: Tensor<A, Numeric>,
  axis: X & AxisCheck<"argmax", A, X>,
): Tensor<Drop<A, X>, "i32"> {
  return reduce(argmax, "argmax", "argmax", x, axis) as Tensor<Drop<A, X>, "i32">;
}

/** The mean along an axis, which goes; the axis may be one whose size is known only at run time. */
export function mean<A extends Shape, const X extends AxisOf<A>>(x: Tensor<A>, axis: X & AxisCheck<"mean", A, X>): Tensor<Drop<A, X>> {
  return located(mean, "mean", () => {
    const total = reduce(mean, "mean", "sum", x, axis);
    const size = sizeOf(axis);
    const count =
      typeof size === "number"
        ? filled(size, total.axes, "f32")
        : grow(handle(emit("cast", [emit("scalar", [], { expr: size })], { to: "f32" }), []), total.axes);
    return handle(emit("binary", [total.node, count], { fn: "div" }), total.axes);
  });
}

/** Running sum along an axis: element t of the result is the sum of the elements up to and including t. */
export function cumsum<A extends Shape, D extends Numeric, const X extends AxisOf<A>>(
  x: Tensor<A, D>,
  axis: X & AxisCheck<"cumsum", A, X>,
): Tensor<A, D> {
  return located(cumsum, "cumsum", () => handle(emit("scan", [x.node], { fn: "sum", axis: axisOf(x, axis, "cumsum") }), x.axes));
}

/** exp(x) divided by its sum along an axis, computed from x - max. */
export function softmax<A extends Shape, const X extends AxisOf<A>>(x: Tensor<A>, axis: X & AxisCheck<"softmax", A, X>): Tensor<A> {
  return located(softmax, "softmax", () => handle(emit("softmax", [x.node], { axis: axisOf(x, axis, "softmax") }), x.axes));
}

/** ln of the sum of exp(x) along an axis, which goes; computed from x - max. */
export function logSumExp<A extends Shape, const X extends AxisOf<A>>(
  x: Tensor<A>,
  axis: X & AxisCheck<"logSumExp", A, X>,
): Tensor<Drop<A, X>> {
  return located(logSumExp, "logSumExp", () => {
    const i = axisOf(x, axis, "logSumExp");
    const kept = x.axes.filter((_, k) => k !== i);
    const most = emit("reduce", [x.node], { fn: "max", axis: i });
    const wide = emit("broadcast", [most], { shape: x.node.types[0]!.shape, axes: kept.map((_, k) => (k < i ? k : k + 1)) });
    const exps = emit("unary", [emit("binary", [x.node, wide], { fn: "sub" })], { fn: "exp" });
    const logs = emit("unary", [emit("reduce", [exps], { fn: "sum", axis: i })], { fn: "log" });
    return handle(emit("binary", [logs, most], { fn: "add" }), kept);
  });
}

/**
 * Mean over all positions of -ln softmax(logits)[label]; positions labelled `ignoreIndex` do not count, and the mean of none is NaN. The labels are
 * already shifted: labels[b, t] is what logits[b, t] should predict.
 */
export function crossEntropy<B extends Dim, T extends Dim, V extends Dim>(
  logits: Tensor<[B, T, V]>,
  labels: Tensor<[NoInfer<B>, NoInfer<T>], "i32">,
  options: { readonly ignoreIndex?: number } = {},
): Tensor<[]> {
  return located(crossEntropy, "crossEntropy", () =>
    handle(emit("crossEntropy", [logits.node, labels.node], { ignoreIndex: options.ignoreIndex ?? -100 }), []),
  );
}
