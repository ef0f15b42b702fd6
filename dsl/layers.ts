import type { Activation, Node } from "../compiler/ir/graph.ts";
import { round } from "./elementwise.ts";
import { emit, filled, grow, handle, operand, stored } from "./node.ts";
import * as rules from "./shape.ts";
import type { Sequences } from "./mixers.ts";
import type { State } from "./sources.ts";
import { param, setState } from "./sources.ts";
import { fail, located } from "./trace.ts";
import type { Dim, Float, GateCheck, Init, Last, MatMul, MatMulCheck, MatMulT, MatMulTCheck, Shape, Tensor, WeightCheck } from "./types.ts";

/**
 * Matrix product [..., m, k] x [k, n] or [..., k, n], leading axes broadcasting. Sums in f32 and gives f32, whatever float type the operands are
 * stored as.
 */
export function matmul<A extends Shape, B extends Shape>(
  a: Tensor<A, Float>,
  b: Tensor<B, Float> & MatMulCheck<A, B>,
): Tensor<MatMul<A, B>> {
  return located(matmul, "matmul", () => product("matmul", a, b, false)) as Tensor<MatMul<A, B>>;
}

/** `matmul` with b given as rows, [n, k] or [..., n, k]: the layout of a linear layer's weight. */
export function matmulT<A extends Shape, B extends Shape>(
  a: Tensor<A, Float>,
  b: Tensor<B, Float> & MatMulTCheck<A, B>,
): Tensor<MatMulT<A, B>> {
  return located(matmulT, "matmulT", () => product("matmulT", a, b, true)) as Tensor<MatMulT<A, B>>;
}

function product(op: string, a: Tensor<Shape, Float>, b: Tensor<Shape, Float>, transB: boolean): Tensor<Shape> {
  const lead = b.axes.slice(0, -2);
  const [rows, cols] = b.axes.slice(-2);
  const inner = transB ? cols : rows;
  const shown = `${op}: ${rules.show(a.axes)} x ${rules.show(b.axes)}${transB ? " transposed" : ""}`;
  const operands = [operand("a", a), operand("b", b)];
  if (a.axes.length < 2 || rows === undefined || cols === undefined)
    return fail({ what: `${shown}: a matrix product needs two axes on each side`, operands });
  if (a.axes.at(-1) !== inner) return fail({ what: `${shown}: inner dimension '${a.axes.at(-1)!}' does not meet '${inner!}'`, operands });
  const to =
    rules.matMul(a.axes, transB ? [...lead, cols, rows] : b.axes) ?? fail({ what: `${shown}: leading axes do not broadcast`, operands });
  if (lead.length === 0) return handle(emit("matmul", [stored(a), stored(b)], { transB }), to);
  const front = to.slice(0, -2);
  return handle(emit("matmul", [grow(a, [...front, ...a.axes.slice(-2)]), grow(b, [...front, rows, cols])], { transB }), to);
}

/** x W^T (+ b) over the last axis, with the checkpoint's `<path>.<name>.weight` [out, in] and, if asked for, `<path>.<name>.bias` [out]. */
export function linear<A extends Shape, const O extends Dim>(
  x: Tensor<A, Float>,
  name: string,
  options: { readonly out: O; readonly bias?: boolean },
): Tensor<[...Init<A>, O]> {
  return located(linear, name, () => {
    const { out, bias = false } = options;
    const weight = param(`${name}.weight`, [out, lastOf(x)]);
    const y = product("linear", x, weight, true);
    if (!bias) return y;
    const shift = grow(param(`${name}.bias`, [out]), y.axes);
    return handle(emit("binary", [y.node, shift], { fn: "add" }), y.axes);
  }) as Tensor<[...Init<A>, O]>;
}

const lastOf = (x: Tensor<Shape, Float>): Dim =>
  x.axes.at(-1) ?? fail({ what: "a tensor without axes has no last one", operands: [operand("x", x)] });

/** A weight given itself, or by the name of the module whose `.weight` it is. */
function weightOf(op: string, x: Tensor<Shape>, weight: string | Tensor<Shape, Float>): Tensor<Shape, Float> {
  const axes = [lastOf(x)];
  if (typeof weight === "string") return param(`${weight}.weight`, axes);
  if (rules.same(weight.axes, axes)) return weight;
  return fail({
    what: `${op}: the weight ${rules.show(weight.axes)} does not fit the last axis of ${rules.show(x.axes)}`,
    operands: [operand("x", x), operand("weight", weight)],
  });
}

/**
 * weight * x / sqrt(mean(x^2) + eps) over the last axis. `weight` is a tensor or the name of the module it belongs to.
 * @param rounding what the normalised values are rounded to before the weight multiplies them, and the product after that; f32 rounds nothing
 */
