import type { Graph, Node } from "../ir/graph.ts";
import { topological } from "../ir/graph.ts";
import { printTypes } from "../ir/graph-text.ts";
import { sameType } from "../ir/infer.ts";

/**
 * Rebuilds a graph from the operands up. `f` sees each node with its operands already rewritten, and gives what replaces its results (one node
 * for each), or undefined to keep it. Untouched nodes stay the same objects. What `f` gives is not visited again.
 */
export function rewriteGraph(graph: Graph, f: (n: Node) => readonly Node[] | undefined): Graph {
  /** What each old node has become: itself or a replacement, or one replacement for each of its results. */
  const whole = new Map<Node, Node>();
  const apart = new Map<Node, readonly Node[]>();
  for (const old of topological(graph)) {
    const results = old.op === "get" ? apart.get(old.inputs[0]!) : undefined;
    if (results) {
      whole.set(old, results[(old.attrs as { readonly index: number }).index]!);
      continue;
    }
    const inputs = old.inputs.map((i) => whole.get(i)!);
    const n = inputs.every((x, i) => x === old.inputs[i]) ? old : ({ ...old, inputs } as Node);
    const by = f(n);
    if (by) checkReplacement(n, by);
    if (by && old.types.length > 1) apart.set(old, by);
    whole.set(old, by && old.types.length === 1 ? by[0]! : n);
  }
  return {
    ...graph,
    outputs: graph.outputs.map((o) => ({ ...o, value: whole.get(o.value)! })),
    updates: graph.updates.map((u) => ({ ...u, value: whole.get(u.value)! })),
  };
}

function checkReplacement(n: Node, by: readonly Node[]): void {
  if (by.length === n.types.length && by.every((b, i) => b.types.length === 1 && sameType(b.types[0]!, n.types[i]!))) return;
  throw new Error(`rewrite of ${n.op} ${n.name}: ${printTypes(by.flatMap((b) => b.types))} instead of ${printTypes(n.types)}`);
}
