import fc from "fast-check";
import { add, div, exp, mul, neg } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { ConvProblem } from "../../../compiler/template.ts";
import { dimension, memory, seed, size, storage } from "./case.ts";
import type { Case } from "./case.ts";

/** Convolutions from 1 to 5 taps, shorter and longer than their width, with and without bias, x being part of wider rows. */
export const convCase = (): fc.Arbitrary<Case<ConvProblem>> =>
  fc
    .record({
      batch: fc.integer({ min: 1, max: 3 }),
      seq: size(40),
      channels: size(70),
      width: fc.integer({ min: 1, max: 5 }),
      bias: fc.boolean(),
      symbolic: fc.boolean(),
      x: storage,
      state: storage,
      seed,
    })
    .map((s) => {
      const m = memory(s.seed);
      const { channels: C, width: K } = s;
      const stride = C + 3;
      const x = m.input(s.x, s.batch * s.seq * stride),
        w = m.input("f32", K * C),
        bias = m.input("f32", C);
      const state = m.output(s.state, s.batch * K * C, "readwrite"),
        y = m.output("f32", s.batch * s.seq * C);
      for (let i = 0; i < state.data.length; i++) state.set(i, Math.sin(i + s.seed));
      const batch = dimension("batch", s.batch, s.symbolic, 4),
        seq = dimension("seq", s.seq, s.symbolic, 64);
      const problem: ConvProblem = {
        frame: m.frame("conv1d_test", [...batch.symbols, ...seq.symbols]),
        batch: batch.expr,
        seq: seq.expr,
        channels: C,
        width: K,
        x: (b, t, c) => x.at(add(mul(add(mul(b, seq.expr), t), stride), add(c, 2))),
        weight: (c, k) => w.at(add(c, k * C)),
        bias: s.bias ? (c) => bias.at(c) : null,
        state: { buffer: state.name, dtype: s.state, index: (b, k, c) => add(mul(add(mul(b, K), k), C), c) },
        outs: [
          {
            buffer: y.name,
            dtype: "f32",
            index: (b, t, c) => add(mul(add(mul(b, seq.expr), t), C), c),
            value: ([acc]) => silu(acc!),
          },
        ],
      };

      const result = new Float64Array(s.batch * s.seq * C),
        last = new Float64Array(s.batch * K * C);
      for (let b = 0; b < s.batch; b++)
        for (let c = 0; c < C; c++) {
          const input = (t: number): number => (t < 0 ? state.get((b * K + K + t) * C + c) : x.get((b * s.seq + t) * stride + c + 2));
          for (let t = 0; t < s.seq; t++) {
            let sum = s.bias ? bias.get(c) : 0;
            for (let k = 0; k < K; k++) sum += w.get(k * C + c) * input(t - K + 1 + k);
            result[(b * s.seq + t) * C + c] = sum / (1 + Math.exp(-sum));
          }
          for (let k = 0; k < K; k++) last[(b * K + k) * C + c] = input(s.seq - K + k);
        }
      return {
        problem,
        buffers: m.buffers,
        symbols: { ...batch.values, ...seq.values },
        expected: { [y.name]: result, [state.name]: last },
        tolerance: 1e-5,
        about: JSON.stringify(s),
      };
    });

const silu = (x: Expr): Expr => div(x, add(exp(neg(x)), 1));