export function rmsNorm<A extends Shape, W extends Shape = [Last<A>]>(
  x: Tensor<A>,
  weight: string | (Tensor<W, Float> & WeightCheck<"rmsNorm", A, W>),
  eps: number,
  rounding: Float = "f32",
): Tensor<A> {
  return located(rmsNorm, typeof weight === "string" ? weight : "rmsNorm", () => {
    const scale = weightOf("rmsNorm", x, weight);
    return weighted(x.axes, scale, rounding, (w) => emit("rmsNorm", [x.node, w], { eps }));
  });
}

/** A norm that multiplies by its weight itself, or only after its values were rounded. */
function weighted<A extends Shape>(axes: A, weight: Tensor<Shape, Float>, rounding: Float, norm: (weight: Node) => Node): Tensor<A> {
  if (rounding === "f32") return handle(norm(weight.node), axes);
  const values = round(handle<A, "f32">(norm(filled(1, weight.axes, "f32")), axes), rounding);
  return round(handle(emit("binary", [values.node, grow(weight, axes)], { fn: "mul" }), axes), rounding);
}

/** rmsNorm of x * silu(gate), the mean over the whole last axis. */
export function gatedRmsNorm<A extends Shape, G extends Shape, W extends Shape = [Last<A>]>(
  x: Tensor<A>,
  gate: Tensor<G> & GateCheck<A, G>,
  weight: string | (Tensor<W, Float> & WeightCheck<"gatedRmsNorm", A, W>),
  eps: number,
  rounding: Float = "f32",
): Tensor<A> {
  return located(gatedRmsNorm, typeof weight === "string" ? weight : "gatedRmsNorm", () => {
    if (!rules.same(x.axes, gate.axes))
      fail({
        what: `gatedRmsNorm: the gate ${rules.show(gate.axes)} is not like ${rules.show(x.axes)}`,
        operands: [operand("x", x), operand("gate", gate)],
      });
    const scale = weightOf("gatedRmsNorm", x, weight);
    return weighted(x.axes, scale, rounding, (w) => emit("gatedRmsNorm", [x.node, gate.node, w], { eps }));
  });
}

export interface ConvOptions<B extends Dim, C extends Dim, E extends Float = "f32"> {
  /** Taps: inputs that one output sees, itself included. */
  readonly width: number;
  readonly bias?: boolean;
  readonly activation?: Activation;
  /**
   * Inputs of other sequences and padding read as 0. The new state is that after the first `ends` [batch] positions of this call, 0 to leave it as it is:
   * with the place after each row's last token, padding on the right leaves no trace. Without it everything continues one sequence.
   */
  readonly sequences?: Sequences<B> & { readonly ends: Tensor<[B], "i32"> };
  /** The last `width` inputs of the calls before, oldest first, [batch, width, channels]; without it the sequence begins here. */
  readonly state?: State<[B, number, C], E>;
}

/**
 * Depthwise convolution along the sequence that sees no later input, each channel with its own taps: `<path>.<name>.weight` [channels, width] (the
 * checkpoint's [channels, 1, width] holds the same numbers) and perhaps `.bias`. Advances the state.
 */
export function causalConv1d<B extends Dim, T extends Dim, C extends Dim, E extends Float = "f32">(
  x: Tensor<[B, T, C]>,
  name: string,
  options: ConvOptions<NoInfer<B>, NoInfer<C>, E>,
): Tensor<[B, T, C]> {
  return located(causalConv1d, name, () => {
    const { width, bias = false, activation = null, sequences, state } = options;
    const [batch, , channels] = x.axes;
    const window = [batch, width, channels];
    if (state && !rules.same(state.axes, window))
      fail({
        what: `causalConv1d: the state ${rules.show(state.axes)} is not ${rules.show(window)}`,
        operands: [operand("x", x), operand("state", state)],
      });
    if (sequences && (sequences.ids.axes[0] !== batch || !rules.same(sequences.ends.axes, [batch])))
      fail({
        what: `causalConv1d: the sequences ${rules.show(sequences.ids.axes)} with ends ${rules.show(sequences.ends.axes)} are not by '${batch}'`,
        operands: [operand("x", x), operand("ids", sequences.ids), operand("ends", sequences.ends)],
      });
    const inputs = [
      x.node,
      param(`${name}.weight`, [channels, width]).node,
      ...(bias ? [param(`${name}.bias`, [channels]).node] : []),
      ...(sequences ? [sequences.ids.node, sequences.ends.node] : []),
      state?.node ?? filled(0, window, "f32"),
    ];
    const both = emit("causalConv1d", inputs, { width, bias, activation, past: sequences?.past ?? null });
    if (state) setState(state, handle(emit("get", [both], { index: 1 }), state.axes));
    return handle(emit("get", [both], { index: 0 }), x.axes);
  });
}
