import type { DType } from "../../compiler/ir/dtype.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import type { ReduceFn } from "../../compiler/ir/tile.ts";
import type { Block } from "../text/block.ts";
import { line } from "../text/block.ts";
import { EXCHANGE_BYTES } from "./caps.ts";
import type { Kernel } from "./kernel.ts";
import { valueType } from "./types.ts";

/**
 * What lanes tell each other. With subgroups, values go from lane to lane; without, through workgroup memory with barriers around, which is allowed since
 * all lanes of a block reach such a statement. Lanes of a subgroup have consecutive numbers: workgroups have one dimension and whole subgroups, and
 * every driver known numbers them so.
 */
export type LaneReduce = Extract<Stmt, { op: "laneReduce" }>;

/** How many values at a time lanes can exchange through workgroup memory. */
const slotsOf = (k: Kernel): number => Math.max(1, Math.floor(EXCHANGE_BYTES / 4 / k.program.threads));

const combine = (fn: ReduceFn, dtype: DType, a: string, b: string, k: Kernel): string => {
  if (fn === "sum") return `(${a} + ${b})`;
  return dtype === "i32" ? `${fn}(${a}, ${b})` : `${k.helpers.use(fn === "max" ? "max_f32" : "min_f32")}(${a}, ${b})`;
};

/** Reductions one after another, none of which reads what another gives: they share the barriers. Gives the texts of their results. */
export function reduceLanes(all: readonly LaneReduce[], dtypes: readonly DType[], b: Block, k: Kernel): string[] {
  if (k.target.subgroup !== null) return all.map((s, i) => shuffled(s, dtypes[i]!, b, k));
  const slots = slotsOf(k);
  const results: string[] = [];
  for (let first = 0; first < all.length; first += slots) {
    const group = all.slice(first, first + slots);
    put(
      group.map((s, i) => bitsOf(k.value(s.value, b), dtypes[first + i]!)),
      b,
      k,
    );
    for (const [i, s] of group.entries()) {
      const name = k.fresh("x");
      line(b, `let ${name} = ${gatherer(s.fn, dtypes[first + i]!, s.masks, k)}(${i * k.program.threads} + tid);`);
      results.push(name);
    }
  }
  return results;
}

function shuffled(s: LaneReduce, dtype: DType, b: Block, k: Kernel): string {
  let x = k.fresh("x");
  line(b, `let ${x} = ${k.value(s.value, b)};`);
  for (const mask of s.masks) {
    const next = k.fresh("x");
    line(b, `let ${next} = ${combine(s.fn, dtype, x, `subgroupShuffleXor(${x}, ${mask}u)`, k)};`);
    x = next;
  }
  return x;
}

const bitsOf = (x: string, dtype: DType): string =>
  dtype === "bool" ? `select(0u, 1u, ${x})` : dtype === "i32" ? `u32(${x})` : `bitcast<u32>(${x})`;
const fromBits = (u: string, dtype: DType): string =>
  dtype === "bool" ? `(${u} != 0u)` : dtype === "i32" ? `i32(${u})` : `bitcast<f32>(${u})`;

/** Every lane's values into workgroup memory, for the others to read. */
function put(values: readonly string[], b: Block, k: Kernel): void {
  k.exchange.slots = Math.max(k.exchange.slots, values.length);
  line(b, "workgroupBarrier();");
  for (const [i, x] of values.entries()) line(b, `exchange[${i * k.program.threads} + tid] = ${x};`);
  line(b, "workgroupBarrier();");
}

/**
 * A function that combines what the lanes of a group have put, in an order that is the same for all of them. Lanes next to each other are read in a loop,
 * four at a time: written out, the 32 reads of a warp are most of a kernel.
 */
function gatherer(fn: ReduceFn, dtype: DType, masks: readonly number[], k: Kernel): string {
  const name = `${fn}_${dtype}_${masks.join("_")}`;
  k.helpers.use("kept"); // for what a compiler takes for an unknown number
  const all = masks.reduce((a, m) => a | m, 0);
  const at = (offset: string | number): string => fromBits(`exchange[base + ${offset}]`, dtype);
  const tree = (leaves: readonly string[]): string => leaves.reduce((a, b) => combine(fn, dtype, a, b, k));
  const offsets = Array.from({ length: all + 1 }, (_, i) => i).filter((i) => (i & ~all) === 0);
  const body =
    offsets.length === all + 1 && all >= 7
      ? [
          `  var x = ${tree([0, 1, 2, 3].map(at))};`,
          `  for (var i = 4; i < ${all + 1} + i32(nothing); i += 4) {`,
          `    x = ${combine(fn, dtype, "x", tree(["i", "i + 1", "i + 2", "i + 3"].map(at)), k)};`,
          "  }",
          "  return x;",
        ]
      : [`  return ${tree(offsets.map(at))};`];
  k.declarations.set(name, [`fn ${name}(at: i32) -> ${valueType(dtype)} {`, `  let base = at & ${~all};`, ...body, "}"].join("\n"));
  return name;
}

/** The value of a shuffle. */
export function exchanged(e: Extract<Expr, { op: "shuffle" }>, b: Block, k: Kernel): string {
  const x = k.value(e.a, b);
  if (k.target.subgroup !== null)
    return e.dtype === "bool" ? `(subgroupShuffleXor(select(0u, 1u, ${x}), ${e.mask}u) != 0u)` : `subgroupShuffleXor(${x}, ${e.mask}u)`;
  put([bitsOf(x, e.dtype)], b, k);
  const name = k.fresh("x");
  line(b, `let ${name} = ${fromBits(`exchange[tid ^ ${e.mask}]`, e.dtype)};`);
  return name;
}
