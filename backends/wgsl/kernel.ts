import type { Caps } from "../../compiler/backend.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { Block } from "../text/block.ts";
import type { Helpers } from "../text/helpers.ts";
import { writeValue } from "../text/names.ts";
import type { Turns, Writer } from "../text/writer.ts";
import { countUses, indexedRegisters } from "../text/writer.ts";
import type { Target } from "./caps.ts";
import { parseTarget } from "./caps.ts";
import type { HelperName } from "./math.ts";
import { wgslHelpers } from "./math.ts";
import type { Place } from "./memory.ts";
import { placesOf } from "./memory.ts";

/** A kernel being printed: what is known of its program, and what its module needs beside the entry point. */
export interface Kernel extends Writer {
  readonly target: Target;
  readonly places: ReadonlyMap<string, Place>;
  readonly helpers: Helpers<HelperName>;
  /** Functions and variables of this kernel alone, by name: window accessors, sums over lanes, the memory that lanes exchange values through. */
  readonly declarations: Map<string, string>;
  /** Words that each thread has to tell others at a time, of those that talk through workgroup memory; grows as statements are printed. */
  readonly exchange: { slots: number };
  /** Accumulators that are in matrices at the moment. */
  readonly open: Set<string>;
  /** Types of the subgroup matrices, by name. */
  readonly matrices: Map<string, string>;
  /** Words of workgroup memory that those are taken apart in. */
  readonly matrixWords: { count: number };
}

/** How WGSL is written; the functions are in files that know of kernels. */
interface Spelling {
  readonly operation: (e: Expr, b: Block, k: Kernel) => string;
  readonly register: (name: string, index: Expr, b: Block, k: Kernel) => string;
  readonly elements: (place: Place, at: Expr, width: number, b: Block, k: Kernel) => readonly string[];
  readonly loop: (inner: Block, counter: string, count: Expr, turns: Turns, k: Kernel) => void;
}

export function kernelOf(program: ThreadProgram, caps: Caps, spelling: Spelling): Kernel {
  let next = 0;
  const places = placesOf(program, caps);
  const k: Kernel = {
    program,
    caps,
    target: parseTarget(caps.name),
    places,
    helpers: wgslHelpers(),
    declarations: new Map(),
    uses: countUses(program),
    indexed: indexedRegisters(program),
    exchange: { slots: 0 },
    open: new Set(),
    matrices: new Map(),
    matrixWords: { count: 0 },
    fresh: (hint) => `${hint}${next++}`,
    value: (e, b) => writeValue(e, b, k, false),
    once: (e, b) => writeValue(e, b, k, true),
    operation: (e, b) => spelling.operation(e, b, k),
    constant: (name, _, text) => `let ${name} = ${text};`,
    changes: (buffer) => places.get(buffer)!.access !== "read",
    register: (name, index, b) => spelling.register(name, index, b, k),
    elements: (array, at, width, b) => spelling.elements(places.get(array)!, at, width, b, k),
    multiplyAdd: (x, y, sum) => `fma(${x}, ${y}, ${sum})`,
    loop: (inner, counter, count, turns) => {
      spelling.loop(inner, counter, count, turns, k);
    },
  };
  return k;
}
