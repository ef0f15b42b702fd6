import type { Stmt } from "../../compiler/ir/thread.ts";
import type { Block } from "../text/block.ts";
import { writeFma } from "../text/fma.ts";
import type { Kernel } from "./kernel.ts";
import { printMatrixUnit } from "./matrix.ts";
import { isSubgroupMatrix } from "./units.ts";

/** A product of a warp, on registers or by subgroup matrices. */
export function printUnit(s: Extract<Stmt, { op: "unit" }>, b: Block, k: Kernel): void {
  const unit = k.caps.units.find((u) => u.name === s.unit);
  if (!unit) throw new Error(`wgsl: ${k.caps.name} has no unit ${s.unit}`);
  if (isSubgroupMatrix(unit)) printMatrixUnit(s, b, k);
  else writeFma(s, unit, b, k);
}
