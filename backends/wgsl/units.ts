import type { MatrixUnit } from "../../compiler/backend.ts";
import { add, idiv, mod, mul } from "../../compiler/ir/expr.ts";

/** The matrices of 16 x 16 of which Dawn's subgroup matrices multiply halves and add them up in singles. */
export function subgroupMatrix(lanes: number): MatrixUnit {
  const edge = 16;
  return {
    name: `subgroup_matrix.${edge}x${edge}x${edge}`,
    m: edge,
    n: edge,
    k: edge,
    lanes,
    elems: (edge * edge) / lanes,
    inputs: ["f16"],
    // where the registers get them from workgroup memory: lanes next to each other take elements next to each other
    coord: (lane, i) => [idiv(add(mul(i, lanes), lane), edge), mod(add(mul(i, lanes), lane), edge)],
    block: [1, 1],
    exchangeBytes: 4 * edge * edge,
  };
}

export const isSubgroupMatrix = (unit: MatrixUnit): boolean => unit.name.startsWith("subgroup_matrix");
