import type { TensorEntry } from "../../compiler/artifact.ts";
import { BYTES } from "../../compiler/artifact.ts";
import { allocate, read, write } from "../../compiler/ir/dtype.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import type { Graph, Node } from "../../compiler/ir/graph.ts";
import { topological } from "../../compiler/ir/graph.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import type { Tensor } from "../../compiler/run/graph.ts";
import type { Executor, HostArray, ProgramInfo, Symbols } from "../../runtime/executor.ts";
import { decodeFloats, isFloatDType } from "../../runtime/numeric.ts";
import type { WeightSource } from "../../runtime/weights.ts";

export interface NamedGraph {
  readonly name: string;
  readonly graph: Graph;
}

/**
 * Runs graphs in the interpreter behind the interface of a compiled model: `--backend interpret`. The meaning of every operation with nothing of the
 * compiler in between, in double precision with each result rounded, so it is slow and takes eight bytes an element.
 */
export async function createInterpreter(programs: readonly NamedGraph[], source: WeightSource): Promise<Executor> {
  const infos = new Map(programs.map(({ name, graph }) => [name, describeProgram(name, graph)]));
  // one array a name: what one program gives under a name is what another takes under it
  const tensors = hostTensors([...infos.values()].flatMap((info) => [...info.inputs, ...info.outputs]));
  const namesOf = (of: (info: ProgramInfo) => readonly TensorEntry[]): ReadonlySet<string> =>
    new Set([...infos.values()].flatMap(of).map(({ name }) => name));
  const inputs = namesOf((info) => info.inputs);
  const outputs = namesOf((info) => info.outputs);
  const stateEntries = statesOf(programs);
  const states = new Map(stateEntries.map((entry) => [entry.name, new Float64Array(entry.bytes / BYTES[entry.dtype])]));
  const params = await loadParams(programs, source);
  const graphs = new Map(programs.map(({ name, graph }) => [name, graph]));
  const dtypes = new Map(stateEntries.map((entry) => [entry.name, entry.dtype]));

  const run = (name: string, symbols: Symbols): void => {
    const graph = graphs.get(name);
    const info = infos.get(name);
    if (graph === undefined || info === undefined) throw new Error(`there is no program ${name}`);
    const values = Object.fromEntries(graph.symbols.map((symbol) => [symbol.name, symbols[symbol.name] ?? NaN]));
    const bind = (entry: TensorEntry, data: Float64Array): Tensor => {
      const shape = entry.shape.map((size) => (typeof size === "string" ? values[size]! : (size as number)));
      return { dtype: entry.dtype, shape, data: data.subarray(0, product(shape)) };
    };
    const results = interpretGraph(graph, {
      symbols: values,
      inputs: Object.fromEntries(info.inputs.map((entry) => [entry.name, bind(entry, toDoubles(entry.dtype, tensors.get(entry.name)!))])),
      params,
      states: Object.fromEntries(statesOf([{ name, graph }]).map((entry) => [entry.name, bind(entry, states.get(entry.name)!)])),
    });
    for (const [state, { data }] of Object.entries(results.states)) states.get(state)!.set(data);
    for (const [output, { dtype, data }] of Object.entries(results.outputs)) {
      const target = tensors.get(output)!;
      for (let i = 0; i < data.length; i += 1) write(target, dtype, i, data[i]!);
    }
  };

  return {
    programs: [...infos.values()],
    states: stateEntries,
    description: "interpreter",
    allocations: tensors.size + states.size,
    input: (name) => (inputs.has(name) ? tensors.get(name) : undefined),
    wrote: () => undefined,
    output: (name) => (outputs.has(name) ? tensors.get(name) : undefined),
    fetch: () => undefined,
    run,
    readState: (name, first, target) => {
      const data = states.get(name)!;
      const dtype = dtypes.get(name)!;
      for (let i = 0; i < target.length; i += 1) write(target, dtype, i, data[first + i]!);
    },
    writeState: (name, first, stored) => {
      const data = states.get(name)!;
      const dtype = dtypes.get(name)!;
      for (let i = 0; i < stored.length; i += 1) data[first + i] = read(stored, dtype, i);
    },
    clearState: (name) => void states.get(name)!.fill(0),
    close: () => undefined,
  };
}

