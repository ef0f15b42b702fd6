import * as z from "zod";
import type { BufferRef, IntExpr, Manifest, ProgramEntry, TensorEntry, WeightEntry } from "../compiler/artifact.ts";
import { ARTIFACT_VERSION, elementBytes, evaluateIntExpr, isDType } from "../compiler/artifact.ts";
import { shown, UserError } from "./errors.ts";

/** An artifact that cannot be used: the message names the file and the field. */
export class ArtifactError extends UserError {}

/**
 * The check of a manifest. It comes from a stranger: kernels run on the sizes and offsets in it, so nothing in it is used before all of it has been
 * checked, also against the other files of the artifact. zod checks the shape of the JSON, the functions below how the parts fit together.
 */

const largest = 2 ** 31 - 1;
const size = z.int().min(0).max(largest);
const positive = z.int().min(1).max(largest);
/** Bytes: up to a terabyte, so that sums stay exact. */
const bytes = z
  .int()
  .min(0)
  .max(2 ** 40);
const text = z.string().max(10_000);
const dtype = z.custom<Manifest["literals"][number]["dtype"]>(isDType, { error: "expected f32, f16, bf16, i32 or bool" });

const operators = new Set(["add", "sub", "mul", "idiv", "mod", "min", "max"]);
const deepest = 100;

function isIntExpr(e: unknown, depth = 0): e is IntExpr {
  if (typeof e === "number") return Number.isSafeInteger(e);
  if (typeof e === "string") return e.length > 0;
  if (!Array.isArray(e) || e.length !== 3 || depth === deepest) return false;
  return operators.has(e[0] as string) && isIntExpr(e[1], depth + 1) && isIntExpr(e[2], depth + 1);
}
const intExpr = z.custom<IntExpr>((e) => isIntExpr(e), { error: "expected an integer, a symbol, or [operator, a, b]" });

const tensor = z.object({ name: text, dtype, shape: z.array(intExpr).max(16), bytes });
const bufferRef = z.discriminatedUnion("kind", [
  z.object({ kind: z.enum(["weight", "literal", "state", "input", "output"]), name: text }),
  z.object({ kind: z.literal("arena"), arena: size, offset: bytes }),
]);

const requirements = z.object({
  features: z.array(text).max(100),
  limits: z.record(z.string().max(100), bytes),
  subgroup: positive.nullable(),
});

const manifestSchema = z.object({
  format: z.literal("culm-artifact"),
  version: z.literal(ARTIFACT_VERSION),
  compiler: text,
  name: text,
  target: z.object({ backend: text, caps: text, toolchain: text, requires: requirements }),
  weights: z.array(
    z.object({
      name: text,
      dtype,
      parts: z.array(z.object({ tensor: text, shape: z.array(positive).max(16) })).min(1),
      rows: positive,
      cols: positive,
      panel: size,
      bytes,
    }),
  ),
  literals: z.array(z.object({ name: text, dtype, shape: z.array(size).max(16), offset: bytes, bytes })),
  states: z.array(tensor),
  programs: z
    .array(
      z.object({
        name: text,
        symbols: z.array(z.object({ name: text, min: size, max: size })).max(16),
        inputs: z.array(tensor),
        outputs: z.array(tensor),
        arenas: z.array(bytes).max(10_000),
        steps: z.array(
          z.object({
            kernel: size,
            grid: z.tuple([intExpr, intExpr, intExpr]),
            args: z.array(bufferRef).max(1000),
            label: text,
            bytes: intExpr,
            flops: intExpr,
          }),
        ),
      }),
    )
    .min(1),
  kernels: z.array(
    z.object({
      entry: text.min(1),
      name: text,
      template: text,
      config: z.record(z.string(), z.number()),
      symbols: z.array(text).max(16),
      threads: positive,
      sharedBytes: bytes,
    }),
  ),
  metadata: z.record(z.string(), z.unknown()),
});

/**
 * Checks a parsed manifest.json.
 * @param literalBytes size of literals.bin
 * @param where the file, for messages
 * @throws ArtifactError naming the file and the field.
 */
export function parseManifest(json: unknown, literalBytes: number, where: string): Manifest {
  const version = typeof json === "object" && json !== null && "version" in json ? json.version : undefined;
  if (typeof version === "number" && version !== ARTIFACT_VERSION)
    throw new ArtifactError(
      `${where}: version: this is an artifact of version ${version}, this runtime reads version ${ARTIFACT_VERSION}`,
      {
        hint: "compile the model again",
      },
    );
  const result = manifestSchema.safeParse(json);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new ArtifactError(`${where}: ${issue.path.map(String).join(".") || "manifest"}: ${issue.message}`);
  }
  const manifest: Manifest = result.data;
  const fail = (field: string, message: string): never => {
    throw new ArtifactError(`${where}: ${field}: ${message}`);
  };
  checkTables(manifest, literalBytes, fail);
  checkStates(manifest, fail);
  for (const program of manifest.programs) checkProgram(program, manifest, fail);
  return manifest;
}

type Fail = (field: string, message: string) => never;

const product = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

function unique(names: readonly string[], field: string, fail: Fail): void {
  const seen = new Set<string>();
  for (const name of names) {
    if (seen.has(name)) fail(field, `the name ${shown(name)} is given twice`);
    seen.add(name);
  }
}

