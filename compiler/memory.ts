import type { Caps } from "./backend.ts";
import type { BufferInfo, KernelPlan } from "./plan.ts";
import { maxBytes } from "./plan.ts";

/** Where each temporary of a program lies, and how large the arenas have to be. Bytes at the symbols' largest values. */
export interface MemoryPlan {
  readonly places: ReadonlyMap<BufferInfo, Place>;
  readonly arenas: readonly number[];
}

export interface Place {
  readonly arena: number;
  readonly offset: number;
}

/** A cache line, which is also what the widest vector load wants. */
const ALIGN = 64;

interface Temporary {
  readonly buffer: BufferInfo;
  readonly bytes: number;
  readonly first: number;
  last: number;
}

/**
 * Liveness to places: temporaries that are never alive at the same time share memory. With arena "buffers" a place is a whole buffer, so that no
 * two arguments of a kernel lie in one.
 */
export function planMemory(kernels: readonly KernelPlan[], arena: Caps["arena"]): MemoryPlan {
  const life = new Map<BufferInfo, Temporary>();
  kernels.forEach((k, i) => {
    for (const { buffer } of k.args) {
      if (buffer.kind !== "arena") continue;
      const l = life.get(buffer);
      if (l) l.last = i;
      else life.set(buffer, { buffer, bytes: Math.ceil(maxBytes(buffer) / ALIGN) * ALIGN, first: i, last: i });
    }
  });
  const bySize = [...life.values()].sort((a, b) => b.bytes - a.bytes || a.first - b.first);
  return arena === "one" ? inOneArena(bySize) : inBuffers(bySize);
}

const together = (a: Temporary, b: Temporary): boolean => a.first <= b.last && b.first <= a.last;

/** Largest first, each at the lowest offset where no temporary that is alive at the same time lies. */
function inOneArena(temporaries: readonly Temporary[]): MemoryPlan {
  const offsets = new Map<Temporary, number>();
  let bytes = 0;
  for (const t of temporaries) {
    const taken = [...offsets]
      .filter(([other]) => together(other, t))
      .map(([other, offset]) => ({ from: offset, to: offset + other.bytes }))
      .sort((x, y) => x.from - y.from);
    let at = 0;
    for (const { from, to } of taken) {
      if (at + t.bytes <= from) break;
      at = Math.max(at, to);
    }
    offsets.set(t, at);
    bytes = Math.max(bytes, at + t.bytes);
  }
  return { places: new Map([...offsets].map(([t, offset]) => [t.buffer, { arena: 0, offset }])), arenas: [bytes] };
}

/** Largest first, each in the first buffer that nothing alive at the same time has. A buffer is as large as the first that it was made for. */
function inBuffers(temporaries: readonly Temporary[]): MemoryPlan {
  const arenas: Temporary[][] = [];
  const places = new Map<BufferInfo, Place>();
  for (const t of temporaries) {
    const free = arenas.findIndex((held) => !held.some((other) => together(other, t)));
    const arena = free < 0 ? arenas.push([]) - 1 : free;
    arenas[arena]!.push(t);
    places.set(t.buffer, { arena, offset: 0 });
  }
  return { places, arenas: arenas.map((held) => held[0]!.bytes) };
}
