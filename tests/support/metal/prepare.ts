import type { MetalSource } from "../../../backends/metal/print.ts";
import { arrayText, constantText, pointerText } from "../../../backends/metal/bindings.ts";

/**
 * What a kernel's text needs before clang can take it for C++: memory of the threadgroup and function constants have no counterpart there. All of it is known by
 * the bindings that the compiler gives with the text; lines keep their numbers.
 */
export function forCpp(source: MetalSource): string {
  const { threadgroup, constants } = source.bindings;
  let text = source.text;
  for (const [i, a] of threadgroup.entries())
    text = replaced(text, arrayText(a)[0], `  threadgroup uint4* const v_${a.name} = (threadgroup uint4*)standin::array(${i});`, source);
  for (const c of constants)
    text = replaced(text, constantText(c), `static int fixed_${c.name}; static bool fixed_${c.name}_defined;`, source);
  return text;
}

/** The same for C++ for OpenCL, which has memory of the threadgroup and lacks constants that are set later. */
export function forOpencl(source: MetalSource): string {
  let text = source.text;
  for (const c of source.bindings.constants) text = replaced(text, constantText(c), `constant int fixed_${c.name} = ${c.index};`, source);
  return text;
}

function replaced(text: string, from: string, to: string, source: MetalSource): string {
  const parts = text.split(`${from}\n`);
  if (parts.length !== 2) throw new Error(`${source.entry}: "${from.trim()}" is there ${parts.length - 1} times, its bindings say once`);
  return parts.join(`${to}\n`);
}

/** A kernel as a library: one function that runs one thread, and one that sets a function constant. */
export function libraryText(source: MetalSource): string {
  const { buffers, constants, group } = source.bindings;
  const args = [
    ...buffers.map((p, i) => `(${pointerText("device", p)})buffers[${i}]`),
    ...(constants.length > 0 ? [`*(constant Symbols*)buffers[${buffers.length}]`] : []),
    ...(group ? ["place"] : []),
    "index",
  ];
  return [
    `#line 1 "${source.entry}.metal"`,
    forCpp(source),
    '#line 1 "thunk"',
    'extern "C" void standin_thread(void* const* buffers, const uint* group, uint index) {',
    "  uint3 place;",
    "  place.x = group[0], place.y = group[1], place.z = group[2];",
    `  ${source.entry}(${args.join(", ")});`,
    "}",
    'extern "C" void standin_fix(int number, int value) {',
    ...constants.map(({ name, index }) => `  if (number == ${index}) fixed_${name} = value, fixed_${name}_defined = true;`),
    "}",
    "",
  ].join("\n");
}
