import type { Caps, Source } from "../../compiler/backend.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { loadElements } from "../c-like/access.ts";
import { valueType } from "../c-like/dialect.ts";
import type { Kernel } from "../c-like/kernel.ts";
import { kernelOf } from "../c-like/kernel.ts";
import { printBody } from "../c-like/statements.ts";
import { textOf } from "../c-like/values.ts";
import { entryName } from "../entry.ts";
import { block } from "../text/block.ts";
import { aroundProducts } from "../text/matrices.ts";
import { variableName } from "../text/writer.ts";
import type { Bindings } from "./bindings.ts";
import { arrayText, pointerText, symbolsText } from "./bindings.ts";
import { parseTarget } from "./caps.ts";
import { metalDialect, SPACE } from "./dialect.ts";
import type { Matrices } from "./matrices.ts";
import { EXCHANGE, exchangeFloats, exchangeIn, noMatrices, printProduct } from "./matrices.ts";

/** A kernel's file, and how its arguments are bound. */
export interface MetalSource extends Source {
  readonly bindings: Bindings;
}

/**
 * Thread IR to the Metal Shading Language: one kernel a file, specialised to its shapes, that takes a pointer for each parameter in order, and one struct with its
 * symbols if it has any. A symbol may be made part of the pipeline, by the function constant with its number. The subset of the language
 * that is used here is one that other compilers for C++ read the same way: no templates, no lambdas, no conversions of vectors.
 */
export function print(program: ThreadProgram, caps: Caps): MetalSource {
  const readsBack = program.params.some((q) => q.access === "readwrite");
  const dialect = metalDialect(parseTarget(caps.name), readsBack);
  const matrices = noMatrices();
  const k = kernelOf(program, caps, dialect, {
    operation: textOf,
    elements: loadElements,
    product: printProduct,
    around: (s, before, b, write, kernel) => {
      aroundProducts(s, before, kernel, exchangeIn(b, kernel, matrices), write);
    },
  });
  const body = block(null);
  printBody(program.body, body, k);
  const bindings = bindingsOf(k, matrices);
  const anonymous = [
    "#include <metal_stdlib>",
    ...(matrices.counts.size > 0 ? ["#include <metal_simdgroup_matrix>"] : []),
    "using namespace metal;",
    ...symbolsText(bindings),
    ...k.helpers.text(),
    `[[max_total_threads_per_threadgroup(${program.threads})]]`,
    `kernel void ${ENTRY}(`,
    ...parameters(bindings).map((text, i, all) => `    ${text}${i < all.length - 1 ? "," : ") {"}`),
    ...bindings.threadgroup.flatMap((a) => arrayText(a)),
    "  const int tid = int(index);",
    ...["x", "y", "z"].filter((axis) => isUsed(`b${axis}`, k)).map((axis) => `  const int b${axis} = int(group.${axis});`),
    ...bindings.constants.map(
      ({ name }) => `  const int ${variableName(name)} = is_function_constant_defined(fixed_${name}) ? fixed_${name} : symbols.${name};`,
    ),
    ...registers(k),
    ...[...matrices.counts].map(([name, count]) => `  simdgroup_float8x8 m_${name}[${count}];`),
    ...body.lines,
    "}",
    "",
  ].join("\n");
  const entry = entryName(program.name, anonymous);
  return {
    language: "metal",
    text: anonymous.replace(` ${ENTRY}(`, ` ${entry}(`),
    entry,
    sharedBytes: bindings.threadgroup.reduce((n, a) => n + a.bytes, 0),
    launch: { threads: program.threads, symbols: program.symbols.length },
    bindings,
  };
}

const ENTRY = "entry_point";

const isUsed = (variable: string, k: Kernel): boolean => [...k.uses.keys()].some((e) => e.op === "var" && e.name === variable);

function bindingsOf(k: Kernel, matrices: Matrices): Bindings {
  const { memory } = k.dialect;
  const arrays = k.program.shared.map((d) => ({ name: `s_${d.name}`, type: memory[d.dtype], bytes: whole(d.count * BYTES[d.dtype]) }));
  return {
    buffers: k.program.params.map((q) => ({ name: q.name, type: memory[q.dtype], access: q.access })),
    symbols: k.program.symbols.map(({ name }) => name),
    constants: k.program.symbols.map(({ name }, index) => ({ name, index })).filter(({ name }) => isUsed(name, k)),
    group: ["bx", "by", "bz"].some((name) => isUsed(name, k)),
    threadgroup: [...arrays, ...(matrices.counts.size > 0 ? [{ name: EXCHANGE, type: "float", bytes: 4 * exchangeFloats(k) }] : [])],
  };
}

/** Vectors of 16 bytes lie in arrays. */
const whole = (bytes: number): number => Math.ceil(bytes / 16) * 16;

const parameters = ({ buffers, constants, group }: Bindings): string[] => [
  ...buffers.map((p, i) => `${pointerText(SPACE.device, p)} ${p.name} [[buffer(${i})]]`),
  ...(constants.length > 0 ? [`constant Symbols& symbols [[buffer(${buffers.length})]]`] : []),
  ...(group ? ["uint3 group [[threadgroup_position_in_grid]]"] : []),
  "uint index [[thread_index_in_threadgroup]]",
];

const registers = (k: Kernel): string[] =>
  [...k.registers.values()].map(({ name, dtype, count }) =>
    k.carriers.has(name) ? `  uint r_${name}[${Math.ceil((count * BYTES[dtype]) / 4)}];` : `  ${valueType(dtype)} r_${name}[${count}];`,
  );
