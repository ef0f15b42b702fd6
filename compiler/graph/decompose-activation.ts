import type { Activation, Node } from "../ir/graph.ts";
import type { Builder } from "./build.ts";
import { shapeOf } from "./build.ts";

/** An activation function of f32 `x` in primitives. */
export function decomposeActivation(b: Builder, fn: Activation, x: Node): Node {
  const half = (factor: Node): Node => b.binary("mul", b.binary("mul", x, 0.5), b.binary("add", factor, 1));
  const onePlusExp = (y: Node): Node => b.binary("add", b.unary("exp", y), 1);
  switch (fn) {
    case "silu":
      return b.binary("div", x, onePlusExp(b.unary("neg", x)));
    case "sigmoid":
      return b.binary("div", b.fill(1, shapeOf(x)), onePlusExp(b.unary("neg", x)));
    case "gelu":
      return half(b.unary("erf", b.binary("mul", x, Math.SQRT1_2)));
    case "geluTanh": {
      const cube = b.binary("mul", b.binary("mul", x, x), x);
      return half(b.unary("tanh", b.binary("mul", b.binary("add", x, b.binary("mul", cube, 0.044715)), Math.sqrt(2 / Math.PI))));
    }
    case "relu":
      return b.binary("max", x, 0);
    case "softplus":
      // PyTorch's threshold; `select` evaluates both sides, and the infinity that exp overflows to is dropped
      return b.select(b.binary("lt", b.fill(20, shapeOf(x)), x), x, b.unary("log1p", b.unary("exp", x)));
    case "tanh":
      return b.unary("tanh", x);
  }
}
