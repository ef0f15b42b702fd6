import { emit, handle } from "./node.ts";
import { located } from "./trace.ts";
import type { Dim, Tensor } from "./types.ts";

/** Choosing the next token from logits, as Transformers does when it samples. */

/**
 * Applies, in this order, repetition penalty, temperature, top-k, top-p and min-p; what is removed is -Infinity. `seen`: whether the token occurs in the row
 * so far. `settings`: these five numbers for each row; 1, 1, 0, 1 and 0 change nothing.
 */
export function processLogits<B extends Dim, V extends Dim>(
  logits: Tensor<[B, V]>,
  seen: Tensor<[NoInfer<B>, NoInfer<V>], "bool">,
  settings: Tensor<[NoInfer<B>, 5]>,
): Tensor<[B, V]> {
  return located(processLogits, "processLogits", () =>
    handle(emit("processLogits", [logits.node, seen.node, settings.node], {}), logits.axes),
  );
}

/**
 * The index that `draw` in [0, 1) falls on by the running sum of the softmax of the scores, or for a draw below 0 the first one of the largest. -1 where the
 * scores are no distribution: NaN, infinity, or all removed.
 */
export function sampleToken<B extends Dim, V extends Dim>(scores: Tensor<[B, V]>, draw: Tensor<[NoInfer<B>]>): Tensor<[B], "i32"> {
  return located(sampleToken, "sampleToken", () => handle(emit("sampleToken", [scores.node, draw.node], {}), [scores.axes[0]]));
}
