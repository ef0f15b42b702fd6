import type { Caps } from "../../compiler/backend.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { unrollThread } from "../../compiler/lower/unroll.ts";
import { vectoriseThread } from "../../compiler/lower/vectorise.ts";
import { foldGrid } from "../text/grid.ts";

/** WebGPU's maxComputeWorkgroupsPerDimension. */
const MOST_BLOCKS = 65535;

/**
 * Brings a program into the form that `print` writes down as it is: loops over registers written out, since WGSL's variables have no numbers, accesses to
 * neighbours joined, and no more workgroups along an axis than WebGPU allows.
 */
export function legalize(program: ThreadProgram, caps: Caps): ThreadProgram {
  return foldGrid(vectoriseThread(unrollThread(program), caps.vectorBytes), [MOST_BLOCKS, MOST_BLOCKS, MOST_BLOCKS]);
}
