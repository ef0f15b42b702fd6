import { metalBackend } from "../../../backends/metal/index.ts";
import type { MetalSource } from "../../../backends/metal/print.ts";
import type { Caps } from "../../../compiler/backend.ts";
import { evaluateInt } from "../../../compiler/ir/expr.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import type { HostArray } from "../../../compiler/run/tile.ts";
import type { Build, Job, Launch } from "./run.ts";
import { runJob } from "./run.ts";

/** Orders in which the stand-in runs threads: as they are numbered, backwards, and shuffled. */
export const ORDERS = [0, 1, 7] as const;

export const printed = (placed: ThreadProgram, caps: Caps): MetalSource => metalBackend.print(metalBackend.legalize(placed, caps), caps);

const bytesOf = (data: HostArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** A program's launch on buffers in the order of its parameters. */
export function launchOf(program: ThreadProgram, source: MetalSource, symbols: Readonly<Record<string, number>>): Launch {
  const [x, y, z] = program.grid.map((g) => evaluateInt(g, symbols)) as [number, number, number];
  return {
    source,
    threads: program.threads,
    grid: [x, y, z],
    args: program.params.map((_, i) => [i, 0]),
    symbols: program.symbols.map(({ name }) => symbols[name]!),
  };
}

/**
 * Runs a placed program by the stand-in, under the sanitizers, and leaves the results in `buffers`: bounds and undefined behaviour with threads in three orders, which
 * must come to the same bits, and races in one.
 */
export function runOnStandin(
  program: ThreadProgram,
  caps: Caps,
  buffers: Readonly<Record<string, HostArray>>,
  symbols: Readonly<Record<string, number>>,
): void {
  const source = printed(program, caps);
  const launches = [launchOf(program, source, symbols)];
  const given = program.params.map(({ name }) => bytesOf(buffers[name]!));
  const attempt = (build: Build, order: Job["order"]): Uint8Array[] => {
    const own = given.map((b) => b.slice());
    try {
      runJob({ build, order, launches }, own);
    } catch (cause) {
      throw new Error(
        `${program.name}, threads in order ${order}: ${cause instanceof Error ? cause.message : String(cause)}\n${source.text}`,
        { cause },
      );
    }
    return own;
  };
  const [first, ...others] = ORDERS.map((order) => attempt("memory", order));
  others.push(attempt("races", ORDERS[2]));
  for (const [i, other] of others.entries())
    for (const [j, b] of other.entries())
      if (Buffer.compare(b, first![j]!) !== 0)
        throw new Error(`${program.name}: ${program.params[j]!.name} is not the same in run ${i + 1} as in the first\n${source.text}`);
  for (const [j, b] of first!.entries()) given[j]!.set(b);
}
