import koffi from "koffi";
import type { LibraryHandle } from "koffi";

/**
 * The only file that calls koffi's untyped side. A native function is declared once, as a row of C types beside its TypeScript signature, and every
 * pointer has a brand: koffi 3 takes any BigInt for a pointer, and a wrong one ends the process instead of throwing.
 */
declare const brand: unique symbol;
/** An address in this process, of the named kind of thing. */
export type Pointer<Name extends string = string> = bigint & { readonly [brand]: Name };

// Native code runs on stacks that koffi provides. LLVM's recursion over large functions needs more than the 128 KiB that calls in the background get,
// and so do kernels, whose small arrays live there.
const STACK = 8 * 1024 * 1024;
if (koffi.config().async_stack_size !== STACK) koffi.config({ sync_stack_size: STACK, async_stack_size: STACK });

export type CType = "void" | "void *" | "str" | "const char **" | "int" | "uint8_t" | "uint32_t" | "size_t" | "uint64_t" | "int64_t";
/** Return type, symbol, parameter types. */
export type Signature = readonly [CType, string, readonly CType[]];

/** What a parameter of type `void *` takes: an address, or a typed array that is read or written during the call only. */
export type Memory = ArrayBufferView | Pointer | null;

export interface Library {
  readonly path: string;
  readonly handle: LibraryHandle;
}

/** Opens a shared library by soname or path; undefined when it cannot be opened. `null` is the process itself. */
export function openLibrary(path: string | null): Library | undefined {
  try {
    return { path: path ?? "", handle: koffi.load(path) };
  } catch {
    return undefined;
  }
}

export const hasSymbol = (library: Library, name: string): boolean => {
  try {
    library.handle.symbol(name);
    return true;
  } catch {
    return false;
  }
};

/** The first of some libraries that can be opened and has a function: one that is too old, or another under a name given by hand, must not be half-bound. */
export function firstLibrary(names: readonly string[], symbol: string): Library | undefined {
  for (const name of names) {
    const library = openLibrary(name);
    if (library && hasSymbol(library, symbol)) return library;
  }
  return undefined;
}

/** Binds every row of `table`. The caller's interface `T` is the promise that the rows and the TypeScript signatures agree. */
export function bind<T extends { readonly [K in keyof T]: unknown }>(library: Library, table: { readonly [K in keyof T]: Signature }): T {
  const bound: Partial<Record<keyof T, unknown>> = {};
  for (const key of Object.keys(table) as (keyof T)[]) {
    const [result, name, parameters] = table[key];
    bound[key] = library.handle.func(name, result, [...parameters]);
  }
  return bound as T;
}

type Native<A extends readonly unknown[], R> = ((...args: A) => R) & {
  async?: (...args: [...A, (error: unknown, result: R) => void]) => void;
};

/** Calls a bound function on a worker thread of the pool that Node keeps for such things. Memory passed in must stay alive until it ends. */
export function background<A extends readonly unknown[], R>(fn: (...args: A) => R, ...args: A): Promise<R> {
  return new Promise((resolve, reject) => {
    const { async: start } = fn as Native<A, R>;
    if (!start) throw new Error("not a native function");
    start(...args, (error, result) => {
      if (error instanceof Error) reject(error);
      else if (error) reject(new Error("a native call failed"));
      else resolve(result);
    });
  });
}

/** A function at an address, such as one that was compiled a moment ago. */
export function functionAt<T>(address: Pointer, result: CType, parameters: readonly CType[]): T {
  return koffi.decode(address, koffi.proto(result, [...parameters])) as T;
}

/** The zero-terminated string at an address. */
export const stringAt = (address: Pointer): string => koffi.decode.string(address);

/** `bytes` bytes of native memory as an ArrayBuffer, without a copy. It is valid for as long as the memory is. */
export const viewAt = (address: Pointer, bytes: number): ArrayBuffer => koffi.view(address, bytes);

/** Reads a pointer that a native function wrote into `out`. */
export const pointerIn = <Name extends string>(out: BigUint64Array, index = 0): Pointer<Name> => out[index]! as Pointer<Name>;

/** An integer address as a branded pointer. */
export const asPointer = <Name extends string>(address: bigint | number): Pointer<Name> => BigInt(address) as Pointer<Name>;
