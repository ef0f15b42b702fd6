import { LARGEST_F32 } from "../ir/dtype.ts";
import type { Dim, Node, NodeOf } from "../ir/graph.ts";
import type { Builder } from "./build.ts";
import { shapeOf } from "./build.ts";

/** By comparing every score with every other one: [batch, V, V] instead of an order, which no primitive finds. What is not removed stays, so a NaN does too. */
export function decomposeProcessLogits(n: NodeOf<"processLogits">, b: Builder): Node {
  const [logits, seen, settings] = n.inputs as [Node, Node, Node];
  const shape = shapeOf(logits) as [Dim, number];
  const [batch, vocab] = shape;
  const [penalty, temperature, topK, topP, minP] = Array.from({ length: 5 }, (_, i) =>
    b.spread(b.reshape(b.slice(settings, 1, i, 1), [batch]), shape, [0]),
  ) as [Node, Node, Node, Node, Node];
  const without = (removed: Node, x: Node): Node => b.select(removed, b.fill(-Infinity, shape), x);

  const penalised = b.select(b.binary("lt", logits, 0), b.binary("mul", logits, penalty), b.binary("div", logits, penalty));
  const scores = b.binary("div", b.select(seen, penalised, logits), temperature);

  const pairs = [batch, vocab, vocab];
  const larger = b.binary("lt", b.spread(scores, pairs, [0, 1]), b.spread(scores, pairs, [0, 2]));
  const ofLarger = (weight: Node): Node => b.reduce("sum", b.select(larger, b.spread(weight, pairs, [0, 2]), 0), 2);

  const beyondK = b.binary("and", b.binary("lt", b.fill(0, shape), topK), b.binary("le", topK, ofLarger(b.fill(1, shape))));
  const best = without(beyondK, scores);

  const top = b.reduceSpread("max", best, 1);
  const weight = b.unary("exp", b.binary("sub", best, top));
  const enough = b.binary("le", b.binary("mul", topP, b.reduceSpread("sum", weight, 1)), ofLarger(weight));
  const beyondP = b.binary("and", b.binary("and", b.binary("lt", topP, 1), enough), b.binary("lt", best, top));
  return without(b.binary("or", beyondP, b.binary("lt", weight, minP)), best);
}

export function decomposeSampleToken(n: NodeOf<"sampleToken">, b: Builder): Node {
  const [scores, draw] = n.inputs as [Node, Node];
  const shape = shapeOf(scores) as [Dim, number];
  const [batch] = shape;
  const number = (flag: Node): Node => b.cast(flag, "f32");

  const top = b.reduce("max", scores, 1);
  const weight = b.unary("exp", b.binary("sub", scores, b.spread(top, shape, [0])));
  const running = b.scan(weight, 1);
  const target = b.binary("mul", draw, b.reduce("max", running, 1));
  const passed = b.reduce("sum", number(b.binary("le", running, b.spread(target, shape, [0]))), 1);
  // rounding may take the target to the total, behind which there is nothing
  const possible = b.select(b.binary("lt", b.fill(0, shape), weight), b.cast(b.iota(shape, 1), "f32"), 0);
  const drawn = b.cast(b.binary("min", passed, b.reduce("max", possible, 1)), "i32");
  const token = b.select(b.binary("lt", draw, 0), b.reduce("argmax", scores, 1), drawn);

  const wrong = b.reduce("max", number(b.unary("not", b.binary("le", scores, LARGEST_F32))), 1);
  const nothing = b.binary("lt", top, -LARGEST_F32);
  return b.select(b.binary("or", b.binary("lt", b.fill(0, [batch]), wrong), nothing), b.fill(-1, [batch], "i32"), token);
}
