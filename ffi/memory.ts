import type { Pointer } from "./native.ts";
import { bind, openLibrary, viewAt } from "./native.ts";

/** Page-aligned native memory outside the JavaScript heap, given back when asked and not before. */
export interface Block {
  readonly address: Pointer<"memory">;
  readonly bytes: number;
  /** The memory itself, not a copy. */
  readonly view: ArrayBuffer;
  /** Gives the memory back to the system. Its addresses stay valid (and read as zero) for as long as `view` is reachable. */
  free(): void;
}

interface Libc {
  mmap(address: null, bytes: number, protection: number, flags: number, file: number, offset: number): Pointer<"memory">;
  munmap(address: Pointer<"memory">, bytes: number): number;
  madvise(address: Pointer<"memory">, bytes: number, advice: number): number;
  mprotect(address: Pointer<"memory">, bytes: number, protection: number): number;
}

let libc: Libc | undefined;

function theLibc(): Libc {
  const library = openLibrary(null);
  if (!library) throw new Error("the process's own symbols cannot be looked up");
  return (libc ??= bind<Libc>(library, {
    mmap: ["void *", "mmap", ["void *", "size_t", "int", "int", "int", "int64_t"]],
    munmap: ["int", "munmap", ["void *", "size_t"]],
    madvise: ["int", "madvise", ["void *", "size_t", "int"]],
    mprotect: ["int", "mprotect", ["void *", "size_t", "int"]],
  }));
}

const PAGE = 65536; // the largest page size of the systems that we run on (some arm64 kernels)
const HUGE_PAGE = 2 * 1024 * 1024;
const PROT_NONE = 0;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = process.platform === "darwin" ? 0x1002 : 0x22;
const MADV_DONTNEED = 4;
const MADV_HUGEPAGE = 14; // Linux
const MAP_FAILED = 0xffffffffffffffffn;

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** Zeroed memory. Large blocks ask for huge pages: weights are read from end to end for every token, and small pages cost a tenth of the bandwidth. */
export function allocate(bytes: number): Block {
  const size = roundUp(Math.max(bytes, 1), bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE);
  const address = map(size);
  if (bytes >= HUGE_PAGE && process.platform === "linux") theLibc().madvise(address, size, MADV_HUGEPAGE); // advice: failing is fine
  return block(address, bytes, address, size);
}

/** Memory whose end is the end of what may be touched: reading or writing one byte beyond it faults, and so does all of it once it is freed. For tests. */
export function allocateGuarded(bytes: number, align = 4): Block {
  const size = roundUp(Math.max(bytes, 1), PAGE);
  const base = map(size + PAGE);
  theLibc().mprotect((base + BigInt(size)) as typeof base, PAGE, PROT_NONE);
  const start = (base + BigInt(size - roundUp(Math.max(bytes, 1), align))) as typeof base;
  const view = viewAt(start, Math.max(bytes, 1));
  return { address: start, bytes, view, free: () => void theLibc().munmap(base, size + PAGE) };
}

function map(size: number): Pointer<"memory"> {
  const address = theLibc().mmap(null, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
  if (BigInt.asUintN(64, address) === MAP_FAILED) throw new RangeError(`the system has no ${size} bytes of memory left`);
  return address;
}

/** Ends a mapping when no JavaScript can reach it any more: until then a late access through a typed array must find memory, or the process dies. */
const mappings = new FinalizationRegistry<{ readonly base: Pointer<"memory">; readonly size: number }>(({ base, size }) => {
  theLibc().munmap(base, size);
});

function block(address: Pointer<"memory">, bytes: number, base: Pointer<"memory">, size: number): Block {
  const view = viewAt(address, Math.max(bytes, 1));
  mappings.register(view, { base, size });
  return {
    address,
    bytes,
    view,
    free: () => {
      theLibc().madvise(base, size, MADV_DONTNEED);
    },
  };
}