const product = (shape: readonly number[]): number => shape.reduce((n, size) => n * size, 1);

function toDoubles(dtype: DType, data: HostArray): Float64Array {
  return Float64Array.from({ length: data.length }, (_, i) => read(data, dtype, i));
}

function entryOf(name: string, node: Node, graph: Graph): TensorEntry {
  const type = node.types[0]!;
  const most = type.shape.map((size) =>
    typeof size === "number" ? size : (graph.symbols.find((symbol) => symbol === size)?.max ?? size.max),
  );
  return {
    name,
    dtype: type.dtype,
    shape: type.shape.map((size) => (typeof size === "number" ? size : size.name)),
    bytes: product(most) * BYTES[type.dtype],
  };
}

function describeProgram(name: string, graph: Graph): ProgramInfo {
  const inputs = new Map<string, TensorEntry>();
  for (const node of topological(graph)) if (node.op === "input") inputs.set(node.attrs.name, entryOf(node.attrs.name, node, graph));
  return {
    name,
    symbols: graph.symbols.map((symbol) => ({ name: symbol.name, min: symbol.min, max: symbol.max })),
    inputs: [...inputs.values()],
    outputs: graph.outputs.map((output) => entryOf(output.name, output.value, graph)),
  };
}

/** Every state once, at its largest. */
function statesOf(programs: readonly NamedGraph[]): TensorEntry[] {
  const states = new Map<string, TensorEntry>();
  for (const { graph } of programs) {
    for (const node of topological(graph)) {
      if (node.op !== "state") continue;
      const entry = entryOf(node.attrs.name, node, graph);
      if ((states.get(entry.name)?.bytes ?? -1) < entry.bytes) states.set(entry.name, entry);
    }
  }
  return [...states.values()];
}

function hostTensors(entries: readonly TensorEntry[]): ReadonlyMap<string, HostArray> {
  const largest = new Map<string, TensorEntry>();
  for (const entry of entries) if ((largest.get(entry.name)?.bytes ?? -1) < entry.bytes) largest.set(entry.name, entry);
  return new Map([...largest].map(([name, { dtype, bytes }]) => [name, allocate(dtype, bytes / BYTES[dtype])]));
}

/** The weights that the graphs read, rounded to the type in which the graphs hold them. */
async function loadParams(programs: readonly NamedGraph[], source: WeightSource): Promise<Record<string, Tensor>> {
  const params: Record<string, Tensor> = {};
  for (const { graph } of programs) {
    for (const node of topological(graph)) {
      if (node.op !== "param" || params[node.attrs.name] !== undefined) continue;
      const { name } = node.attrs;
      const { dtype } = node.types[0]!;
      const shape = node.types[0]!.shape.map((size) => (typeof size === "number" ? size : size.max));
      const stored = source.tensors.get(name);
      if (stored === undefined || !isFloatDType(stored.dtype)) throw new Error(`no float tensor ${name} in ${source.path}`);
      const bytes = new Uint8Array(product(stored.shape) * { F64: 8, F32: 4, F16: 2, BF16: 2 }[stored.dtype]);
      await source.readInto(name, bytes, 0);
      const data = Float64Array.from(decodeFloats(stored.dtype, bytes));
      const rounded = allocate(dtype, 1);
      if (dtype !== "f32") {
        for (let i = 0; i < data.length; i += 1) {
          write(rounded, dtype, 0, data[i]!);
          data[i] = read(rounded, dtype, 0);
        }
      }
      params[name] = { dtype, shape, data };
    }
  }
  return params;
}
