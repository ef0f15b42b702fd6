import type { RunProgram } from "../conformance/backends.ts";
import type { Caps } from "../../compiler/backend.ts";
import { allocate, read, write } from "../../compiler/ir/dtype.ts";
import { evaluateInt, i32 } from "../../compiler/ir/expr.ts";
import type { Graph, NodeOf } from "../../compiler/ir/graph.ts";
import { topological } from "../../compiler/ir/graph.ts";
import type { LoweredKernel } from "../../compiler/pipeline.ts";
import { lowerGraph, lowerKernel } from "../../compiler/pipeline.ts";
import type { BufferInfo, KernelPlan } from "../../compiler/plan.ts";
import { bufferIndex, dimMax, maxElements } from "../../compiler/plan.ts";
import type { Bindings, Results, Tensor } from "../../compiler/run/graph.ts";
import { interpretTile } from "../../compiler/run/tile.ts";
import type { HostArray } from "../../compiler/run/tile.ts";

/** A graph whose kernels are ready: give it values and something that runs a placed program. */
export type FusedProgram = (bindings: Bindings, run: RunProgram) => Promise<Results>;

/** Fuses and lowers a graph for `caps`: the whole compiler but for the printer. */
export function compileFused(graph: Graph, caps: Caps): FusedProgram {
  const { graph: lowered, fused } = lowerGraph(graph, caps);
  const kernels = fused.kernels.map((plan) => ({ plan, kernel: lowerKernel(plan, caps) }));
  return async (bindings, run) => {
    const memory = bind(lowered, bindings);
    const symbols = bindings.symbols;
    for (const { plan, kernel } of kernels) await run(kernel.thread, caps, memory.argumentsOf(plan), symbols);
    return memory.results(fused.outputs, symbols);
  };
}

/** The same on the Tile interpreter. */
export function runOnTiles(graph: Graph, caps: Caps, bindings: Bindings): Results {
  const { graph: lowered, fused } = lowerGraph(graph, caps);
  const memory = bind(lowered, bindings);
  for (const plan of fused.kernels) {
    const kernel: LoweredKernel = lowerKernel(plan, caps);
    interpretTile(kernel.choice.program, memory.argumentsOf(plan), bindings.symbols);
  }
  return memory.results(fused.outputs, bindings.symbols);
}

interface Memory {
  /** A kernel's buffers, by the names of its parameters. */
  argumentsOf(k: KernelPlan): Record<string, HostArray>;
  results(outputs: readonly BufferInfo[], symbols: Readonly<Record<string, number>>): Results;
}

/** Host memory for every buffer of a program, filled from the bindings: weights packed, states zero where none are given. */
function bind(graph: Graph, bindings: Bindings): Memory {
  const order = topological(graph);
  const literals = order.filter((n): n is NodeOf<"literal"> => n.op === "literal");
  const given: Record<BufferInfo["kind"], Readonly<Record<string, Tensor>>> = {
    weight: bindings.params ?? {},
    input: bindings.inputs ?? {},
    state: bindings.states ?? {},
    literal: Object.fromEntries(
      literals.map((n) => [
        n.attrs.name,
        { dtype: n.types[0]!.dtype, shape: n.types[0]!.shape.map(dimMax), data: Float64Array.from(n.attrs.data) },
      ]),
    ),
    arena: {},
    output: {},
  };
  const parts = new Map(
    order.flatMap((n) => (n.op === "param" && n.attrs.packed ? [[n.attrs.name, n.attrs.packed.parts.map((p) => p.tensor)] as const] : [])),
  );
  const tensorFor = (b: BufferInfo, name: string): Tensor => {
    const t = given[b.kind][name];
    if (!t) throw new Error(`no ${b.kind} named ${name} is bound; there are ${Object.keys(given[b.kind]).join(", ")}`);
    return t;
  };

  const arena = new Map<BufferInfo, HostArray>();
  const named = new Map<string, HostArray>();
  const arrayOf = (b: BufferInfo): HostArray => {
    const key = `${b.kind} ${b.name}`;
    const known = b.kind === "arena" ? arena.get(b) : named.get(key);
    if (known) return known;
    const data = allocate(b.dtype, maxElements(b));
    if (b.kind === "arena") arena.set(b, data);
    else named.set(key, data);
    if (b.kind === "weight")
      fillWeight(
        b,
        data,
        (parts.get(b.name) ?? [b.name]).map((name) => tensorFor(b, name)),
      );
    else if (b.kind === "input" || b.kind === "literal" || (b.kind === "state" && given.state[b.name]))
      tensorFor(b, b.name).data.forEach((x, i) => {
        write(data, b.dtype, i, x);
      });
    return data;
  };
  return {
    argumentsOf: (k) => Object.fromEntries(k.args.map((a, i) => [k.problem.frame.params[i]!.name, arrayOf(a.buffer)])),
    results(outputs, symbols) {
      const tensorOf = (b: BufferInfo): Tensor => {
        const shape = b.shape.map((d) => (typeof d === "number" ? d : symbols[d.name]!));
        const data = arrayOf(b);
        return {
          dtype: b.dtype,
          shape,
          data: Float64Array.from({ length: shape.reduce((x, y) => x * y, 1) }, (_, i) => read(data, b.dtype, i)),
        };
      };
      const states = order.filter((n): n is NodeOf<"state"> => n.op === "state");
      const stateBuffer = (n: NodeOf<"state">): BufferInfo => ({
        kind: "state",
        name: n.attrs.name,
        dtype: n.types[0]!.dtype,
        shape: n.types[0]!.shape,
        panel: 0,
      });
      return {
        outputs: Object.fromEntries(outputs.map((b) => [b.name, tensorOf(b)])),
        states: Object.fromEntries(states.map((n) => [n.attrs.name, tensorOf(stateBuffer(n))])),
      };
    },
  };
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