function checkTables({ weights, literals, states, programs, kernels }: Manifest, literalBytes: number, fail: Fail): void {
  for (const [field, entries] of Object.entries({ weights, literals, states, programs }))
    unique(
      entries.map((entry) => entry.name),
      field,
      fail,
    );
  unique(
    kernels.map((kernel) => kernel.entry),
    "kernels",
    fail,
  );
  for (const weight of weights) checkWeight(weight, fail);
  for (const { name, dtype, shape, offset, bytes } of literals) {
    const field = `literals.${name}`;
    const needed = product(shape) * elementBytes(dtype);
    if (needed !== bytes) fail(field, `[${shape.join(", ")}] of ${dtype} has ${needed} bytes, not ${bytes}`);
    if (offset + bytes > literalBytes)
      fail(field, `bytes ${offset} to ${offset + bytes} lie outside literals.bin, which has ${literalBytes}`);
    if (offset % elementBytes(dtype) !== 0) fail(field, `offset ${offset} is not a multiple of the size of ${dtype}`);
  }
}

function checkWeight({ name, dtype, parts, rows, cols, panel, bytes }: WeightEntry, fail: Fail): void {
  const field = `weights.${name}`;
  if (dtype === "i32" || dtype === "bool") fail(field, `a weight cannot be ${dtype}`);
  let stacked = 0;
  for (const { tensor, shape } of parts) {
    if (product(shape) % cols !== 0) fail(field, `[${shape.join(", ")}] of ${tensor} is not made of rows of ${cols}`);
    stacked += product(shape) / cols;
  }
  if (stacked !== rows) fail(field, `its parts have ${stacked} rows, not ${rows}`);
  const needed = (panel > 0 ? Math.ceil(rows / panel) * panel : rows) * cols * elementBytes(dtype);
  if (needed !== bytes) fail(field, `${rows} x ${cols} of ${dtype} in panels of ${panel} has ${needed} bytes, not ${bytes}`);
}

/** A state's symbols (the batch) may belong to some programs only: it has room for the largest of all. */
function checkStates({ states, programs }: Manifest, fail: Fail): void {
  const most: Record<string, number> = {};
  for (const { name, max } of programs.flatMap((program) => program.symbols)) most[name] = Math.max(most[name] ?? 0, max);
  for (const { name, dtype, shape, bytes } of states) {
    const needed = product(shape.map((e) => valueOf(e, most, `states.${name}`, fail))) * elementBytes(dtype);
    if (!(needed >= 0 && needed <= bytes)) fail(`states.${name}`, `its shape needs ${needed} bytes and it has ${bytes}`);
  }
}

function valueOf(e: IntExpr, symbols: Readonly<Record<string, number>>, field: string, fail: Fail): number {
  try {
    return evaluateIntExpr(e, symbols);
  } catch {
    return fail(field, `${shown(e)} uses a symbol that is not there`);
  }
}

function checkProgram(program: ProgramEntry, manifest: Manifest, fail: Fail): void {
  const at = `programs.${program.name}`;
  const { symbols, inputs, outputs, steps, arenas } = program;
  unique(
    symbols.map((symbol) => symbol.name),
    `${at}.symbols`,
    fail,
  );
  unique(
    inputs.map((input) => input.name),
    `${at}.inputs`,
    fail,
  );
  unique(
    outputs.map((output) => output.name),
    `${at}.outputs`,
    fail,
  );
  // they are one buffer, and a kernel's arguments may not overlap
  for (const { name } of outputs)
    if (inputs.some((input) => input.name === name)) fail(`${at}.outputs.${name}`, "the program also takes an input of this name");
  for (const { name, min, max } of symbols)
    if (min > max) fail(`${at}.symbols.${name}`, `the least value ${min} is above the greatest, ${max}`);
  const most = Object.fromEntries(symbols.map(({ name, max }) => [name, max]));
  const value = (e: IntExpr, field: string): number => valueOf(e, most, field, fail);
  const sized = (entry: TensorEntry, field: string): void => {
    const shape = entry.shape.map((e) => value(e, field));
    const needed = product(shape) * elementBytes(entry.dtype);
    if (shape.some((d) => d < 0) || needed !== entry.bytes)
      fail(field, `[${shape.join(", ")}] of ${entry.dtype} has ${needed} bytes, not ${entry.bytes}`);
  };
  for (const input of inputs) sized(input, `${at}.inputs.${input.name}`);
  for (const output of outputs) sized(output, `${at}.outputs.${output.name}`);

  const known: Readonly<Record<Exclude<BufferRef["kind"], "arena">, ReadonlySet<string>>> = {
    weight: names(manifest.weights),
    literal: names(manifest.literals),
    state: names(manifest.states),
    input: names(inputs),
    output: names(outputs),
  };
  steps.forEach((step, i) => {
    const field = `${at}.steps.${i}`;
    const kernel = manifest.kernels[step.kernel] ?? fail(`${field}.kernel`, `there is no kernel ${step.kernel}`);
    for (const symbol of kernel.symbols)
      if (!(symbol in most)) fail(field, `kernel ${kernel.entry} needs the symbol ${shown(symbol)}, which the program does not have`);
    for (const e of [...step.grid, step.bytes, step.flops]) value(e, field);
    step.args.forEach((arg, j) => {
      if (arg.kind === "arena") {
        const room = arenas[arg.arena] ?? fail(`${field}.args.${j}`, `there is no arena ${arg.arena}`);
        if (arg.offset >= Math.max(1, room))
          fail(`${field}.args.${j}`, `offset ${arg.offset} lies outside arena ${arg.arena} of ${room} bytes`);
      } else if (!known[arg.kind].has(arg.name)) fail(`${field}.args.${j}`, `there is no ${arg.kind} ${shown(arg.name)}`);
    });
  });
}

const names = (entries: readonly { readonly name: string }[]): ReadonlySet<string> => new Set(entries.map((entry) => entry.name));
