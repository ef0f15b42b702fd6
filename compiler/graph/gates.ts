import type { Graph } from "../ir/graph.ts";
import { typeOf } from "../ir/graph.ts";
import { makeNode } from "../ir/ops.ts";
import { builder } from "./build.ts";
import { decomposeActivation } from "./decompose-activation.ts";
import { rewriteGraph } from "./rewrite.ts";

/**
 * gatesFirst: a gated norm of f32 becomes the norm of a product, so that the gate ends up in the kernel whose result it multiplies. As part of a norm
 * that a GEMV's blocks compute for themselves its exponentials are computed by each of them, which on a GPU (two rows of a weight a block) costs more than
 * reading the weight does.
 */
export const gatesFirst = (graph: Graph): Graph =>
  rewriteGraph(graph, (n) => {
    if (n.op !== "gatedRmsNorm") return undefined;
    const [x, gate, weight] = n.inputs;
    if (x === undefined || gate === undefined || weight === undefined) return undefined;
    if (typeOf(x).dtype !== "f32" || typeOf(n).dtype !== "f32") return undefined;
    const where = { at: n.at, name: n.name };
    const b = builder(where);
    const gated = b.binary("mul", x, decomposeActivation(b, "silu", b.cast(gate, "f32")));
    return [makeNode("rmsNorm", [gated, weight], { eps: n.attrs.eps }, where)];
  });
