import type { Expr, Float, KvCache, Shape, State, Tensor } from "../../dsl/index.ts";
import {
  abs,
  add,
  amax,
  and,
  at,
  cast,
  eq,
  exp,
  full,
  iota,
  le,
  log,
  matmul,
  matmulT,
  max,
  min,
  mul,
  rename,
  reshape,
  round,
  scalar,
  select,
  setState,
  slice,
  softmax,
  softplus,
  sub,
  sum,
  transpose,
  writeState,
} from "../../dsl/index.ts";

/**
 * The parts of the model written out in primitives: where a value in the middle is an output (attention weights), or where each step has to be
 * rounded as PyTorch does that holds every result in the type of the weights ("strict"). The one-kernel forms are in model.ts.
 */

/** The lowest number of a type, which Transformers adds to the scores of hidden keys. */
const lowest: Readonly<Record<Float, number>> = { f32: -3.4028234663852886e38, bf16: -3.3895313892515355e38, f16: -65504 };

type Heads<H extends string> = Tensor<["batch", "seq", H, "size"]>;

/**
 * Attention with its weights [batch, query_heads, seq, capacity], in f32 or rounded. A query that sees no key weighs all of them alike, as in
 * Transformers' eager path: nobody reads such a row, but it has to be finite. Source: spec bamba c.5.
 */
export function attend(
  q: Heads<"query_heads">,
  k: Heads<"kv_heads">,
  v: Heads<"kv_heads">,
  options: {
    readonly scale: number;
    /** A query sees keys of its own sequence, and no padding (see the language's Sequences). */
    readonly sequenceIds: Tensor<["batch", "capacity"], "i32">;
    readonly cache: KvCache<["batch", "kv_heads", "capacity", "size"], Float>;
    readonly rounding: Float;
  },
): { readonly mixed: Heads<"query_heads">; readonly weights: Tensor<["batch", "query_heads", "seq", "capacity"]> } {
  const { scale, cache, rounding } = options;
  const rounded = <S extends Shape>(x: Tensor<S>): Tensor<S> => round(x, rounding);
  const append = (held: State<["batch", "kv_heads", "capacity", "size"], Float>, fresh: Heads<"kv_heads">) => {
    const given = cast(transpose(fresh, ["batch", "kv_heads", "seq", "size"]), held.dtype);
    return reshape(cast(writeState(held, { axis: "capacity", start: cache.past }, given), "f32"), [
      "batch",
      "kv_heads",
      1,
      "capacity",
      "size",
    ]);
  };
  const queries = transpose(reshape(rename(q, { query_heads: "kv_heads*sharing" }), ["batch", "seq", "kv_heads", "sharing", "size"]), [
    "batch",
    "kv_heads",
    "sharing",
    "seq",
    "size",
  ]);
  const scores = rounded(mul(rounded(matmulT(queries, append(cache.keys, k))), scale));
  const visible = select(seen(options.sequenceIds, cache.past), scores, full([], lowest[rounding]));
  const weights = rounded(softmax(visible, "capacity"));
  const mixed = transpose(rounded(matmul(weights, append(cache.values, v))), ["batch", "seq", "kv_heads", "sharing", "size"]);
  return {
    mixed: rename(reshape(mixed, ["batch", "seq", "kv_heads*sharing", "size"]), { "kv_heads*sharing": "query_heads" }),
    weights: rename(reshape(weights, ["batch", "kv_heads*sharing", "seq", "capacity"]), { "kv_heads*sharing": "query_heads" }),
  };
}

/** Which keys a query may see: those up to its own position, of its own sequence, that are not padding. */
function seen(ids: Tensor<["batch", "capacity"], "i32">, past: Expr): Tensor<["batch", 1, 1, "seq", "capacity"], "bool"> {
  const position = reshape(add(iota(["seq"]), scalar(past)), ["seq", 1]);
  const own = abs(slice(ids, "capacity", { start: past, size: "seq" }));
  const alike = eq(reshape(ids, ["batch", 1, 1, 1, "capacity"]), reshape(own, ["batch", 1, 1, "seq", 1]));
  return and(le(iota(["capacity"]), position), alike);
}

