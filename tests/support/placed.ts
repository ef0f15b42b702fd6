import type { Caps } from "../../compiler/backend.ts";
import { read } from "../../compiler/ir/dtype.ts";
import { verifyThread } from "../../compiler/ir/thread-text.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { TileProgram } from "../../compiler/ir/tile.ts";
import { place } from "../../compiler/lower/place.ts";
import { simplifyThread } from "../../compiler/lower/simplify.ts";
import { emulateThread, printFinding } from "../../compiler/run/thread.ts";
import type { HostArray } from "../../compiler/run/tile.ts";
import { interpretTile } from "../../compiler/run/tile.ts";

export type Buffers = Readonly<Record<string, HostArray>>;
export type Symbols = Readonly<Record<string, number>>;

/** What `place` makes of a program, as the pipeline does it. */
export function placed(program: TileProgram, caps: Caps): ThreadProgram {
  const thread = simplifyThread(place(program, caps));
  verifyThread(thread);
  return thread;
}

export const copyOf = (buffers: Buffers): Buffers =>
  Object.fromEntries(Object.entries(buffers).map(([name, data]) => [name, data.slice()]));

/** Emulates a program on copies of the buffers; all that is wrong with it, or nothing. */
export function findings(
  thread: ThreadProgram,
  caps: Caps,
  buffers: Buffers,
  symbols: Symbols,
): { readonly text: string[]; readonly memory: Buffers } {
  const memory = copyOf(buffers);
  return { text: emulateThread(thread, caps, memory, symbols).map(printFinding), memory };
}

/**
 * Interprets a Tile program, places and emulates it, and says where the two differ (or what the emulator found). f32 results may differ by the
 * order of sums; storage types by one rounding step on top.
 */
export function differences(program: TileProgram, thread: ThreadProgram, caps: Caps, buffers: Buffers, symbols: Symbols): string[] {
  const expected = copyOf(buffers);
  interpretTile(program, expected, symbols);
  const { text, memory } = findings(thread, caps, buffers, symbols);
  const out = [...text];
  for (const q of program.params) {
    const a = expected[q.name]!,
      b = memory[q.name]!;
    const relative = q.dtype === "bf16" ? 2 ** -7 : q.dtype === "f16" ? 2 ** -10 : q.dtype === "f32" ? 1e-4 : 0;
    for (let i = 0; i < a.length; i++) {
      const x = read(a, q.dtype, i),
        y = read(b, q.dtype, i);
      if (Object.is(x, y) || x === y || Math.abs(x - y) <= relative * Math.max(Math.abs(x), Math.abs(y), 1)) continue;
      out.push(`${q.name}[${i}] is ${y}, it should be ${x}`);
      if (out.length > 20) return out;
    }
  }
  return out;
}
