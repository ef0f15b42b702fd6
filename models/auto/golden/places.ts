import type { Site } from "../../../compiler/diagnostics.ts";
import type { Graph, Node } from "../../../compiler/ir/graph.ts";
import { topological } from "../../../compiler/ir/graph.ts";
import type { BambaForCausalLM } from "../model.ts";
import { traceModel } from "../plan.ts";
import type { Point } from "./section.ts";

/** A weight that takes part in what differs, and the line of the model's source that reads it. */
export interface Suspect {
  readonly parameter: string;
  readonly at: Site | null;
}

/** Where in the model two computations part. */
export interface Place {
  readonly point: Point;
  readonly kind: "mamba" | "attention" | null;
  /** The line of the model's source that makes the value. */
  readonly at: Site | null;
  /** The weights between what still agrees and the value, in the order in which they are read. */
  readonly suspects: readonly Suspect[];
}

/**
 * Of the points of one layer that differ the one that the graph computes first, and what lies between it and what agrees.
 * @param differ points that differ, at least one
 * @param agree points of the same layer that agree
 */
export async function placeOf(model: BambaForCausalLM, differ: readonly Point[], agree: readonly Point[]): Promise<Place> {
  const { config, plan } = model;
  // The attention weights are values of the graph only where attention is written out; elsewhere the line of the attention itself says more.
  const attentions = differ.length === 1 && "output" in differ[0]!.value && differ[0]!.value.output.startsWith("attentions.");
  const programs = await traceModel(config, { ...plan, use: "forward", head: true, hiddenStates: true, attentions, embeds: false, loss: true });
  const graph = programs.find(({ name }) => name === "prefill")!.graph;
  const order = new Map(topological(graph).map((node, i) => [node, i]));
  const nodes = differ.flatMap((point) => {
    const node = nodeOf(graph, point);
    return node === undefined ? [] : [{ point, node }];
  });
  const [first] = nodes.sort((a, b) => order.get(a.node)! - order.get(b.node)!);
  if (first === undefined) return { point: differ[0]!, kind: null, at: null, suspects: [] };
  const { layer } = first.point;
  const input = layer === null ? [] : [{ name: "", layer: null, value: { output: `hidden.${layer}` } }];
  const head = { name: "", layer: null, value: { output: `hidden.${config.numHiddenLayers}` } };
  const known = [...agree, ...input, ...(layer === null ? [head] : [])].flatMap((point) => nodeOf(graph, point) ?? []);
  return {
    point: first.point,
    kind: layer === null ? null : config.layerKinds[layer]!,
    at: first.node.at,
    suspects: parametersBetween(new Set(known), first.node, order),
  };
}

function nodeOf(graph: Graph, { value }: Point): Node | undefined {
  if ("output" in value) return graph.outputs.find(({ name }) => name === value.output)?.value;
  const node = graph.updates.find(({ state }) => state === value.state)?.value;
  const operation = node?.op === "get" ? node.inputs[0] : node;
  // What a convolution keeps is its input, which its own weights have no part in.
  return operation?.op === "causalConv1d" ? operation.inputs[0] : node;
}

function parametersBetween(known: ReadonlySet<Node>, value: Node, order: ReadonlyMap<Node, number>): Suspect[] {
  const found = new Set<Node>();
  const visit = (node: Node): void => {
    if (found.has(node) || known.has(node)) return;
    found.add(node);
    for (const input of node.inputs) visit(input);
  };
  visit(value);
  return [...found]
    .sort((a, b) => order.get(a)! - order.get(b)!)
    .flatMap((node) => (node.op === "param" ? [{ parameter: node.attrs.name, at: node.at }] : []));
}
