/**
 * What a kernel's signature and declarations are made of: who runs it binds arguments by this, on a GPU as well as in a stand-in for one. Buffer i of the table of
 * arguments is the i-th of `buffers`; after them comes the struct of symbols, an int each, if the kernel asks for one of them.
 */
export interface Bindings {
  readonly buffers: readonly {
    readonly name: string;
    /** Of an element, in the language. */
    readonly type: string;
    readonly access: "read" | "write" | "readwrite";
  }[];
  readonly symbols: readonly string[];
  /** Those that the kernel asks for. Function constant i fixes symbol i. */
  readonly constants: readonly { readonly name: string; readonly index: number }[];
  readonly threadgroup: readonly ThreadgroupArray[];
  /** Whether the kernel asks which block of the grid it is. */
  readonly group: boolean;
}

export interface ThreadgroupArray {
  readonly name: string;
  readonly type: string;
  /** A multiple of 16. */
  readonly bytes: number;
}

export const pointerText = (space: string, p: Bindings["buffers"][number]): string =>
  `${space} ${p.access === "read" ? "const " : ""}${p.type}*`;

/** An array of a block, declared as vectors so that it begins where one may. */
export const arrayText = (a: ThreadgroupArray): readonly [declaration: string, pointer: string] => [
  `  threadgroup uint4 v_${a.name}[${a.bytes / 16}];`,
  `  threadgroup ${a.type}* const ${a.name} = (threadgroup ${a.type}*)v_${a.name};`,
];

/** The struct of symbols, and what may take their place in a pipeline. */
export const symbolsText = ({ symbols, constants }: Bindings): string[] =>
  constants.length === 0 ? [] : [`struct Symbols { ${symbols.map((name) => `int ${name};`).join(" ")} };`, ...constants.map(constantText)];

export const constantText = ({ name, index }: Bindings["constants"][number]): string =>
  `constant int fixed_${name} [[function_constant(${index})]];`;
