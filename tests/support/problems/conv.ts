import fc from "fast-check";
import { add, div, exp, i32, intVar, max, mul, neg } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { ConvProblem } from "../../../compiler/template.ts";
import { layout, sequenceIds, tokenEnds } from "../sequences.ts";
import { dimension, memory, random, seed, size, storage } from "./case.ts";
import type { Case } from "./case.ts";

/**
 * Convolutions from 1 to 5 taps, shorter and longer than their width, with and without bias, x being part of wider rows. With sequence ids, padding is NaN
 * and the new state is that after each row's last token, or after all positions.
 */
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
      ids: fc.option(layout),
      past: fc.constantFrom(0, 1, 5),
      whole: fc.boolean(),
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
      const length = s.past + s.seq;
      const given = s.ids && sequenceIds(s.ids, s.batch, length, random(s.seed));
      const ends = given && (s.whole ? new Int32Array(s.batch).fill(s.seq) : tokenEnds(given, s.batch, s.past, s.seq));
      const [idBuffer, endBuffer] = [m.input("i32", s.batch * length), m.input("i32", s.batch)];
      given?.forEach((id, i) => idBuffer.set(i, id)); // prettier-ignore
      ends?.forEach((end, i) => endBuffer.set(i, end)); // prettier-ignore
      /** Of position t of the call; whatever is before it continues the sequence of position max(past - 1, 0). */
      const idAt = (b: number, t: number): number =>
        given ? (t < 0 ? Math.abs(given[b * length + Math.max(s.past - 1, 0)]!) : given[b * length + s.past + t]!) : 1;
      for (let b = 0; b < s.batch; b++)
        for (let t = 0; t < s.seq; t++) if (idAt(b, t) < 0) for (let i = 0; i < stride; i++) x.set((b * s.seq + t) * stride + i, NaN);
      const past = s.symbolic ? intVar("past", 0, 8) : i32(s.past);
      const batch = dimension("batch", s.batch, s.symbolic, 4),
        seq = dimension("seq", s.seq, s.symbolic, 64);
      const problem: ConvProblem = {
        frame: m.frame("conv1d_test", [...batch.symbols, ...seq.symbols, ...(past.op === "var" ? [past] : [])]),
        batch: batch.expr,
        seq: seq.expr,
        channels: C,
        width: K,
        x: (b, t, c) => x.at(add(mul(add(mul(b, seq.expr), t), stride), add(c, 2))),
        weight: (c, k) => w.at(add(c, k * C)),
        bias: s.bias ? (c) => bias.at(c) : null,
        sequences: given && {
          id: (b, t) => idBuffer.at(add(mul(b, length), max(add(past, t), 0))),
          end: (b) => endBuffer.at(b),
        },
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
          const input = (t: number, reader: number): number => {
            if (idAt(b, t) !== Math.abs(idAt(b, reader))) return 0;
            return t < 0 ? state.get((b * K + K + t) * C + c) : x.get((b * s.seq + t) * stride + c + 2);
          };
          for (let t = 0; t < s.seq; t++) {
            let sum = s.bias ? bias.get(c) : 0;
            for (let k = 0; k < K; k++) sum += w.get(k * C + c) * input(t - K + 1 + k, t);
            result[(b * s.seq + t) * C + c] = sum / (1 + Math.exp(-sum));
          }
          const end = ends ? ends[b]! : s.seq;
          for (let k = 0; k < K; k++) last[(b * K + k) * C + c] = input(end - K + k, end - 1);
        }
      return {
        problem,
        buffers: m.buffers,
        symbols: { ...batch.values, ...seq.values, ...(s.symbolic ? { past: s.past } : {}) },
        expected: { [y.name]: result, [state.name]: last },
        tolerance: 1e-5,
        about: JSON.stringify(s),
      };
    });

const silu = (x: Expr): Expr => div(x, add(exp(neg(x)), 1));
