import type { IntExpr, Manifest, ProgramEntry } from "../../compiler/artifact.ts";
import { evaluateIntExpr } from "../../compiler/artifact.ts";
import { formatBytes, formatCount } from "./terminal.ts";

export type Report = ReturnType<typeof describeArtifact>;

/** What is in an artifact, as plain data: `culm inspect --json`. */
export function describeArtifact(name: string, manifest: Manifest, kernelBytes: number) {
  const { target, weights, literals, states, programs, kernels, metadata } = manifest;
  const sum = (entries: readonly { readonly bytes: number }[]): number => entries.reduce((total, { bytes }) => total + bytes, 0);
  const largest = (of: (program: ProgramEntry) => readonly { readonly name: string; readonly bytes: number }[]): number => {
    const most = new Map<string, number>();
    for (const entry of programs.flatMap(of)) most.set(entry.name, Math.max(most.get(entry.name) ?? 0, entry.bytes));
    return [...most.values()].reduce((total, bytes) => total + bytes, 0);
  };
  // what one program gives and another takes under the same name is one buffer
  const taken = new Set(programs.flatMap(({ inputs }) => inputs.map((input) => input.name)));
  const memory = {
    weights: sum(weights),
    states: sum(states),
    literals: sum(literals),
    arena: Math.max(...programs.map(({ arenas }) => total(arenas))),
    inputs: largest((program) => program.inputs),
    outputs: largest((program) => program.outputs.filter((output) => !taken.has(output.name))),
    kernels: kernelBytes,
  };
  const uses = kernels.map((_, i) => programs.reduce((n, { steps }) => n + steps.filter(({ kernel }) => kernel === i).length, 0));
  return {
    name,
    compiler: manifest.compiler,
    target,
    parameters: typeof metadata["parameters"] === "number" ? metadata["parameters"] : null,
    precision: {
      weights: countBy(weights.map(({ dtype }) => dtype)),
      states: countBy(states.map(({ dtype }) => dtype)),
      arithmetic: "f32",
    },
    memory: { ...memory, total: Object.values(memory).reduce((a, b) => a + b, 0) },
    programs: programs.map((program) => describeProgram(program, manifest)),
    kernels: kernels.map((kernel, i) => ({ ...kernel, uses: uses[i]! })),
    states: states.map(({ name: state, dtype, shape, bytes }) => ({ name: state, dtype, shape: shape.map(printInt), bytes })),
    weights: weights.map(({ name: weight, dtype, rows, cols, panel, bytes, parts }) => ({
      name: weight,
      dtype,
      rows,
      cols,
      panel,
      bytes,
      tensors: parts.map(({ tensor }) => tensor),
    })),
    summary: `${formatCount(typeof metadata["parameters"] === "number" ? metadata["parameters"] : 0)} parameters, ${formatBytes(sum(weights))} of weights`,
  };
}

const total = (sizes: readonly number[]): number => sizes.reduce((a, b) => a + b, 0);

function describeProgram({ name, symbols, inputs, outputs, arenas, steps }: ProgramEntry, { kernels }: Manifest) {
  const most = Object.fromEntries(symbols.map((symbol) => [symbol.name, symbol.max]));
  return {
    name,
    symbols,
    inputs: inputs.map((entry) => ({ name: entry.name, dtype: entry.dtype, shape: entry.shape.map(printInt) })),
    outputs: outputs.map((entry) => ({ name: entry.name, dtype: entry.dtype, shape: entry.shape.map(printInt) })),
    launches: steps.length,
    arenaBytes: total(arenas),
    steps: steps.map((step) => ({
      label: step.label,
      kernel: step.kernel,
      name: kernels[step.kernel]!.name,
      template: kernels[step.kernel]!.template,
      grid: step.grid.map(printInt),
      args: step.args.map((arg) =>
        arg.kind === "arena" ? (arenas.length > 1 ? `arena ${arg.arena}` : `arena+${arg.offset}`) : `${arg.kind} ${arg.name}`,
      ),
      bytes: evaluateIntExpr(step.bytes, most),
      flops: evaluateIntExpr(step.flops, most),
    })),
  };
}

function countBy(names: readonly string[]): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

const operators: Readonly<Record<string, string>> = { add: "+", sub: "-", mul: "*", idiv: "/", mod: "%" };

/** ["idiv", ["add", "seq", 3], 4] as "(seq + 3) / 4". */
function printInt(e: IntExpr): string {
  const inner = (x: IntExpr): string => (typeof x === "object" && operators[x[0]] !== undefined ? `(${printInt(x)})` : printInt(x));
  if (typeof e !== "object") return String(e);
  const operator = operators[e[0]];
  return operator === undefined ? `${e[0]}(${printInt(e[1])}, ${printInt(e[2])})` : `${inner(e[1])} ${operator} ${inner(e[2])}`;
}
