import type { MatrixUnit } from "../backend.ts";
import type { Stmt, TileProgram } from "../ir/tile.ts";
import { eachStatement } from "./fragments.ts";
import type { FragLayout } from "./layout.ts";

export type Product = Extract<Stmt, { op: "mma" }>;

/**
 * Products with one left operand that an asynchronous unit computes as one: their right operands lie in shared memory one after the other, and their accumulators in one
 * array of registers, side by side. An instruction then reads the left operand once for all of them, which is what limits such a unit: with 112 columns of each of two
 * weights that was 98 of the 128 bytes that shared memory delivers in a cycle.
 */

/** How many products of so many columns one instruction computes: those of one group of lanes alone are neighbours of each other. */
export const productsAtOnce = ({ asynchronous }: MatrixUnit, columns: number, groupCols: number): number =>
  asynchronous && groupCols === 1 ? Math.max(1, Math.floor(asynchronous.columns / columns)) : 1;

/** Products that a loop computes one right after the other, those that can be computed as one in one list. */
export function besideOf(
  products: readonly Product[],
  program: TileProgram,
  layouts: ReadonlyMap<string, FragLayout>,
): readonly (readonly Product[])[] {
  const all: Product[] = [];
  eachStatement(program.body, (s) => {
    if (s.op === "mma") all.push(s);
  });
  const rowsOf = new Map(program.tiles.map((t) => [t.name, t.rows]));
  // nobody else adds to its sums, or multiplies its right operand, all of whose rows it takes
  const alone = (s: Product): boolean =>
    all.every((o) => o === s || (o.acc.name !== s.acc.name && o.b.name !== s.b.name)) &&
    all.every((o) => o.a.name !== s.b.name) &&
    rowsOf.get(s.b.name) === s.acc.cols;
  const alike = (s: Product, o: Product): boolean =>
    s.a.name === o.a.name && s.k === o.k && s.rows === o.rows && s.acc.rows === o.acc.rows && s.acc.cols === o.acc.cols;
  const lists: Product[][] = [];
  for (const s of products) {
    const { unit, groups } = layouts.get(s.acc.name)!;
    const last = lists.at(-1);
    const fits = last && last.length < productsAtOnce(unit, s.acc.cols, groups[1]) && alike(last[0]!, s) && [last[0]!, s].every(alone);
    if (fits) last.push(s);
    else lists.push([s]);
  }
  return lists;
}

/** Layouts in which the accumulators of each list of products are rows of unit tiles of one array of registers, the first one's. */
export function layoutsBeside(
  lists: readonly (readonly Product[])[],
  layouts: ReadonlyMap<string, FragLayout>,
): ReadonlyMap<string, FragLayout> {
  const joined = lists.flatMap((products) =>
    products.map(({ acc }, i): [string, FragLayout] => {
      const l = layouts.get(acc.name)!;
      return [acc.name, { ...l, array: products[0]!.acc.name, pitch: l.fn * products.length, from: l.fn * i }];
    }),
  );
  return new Map([...layouts, ...joined]);
}
