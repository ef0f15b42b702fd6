import type { Manifest, WeightEntry } from "../compiler/artifact.ts";
import { evaluateIntExpr } from "../compiler/artifact.ts";
import { UserError } from "./errors.ts";
import { formatBytes } from "./format.ts";

/** What an artifact needs of a device's memory, in bytes, before any of it is taken. */
export interface MemoryPlan {
  /** Weights as they are packed, and tables. */
  readonly weights: number;
  /** States of one size whatever the text's length, and room for a row on its way to another. */
  readonly states: number;
  /** States that run over positions: keys and values. */
  readonly caches: number;
  /** What a position takes, for all rows together: of those states, of tables by position, and of the inputs that say which sequence it belongs to. */
  readonly bytesPerPosition: number;
  /** Values between kernels. */
  readonly between: number;
  readonly inputsAndOutputs: number;
  readonly total: number;
  /** Rows and positions that all this is for. */
  readonly rows: number;
  readonly capacity: number;
}

/** @param held weights that are on the device already, which cost nothing more */
export function memoryPlan(manifest: Manifest, held: (weight: WeightEntry) => boolean = () => false): MemoryPlan {
  const axes = positionAxesOf(manifest);
  const runsOverPositions = ({ name }: { readonly name: string }): boolean => axes.has(name);
  const weights = sum(manifest.weights.filter((weight) => !held(weight)).map(({ bytes }) => bytes)) + literalBytes(manifest);
  const states = sum(manifest.states.filter((state) => !runsOverPositions(state)).map(({ bytes }) => bytes)) + largestRow(manifest);
  const caches = sum(manifest.states.filter(runsOverPositions).map(({ bytes }) => bytes));
  const between = sum(arenaSizes(manifest));
  const inputsAndOutputs = sum([...ioBytes(manifest).values()]);
  const capacity = largestSymbol(manifest, "past", 0) + 1;
  const grows = ({ shape }: { readonly shape: readonly unknown[] }): boolean => capacity > 1 && shape.includes(capacity);
  const others = [...manifest.literals.filter(grows), ...unique(manifest.programs.flatMap(({ inputs }) => inputs.filter(grows)))];
  return {
    weights,
    states,
    caches,
    bytesPerPosition: (caches + sum(others.map(({ bytes }) => bytes))) / capacity,
    between,
    inputsAndOutputs,
    total: weights + states + caches + between + inputsAndOutputs,
    rows: largestSymbol(manifest, "batch", 1),
    capacity,
  };
}

/** Positions for which there is room in so many bytes, with everything else as it is; 0 where there is none, and what is planned where nothing grows with them. */
export function largestContext(plan: MemoryPlan, bytes: number): number {
  const { total, bytesPerPosition, capacity } = plan;
  if (bytesPerPosition === 0) return total <= bytes ? capacity : 0;
  return Math.max(0, capacity + Math.floor((bytes - total) / bytesPerPosition));
}

/** "20.1 GB: weights 18.5 GB, states ..." */
export function describePlan(plan: MemoryPlan): string {
  const { weights, states, caches, bytesPerPosition, between, inputsAndOutputs, total, rows, capacity } = plan;
  const parts = [`weights ${formatBytes(weights)}`];
  if (states > 0) parts.push(`states ${formatBytes(states)}`);
  if (caches > 0)
    parts.push(
      `keys and values ${formatBytes(caches)} (${formatBytes(bytesPerPosition)} a position, ${capacity} positions, ${rows} ${rows === 1 ? "row" : "rows"})`,
    );
  if (between > 0) parts.push(`between kernels ${formatBytes(between)}`);
  parts.push(`inputs and outputs ${formatBytes(inputsAndOutputs)}`);
  return `${formatBytes(total)}: ${parts.join(", ")}`;
}

/**
 * Why a model is not opened, with the plan, and what would fit.
 * @param free bytes that the device has for it, where it tells
 */
export function memoryRefusal(
  device: string,
  plan: MemoryPlan,
  free: number | undefined,
  { what = "", cause }: { readonly what?: string; readonly cause?: unknown } = {},
): UserError {
  const fits = free === undefined ? 0 : largestContext(plan, free);
  return new UserError(
    `${device}: not enough memory${what}; the model needs ${describePlan(plan)}${free === undefined ? "" : `; ${formatBytes(free)} are free`}`,
    {
      cause,
      hint:
        fits > 0 && fits < plan.capacity
          ? `at most ${fits} positions fit (--max-length ${fits}); fewer rows (--batch) or another --dtype need less too`
          : "a smaller --max-length, --batch or --prefill-chunk, or another --dtype, needs less",
    },
  );
}

/** The arenas are all programs' (one runs at a time): each is as large as the program that needs most of it asks for. */
export function arenaSizes({ programs }: Manifest): readonly number[] {
  const count = Math.max(0, ...programs.map(({ arenas }) => arenas.length));
  return Array.from({ length: count }, (_, i) => Math.max(64, ...programs.map(({ arenas }) => arenas[i] ?? 0)));
}

/** Bytes of the largest row that may have to change places with another: of a state, or of an output that has one position a row. 0 with one row. */
export function largestRow({ states, programs }: Manifest): number {
  const most = Object.fromEntries(programs.flatMap(({ symbols }) => symbols.map(({ name, max }) => [name, max])));
  const outputs = programs.flatMap((program) => program.outputs).filter(({ shape }) => shape[0] === "batch" && shape.length <= 2);
  return [...states, ...outputs].reduce((largest, { shape, bytes }) => {
    const rows = shape[0] === undefined ? 1 : evaluateIntExpr(shape[0], most);
    return rows > 1 ? Math.max(largest, bytes / rows) : largest;
  }, 0);
}

/** Where each literal begins in the one buffer of all: where a binding or a vector load may (what WebGPU asks for at most; a multiple of a cache line). */
const LITERAL_ALIGN = 256;

/** @returns the offset of each, and the bytes of all as the last */
export function literalOffsets({ literals }: Manifest): readonly number[] {
  const offsets = [0];
  for (const { bytes } of literals) offsets.push(offsets.at(-1)! + Math.ceil(bytes / LITERAL_ALIGN) * LITERAL_ALIGN);
  return offsets;
}

const literalBytes = (manifest: Manifest): number => literalOffsets(manifest).at(-1)!;

/** Inputs and outputs of one name are one buffer, as large as the program that needs most of it asks for. */
function ioBytes({ programs }: Manifest): ReadonlyMap<string, number> {
  const largest = new Map<string, number>();
  for (const { name, bytes } of programs.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]))
    largest.set(name, Math.max(bytes, largest.get(name) ?? 0));
  return largest;
}

const unique = <T extends { readonly name: string }>(entries: readonly T[]): readonly T[] => [
  ...new Map(entries.map((entry) => [entry.name, entry])).values(),
];

const largestSymbol = ({ programs }: Manifest, symbol: string, least: number): number =>
  Math.max(least, ...programs.flatMap(({ symbols }) => symbols.filter(({ name }) => name === symbol).map(({ max }) => max)));

/** The model's own word on its states; an artifact of another kind of model has none. */
function positionAxesOf({ metadata }: Manifest): ReadonlySet<string> {
  const axes = metadata["positionAxes"];
  return new Set(typeof axes === "object" && axes !== null ? Object.keys(axes) : []);
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
