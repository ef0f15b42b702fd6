import type { Caps } from "../../compiler/backend.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { vectoriseThread } from "../../compiler/lower/vectorise.ts";
import { foldGrid } from "../text/grid.ts";

/** CUDA's limits of a grid along x, y and z. */
const MOST_BLOCKS = [2 ** 31 - 1, 65535, 65535] as const;

/** Joins accesses to neighbours, and folds axes of the grid that are too long. Loops over registers stay: the compiler writes them out itself. */
export const legalize = (program: ThreadProgram, caps: Caps): ThreadProgram =>
  foldGrid(vectoriseThread(program, caps.vectorBytes), MOST_BLOCKS);
