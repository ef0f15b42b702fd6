import type { Dim, Graph, Layout, Node, NodeOf } from "../ir/graph.ts";
import { topological, typeOf } from "../ir/graph.ts";
import { i32 } from "../ir/expr.ts";
import { makeNode, makeSource } from "../ir/ops.ts";
import { dimMax } from "../plan.ts";

/**
 * packWeights: chooses the memory layout of every weight that a GEMM reads, and stacks the weights of projections that share their input and feed
 * different consumers (q, k and v) into one, so that the input is read once and one kernel does them all. Projections of one shape that meet
 * again in a pointwise operation (gate and up) are left alone: the GEMM template runs them side by side.
 */
export function packWeights(graph: Graph, panel: number): Graph {
  const order = topological(graph);
  const users = new Map<Node, Node[]>();
  for (const n of order) for (const i of new Set(n.inputs)) users.set(i, [...(users.get(i) ?? []), n]);
  const roots = new Set<Node>([...graph.outputs, ...graph.updates].map((o) => o.value));

  const layout: Layout = panel > 0 ? { kind: "panels", width: panel } : { kind: "rows" };
  const linears = order.filter(
    (n): n is NodeOf<"matmul"> =>
      n.op === "matmul" && n.attrs.transB && n.inputs[1]!.op === "param" && typeOf(n.inputs[1]).shape.length === 2,
  );
  const packed = new Set<Node>(linears.map((n) => n.inputs[1]!));

  const chain = (n: Node): Node[] => {
    const out: Node[] = [];
    for (let cur = n; !roots.has(cur);) {
      const next = users.get(cur) ?? [];
      if (next.length !== 1 || !["binary", "unary", "activation", "cast", "select", "reshape"].includes(next[0]!.op)) break;
      cur = next[0]!;
      out.push(cur);
    }
    return out;
  };
  const meet = (a: Node, b: Node): boolean => {
    const seen = new Set(chain(a));
    return sameShape(typeOf(a).shape, typeOf(b).shape) && chain(b).some((n) => seen.has(n));
  };

  const groups = new Map<Node, NodeOf<"matmul">[]>();
  for (const n of linears) groups.set(n.inputs[0]!, [...(groups.get(n.inputs[0]!) ?? []), n]);
  const stackOf = new Map<Node, { group: readonly NodeOf<"matmul">[]; start: number }>();
  for (const [, all] of groups) {
    const group = all.filter((n) => !all.some((m) => m !== n && meet(n, m)) && (users.get(n.inputs[1]!) ?? []).length === 1);
    const dtypes = new Set(group.map((n) => typeOf(n.inputs[1]!).dtype));
    if (group.length < 2 || dtypes.size > 1) continue;
    let start = 0;
    for (const n of group) {
      stackOf.set(n, { group, start });
      start += rows(n);
    }
  }

  const done = new Map<Node, Node>();
  const stacks = new Map<readonly Node[], Node>();
  const go = (n: Node): Node => {
    const hit = done.get(n);
    if (hit) return hit;
    const inputs = n.inputs.map(go);
    let out = inputs.every((x, i) => x === n.inputs[i]) ? n : ({ ...n, inputs } as Node);
    const stack = stackOf.get(n);
    if (n.op === "param" && packed.has(n))
      out = { ...n, attrs: { ...n.attrs, packed: { parts: n.attrs.packed?.parts ?? [partOf(n)], layout } } };
    if (stack && n.op === "matmul") {
      const whole = stacks.get(stack.group) ?? stacked(stack.group, inputs[0]!, layout);
      stacks.set(stack.group, whole);
      const axis = typeOf(n).shape.length - 1;
      out = makeNode("slice", [whole], { axis, start: i32(stack.start), size: rows(n) }, { at: n.at, name: n.name });
    }
    done.set(n, out);
    return out;
  };
  return {
    ...graph,
    outputs: graph.outputs.map((o) => ({ ...o, value: go(o.value) })),
    updates: graph.updates.map((u) => ({ ...u, value: go(u.value) })),
  };
}

const partOf = (n: NodeOf<"param">): { tensor: string; shape: number[] } => ({ tensor: n.attrs.name, shape: typeOf(n).shape.map(dimMax) });
const rows = (n: Node): number => typeOf(n).shape.at(-1) as number;
const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean => a.length === b.length && a.every((d, i) => d === b[i]);

function stacked(group: readonly NodeOf<"matmul">[], input: Node, layout: Layout): Node {
  const weights = group.map((n) => n.inputs[1] as NodeOf<"param">);
  const first = typeOf(weights[0]!);
  const n = group.reduce((s, g) => s + rows(g), 0);
  const parts = weights.map(partOf);
  const name = parts.map((p) => p.tensor).join("+");
  const weight = makeSource(
    "param",
    { dtype: first.dtype, shape: [n, first.shape[1]!] },
    { name, packed: { parts, layout } },
    { at: weights[0]!.at, name },
  );
  return makeNode("matmul", [input, weight], { transB: true }, { at: group[0]!.at, name: group.map((g) => g.name).join("+") });
}
