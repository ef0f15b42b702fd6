import { readFileSync, writeFileSync } from "node:fs";
import { cudaBackend } from "../../backends/cuda/index.ts";
import type { Caps, Source } from "../../compiler/backend.ts";
import { evaluateInt } from "../../compiler/ir/expr.ts";
import type { TileProgram } from "../../compiler/ir/tile.ts";
import { placed } from "../support/placed.ts";

/** A kernel as the compiler prints it, with what launches it. `values`: of the symbols that its grid has. */
export interface Kernel {
  readonly source: Source;
  readonly grid: readonly number[];
}

export function kernelOf(tile: TileProgram, caps: Caps, values: Readonly<Record<string, number>> = {}): Kernel {
  const program = cudaBackend.legalize!(placed(tile, caps), caps);
  return { source: cudaBackend.print(program, caps), grid: program.grid.map((g) => evaluateInt(g, values)) };
}

/**
 * Writes one program in CUDA C++: what harnesses share, each kernel in a namespace of its own, and a harness of `cuda-prototypes/` with the rows of its table.
 * `row`: one of these rows; `launch` is its initialiser of a `Launch`.
 */
export function writeProgram<V extends Kernel>(
  out: string,
  harness: string,
  variants: readonly V[],
  row: (v: V, launch: string) => string,
): void {
  const sources = [...new Map(variants.map((v) => [v.source.text, v.source])).values()];
  const index = new Map(sources.map((s, i) => [s.text, i]));
  const entry = (s: Source): string => `${s.entry}_${index.get(s.text)!}`;
  const launch = ({ source: s, grid }: Kernel): string =>
    `{(const void*)k${index.get(s.text)!}::${entry(s)}, {${grid.join(", ")}}, ${s.launch!.threads}, ${s.sharedBytes}}`;
  const rows = variants.map((v) => `  {${row(v, launch(v))}},`);
  const file = (name: string): string => readFileSync(new URL(`cuda-prototypes/${name}`, import.meta.url), "utf8");
  const kernels = sources.map((s, i) => `namespace k${i} {\n${s.text.replaceAll(s.entry, entry(s))}}`);
  writeFileSync(out, [file("harness.cu"), ...kernels, file(harness).replace("  // variants", rows.join("\n"))].join("\n"));
  console.log(`${out}: ${variants.length} variants of ${sources.length} kernels`);
}
