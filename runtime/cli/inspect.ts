import type { Command } from "commander";
import type { IntExpr, Manifest, ProgramEntry } from "../../compiler/artifact.ts";
import { evaluateIntExpr } from "../../compiler/artifact.ts";
import { UserError } from "../errors.ts";
import type { Run } from "./generate.ts";
import { addModelFlags, loadOptions, wholeNumber } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import { formatBytes, formatCount } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags {
  readonly model?: string;
  readonly artifact?: string;
  readonly batch?: number;
  readonly json?: boolean;
}

const examples = `
Examples:
  $ culm inspect --model models/bamba-tiny
  $ culm inspect --artifact model.culm
  $ culm inspect --model DIR --json | jq '.programs[] | {name, launches}'

Shows the plan of each program (its kernels in order, with the operation of the model that each one stores), the memory
that a session takes, the kernels with their templates and configurations, and what is stored in which precision.`;

export function defineInspect(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("inspect")
    .description("show what a model becomes: programs, kernels, memory, precision")
    .option("--model <dir>", "folder of a model, which is compiled if it was not before")
    .option("--artifact <dir>", "folder that `culm compile` wrote")
    .option("--batch <n>", "most prompts at once (default: 1)", wholeNumber);
  addModelFlags(command);
  return command
    .option("--json", "print everything as one JSON object")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => inspect(flags, terminal)));
}

async function inspect(flags: Flags, terminal: Terminal): Promise<undefined> {
  const { name, manifest, kernelBytes } = await load(flags, terminal);
  const report = describe(name, manifest, kernelBytes);
  if (flags.json === true) {
    terminal.out(`${JSON.stringify(report, null, 2)}\n`);
    return;
  }
  const { printReport } = await import("./inspect-text.ts");
  terminal.out(printReport(report));
}

async function load(flags: Flags, terminal: Terminal): Promise<{ name: string; manifest: Manifest; kernelBytes: number }> {
  if ((flags.model === undefined) === (flags.artifact === undefined))
    throw new UserError("expected one of --model and --artifact", { hint: "culm inspect --help has examples" });
  if (flags.artifact !== undefined) {
    const { readArtifact } = await import("../node/artifact.ts");
    const { manifest, kernels } = await readArtifact(flags.artifact);
    return { name: manifest.name, manifest, kernelBytes: kernels.length };
  }
  const folder = flags.model!;
  if (flags.backend === "interpret") throw new UserError("the interpreter compiles nothing to inspect", { hint: "leave out --backend" });
  const { compileFolder, modelName } = await import("../../models/auto/inspect.ts");
  const { options, stop } = loadOptions(flags, terminal, flags.batch);
  const { artifact } = await compileFolder(folder, options).finally(stop);
  return { name: modelName(folder), manifest: artifact.manifest, kernelBytes: artifact.kernels.length };
}

export type Report = ReturnType<typeof describe>;

function describe(name: string, manifest: Manifest, kernelBytes: number) {
  const { target, weights, literals, states, programs, kernels, metadata } = manifest;
  const sum = (entries: readonly { readonly bytes: number }[]): number => entries.reduce((total, { bytes }) => total + bytes, 0);
  const largest = (of: (program: ProgramEntry) => readonly { readonly name: string; readonly bytes: number }[]): number => {
    const most = new Map<string, number>();
    for (const entry of programs.flatMap(of)) most.set(entry.name, Math.max(most.get(entry.name) ?? 0, entry.bytes));
    return [...most.values()].reduce((total, bytes) => total + bytes, 0);
  };
  const memory = {
    weights: sum(weights),
    states: sum(states),
    literals: sum(literals),
    arena: Math.max(...programs.map(({ arenaBytes }) => arenaBytes)),
    inputs: largest((program) => program.inputs),
    outputs: largest((program) => program.outputs),
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

function describeProgram({ name, symbols, inputs, outputs, arenaBytes, steps }: ProgramEntry, { kernels }: Manifest) {
  const most = Object.fromEntries(symbols.map((symbol) => [symbol.name, symbol.max]));
  return {
    name,
    symbols,
    inputs: inputs.map((entry) => ({ name: entry.name, dtype: entry.dtype, shape: entry.shape.map(printInt) })),
    outputs: outputs.map((entry) => ({ name: entry.name, dtype: entry.dtype, shape: entry.shape.map(printInt) })),
    launches: steps.length,
    arenaBytes,
    steps: steps.map((step) => ({
      label: step.label,
      kernel: step.kernel,
      name: kernels[step.kernel]!.name,
      template: kernels[step.kernel]!.template,
      grid: step.grid.map(printInt),
      args: step.args.map((arg) => (arg.kind === "arena" ? `arena+${arg.offset}` : `${arg.kind} ${arg.name}`)),
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
