import type { Caps } from "../../compiler/backend.ts";
import { allocate, read, write } from "../../compiler/ir/dtype.ts";
import type { Graph, NodeOf } from "../../compiler/ir/graph.ts";
import { topological } from "../../compiler/ir/graph.ts";
import { lowerGraph, lowerKernel } from "../../compiler/pipeline.ts";
import type { BufferInfo, KernelPlan } from "../../compiler/plan.ts";
import { bufferIndex, dimMax, maxElements } from "../../compiler/plan.ts";
import { evaluateInt, i32 } from "../../compiler/ir/expr.ts";
import type { Bindings, Results, Tensor } from "../../compiler/run/graph.ts";
import { interpretTile } from "../../compiler/run/tile.ts";
import type { HostArray } from "../../compiler/run/tile.ts";
import { emulateThread, printFinding } from "../../compiler/run/thread.ts";

/** Runs one kernel on host memory, given its buffers by parameter name. */
export type RunKernel = (
  kernel: KernelPlan,
  caps: Caps,
  buffers: Readonly<Record<string, HostArray>>,
  symbols: Readonly<Record<string, number>>,
) => void;

export const onTiles: RunKernel = (kernel, caps, buffers, symbols) => {
  interpretTile(lowerKernel(kernel, caps).choice.program, buffers, symbols);
};
export const onThreads: RunKernel = (kernel, caps, buffers, symbols) => {
  const found = emulateThread(lowerKernel(kernel, caps).thread, caps, buffers, symbols);
  if (found.length > 0) throw new Error(`${kernel.label}:\n${found.slice(0, 5).map(printFinding).join("\n")}`);
};

/** Fuses a graph for `caps` and runs its kernels one after another: the whole compiler but for the printer. */
export function runFused(graph: Graph, caps: Caps, bindings: Bindings, run: RunKernel): Results {
  const { graph: lowered, fused } = lowerGraph(graph, caps);
  const memory = new Map<BufferInfo, HostArray>();
  const byName = new Map<string, HostArray>();
  const bound: Record<BufferInfo["kind"], Readonly<Record<string, Tensor>>> = {
    weight: bindings.params ?? {},
    input: bindings.inputs ?? {},
    state: bindings.states ?? {},
    literal: Object.fromEntries(
      literals(lowered).map((n) => [
        n.attrs.name,
        { dtype: n.types[0]!.dtype, shape: n.types[0]!.shape.map(dimMax), data: Float64Array.from(n.attrs.data) },
      ]),
    ),
    arena: {},
    output: {},
  };
  const symbols = bindings.symbols ?? {};
  const packs = new Map(
    topological(lowered).flatMap((n) =>
      n.op === "param" ? [[n.attrs.name, n.attrs.packed?.parts.map((p) => p.tensor) ?? [n.attrs.name]] as const] : [],
    ),
  );
  const arrayOf = (b: BufferInfo): HostArray => {
    const key = `${b.kind} ${b.name}`;
    const known = memory.get(b) ?? (b.kind === "arena" ? undefined : byName.get(key));
    if (known) return known;
    const data = allocate(b.dtype, maxElements(b));
    if (b.kind === "weight")
      fillWeight(
        b,
        data,
        packs.get(b.name)!.map((name) => given(bound.weight, name, b)),
      );
    else if (b.kind !== "arena" && b.kind !== "output" && !(b.kind === "state" && !bound.state[b.name]))
      given(bound[b.kind], b.name, b).data.forEach((x, i) => {
        write(data, b.dtype, i, x);
      });
    memory.set(b, data);
    byName.set(key, data);
    return data;
  };
  for (const k of fused.kernels) {
    const params = k.problem.frame.params;
    run(k, caps, Object.fromEntries(k.args.map((a, i) => [params[i]!.name, arrayOf(a.buffer)])), symbols);
  }
  const tensorOf = (b: BufferInfo): Tensor => {
    const shape = b.shape.map((d) => (typeof d === "number" ? d : symbols[d.name]!));
    const data = arrayOf(b);
    const count = shape.reduce((x, y) => x * y, 1);
    return { dtype: b.dtype, shape, data: Float64Array.from({ length: count }, (_, i) => read(data, b.dtype, i)) };
  };
  const states = topological(lowered).filter((n): n is NodeOf<"state"> => n.op === "state");
  return {
    outputs: Object.fromEntries(fused.outputs.map((b) => [b.name, tensorOf(b)])),
    states: Object.fromEntries(
      states.map((n) => [
        n.attrs.name,
        tensorOf({ kind: "state", name: n.attrs.name, dtype: n.types[0]!.dtype, shape: n.types[0]!.shape, panel: 0 }),
      ]),
    ),
  };
}

const literals = (g: Graph): NodeOf<"literal">[] => topological(g).filter((n): n is NodeOf<"literal"> => n.op === "literal");

function given(from: Readonly<Record<string, Tensor>>, name: string, b: BufferInfo): Tensor {
  const t = from[name];
  if (!t) throw new Error(`no ${b.kind} named ${name} is bound; there are ${Object.keys(from).join(", ")}`);
  return t;
}

/** Stacks the rows of the parts and lays them out as the buffer says. */
function fillWeight(b: BufferInfo, data: HostArray, parts: readonly Tensor[]): void {
  let row = 0;
  for (const t of parts) {
    const cols = t.shape.slice(1).reduce((x, y) => x * y, 1);
    for (let r = 0; r < (t.shape[0] ?? 1); r++, row++)
      for (let c = 0; c < cols; c++) {
        const index = b.panel > 0 ? evaluateInt(bufferIndex(b, [i32(row), i32(c)]), {}) : row * cols + c;
        write(data, b.dtype, index, t.data[r * cols + c]!);
      }
  }
}
