import type { Caps } from "../../compiler/backend.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { vectoriseThread } from "../../compiler/lower/vectorise.ts";

/** Joins accesses to neighbours. Loops over registers stay: the compiler writes them out itself; and a grid may have any number of blocks. */
export const legalize = (program: ThreadProgram, caps: Caps): ThreadProgram => vectoriseThread(program, caps.vectorBytes);
