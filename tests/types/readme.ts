import { attention, gather, input, kvCache, linear, matmulT, model, mul, param, reshape, rmsNorm, scope, silu, symbol } from "culm/dsl";
import type { Tensor } from "culm/dsl";

type Hidden = Tensor<["batch", "seq", "hidden"]>;

function mlp(x: Hidden): Hidden {
  const gate = silu(linear(x, "mlp.gate_proj", { out: "ffn" }));          // names the weight and its output axis
  return linear(mul(gate, linear(x, "mlp.up_proj", { out: "ffn" })), "mlp.down_proj", { out: "hidden" });
}

function attend(x: Hidden): Hidden {
  const heads = (name: string) => reshape(linear(x, name, { out: "heads*size" }), ["batch", "seq", "heads", "size"]);
  const cache = kvCache(["batch", "heads", "capacity", "size"], symbol("past"));
  const mixed = attention(heads("attn.q"), heads("attn.k"), heads("attn.v"), { scale: 0.125, cache });
  return linear(reshape(mixed, ["batch", "seq", "heads*size"]), "attn.o", { out: "hidden" });
}

export const graph = model("tiny", {
  dims: { batch: [1, 4], seq: [1, 128], capacity: 512, hidden: 256, ffn: 512, heads: 4, size: 64, vocab: 4096 },
  symbols: { past: [0, 511] },
}, () => {
  const table = param("embed.weight", ["vocab", "hidden"]);
  let x: Hidden = gather(table, input("ids", ["batch", "seq"], "i32"));
  for (let i = 0; i < 6; i++) x = scope(`layers.${i}`, () => mlp(rmsNorm(attend(x), "norm", 1e-5)));
  return { logits: matmulT(x, table) };
});
