import type { Caps } from "../backend.ts";
import type { DType } from "../ir/dtype.ts";
import { BYTES } from "../ir/dtype.ts";
import { add, idiv, mod, mul } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";

/** Where a lane's element `index` of a fragment lies in a slot: vectors of all lanes side by side, so that lanes that read theirs use different banks. */
export function ownElement(
  index: Expr,
  dtype: DType,
  slot: Expr,
  ctx: { readonly caps: Caps; readonly threads: number; readonly tid: Expr },
): Expr {
  const width = ctx.caps.vectorBytes / BYTES[dtype];
  return add(add(slot, mul(idiv(index, width), ctx.threads * width)), add(mul(ctx.tid, width), mod(index, width)));
}
