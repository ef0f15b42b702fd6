/** A function that a language lacks, as text, and those that it calls itself. */
export interface Helper<Name extends string> {
  readonly needs: readonly Name[];
  readonly text: string;
}

export const helper = <Name extends string>(needs: readonly Name[], text: string): Helper<Name> => ({ needs, text: text.trim() });

/** Collects the functions that a kernel calls; `use` gives the name back, so that it can be written where it is called. */
export interface Helpers<Name extends string> {
  readonly use: (name: Name) => Name;
  uses(name: Name): boolean;
  /** Text of all that were used, each after what it needs. */
  text(): string[];
}

export function helpersOf<Name extends string>(table: Readonly<Record<Name, Helper<Name>>>): Helpers<Name> {
  const used = new Set<Name>();
  const use = (name: Name): Name => {
    if (!used.has(name)) {
      for (const other of table[name].needs) use(other);
      used.add(name);
    }
    return name;
  };
  return { use, uses: (name) => used.has(name), text: () => [...used].map((name) => table[name].text) };
}