/** Step sizes, each stage rounded: clamp(softplus(raw + bias), limit). Source: spec bamba c.7. */
export function stepSizes(
  raw: Tensor<["batch", "seq", "heads"]>,
  bias: Tensor<["heads"]>,
  [low, high]: readonly [number, number],
  rounding: Float,
): Tensor<["batch", "seq", "heads"]> {
  const dt = round(softplus(round(add(raw, bias), rounding)), rounding);
  const above = low > 0 ? max(dt, low) : dt;
  return round(high < Infinity ? min(above, high) : above, rounding);
}

/**
 * One token of the state-space recurrence as Transformers' single-step path rounds it: the state stays in f32, what goes into it and what is read
 * from it is rounded. `dt` is finished, `A` negative. Advances the state. Source: spec bamba c.7, d.3.
 */
export function ssdStep(
  inputs: {
    readonly x: Tensor<["batch", "seq", "heads", "head_dim"]>;
    readonly dt: Tensor<["batch", "seq", "heads"]>;
    readonly A: Tensor<["heads"]>;
    readonly B: Tensor<["batch", "seq", "groups", "state"]>;
    readonly C: Tensor<["batch", "seq", "groups", "state"]>;
    readonly D: Tensor<["heads"]>;
    readonly state: State<["batch", "heads", "head_dim", "state"]>;
  },
  rounding: Float,
): Tensor<["batch", "seq", "heads", "head_dim"]> {
  const rounded = <S extends Shape>(x: Tensor<S>): Tensor<S> => round(x, rounding);
  const byGroup = { heads: "groups*members" } as const;
  const perHead = (x: Tensor<["heads"]>) => reshape(rename(x, byGroup), ["groups", "members", 1, 1]);
  const shared = (x: Tensor<["batch", "seq", "groups", "state"]>) => reshape(x, ["batch", "seq", "groups", 1, 1, "state"]);
  const x = reshape(rename(inputs.x, byGroup), ["batch", "seq", "groups", "members", "head_dim", 1]);
  const dt = reshape(rename(inputs.dt, byGroup), ["batch", "seq", "groups", "members", 1, 1]);
  const before = reshape(rename(inputs.state, byGroup), ["batch", 1, "groups", "members", "head_dim", "state"]);

  const decay = exp(mul(dt, perHead(inputs.A)));
  const added = rounded(mul(rounded(mul(dt, shared(inputs.B))), x));
  const next = add(mul(before, decay), added);
  setState(
    inputs.state,
    rename(reshape(at(next, "seq", 0), ["batch", "groups*members", "head_dim", "state"]), { "groups*members": "heads" }),
  );
  const read = rounded(sum(mul(rounded(next), shared(inputs.C)), "state"));
  const skipped = rounded(mul(x, perHead(inputs.D)));
  const y = rounded(add(read, reshape(skipped, ["batch", "seq", "groups", "members", "head_dim"])));
  return rename(reshape(y, ["batch", "seq", "groups*members", "head_dim"]), { "groups*members": "heads" });
}

/** ln of the sum of exp(x) over the vocabulary, each stage rounded, as torch.logsumexp does in a 16-bit type. */
export function roundedLogSumExp(x: Tensor<["batch", "seq", "vocab"]>, rounding: Float): Tensor<["batch", "seq"]> {
  const rounded = <S extends Shape>(v: Tensor<S>): Tensor<S> => round(v, rounding);
  const top = amax(x, "vocab");
  const total = sum(rounded(exp(rounded(sub(x, reshape(top, ["batch", "seq", 1]))))), "vocab");
  return rounded(add(rounded(log(rounded(total))), top));
}
