import fc from "fast-check";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { add, i32, intVar, lt, mul, neg, select, sub } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { AttentionProblem } from "../../../compiler/template.ts";
import { layout, sequenceIds } from "../sequences.ts";
import type { Layout } from "../sequences.ts";
import { dimension, memory, random, seed, storage } from "./case.ts";
import type { Case } from "./case.ts";

export interface AttentionShape {
  readonly batch: number;
  readonly seq: number;
  readonly past: number;
  /** Places in the cache beyond the keys that exist; they hold NaN. */
  readonly spare: number;
  readonly kvHeads: number;
  /** Query heads of one key head. */
  readonly share: number;
  readonly dim: number;
  readonly causal: boolean;
  /** Whether there are sequence ids, and how the tokens lie. */
  readonly ids: Layout | null;
  /** What some of the keys and values of padding are; NaN unless a template asks for numbers there. */
  readonly padding: number;
  /** Sizes are run-time symbols, with ranges wider than the run's values. */
  readonly symbolic: boolean;
  /** q is rotated in pairs by its position, and keys are weighed by theirs, instead of plain loads. */
  readonly prologue: boolean;
  readonly outs: number;
  readonly q: DType;
  readonly cache: DType;
  readonly out: DType;
  readonly seed: number;
}

export const PLAIN: AttentionShape = {
  batch: 1,
  seq: 1,
  past: 0,
  spare: 0,
  kvHeads: 1,
  share: 1,
  dim: 16,
  causal: true,
  ids: null,
  padding: NaN,
  symbolic: false,
  prologue: false,
  outs: 1,
  q: "f32",
  cache: "f32",
  out: "f32",
  seed: 1,
};

/** Sizes around the edges of tiles; they are listed and not drawn evenly, since attention is cubic work for an interpreter. */
export interface AttentionSizes {
  readonly seq: readonly number[];
  readonly past: readonly number[];
}
export const PREFILL: AttentionSizes = { seq: [1, 2, 5, 16, 17, 31, 33], past: [0, 0, 1, 13, 40] };
export const DECODE: AttentionSizes = { seq: [1, 1, 1, 2, 3, 4], past: [0, 1, 7, 15, 31, 32, 61, 97] };

/**
 * Caches of 16-bit types, and heads that are whole tiles of matrix hardware; half of the caches are whole tiles of keys. What padding has left is large, which shows
 * where it is weighed; beyond the keys that exist is still NaN.
 */
export const streamCase = (sizes: AttentionSizes): fc.Arbitrary<Case<AttentionProblem>> =>
  fc
    .tuple(attentionShape(sizes), fc.constantFrom(16, 32, 64), fc.constantFrom<DType>("bf16", "f16"), fc.boolean())
    .map(([s, dim, cache, whole]) => {
      const spare = whole ? Math.ceil((s.past + s.seq + s.spare) / 32) * 32 - s.past - s.seq : s.spare;
      return attentionProblem({ ...s, spare, dim, cache, padding: 1e3, prologue: false }, Math.max(...sizes.seq));
    });

export const attentionCase = (sizes: AttentionSizes): fc.Arbitrary<Case<AttentionProblem>> =>
  attentionShape(sizes).map((s) => attentionProblem(s, Math.max(...sizes.seq)));

const attentionShape = (sizes: AttentionSizes): fc.Arbitrary<AttentionShape> =>
  fc.record<AttentionShape>({
    batch: fc.constantFrom(1, 1, 2, 3),
    seq: fc.constantFrom(...sizes.seq),
    past: fc.constantFrom(...sizes.past),
    spare: fc.constantFrom(0, 0, 1, 9),
    kvHeads: fc.constantFrom(1, 2, 3),
    share: fc.constantFrom(1, 2, 3, 4),
    dim: fc.constantFrom(1, 3, 8, 13, 16, 20, 32),
    causal: fc.boolean(),
    ids: fc.option(layout),
    padding: fc.constant(NaN),
    symbolic: fc.boolean(),
    prologue: fc.boolean(),
    outs: fc.constantFrom(1, 1, 2),
    q: storage,
    cache: storage,
    out: storage,
    seed,
  });

