import type { MatrixUnit } from "../../compiler/backend.ts";
import { add, i32, idiv, intVar, isConst, mul, substitute } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import type { View } from "../../compiler/ir/tile.ts";
import type { Block } from "../text/block.ts";
import { block, line } from "../text/block.ts";
import type { Accumulator, Exchange } from "../text/matrices.ts";
import { eachMatrix } from "../text/matrices.ts";
import { variableName } from "../text/writer.ts";
import type { Kernel } from "./kernel.ts";
import { isSubgroupMatrix } from "./units.ts";
import { registerName } from "./values.ts";

/** Products by subgroup matrices. Which lane holds which element of one is nobody's business but the device's. */
type Unit = Extract<Stmt, { op: "unit" }>;

const matrixName = (acc: string, index: number): string => `m_${acc}_${index}`;
const typeOf = (unit: MatrixUnit): string => `subgroup_matrix_result<f32, ${unit.n}, ${unit.m}>`;

/** Where this warp's tile lies in the memory that matrices are taken apart in, and where each of a lane's elements does. */
const OFFSET = "subgroup * ";
function elements(a: Accumulator, first: number, b: Block, k: Kernel): { readonly register: string; readonly cell: string }[] {
  const lane = intVar("tid", 0, k.program.threads - 1);
  const size = a.unit.m * a.unit.n;
  k.matrixWords.count = Math.max(k.matrixWords.count, (k.program.threads / k.program.lanes) * size);
  return Array.from({ length: a.unit.elems }, (_, i) => {
    const [row, col] = a.unit.coord(modLanes(lane, k), i32(i));
    return {
      register: registerName(a.acc, i32(first + i), b, k),
      cell: `matrices[i32(${OFFSET}${size}u) + ${k.value(add(mul(row, a.unit.n), col), b)}]`,
    };
  });
}
const modLanes = (tid: Expr, k: Kernel): Expr => add(tid, mul(idiv(tid, k.program.lanes), -k.program.lanes));

/** Declares the matrices of an accumulator and fills them from the registers; `zero`: those are known to be 0. */
function openMatrices(a: Accumulator, zero: boolean, b: Block, k: Kernel): void {
  const size = a.unit.m * a.unit.n;
  eachMatrix(a, (i, first) => {
    const name = matrixName(a.acc, i);
    k.matrices.set(name, typeOf(a.unit));
    if (zero) return void line(b, `${name} = ${typeOf(a.unit)}();`);
    line(b, "workgroupBarrier();");
    for (const { register, cell } of elements(a, first, b, k)) line(b, `${cell} = ${register};`);
    line(b, "workgroupBarrier();");
    line(b, `${name} = subgroupMatrixLoad<${typeOf(a.unit)}, row_major>(&matrices, ${OFFSET}${size}u, ${a.unit.n}u);`);
  });
}

/** Fills the registers from the matrices. */
function closeMatrices(a: Accumulator, b: Block, k: Kernel): void {
  const size = a.unit.m * a.unit.n;
  eachMatrix(a, (i, first) => {
    line(b, "workgroupBarrier();");
    line(b, `subgroupMatrixStore<row_major>(&matrices, ${OFFSET}${size}u, ${matrixName(a.acc, i)}, ${a.unit.n}u);`);
    line(b, "workgroupBarrier();");
    for (const { register, cell } of elements(a, first, b, k)) line(b, `${register} = ${cell};`);
  });
}

/** Between a kernel's registers and its matrices, at the end of block `b`. */
export const exchangeIn = (b: Block, k: Kernel): Exchange => ({
  isMatrix: isSubgroupMatrix,
  open: k.open,
  enter: (a, zero) => {
    openMatrices(a, zero, b, k);
  },
  leave: (a) => {
    closeMatrices(a, b, k);
  },
});

/** The product itself, between operands in workgroup memory. Rows that are not wanted are computed along: they belong to this warp alone. */
export function printMatrixUnit(s: Unit, b: Block, k: Kernel): void {
  const unit = k.caps.units.find((u) => u.name === s.unit)!;
  const step = intVar(k.fresh("k"), 0, 2 ** 20);
  const inner = block(b, false, step);
  const tile = (view: View, kind: "left" | "right", index: number): string => {
    const left = kind === "left";
    const [line_, along] = left ? [view.rowStride, view.colStride] : [view.colStride, view.rowStride];
    const first = perSubgroup(left ? add(s.rowBase, index * unit.m) : add(s.colBase, index * unit.n), k);
    const at = add(add(view.base, mul(first, line_)), mul(mul(step, unit.k), along));
    const contiguous = isConst(along, 1);
    if (!contiguous && !isConst(line_, 1)) throw new Error(`wgsl: ${view.name} is a matrix with neither rows nor columns side by side`);
    // a row-major operand has the columns of a row side by side: k of `a`, lines of `b`
    const layout = left === contiguous ? "row_major" : "col_major";
    const place = k.places.get(view.name)!;
    const type = left ? `subgroup_matrix_left<f16, ${unit.k}, ${unit.m}>` : `subgroup_matrix_right<f16, ${unit.n}, ${unit.k}>`;
    const name = k.fresh("x");
    // offsets and strides are counted in elements of the array, which may be vectors
    const [offset, stride] = [at, contiguous ? line_ : along].map((e) => k.value(idiv(e, place.vector), inner)) as [string, string];
    line(inner, `let ${name} = subgroupMatrixLoad<${type}, ${layout}>(&${place.name}, u32(${offset}), u32(${stride}));`);
    return name;
  };
  const rights = Array.from({ length: s.fn }, (_, c) => tile(s.b, "right", c));
  for (let r = 0; r < s.fm; r++) {
    const left = tile(s.a, "left", r);
    for (let c = 0; c < s.fn; c++) {
      const acc = matrixName(s.acc, r * s.fn + c);
      line(inner, `${acc} = subgroupMatrixMultiplyAccumulate(${left}, ${rights[c]!}, ${acc});`);
    }
  }
  k.loop(inner, variableName(step.name), idiv(s.k, unit.k), "loop");
}

/** An expression in the number of the warp only, in that of the subgroup: matrices are loaded by a whole one, and the compiler wants to see it. */
function perSubgroup(e: Expr, k: Kernel): Expr {
  const warp = intVar("warp", 0, k.program.threads / k.program.lanes - 1);
  return substitute(e, new Map<Expr, Expr>([[intVar("tid", 0, k.program.threads - 1), mul(warp, k.program.lanes)]]));
}
