import type { Caps, Source } from "../../compiler/backend.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { entryName } from "../entry.ts";
import { block } from "../text/block.ts";
import { variableName } from "../text/writer.ts";
import { loadElements } from "./access.ts";
import type { Kernel } from "./kernel.ts";
import { kernelOf } from "./kernel.ts";
import { declarations, sharedBytes } from "./memory.ts";
import { printBody } from "./statements.ts";
import { valueType } from "./types.ts";
import { closeLoop, registerName, textOf } from "./values.ts";

/**
 * Thread IR to WGSL: a module with one entry point. A register array becomes a variable an element, unless it is indexed at run time. Bindings of group 0
 * are the parameters in order, a large one in several windows, then one uniform buffer with the symbols, four to a vector. Buffers are bound in whole
 * multiples of 16 bytes.
 */
export function print(program: ThreadProgram, caps: Caps): Source {
  const k = kernelOf(program, caps, { operation: textOf, register: registerName, elements: loadElements, loop: closeLoop });
  const body = block(null);
  printBody(program.body, body, k);
  const { text, bindings } = declarations(k.places);
  const anonymous = [
    ...directives(k),
    ...text,
    ...symbolDeclaration(program, bindings),
    ...(k.exchange.slots > 0 ? [`var<workgroup> exchange: array<u32, ${k.exchange.slots * program.threads}>;`] : []),
    ...(k.matrixWords.count > 0 ? [`var<workgroup> matrices: array<f32, ${k.matrixWords.count}>;`] : []),
    ...k.helpers.text(),
    ...k.declarations.values(),
    `@compute @workgroup_size(${program.threads})`,
    `fn ${ENTRY}(${["@builtin(local_invocation_index) index: u32", "@builtin(workgroup_id) group: vec3<u32>", ...matrices(k, ["@builtin(subgroup_id) subgroup: u32"])].join(", ")}) {`,
    "  let tid = i32(index);",
    ...["bx", "by", "bz"].map((name, i) => `  let ${name} = i32(group.${"xyz"[i]!});`),
    "  let zero = i32(group.x >> 31u);",
    ...(k.helpers.uses("kept") ? ["  nothing = group.x >> 31u;"] : []),
    ...program.symbols.map(({ name }, i) => `  let ${variableName(name)} = symbols[${i >> 2}].${"xyzw"[i & 3]!};`),
    ...matrices(k, ["  let warp = i32(subgroup);"]),
    ...[...k.matrices].map(([name, type]) => `  var ${name}: ${type};`),
    ...registers(k),
    ...body.lines,
    "}",
    "",
  ].join("\n");
  const entry = entryName(program.name, anonymous);
  const shared = [...k.places.values()].filter((p) => p.space === "workgroup");
  return {
    language: "wgsl",
    text: anonymous.replace(`fn ${ENTRY}(`, `fn ${entry}(`),
    entry,
    sharedBytes: shared.reduce((n, p) => n + sharedBytes(p), 4 * (k.exchange.slots * program.threads + k.matrixWords.count)),
    launch: { threads: program.threads, symbols: program.symbols.length },
    params: program.params.map(({ name }) => {
      const { access, windows } = k.places.get(name)!;
      return { access, windows };
    }),
  };
}

const ENTRY = "entry_point";

/** What only kernels with subgroup matrices need. */
const matrices = (k: Kernel, text: readonly string[]): readonly string[] => (k.matrices.size > 0 ? text : []);

const directives = (k: Kernel): string[] => [
  ...(k.target.f16 ? ["enable f16;"] : []),
  ...(k.target.subgroup === null
    ? []
    : ["enable subgroups;", ...matrices(k, ["enable chromium_experimental_subgroup_matrix;"]), "diagnostic(off, subgroup_uniformity);"]),
];

const symbolDeclaration = (p: ThreadProgram, binding: number): string[] =>
  p.symbols.length === 0
    ? []
    : [`@group(0) @binding(${binding}) var<uniform> symbols: array<vec4<i32>, ${Math.ceil(p.symbols.length / 4)}>;`];

const registers = (k: Kernel): string[] =>
  k.program.regs.flatMap(({ name, dtype, count }) =>
    k.indexed.has(name)
      ? [`  var r_${name}: array<${valueType(dtype)}, ${count}>;`]
      : Array.from({ length: count }, (_, i) => `  var r_${name}_${i}: ${valueType(dtype)};`),
  );
