import type { Caps } from "../../compiler/backend.ts";
import { evaluateInt } from "../../compiler/ir/expr.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { HostArray } from "../../compiler/run/tile.ts";
import { LEVELS, levelOf, runsOnHost, targetOf } from "../../backends/llvm/caps.ts";
import { print } from "../../backends/llvm/print.ts";
import { compileOptions } from "../../backends/llvm/toolchain.ts";
import type { Llvm } from "../../ffi/libllvm.ts";
import { loadLlvm } from "../../ffi/libllvm.ts";
import { allocateGuarded } from "../../ffi/memory.ts";
import { functionAt } from "../../ffi/native.ts";

/** The levels that this machine runs, best first. */
export const hostLevels: readonly string[] = LEVELS.filter(runsOnHost).map(({ name }) => name);

type Kernel = (args: BigUint64Array, symbols: Int32Array, bx: number, by: number, bz: number, scratch: bigint) => void;

interface Ready {
  readonly kernel: Kernel;
  readonly scratchBytes: number;
}
/** Compiled programs, so that a property that runs one program many times compiles it once. */
const ready = new WeakMap<ThreadProgram, Map<string, Ready>>();

function prepare(program: ThreadProgram, caps: Caps, llvm: Llvm): Ready {
  const known = ready.get(program) ?? new Map<string, Ready>();
  ready.set(program, known);
  const key = `${caps.name} ${llvm.path}`;
  const hit = known.get(key);
  if (hit) return hit;
  const source = print(program, caps);
  const object = llvm.compile(source.text, targetOf(levelOf(caps)), compileOptions(source.entry));
  const address = llvm.link([object]).address(source.entry); // stays loaded until the process ends
  const kernel = functionAt<Kernel>(address, "void", ["void *", "void *", "int", "int", "int", "void *"]);
  const made = { kernel, scratchBytes: source.sharedBytes };
  known.set(key, made);
  return made;
}

/**
 * Compiles a program and runs it on host memory, one block after another. Every buffer ends where mapped memory ends, so that an access past its
 * last element is a fault, and scratch memory is filled with NaNs, so that nothing relies on zeros.
 */
export function runNative(
  program: ThreadProgram,
  caps: Caps,
  buffers: Readonly<Record<string, HostArray>>,
  symbols: Readonly<Record<string, number>> = {},
  llvm: Llvm = loadLlvm(),
): void {
  const { kernel, scratchBytes } = prepare(program, caps, llvm);
  const blocks = program.params.map(({ name }) => {
    const data = buffers[name];
    if (!data) throw new Error(`there is no buffer for ${name}`);
    const memory = allocateGuarded(data.byteLength);
    new Uint8Array(memory.view, 0, data.byteLength).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return { data, memory };
  });
  const scratch = allocateGuarded(scratchBytes, 64);
  new Uint8Array(scratch.view).fill(0xff);
  const args = BigUint64Array.from(blocks.map(({ memory }) => memory.address as bigint));
  const values = Int32Array.from(program.symbols.map((s) => symbols[s.name]!));
  const [gx, gy, gz] = program.grid.map((g) => evaluateInt(g, symbols)) as [number, number, number];
  for (let z = 0; z < gz; z++) for (let y = 0; y < gy; y++) for (let x = 0; x < gx; x++) kernel(args, values, x, y, z, scratch.address);
  for (const { data, memory } of blocks) {
    new Uint8Array(data.buffer, data.byteOffset, data.byteLength).set(new Uint8Array(memory.view, 0, data.byteLength));
    memory.free();
  }
  scratch.free();
}