/** `most`: the largest `seq` that the problem admits where sizes are symbols. */
export function attentionProblem(s: AttentionShape, most: number = s.seq): Case<AttentionProblem> {
  const { kvHeads, dim } = s;
  const heads = kvHeads * s.share;
  const capacity = s.past + s.seq + s.spare;
  const mem = memory(s.seed);
  const q = mem.input(s.q, s.batch * s.seq * heads * dim, -2, 2);
  const keys = mem.input(s.cache, s.batch * kvHeads * capacity * dim, -2, 2);
  const values = mem.input(s.cache, s.batch * kvHeads * capacity * dim);
  // two factors a position: they stand for a cosine and a sine, and need not be ones
  const factors = mem.input("f32", capacity * 2);
  const gate = mem.input("f32", heads * dim);
  const ids = s.ids && mem.input("i32", s.batch * capacity);
  if (s.ids) sequenceIds(s.ids, s.batch, capacity, random(s.seed)).forEach((id, i) => ids!.set(i, id)); // prettier-ignore
  const outs = Array.from({ length: s.outs }, (_, i) => mem.output(i === 0 ? s.out : "f32", s.batch * s.seq * heads * dim));

  const idAt = (b: number, j: number): number => (ids ? ids.get(b * capacity + j) : 1);
  const keyAt = (b: number, h: number, j: number): number => ((b * kvHeads + h) * capacity + j) * dim;
  for (let b = 0; b < s.batch; b++)
    for (let h = 0; h < kvHeads; h++)
      for (let j = 0; j < capacity; j++)
        for (const x of [keys, values])
          if (j >= s.past + s.seq) x.set(keyAt(b, h, j) + (j % dim), NaN);
          else if (idAt(b, j) < 0) x.set(keyAt(b, h, j) + (j % dim), s.padding);

  const batch = dimension("batch", s.batch, s.symbolic, 4);
  const seq = dimension("seq", s.seq, s.symbolic, Math.max(most, s.seq));
  const past = s.symbolic ? intVar("past", 0, capacity) : i32(s.past);
  const half = Math.floor(dim / 2);
  const query = (b: Expr, t: Expr, h: Expr, d: Expr): Expr => q.at(add(mul(add(mul(add(mul(b, seq.expr), t), heads), h), dim), d));
  const cached = (b: Expr, h: Expr, j: Expr, d: Expr): Expr => add(mul(add(mul(add(mul(b, kvHeads), h), capacity), j), dim), d);
  const factor = (position: Expr, which: number): Expr => factors.at(add(mul(position, 2), which));
  const problem: AttentionProblem = {
    frame: mem.frame("attention_test", [...batch.symbols, ...seq.symbols, ...(past.op === "var" ? [past] : [])]),
    batch: batch.expr,
    seq: seq.expr,
    past,
    heads,
    kvHeads,
    dim,
    capacity,
    causal: s.causal,
    scale: 1 / Math.sqrt(dim),
    q(b, t, h, d) {
      const x = query(b, t, h, d);
      if (!s.prologue || half === 0) return x;
      const first = lt(d, half);
      const other = query(b, t, h, select(first, add(d, half), sub(d, half)));
      const position = add(past, t);
      const turned = add(mul(x, factor(position, 0)), mul(select(first, neg(other), other), factor(position, 1)));
      return select(lt(d, 2 * half), turned, x);
    },
    k: (b, h, j, d) => (s.prologue ? mul(keys.at(cached(b, h, j, d)), factor(j, 0)) : keys.at(cached(b, h, j, d))),
    v: (b, h, j, d) => values.at(cached(b, h, j, d)),
    ids: ids && ((b, j) => ids.at(add(mul(b, capacity), j))),
    parts: null,
    outs: outs.map((o, i) => ({
      buffer: o.name,
      dtype: o.dtype,
      // the second result is stored by head, and gated
      index: (b: Expr, t: Expr, h: Expr, d: Expr) =>
        i === 0
          ? add(mul(add(mul(add(mul(b, seq.expr), t), heads), h), dim), d)
          : add(mul(add(mul(add(mul(b, heads), h), seq.expr), t), dim), d),
      value: (acc: readonly Expr[], _b: Expr, _t: Expr, h: Expr, d: Expr) =>
        i === 0 ? acc[0]! : mul(acc[0]!, gate.at(add(mul(h, dim), d))),
    })),
  };

  const result = outs.map(() => new Float64Array(s.batch * s.seq * heads * dim));
  for (let b = 0; b < s.batch; b++)
    for (let t = 0; t < s.seq; t++)
      for (let h = 0; h < heads; h++) {
        const position = s.past + t;
        const left = Array.from({ length: dim }, (_, d) => {
          const at = ((b * s.seq + t) * heads + h) * dim;
          const x = q.get(at + d);
          if (!s.prologue || d >= 2 * half) return x;
          const other = d < half ? -q.get(at + d + half) : q.get(at + d - half);
          return x * factors.get(position * 2) + other * factors.get(position * 2 + 1);
        });
        const kv = Math.floor(h / s.share);
        const seen = Array.from({ length: s.causal ? position + 1 : s.past + s.seq }, (_, j) => j).filter(
          (j) => idAt(b, j) === Math.abs(idAt(b, position)),
        );
        const scores = seen.map((j) => {
          const dot = left.reduce((sum, x, d) => sum + x * keys.get(keyAt(b, kv, j) + d), 0);
          return (dot * (s.prologue ? factors.get(j * 2) : 1)) / Math.sqrt(dim);
        });
        const top = Math.max(...scores);
        const weights = scores.map((x) => Math.exp(x - top));
        const total = weights.reduce((x, y) => x + y, 0);
        for (let d = 0; d < dim; d++) {
          const y = seen.reduce((sum, j, i) => sum + (weights[i]! / total) * values.get(keyAt(b, kv, j) + d), 0);
          result[0]![((b * s.seq + t) * heads + h) * dim + d] = y;
          if (result[1]) result[1][((b * heads + h) * s.seq + t) * dim + d] = y * gate.get(h * dim + d);
        }
      }
  return {
    problem,
    buffers: mem.buffers,
    symbols: { ...batch.values, ...seq.values, ...(s.symbolic ? { past: s.past } : {}) },
    expected: Object.fromEntries(outs.map((o, i) => [o.name, result[i]!])),
    tolerance: 1e-5,
    about: JSON.stringify(s),
  };
}
