import type { MatrixUnit } from "../../compiler/backend.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import { add, idiv, intVar, isConst, mod, mul } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { View } from "../../compiler/ir/tile.ts";
import { loadElement, loadElements, pointerTo } from "../c-like/access.ts";
import type { Kernel, Unit } from "../c-like/kernel.ts";
import type { Block } from "../text/block.ts";
import { block, line } from "../text/block.ts";
import type { Turns } from "../text/writer.ts";
import { variableName } from "../text/writer.ts";
import { parseTarget } from "./caps.ts";

/**
 * A product by mma.sync m16n8k16, or m16n8k8 of tf32: the operands come from shared memory, the accumulators stay in registers. Rows that are not wanted are computed
 * along: they belong to this warp alone.
 */
export function printMma(s: Unit, unit: MatrixUnit, b: Block, k: Kernel): void {
  const steps = idiv(s.k, unit.k);
  const counter = intVar(k.fresh("k"), 0, 2 ** 20);
  const inner = block(b, false, counter);
  const depth = mul(counter, unit.k);
  const { product, fragment } = unit.fraction === undefined ? ofHalves(s, unit) : ofTf32(s, unit);
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
      line(inner, `${k.help(product)}(&${acc}, ${row}, ${column});`);
    }
  }
  k.loop(inner, variableName(counter.name), steps, turnsFor(steps, k));
}

/** How operands of a product reach registers: the function that multiplies them, and what writes the name of `count` matrices of a fragment. */
interface Operands {
  readonly product: string;
  readonly fragment: (view: View, lines: Lines, first: Expr, depth: Expr, count: 2 | 4, b: Block, k: Kernel) => string;
}

function ofHalves({ a, b }: Unit, unit: MatrixUnit): Operands {
  const half = a.dtype;
  if ((half !== "bf16" && half !== "f16") || b.dtype !== half) throw new Error(`cuda: ${unit.name} of ${a.dtype} and ${b.dtype}`);
  return { product: `mma_${half}`, fragment: loadMatrices };
}

/** Lines of f32 that lie along k come as those of halves do, and are then rounded. ldmatrix turns no f32 over, so that otherwise each lane reads its own. */
function ofTf32({ a, b }: Unit, unit: MatrixUnit): Operands {
  if (a.dtype !== "f32" || b.dtype !== "f32") throw new Error(`cuda: ${unit.name} of ${a.dtype} and ${b.dtype}`);
  const plain = isConst(a.colStride, 1) && isConst(b.rowStride, 1);
  return { product: "mma_tf32", fragment: plain ? loadRounded : roundPairs };
}

/** Written out, operands of a step are on their way while another is multiplied. The assembler for 8.x then holds those of all steps at once, and spills. */
const turnsFor = (steps: Expr, k: Kernel): Turns =>
  parseTarget(k.caps.name).computeCapability < 90 ? "loop" : isConst(steps) && steps.value <= 8 ? "out" : "any";

type Lines = "rows" | "cols";

/** Elements from one line of an operand to the next, and from one product to the next. */
const strides = (view: View, lines: Lines): readonly [line: Expr, along: Expr] =>
  lines === "rows" ? [view.rowStride, view.colStride] : [view.colStride, view.rowStride];

const laneOf = (k: Kernel): Expr => mod(intVar("tid", 0, k.program.threads - 1), 32);

/** Rows of a matrix that ldmatrix loads, and bytes of each. */
const MATRIX_ROWS = 8;
const MATRIX_BYTES = 16;

/**
 * The name of `count` matrices of 8 rows of 16 bytes of an operand, as the instruction wants them: of rows, the second matrix is 8 rows further and the third so many
 * products; of columns, the other way. Each lane gives the address of one row of one matrix.
 */
function loadMatrices(view: View, lines: Lines, first: Expr, depth: Expr, count: 2 | 4, b: Block, k: Kernel): string {
  const [line_, along] = strides(view, lines);
  const per = MATRIX_BYTES / BYTES[view.dtype];
  const lane = laneOf(k);
  const low = mod(idiv(lane, 8), 2),
    high = idiv(lane, 16),
    within = mod(lane, 8);
  const [lineBlock, depthBlock] = lines === "rows" ? [mul(low, MATRIX_ROWS), mul(high, per)] : [mul(high, MATRIX_ROWS), mul(low, per)];
  // what lies side by side are the products of a line, or the lines of a product, which the instruction then transposes
  const plain = isConst(along, 1);
  if (!plain && !isConst(line_, 1)) throw new Error(`cuda: ${view.name} is a matrix with neither rows nor columns side by side`);
  const atLine = add(add(first, lineBlock), plain ? within : 0),
    atDepth = add(add(depth, depthBlock), plain ? 0 : within);
  const at = add(add(view.base, mul(atLine, line_)), mul(atDepth, along));
  if (!isConst(mod(add(view.base, plain ? mul(within, line_) : mul(within, along)), per), 0))
    throw new Error(`cuda: rows of ${view.name} do not begin at multiples of ${MATRIX_BYTES} bytes`);
  const name = k.fresh("x");
  const load = k.help(`ldmatrix_x${count}${plain ? "" : "_trans"}`);
  const address = pointerTo(k.places.get(view.name)!, at, b, k);
  line(
    b,
    `const uint${count} ${name} = ${load}(${view.dtype === "f32" ? `reinterpret_cast<const unsigned short*>(${address})` : address});`,
  );
  return name;
}

/** A matrix of 16 bytes a row has 4 elements of tf32, of which a lane gets one: the fragment that the instruction wants. */
function loadRounded(view: View, lines: Lines, first: Expr, depth: Expr, count: 2 | 4, b: Block, k: Kernel): string {
  const bits = loadMatrices(view, lines, first, depth, count, b, k);
  const name = k.fresh("x");
  line(b, `const uint${count} ${name} = ${k.help(`tf32_x${count}`)}(${bits});`);
  return name;
}

/**
 * The same fragment read by each lane. Which products the hardware adds up under which number is nobody's business, so a lane takes two neighbours along k in place of two
 * that are four apart: with an odd number of vectors from product to product, those of four lanes then lie in different banks of shared memory from the eight lines' each,
 * and where k lies side by side the two are one load.
 */
function roundPairs(view: View, lines: Lines, first: Expr, depth: Expr, count: 2 | 4, b: Block, k: Kernel): string {
  const [line_, along] = strides(view, lines);
  const place = k.places.get(view.name)!;
  const lane = laneOf(k);
  const pairs = Array.from({ length: count / 2 }, (_, i): readonly string[] => {
    const atLine = add(add(first, i * MATRIX_ROWS), idiv(lane, 4));
    const at = add(add(view.base, mul(atLine, line_)), mul(add(depth, mul(mod(lane, 4), 2)), along));
    if (isConst(along, 1) && isConst(mod(add(view.base, mul(idiv(lane, 4), line_)), 2), 0)) return loadElements(place, at, 2, b, k);
    return [at, add(at, along)].map((e) => loadElement(place, e, b, k));
  });
  // of rows, the second register is that of eight rows further; of columns, that of the second product
  const elements = lines === "cols" ? pairs.flat() : [0, 1].flatMap((i) => pairs.map((pair) => pair[i]!));
  const name = k.fresh("x");
  const rounded = elements.map((x) => `${k.help("tf32_bits")}(${x})`);
  line(b, `const uint${count} ${name} = make_uint${count}(${rounded.join(", ")});`);
  return name;
}
