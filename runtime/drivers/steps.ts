/** What drivers of GPUs prepare alike: where the symbols of a list's kernels lie, and how a run begins. */

/** A kernel that takes so many symbols, and which ones a step gives it, in its order. */
interface SymbolTaker {
  readonly kernel: { readonly entry: string; readonly symbols: number };
  readonly symbols: readonly string[];
}

/** Regions of one small buffer, one for each order in which kernels take symbols. */
export interface SymbolLayout {
  /** The steps' regions, in bytes; 0 where there are no symbols. */
  readonly offsets: readonly number[];
  /** The buffer's words: which symbol each is; -1 between regions. Whole blocks of 16 bytes. */
  readonly order: Int32Array;
}

/**
 * Lays out the symbols of a list's steps.
 * @param symbols the list's, by their order in its array
 * @param alignment of a region, in bytes
 * @throws Error when a step gives a kernel another number of symbols than it takes, or one that the list does not have
 */
export function layOutSymbols(steps: readonly SymbolTaker[], symbols: readonly string[], alignment: number): SymbolLayout {
  const regions = new Map<string, number>();
  const order: number[] = [];
  const offsets = steps.map(({ kernel, symbols: taken }) => {
    if (taken.length !== kernel.symbols)
      throw new Error(`${kernel.entry} takes ${kernel.symbols} symbols, the step gives ${taken.length}: ${taken.join(", ") || "none"}`);
    if (taken.length === 0) return 0;
    const key = taken.join(" ");
    const known = regions.get(key);
    if (known !== undefined) return known;
    while ((order.length * 4) % alignment !== 0) order.push(-1);
    const offset = order.length * 4;
    for (const name of taken) {
      const position = symbols.indexOf(name);
      if (position < 0) throw new Error(`${kernel.entry} takes the symbol ${name}, which is not one of ${symbols.join(", ") || "none"}`);
      order.push(position);
    }
    while (order.length % 4 !== 0) order.push(-1);
    regions.set(key, offset);
    return offset;
  });
  return { offsets, order: Int32Array.from(order) };
}

/** Fills the words of a layout. */
export function takeSymbols(order: Int32Array, symbols: Int32Array, words: Int32Array): void {
  for (let i = 0; i < order.length; i += 1) words[i] = order[i]! < 0 ? 0 : symbols[order[i]!]!;
}

export function sameNumbers(a: Int32Array, b: Int32Array): boolean {
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return false;
  return true;
}

/** What a function throws, as a promise's rejection. */
export function attempt(body: () => void): Promise<void> {
  try {
    body();
    return Promise.resolve();
  } catch (error) {
    return Promise.reject(error instanceof Error ? error : new Error(String(error)));
  }
}
