import type { BufferInfo, KernelPlan } from "./plan.ts";
import { maxBytes } from "./plan.ts";

/** Where each temporary lies in a program's arena, and how large the arena has to be. Bytes at the symbols' largest values. */
export interface MemoryPlan {
  readonly offsets: ReadonlyMap<BufferInfo, number>;
  readonly bytes: number;
}

/** A cache line, which is also what the widest vector load wants. */
const ALIGN = 64;

/**
 * Liveness to offsets: temporaries that are never alive at the same time share memory. Largest first, each at the lowest offset where no
 * temporary that is alive at the same time lies.
 */
export function planMemory(kernels: readonly KernelPlan[]): MemoryPlan {
  const life = new Map<BufferInfo, { first: number; last: number }>();
  kernels.forEach((k, i) => {
    for (const { buffer } of k.args) {
      if (buffer.kind !== "arena") continue;
      const l = life.get(buffer);
      if (l) l.last = i;
      else life.set(buffer, { first: i, last: i });
    }
  });
  const size = (b: BufferInfo): number => Math.ceil(maxBytes(b) / ALIGN) * ALIGN;
  const bySize = [...life.keys()].sort((a, b) => size(b) - size(a) || life.get(a)!.first - life.get(b)!.first);
  const offsets = new Map<BufferInfo, number>();
  let bytes = 0;
  for (const b of bySize) {
    const mine = life.get(b)!;
    const taken = [...offsets]
      .filter(([other]) => life.get(other)!.first <= mine.last && mine.first <= life.get(other)!.last)
      .map(([other, offset]) => ({ from: offset, to: offset + size(other) }))
      .sort((x, y) => x.from - y.from);
    let at = 0;
    for (const t of taken) {
      if (at + size(b) <= t.from) break;
      at = Math.max(at, t.to);
    }
    offsets.set(b, at);
    bytes = Math.max(bytes, at + size(b));
  }
  return { offsets, bytes };
}
