import type { MetalSource } from "../../../backends/metal/print.ts";

/**
 * The part of the language that kernels keep to, so that what other compilers say of them holds for Apple's too: each rule forbids what is read differently there,
 * or what clang takes and Apple's compiler does not.
 */
const RULES: readonly (readonly [what: string, found: RegExp])[] = [
  ["a cast of a vector in C's way, which clang takes bit by bit", /\((?:bool|u?char|u?short|u?int|u?long|half|bfloat|float)[234]\)/],
  ["a literal without a suffix", /(?<![\w.])(?:\d+\.\d*|\.\d+|\d+e[-+]?\d+)(?:e[-+]?\d+)?(?![\w.])/],
  ["a template, a class, or a type to be guessed", /\b(?:template|class|union|typename|auto|decltype)\b/],
  ["a lambda", /\[[&=]?\]\s*\(/],
  ["a double", /\b(?:double|long double)\b/],
  ["the elements of a matrix, whose order is not documented", /\bthread_elements\b/],
  ["what some versions of the compiler get wrong", /\b(?:simd_is_first|simd_prefix_\w+)\b/],
  ["a barrier that does not order the memory of the block", /_barrier\((?!mem_flags::mem_threadgroup)/],
  ["a swizzle", /\.[xyzw]{2,}\b|\.s[0-9]\b|\.(?:lo|hi)\b/],
  ["a variable of the file", /^(?:static )?(?:thread |device )?(?:const )?(?:int|uint|float|half|bool)\d? \w+(?: =|;|\[)/m],
  ["memory of the block inside of a block", /^ {3,}threadgroup \w+ \w+\[/m],
  ["a name that begins with an underscore", /\b_\w+/],
];

/** What a kernel has that is outside of the subset; nothing when it keeps to it. */
export function outsideSubset(source: MetalSource): string[] {
  const { text, entry, bindings } = source;
  const found = RULES.flatMap(([what, pattern]) => {
    const hit = pattern.exec(text);
    return hit ? [`${entry}: ${what}: ${hit[0].trim()}`] : [];
  });
  const buffers = [...text.matchAll(/\[\[buffer\((\d+)\)\]\]/g)].map((m) => Number(m[1]));
  const expected = bindings.buffers.length + (bindings.constants.length > 0 ? 1 : 0);
  if (buffers.length !== expected || buffers.some((n, i) => n !== i))
    found.push(`${entry}: buffers ${buffers.join()} for ${expected} arguments`);
  if ([...text.matchAll(/\bkernel void\b/g)].length !== 1) found.push(`${entry}: more or fewer than one kernel`);
  // a function is there before those that call it, so none calls itself
  const functions = [...text.matchAll(/^static inline \w+ (\w+)\(/gm)];
  for (const [i, f] of functions.entries()) {
    const end = functions[i + 1]?.index ?? text.indexOf("kernel void");
    const body = text.slice(f.index + f[0].length, end);
    if (new RegExp(`\\b${f[1]!}\\(`).test(body)) found.push(`${entry}: ${f[1]!} calls itself`);
  }
  return found;
}
