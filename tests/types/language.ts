// What the language's types promise, checked by TypeScript 6 (`npm run types`) and 7 (`npm run types:7`): results have the shapes below, and each line
// under a `@ts-expect-error` does not compile. tests/types/fixtures/errors.ts holds the wording of the errors.
import type { Tensor } from "../../dsl/index.ts";
import * as dsl from "../../dsl/index.ts";

type Hidden = Tensor<["batch", "seq", "hidden"]>;
declare const x: Hidden;
declare const w: Tensor<["hidden", "ffn"]>;
declare const table: Tensor<["vocab", "hidden"], "bf16">;
declare const ids: Tensor<["batch", "seq"], "i32">;

/** Compiles only when A and B are the same type. */
const same = <A, B>(..._: (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? [] : [never]): void => undefined;

// ---- results
const up = dsl.matmul(x, w);
same<typeof up, Tensor<["batch", "seq", "ffn"]>>();
const logits = dsl.matmulT(x, table);
same<typeof logits, Tensor<["batch", "seq", "vocab"]>>();
const rows = dsl.gather(table, ids);
same<typeof rows, Hidden>();
const named = dsl.linear(x, "up", { out: "ffn" });
same<typeof named, Tensor<["batch", "seq", "ffn"]>>();
const numbered = dsl.linear(x, "head", { out: 10 });
same<typeof numbered, Tensor<["batch", "seq", 10]>>();
const shifted = dsl.add(x, dsl.param("b", ["hidden"]));
same<typeof shifted, Hidden>();
const kept = dsl.mul(dsl.param("k", ["seq", 1]), x);
same<typeof kept, Hidden>();
const scaled = dsl.mul(x, 2);
same<typeof scaled, Hidden>();
const counted = dsl.add(ids, 1);
same<typeof counted, Tensor<["batch", "seq"], "i32">>();
const flags = dsl.lt(ids, 3);
same<typeof flags, Tensor<["batch", "seq"], "bool">>();
const chosen = dsl.select(dsl.lt(dsl.sum(x, "hidden"), 0), dsl.sum(x, "hidden"), dsl.full(["seq"], 0));
same<typeof chosen, Tensor<["batch", "seq"]>>();
const heads = dsl.reshape(dsl.linear(x, "q", { out: "heads*size" }), ["batch", "seq", "heads", "size"]);
same<typeof heads, Tensor<["batch", "seq", "heads", "size"]>>();
const merged = dsl.reshape(heads, ["batch", "seq", 1, "heads*size"]);
same<typeof merged, Tensor<["batch", "seq", 1, "heads*size"]>>();
const turned = dsl.transpose(heads, ["batch", "heads", "seq", "size"]);
same<typeof turned, Tensor<["batch", "heads", "seq", "size"]>>();
const scores = dsl.matmulT(turned, dsl.rename(turned, { seq: "keys" }));
same<typeof scores, Tensor<["batch", "heads", "seq", "keys"]>>();
const soft = dsl.softmax(scores, "keys");
same<typeof soft, typeof scores>();
const pieces = dsl.split(dsl.linear(x, "p", { out: "a+b+c*d" }), "a+b+c*d", { a: "a", b: 4, c: ["c", "d"] });
same<typeof pieces.a, Tensor<["batch", "seq", "a"]>>();
same<typeof pieces.b, Tensor<["batch", "seq", "b"]>>();
same<typeof pieces.c, Tensor<["batch", "seq", "c", "d"]>>();
const joined = dsl.concat(up, x, "ffn");
same<typeof joined, Tensor<["batch", "seq", "ffn+hidden"]>>();
const window = dsl.slice(x, "seq", { start: -2, size: 2 });
same<typeof window, Tensor<["batch", 2, "hidden"]>>();
const last = dsl.at(x, "seq", -1);
same<typeof last, Tensor<["batch", "hidden"]>>();
const best = dsl.argmax(logits, "vocab");
same<typeof best, Tensor<["batch", "seq"], "i32">>();
const loss = dsl.crossEntropy(logits, best);
same<typeof loss, Tensor<[]>>();
const allowed = dsl.processLogits(last, dsl.input("seen", ["batch", "hidden"], "bool"), dsl.input("settings", ["batch", 5]));
same<typeof allowed, typeof last>();
const token = dsl.sampleToken(allowed, dsl.input("draw", ["batch"]));
same<typeof token, Tensor<["batch"], "i32">>();
const half = dsl.cast(x, "f16");
same<typeof half, Tensor<["batch", "seq", "hidden"], "f16">>();
const stored = dsl.param("s", ["hidden"], "bf16");
same<typeof stored, Tensor<["hidden"], "bf16">>();

// ---- loops and lists of layers: a layer that keeps its shape can be put after itself
const blocks: readonly ((h: Hidden) => Hidden)[] = [(h) => dsl.silu(h), (h) => dsl.rmsNorm(h, "norm", 1e-5)];
export function stack(h: Hidden): Hidden {
  for (const block of blocks) h = dsl.add(h, block(h));
  for (let i = 0; i < 60; i++)
    h = dsl.scope(`layers.${i}`, () => dsl.linear(dsl.linear(h, "up", { out: "ffn" }), "down", { out: "hidden" }));
  return h;
}

// ---- mistakes
// @ts-expect-error inner dimension
dsl.matmul(up, w);
// @ts-expect-error the axes do not broadcast
dsl.add(x, up);
// @ts-expect-error equal sizes, other names
dsl.add(dsl.param("a", ["heads"]), dsl.param("b", ["size"]));
// @ts-expect-error hidden is not heads*size
dsl.reshape(x, ["batch", "seq", "heads", "size"]);
// @ts-expect-error the norm of another axis
dsl.rmsNorm(up, dsl.param("n", ["hidden"]), 1e-5);
// @ts-expect-error no such axis
dsl.softmax(x, "ffn");
// @ts-expect-error f32 and f16
dsl.mul(x, half);
// @ts-expect-error f16 and f16: storage types do not compute
dsl.mul(half, half);
// @ts-expect-error integers are no operands of a matrix product
dsl.matmul(x, dsl.full(["hidden", "ffn"], 1, "i32"));
// @ts-expect-error another axis differs
dsl.concat(x, up, "seq");
// @ts-expect-error not an order of the axes
dsl.transpose(x, ["batch", "ffn", "seq"]);
// @ts-expect-error a result without seq, not without hidden
const reduced: Tensor<["batch", "seq"]> = dsl.sum(x, "seq");
// @ts-expect-error an annotation cannot choose the element type
const chosenType: Tensor<["hidden"], "bf16"> = dsl.param("p", ["hidden"]);
// @ts-expect-error exp of integers
dsl.exp(ids);
// @ts-expect-error an index is i32
dsl.gather(table, x);
// @ts-expect-error a state keeps its axes
dsl.setState(dsl.state("s", ["batch", "hidden"]), x);
