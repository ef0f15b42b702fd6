import type { Caps, Source } from "../../compiler/backend.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { entryName } from "../entry.ts";
import { loadElements } from "../c-like/access.ts";
import { valueType } from "../c-like/dialect.ts";
import type { Kernel } from "../c-like/kernel.ts";
import { kernelOf } from "../c-like/kernel.ts";
import { printBody } from "../c-like/statements.ts";
import { textOf } from "../c-like/values.ts";
import type { Block } from "../text/block.ts";
import { block, line } from "../text/block.ts";
import { variableName } from "../text/writer.ts";
import { launchesEarly } from "./caps.ts";
import { independentStatements } from "./dependence.ts";
import { cudaDialect } from "./dialect.ts";
import { printMma } from "./mma.ts";
import { ATOM_BYTES, aroundBarrier, leadText, operandsOf, printWgmma, printWgmmaWait } from "./wgmma.ts";

/**
 * Thread IR to CUDA C++: one kernel that takes a pointer for each parameter in order, and one to its symbols if it has any. Shared memory is dynamic, `sharedBytes`
 * of it. Only constant parameters are `__restrict__`: the compiler may then read them at any time, which for memory that kernels in front of this one, or
 * other threads of it, write would be wrong. Of one block a multiprocessor, a thread may have all registers that there are: asked for more, the assembler
 * would rather spill.
 */
export function print(program: ThreadProgram, caps: Caps): Source {
  const k = kernelOf(program, caps, cudaDialect, {
    operation: textOf,
    elements: loadElements,
    product: (s, unit, ...at) => {
      (unit.asynchronous ? printWgmma : printMma)(s, unit, ...at);
    },
    waitForProducts: printWgmmaWait,
    around: aroundBarrier,
  });
  const shared = sharedLayout(k);
  const body = block(null);
  printKernel(body, k);
  const anonymous = [
    ...k.helpers.text(),
    `extern "C" __global__ void __launch_bounds__(${program.threads}, 1) ${ENTRY}(${parameters(k).join(", ")}) {`,
    ...shared.text,
    "  const int tid = int(threadIdx.x);",
    ...leadText(k),
    ...["x", "y", "z"].filter((axis) => isUsed(`b${axis}`, k)).map((axis) => `  const int b${axis} = int(blockIdx.${axis});`),
    ...registers(k),
    ...body.lines,
    "}",
    "",
  ].join("\n");
  const entry = entryName(program.name, anonymous);
  return {
    language: "cuda",
    text: anonymous.replace(` ${ENTRY}(`, ` ${entry}(`),
    entry,
    sharedBytes: shared.bytes,
    launch: { threads: program.threads, symbols: program.symbols.length },
  };
}

const ENTRY = "entry_point";

const isUsed = (variable: string, k: Kernel): boolean => [...k.uses.keys()].some((e) => e.op === "var" && e.name === variable);

/** The kernel's statements; those that depend on nothing come before it waits for the kernels in front. */
function printKernel(b: Block, k: Kernel): void {
  const { program } = k;
  const overlaps = launchesEarly(k.caps);
  const early = overlaps ? independentStatements(program) : 0;
  if (overlaps) line(b, 'asm volatile("griddepcontrol.launch_dependents;");');
  printBody(program.body.slice(0, early), b, k);
  if (overlaps) line(b, 'asm volatile("griddepcontrol.wait;" ::: "memory");');
  for (const [i, { name }] of program.symbols.entries()) if (isUsed(name, k)) line(b, `const int ${variableName(name)} = symbols[${i}];`);
  printBody(program.body.slice(early), b, k);
}

function parameters(k: Kernel): string[] {
  const buffers = k.program.params.map((q) => {
    const place = k.places.get(q.name)!;
    const type = `${q.access === "read" ? "const " : ""}${cudaDialect.memory[q.dtype]}*`;
    return `${type}${place.space === "constant" ? " __restrict__" : ""} ${place.name}`;
  });
  return k.program.symbols.length > 0 ? [...buffers, "const int* symbols"] : buffers;
}

/** Bytes that all banks of shared memory deliver at a time, and where vectors may begin. */
const LINE = 128;
const VECTOR = 16;

/**
 * Shared arrays one after the other; those of whole lines first, so that they begin with one, and before them those whose rows wgmma knows by their addresses.
 * What comes from device memory comes in lines of as many bytes: into an array that begins elsewhere each would be written in two halves, which takes a quarter
 * of a GEMV's bandwidth (measured on an H200).
 */
function sharedLayout(k: Kernel): { readonly text: readonly string[]; readonly bytes: number } {
  const sizes = k.program.shared.map((d) => ({ place: k.places.get(d.name)!, size: d.count * BYTES[d.dtype] }));
  if (sizes.length === 0) return { text: [], bytes: 0 };
  const operands = operandsOf(k);
  const rank = ({ place, size }: (typeof sizes)[number]): number => (operands.has(place.name) ? 0 : size % LINE === 0 ? 1 : 2);
  // in one file an array of one name has one alignment
  const [name, alignment] = operands.size > 0 ? ["shared_atoms", ATOM_BYTES] : ["shared", LINE];
  const text = [`  extern __shared__ __align__(${alignment}) unsigned char ${name}[];`];
  let bytes = 0;
  for (const { place, size } of [...sizes].sort((a, b) => rank(a) - rank(b))) {
    const type = cudaDialect.memory[place.dtype];
    text.push(`  ${type}* const ${place.name} = reinterpret_cast<${type}*>(${name} + ${bytes});`);
    bytes += Math.ceil(size / VECTOR) * VECTOR;
  }
  return { text, bytes };
}

const registers = (k: Kernel): string[] =>
  [...k.registers.values()].map(({ name, dtype, count }) =>
    k.carriers.has(name) ? `  unsigned r_${name}[${Math.ceil((count * BYTES[dtype]) / 4)}];` : `  ${valueType(dtype)} r_${name}[${count}];`,
  );
