import type { MatrixUnit } from "../../compiler/backend.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import { add, i32, idiv, intVar, isConst, mod, mul } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { View } from "../../compiler/ir/tile.ts";
import type { Kernel, Unit } from "../c-like/kernel.ts";
import type { Block } from "../text/block.ts";
import { block, line } from "../text/block.ts";
import type { Accumulator, Exchange } from "../text/matrices.ts";
import { variableName } from "../text/writer.ts";
import { EDGE, isSimdgroupMatrix, matrixType } from "./units.ts";

/** A kernel's matrices: those of accumulators, by name with how many there are, and which are in use at the moment. */
export interface Matrices {
  readonly counts: Map<string, number>;
  readonly open: Set<string>;
}

export const noMatrices = (): Matrices => ({ counts: new Map(), open: new Set() });

/** Memory in which each simdgroup has one matrix to take apart. */
export const EXCHANGE = "exchange";
export const exchangeFloats = (k: Kernel): number => (k.program.threads / k.program.lanes) * EDGE * EDGE;

const matrix = (acc: string, index: number | string): string => `m_${acc}[${index}]`;
const tidOf = (k: Kernel): Expr => intVar("tid", 0, k.program.threads - 1);
/** Lanes of one simdgroup wait for each other, and see what was written to their matrix. */
const MEET = "simdgroup_barrier(mem_flags::mem_threadgroup);";

/** Between a kernel's registers and its matrices, at the end of block `b`. */
export function exchangeIn(b: Block, k: Kernel, found: Matrices): Exchange {
  const own = `${EXCHANGE} + (tid / ${k.program.lanes}) * ${EDGE * EDGE}`;
  return {
    isMatrix: isSimdgroupMatrix,
    open: found.open,
    enter: (a, zero) => {
      found.counts.set(a.acc, a.fm * a.fn);
      eachMatrix(a, b, k, (m, registers, inner) => {
        if (zero) return void line(inner, `${m} = make_filled_simdgroup_matrix<float, ${EDGE}, ${EDGE}>(0.0f);`);
        line(inner, MEET);
        for (const [register, cell] of registers) line(inner, `${cell} = ${register};`);
        line(inner, MEET);
        line(inner, `simdgroup_load(${m}, ${own}, ulong(${EDGE}));`);
      });
    },
    leave: (a) => {
      eachMatrix(a, b, k, (m, registers, inner) => {
        line(inner, MEET);
        line(inner, `simdgroup_store(${m}, ${own}, ulong(${EDGE}));`);
        line(inner, MEET);
        for (const [register, cell] of registers) line(inner, `${register} = ${cell};`);
      });
    },
  };
}

/** A register, and where its element of a matrix is in memory. */
type Element = readonly [register: string, cell: string];

/** Writes what is done with each matrix of an accumulator, in a loop that is written out. */
function eachMatrix(
  a: Accumulator,
  b: Block,
  k: Kernel,
  write: (matrix: string, elements: readonly Element[], inner: Block) => void,
): void {
  const count = a.fm * a.fn;
  const counter = intVar(k.fresh("m"), 0, count - 1);
  const inner = block(b, false, counter);
  const tid = tidOf(k);
  const base = mul(idiv(tid, k.program.lanes), EDGE * EDGE);
  const elements = Array.from({ length: a.unit.elems }, (_, i): Element => {
    const [row, col] = a.unit.coord(mod(tid, k.program.lanes), i32(i));
    const cell = `${EXCHANGE}[${k.value(add(base, add(mul(row, EDGE), col)), inner)}]`;
    return [k.register(a.acc, add(mul(counter, a.unit.elems), i), inner), cell];
  });
  write(matrix(a.acc, variableName(counter.name)), elements, inner);
  k.loop(inner, variableName(counter.name), i32(count), "out");
}

/**
 * The product itself, of operands in the block's memory, or in device memory: eight products of all of this simdgroup's rows and columns at a time. Rows that are
 * not wanted are computed along: they belong to this simdgroup alone.
 */
export function printProduct(s: Unit, unit: MatrixUnit, b: Block, k: Kernel): void {
  const step = intVar(k.fresh("k"), 0, 2 ** 20);
  const inner = block(b, false, step);
  const depth = mul(step, unit.k);
  const columns = Array.from({ length: s.fn }, (_, c) => operand(s.b, "cols", add(s.colBase, c * unit.n), depth, inner, k));
  for (let r = 0; r < s.fm; r++) {
    const row = operand(s.a, "rows", add(s.rowBase, r * unit.m), depth, inner, k);
    for (const [c, column] of columns.entries()) {
      const acc = matrix(s.acc, r * s.fn + c);
      line(inner, `simdgroup_multiply_accumulate(${acc}, ${row}, ${column}, ${acc});`);
    }
  }
  k.loop(inner, variableName(step.name), idiv(s.k, unit.k), "any");
}

/** The name of a matrix of eight lines of an operand, and eight products. One whose lines lie the other way is transposed as it is loaded. */
function operand(view: View, lines: "rows" | "cols", first: Expr, depth: Expr, b: Block, k: Kernel): string {
  const [line_, along] = lines === "rows" ? [view.rowStride, view.colStride] : [view.colStride, view.rowStride];
  const sideBySide = isConst(along, 1);
  if (!sideBySide && !isConst(line_, 1)) throw new Error(`metal: ${view.name} is a matrix with neither rows nor columns side by side`);
  const at = add(add(view.base, mul(first, line_)), mul(depth, along));
  const stride = sideBySide ? line_ : along;
  const transposed = (lines === "rows") !== sideBySide;
  const name = k.fresh("x");
  const turned = transposed ? ", ulong2(0, 0), true" : "";
  line(b, `${typeOf(view.dtype)} ${name};`);
  line(b, `simdgroup_load(${name}, ${k.places.get(view.name)!.name} + ${k.value(at, b)}, ulong(${k.value(stride, b)})${turned});`);
  return name;
}

function typeOf(dtype: DType): string {
  if (dtype === "i32" || dtype === "bool") throw new Error(`metal: there are no matrices of ${dtype}`);
  return matrixType(dtype);
}
