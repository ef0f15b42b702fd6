import fc from "fast-check";
import { add, i32, intVar, max, mul } from "../../../compiler/ir/expr.ts";
import type { Expr, Operand } from "../../../compiler/ir/expr.ts";
import type { SsdProblem } from "../../../compiler/template.ts";
import { layout, sequenceIds } from "../sequences.ts";
import type { Array_, Case } from "./case.ts";
import { dimension, memory, random, seed, size, storage } from "./case.ts";

interface SsdCases {
  readonly steep: boolean;
  /** One position a row, which continues its sequence. */
  readonly step?: boolean;
}

/**
 * Random scans (`steep`: some with time steps and decays so large that terms of order 100 cancel): any number of heads a group, state already there, time
 * steps from nothing to large, and a reference that is the recurrence. With sequence ids, B and dt of padding are NaN and x is infinite.
 */
export const ssdCases = ({ steep, step = false }: SsdCases): fc.Arbitrary<Case<SsdProblem>> =>
  fc
    .record({
      seed,
      batch: fc.integer({ min: 1, max: 2 }),
      seq: step ? fc.constant(1) : size(150),
      groups: fc.integer({ min: 1, max: 2 }),
      perGroup: fc.integer({ min: 1, max: 2 }),
      headDim: size(20),
      // of one position the state is in vectors of memory where it is long enough
      stateSize: step ? fc.oneof(size(20), fc.constantFrom(64, 128, 256)) : size(20),
      symbolic: fc.boolean(),
      steep: steep ? fc.boolean() : fc.constant(false),
      stored: storage,
      held: storage,
      ids: step ? fc.constant(null) : fc.option(layout),
      past: fc.constantFrom(0, 1, 5),
    })
    .map((c) => {
      const m = memory(c.seed);
      const H = c.groups * c.perGroup;
      const [P, N, G] = [c.headDim, c.stateSize, c.groups];
      const x = m.input("f32", c.batch * c.seq * H * P);
      const dt = m.input("f32", c.batch * c.seq * H, 0, c.steep ? 30 : 0.5);
      const decay = m.input("f32", H, c.steep ? -128 : -2, 0);
      const B = m.input(c.stored, c.batch * c.seq * G * N);
      const C = m.input("f32", c.batch * c.seq * G * N);
      const D = m.input("f32", H);
      const state = m.output(c.held, c.batch * H * P * N, "readwrite");
      for (let i = 0; i < state.data.length; i++) state.set(i, Math.fround(Math.sin(i + c.seed)));
      const y = m.output("f32", c.batch * c.seq * H * P);
      const length = c.past + c.seq;
      const given = c.ids && sequenceIds(c.ids, c.batch, length, random(c.seed));
      const idBuffer = m.input("i32", c.batch * length);
      given?.forEach((id, i) => idBuffer.set(i, id)); // prettier-ignore
      const idAt = (b: number, t: number): number => (given ? given[b * length + Math.max(c.past + t, 0)]! : 1);
      const isPadding = (b: number, t: number): boolean => idAt(b, t) < 0;
      const spoil = (array: Array_, width: number, value: number): void => {
        for (let i = 0; i < c.batch * c.seq * width; i++) {
          const at = Math.floor(i / width);
          if (isPadding(Math.floor(at / c.seq), at % c.seq)) array.set(i, value);
        }
      };
      spoil(dt, H, NaN);
      spoil(B, G * N, NaN);
      // D x is in the output of padding, where an infinity can be told from an element that was not written
      spoil(x, H * P, Infinity);

      const batch = dimension("batch", c.batch, c.symbolic, 4);
      const seq = dimension("seq", c.seq, c.symbolic && !step, 200);
      const past = c.symbolic ? intVar("past", 0, 8) : i32(c.past);
      const flat = (sizes: readonly Operand[], at: readonly Expr[]): Expr =>
        at.reduce<Expr>((index, e, i) => add(mul(index, sizes[i]!), e), i32(0));
      const read = (a: Array_, sizes: readonly Operand[], ...at: Expr[]): Expr => a.at(flat(sizes, at));
      const problem: SsdProblem = {
        frame: m.frame("ssd", [...batch.symbols, ...seq.symbols, ...(past.op === "var" ? [past] : [])]),
        batch: batch.expr,
        seq: seq.expr,
        heads: H,
        headDim: P,
        groups: G,
        stateSize: N,
        x: (b, t, h, p) => read(x, [0, seq.expr, H, P], b, t, h, p),
        dt: (b, t, h) => read(dt, [0, seq.expr, H], b, t, h),
        decay: (h) => decay.at(h),
        B: (b, t, g, n) => read(B, [0, seq.expr, G, N], b, t, g, n),
        C: (b, t, g, n) => read(C, [0, seq.expr, G, N], b, t, g, n),
        D: (h) => D.at(h),
        ids: given && ((b, t) => idBuffer.at(add(mul(b, length), max(add(past, t), 0)))),
        state: { buffer: state.name, dtype: c.held, index: (b, h, p, n) => flat([0, H, P, N], [b, h, p, n]) },
        outs: [
          { buffer: y.name, dtype: "f32", index: (b, t, h, p) => flat([0, seq.expr, H, P], [b, t, h, p]), value: ([acc]) => mul(acc!, 2) },
        ],
      };

      const ys = new Float64Array(c.batch * c.seq * H * P);
      const S = Float64Array.from({ length: c.batch * H * P * N }, (_, i) => state.get(i));
      for (let b = 0; b < c.batch; b++)
        for (let t = 0; t < c.seq; t++) {
          const begins = Math.abs(idAt(b, t)) !== Math.abs(idAt(b, t - 1));
          if (begins) S.fill(0, b * H * P * N, (b + 1) * H * P * N);
          for (let h = 0; h < H; h++) {
            const step = dt.get((b * c.seq + t) * H + h);
            const a = Math.exp(step * decay.get(h));
            const g = ((b * c.seq + t) * G + Math.floor(h / c.perGroup)) * N;
            for (let p = 0; p < P; p++) {
              const at = ((b * c.seq + t) * H + h) * P + p;
              let sum = D.get(h) * x.get(at);
              for (let n = 0; n < N; n++) {
                const i = ((b * H + h) * P + p) * N + n;
                if (!isPadding(b, t)) S[i] = S[i]! * a + step * x.get(at) * B.get(g + n);
                sum += S[i]! * C.get(g + n);
              }
              ys[at] = 2 * sum;
            }
          }
        }
      return {
        problem,
        buffers: m.buffers,
        symbols: { ...batch.values, ...seq.values, ...(c.symbolic ? { past: c.past } : {}) },
        expected: { [y.name]: ys, [state.name]: S },
        // differences of a running sum of size 64 * 30 * 128 lose digits: spec/ssd.md section 2, option (b)
        tolerance: c.steep ? 5e-2 : 5e-5,
        about: JSON.stringify(c),
      };
    });

export const ssdCase = ssdCases({ steep: true });
