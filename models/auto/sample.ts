import { at, input, model, processLogits, sampleToken, slice } from "../../dsl/index.ts";
import type { Graph, Range } from "../../dsl/index.ts";

/**
 * The program that chooses tokens. It takes the `logits` [batch, vocab] that prefill or decode gave, in place, which of the tokens each row has `seen`, and
 * `settings` [batch, 6]: repetition penalty, temperature, top-k, top-p, min-p, draw. It gives the processed `scores` [batch, vocab] and the `token` of
 * each row (see the operations `processLogits` and `sampleToken`).
 */
export function sampleGraph(vocab: number, batch: number | Range): Graph {
  return model("sample", { dims: { batch, vocab } }, () => {
    const settings = input("settings", ["batch", 6]);
    const logits = input("logits", ["batch", "vocab"]);
    const scores = processLogits(logits, input("seen", ["batch", "vocab"], "bool"), slice(settings, 6, { start: 0, size: 5 }));
    return { scores, token: sampleToken(scores, at(settings, 6, 5)) };
  });
}
