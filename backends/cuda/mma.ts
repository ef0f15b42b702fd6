import type { MatrixUnit } from "../../compiler/backend.ts";
import { add, idiv, intVar, isConst, mod, mul } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { View } from "../../compiler/ir/tile.ts";
import { pointerTo } from "../c-like/access.ts";
import type { Kernel, Unit } from "../c-like/kernel.ts";
import type { Block } from "../text/block.ts";
import { block, line } from "../text/block.ts";
import type { Turns } from "../text/writer.ts";
import { variableName } from "../text/writer.ts";
import { parseTarget } from "./caps.ts";

/**
 * A product by mma.sync m16n8k16: the operands come from shared memory by ldmatrix, four matrices of 8 x 8 at a time, the accumulators stay in registers. Rows that
 * are not wanted are computed along: they belong to this warp alone.
 */
export function printMma(s: Unit, unit: MatrixUnit, b: Block, k: Kernel): void {
  const half = s.a.dtype;
  if ((half !== "bf16" && half !== "f16") || s.b.dtype !== half) throw new Error(`cuda: ${unit.name} of ${s.a.dtype} and ${s.b.dtype}`);
  const steps = idiv(s.k, unit.k);
  const counter = intVar(k.fresh("k"), 0, 2 ** 20);
  const inner = block(b, false, counter);
  const depth = mul(counter, unit.k);
  const columns: string[] = [];
  for (let c = 0; c < s.fn; c += 2) {
    const tiles = Math.min(2, s.fn - c);
    const x = fragment(s.b, "cols", add(s.colBase, c * unit.n), depth, tiles === 2 ? 4 : 2, inner, k);
    columns.push(
      ...["x, y", "z, w"].slice(0, tiles).map((pair) =>
        pair
          .split(", ")
          .map((part) => `${x}.${part}`)
          .join(", "),
      ),
    );
  }
  for (let r = 0; r < s.fm; r++) {
    const row = fragment(s.a, "rows", add(s.rowBase, r * unit.m), depth, 4, inner, k);
    for (const [c, column] of columns.entries()) {
      const acc = k.register(s.acc, add(mul(add(r * s.fn, c), unit.elems), 0), inner);
      line(inner, `${k.help(`mma_${half}`)}(&${acc}, ${row}, ${column});`);
    }
  }
  k.loop(inner, variableName(counter.name), steps, turnsFor(steps, k));
}

/** Written out, operands of a step are on their way while another is multiplied. The assembler for 8.x then holds those of all steps at once, and spills. */
const turnsFor = (steps: Expr, k: Kernel): Turns =>
  parseTarget(k.caps.name).computeCapability < 90 ? "loop" : isConst(steps) && steps.value <= 8 ? "out" : "any";

/**
 * The name of `count` matrices of 8 x 8 of an operand, as the instruction wants them: of rows, the second matrix is 8 rows further and the third 8 products; of
 * columns, the other way. Each lane gives the address of one row of one matrix.
 */
function fragment(view: View, lines: "rows" | "cols", first: Expr, depth: Expr, count: 2 | 4, b: Block, k: Kernel): string {
  const [line_, along] = lines === "rows" ? [view.rowStride, view.colStride] : [view.colStride, view.rowStride];
  const lane = mod(intVar("tid", 0, k.program.threads - 1), 32);
  const low = mul(mod(idiv(lane, 8), 2), 8),
    high = mul(idiv(lane, 16), 8),
    within = mod(lane, 8);
  const [lineBlock, depthBlock] = lines === "rows" ? [low, high] : [high, low];
  // what lies side by side are the products of a line, or the lines of a product, which the instruction then transposes
  const plain = isConst(along, 1);
  if (!plain && !isConst(line_, 1)) throw new Error(`cuda: ${view.name} is a matrix with neither rows nor columns side by side`);
  const atLine = add(add(first, lineBlock), plain ? within : 0),
    atDepth = add(add(depth, depthBlock), plain ? 0 : within);
  const at = add(add(view.base, mul(atLine, line_)), mul(atDepth, along));
  if (!isConst(mod(add(view.base, plain ? mul(within, line_) : mul(within, along)), 8), 0))
    throw new Error(`cuda: rows of ${view.name} do not begin at multiples of 16 bytes`);
  const name = k.fresh("x");
  const load = k.help(`ldmatrix_x${count}${plain ? "" : "_trans"}`);
  line(b, `const uint${count} ${name} = ${load}(${pointerTo(k.places.get(view.name)!, at, b, k)});`);
  return name;
}
