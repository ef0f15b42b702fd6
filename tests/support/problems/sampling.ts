import fc from "fast-check";
import { read } from "../../../compiler/ir/dtype.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { add, i32, mul } from "../../../compiler/ir/expr.ts";
import type { Tensor } from "../../../compiler/run/graph.ts";
import { tensor } from "../../../compiler/run/graph.ts";
import type { LogitsProblem, TokenProblem } from "../../../compiler/template.ts";
import { dimension, memory, random, seed, size } from "./case.ts";
import type { Case } from "./case.ts";

/** Scores nearer than this to where a decision falls are not asked about: f32 sums may fall on either side. */
const MARGIN = 1e-3;

const exps = (scores: readonly number[]): number[] => {
  const top = Math.max(...scores);
  return scores.map((x) => Math.exp(x - top));
};
const sumOf = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
/** For each score, what the larger ones weigh together. */
function ofLarger(scores: readonly number[], weights: readonly number[]): number[] {
  const order = scores.map((_, i) => i).sort((i, j) => scores[j]! - scores[i]! || 0);
  const found = new Map<number, number>();
  let sum = 0;
  for (const i of order) {
    if (!found.has(scores[i]!)) found.set(scores[i]!, sum);
    sum += weights[i]!;
  }
  return scores.map((x) => found.get(x)!);
}
/** A number in the middle of a gap between two of these, if there is a gap. */
function between(values: readonly number[], pick: number): number | undefined {
  const sorted = [...new Set(values)].sort((a, b) => a - b);
  const gaps = sorted.slice(1).flatMap((v, i) => (v - sorted[i]! > MARGIN ? [(v + sorted[i]!) / 2] : []));
  return gaps[Math.floor(pick * gaps.length)];
}

/** What each processor does to a row, by its definition. */
const processors = {
  topK: (scores: readonly number[], k: number): number[] => {
    const larger = ofLarger(scores, Array<number>(scores.length).fill(1));
    return scores.map((x, i) => (k > 0 && larger[i]! >= k ? -Infinity : x));
  },
  topP: (scores: readonly number[], p: number): number[] => {
    const weights = exps(scores);
    const larger = ofLarger(scores, weights);
    const limit = p * sumOf(weights);
    const top = Math.max(...scores);
    return scores.map((x, i) => (p < 1 && larger[i]! >= limit && x < top ? -Infinity : x));
  },
  minP: (scores: readonly number[], p: number): number[] => exps(scores).map((w, i) => (w < p ? -Infinity : scores[i]!)),
};

/** A buffer of a case as the value of a graph's input. */
export const bound = (c: Case<unknown>, param: string, dtype: DType, shape: readonly number[]): Tensor =>
  tensor(
    dtype,
    shape,
    Array.from(c.buffers[param]!, (_, i) => read(c.buffers[param]!, dtype, i)),
  );

/** The logits, what was seen and the settings of a case, for `processLogits`. */
export function logitsInputs(c: Case<LogitsProblem>): Readonly<Record<"logits" | "seen" | "settings", Tensor>> {
  const { vocab } = c.problem;
  const batch = c.buffers["p0"]!.length / vocab;
  return {
    logits: bound(c, "p0", "f32", [batch, vocab]),
    seen: bound(c, "p1", "bool", [batch, vocab]),
    settings: bound(c, "p2", "f32", [batch, 5]),
  };
}

/**
 * Rows of logits with settings of their own. `grid`: few values, so that many are equal, and settings with which f32 arithmetic is exact. Some logits are
 * removed beforehand; of some rows the logits are very large, very small, or of every size.
 */
export const logitsCase = (most: number): fc.Arbitrary<Case<LogitsProblem>> =>
  fc
    .record({
      rows: fc.integer({ min: 1, max: 3 }),
      vocab: fc.oneof(size(70), fc.integer({ min: 1, max: most })),
      grid: fc.boolean(),
      spread: fc.constantFrom("plain", "plain", "huge", "tiny", "any"),
      on: fc.record({ penalty: fc.boolean(), temperature: fc.boolean(), topK: fc.boolean(), topP: fc.boolean(), minP: fc.boolean() }),
      symbolic: fc.boolean(),
      seed,
    })
    .map((s) => {
      const m = memory(s.seed);
      const next = random(s.seed + 1);
      const { vocab: V } = s;
      const logits = m.input("f32", s.rows * V),
        seen = m.input("bool", s.rows * V),
        settings = m.input("f32", s.rows * 5);
      const scores = m.output("f32", s.rows * V, "readwrite");
      const spread = s.grid ? "plain" : s.spread;
      const expected: number[] = [];
      for (let row = 0; row < s.rows; row++) {
        const at = (i: number): number => row * V + i;
        const exponent = { plain: 0, huge: 100, tiny: -100, any: NaN }[spread];
        for (let i = 0; i < V; i++) {
          const x = (next() - 0.5) * 16;
          logits.set(at(i), s.grid ? Math.round(x) / 4 : x * 2 ** (Number.isNaN(exponent) ? Math.round(next() * 240 - 130) : exponent));
          if (i !== row % V && next() < 0.1) logits.set(at(i), -Infinity);
          seen.set(at(i), next() < 0.3 ? 1 : 0);
        }
        const set = (column: number, x: number): number => {
          settings.set(row * 5 + column, x);
          return settings.get(row * 5 + column);
        };
        const penalty = set(0, !s.on.penalty ? 1 : s.grid ? 2 : 0.8 + next());
        const temperature = set(1, !s.on.temperature ? 1 : s.grid ? 0.5 : 0.5 + next());
        let values = Array.from({ length: V }, (_, i) => {
          const x = logits.get(at(i));
          const penalised = seen.get(at(i)) ? Math.fround(x < 0 ? x * penalty : x / penalty) : x;
          return Math.fround(penalised / temperature);
        });
        values = processors.topK(values, set(2, s.on.topK ? Math.ceil(next() * V * 1.2) : 0));
        const weights = exps(values);
        const total = sumOf(weights);
        const masses = ofLarger(values, weights).map((mass) => mass / total);
        values = processors.topP(values, set(3, (s.on.topP ? between([...masses, 1], next()) : undefined) ?? 1));
        values = processors.minP(values, set(4, (s.on.minP ? between([0, ...exps(values)], next()) : undefined) ?? 0));
        expected.push(...values);
      }
      const batch = dimension("batch", s.rows, s.symbolic, 4);
      const setting = (column: number) => (row: Parameters<LogitsProblem["settings"]["topK"]>[0]) => settings.at(add(mul(row, 5), column));
      const problem: LogitsProblem = {
        frame: m.frame("logits_test", batch.symbols),
        rows: batch.expr,
        vocab: V,
        logits: (row, col) => logits.at(add(mul(row, V), col)),
        seen: (row, col) => seen.at(add(mul(row, V), col)),
        settings: { penalty: setting(0), temperature: setting(1), topK: setting(2), topP: setting(3), minP: setting(4) },
        scores: { buffer: scores.name, index: (row, col) => add(mul(row, V), col) },
      };
      return {
        problem,
        buffers: m.buffers,
        symbols: batch.values,
        expected: { [scores.name]: expected },
        tolerance: 0,
        about: JSON.stringify(s),
      };
    });

/** Rows of scores, some removed, some with nothing but one, some that are no distribution; draws from 0 to just below 1, and none. */
export const tokenCase = (most: number): fc.Arbitrary<Case<TokenProblem>> =>
  fc
    .record({
      rows: fc.integer({ min: 1, max: 4 }),
      vocab: fc.oneof(size(70), fc.integer({ min: 1, max: most })),
      kinds: fc.array(fc.constantFrom("draw", "draw", "first", "last", "greedy", "nan", "infinity", "nothing"), {
        minLength: 4,
        maxLength: 4,
      }),
      grid: fc.boolean(),
      removed: fc.constantFrom(0, 0.2, 0.9, 1),
      symbolic: fc.boolean(),
      seed,
    })
    .map((s) => {
      const m = memory(s.seed);
      const next = random(s.seed + 1);
      const { vocab: V } = s;
      const scores = m.input("f32", s.rows * V),
        draws = m.input("f32", s.rows),
        tokens = m.output("i32", s.rows);
      const expected: number[] = [];
      for (let row = 0; row < s.rows; row++) {
        const kind = s.kinds[row]!;
        const only = Math.floor(next() * V);
        for (let i = 0; i < V; i++) {
          const x = (next() - 0.5) * 8;
          const removed = kind === "nothing" || (i !== only && next() < s.removed);
          scores.set(row * V + i, removed ? -Infinity : s.grid ? Math.round(x) : x);
        }
        if (kind === "nan") scores.set(row * V + only, NaN);
        if (kind === "infinity") scores.set(row * V + only, Infinity);
        const finite = Array.from({ length: V }, (_, i) => i).findLast((i) => Number.isFinite(scores.get(row * V + i))) ?? 0;
        // more than what f32 sums may lose before it
        if (kind === "last") scores.set(row * V + finite, 4);
        const values = Array.from({ length: V }, (_, i) => scores.get(row * V + i));
        const weights = exps(values);
        const total = sumOf(weights);
        let sum = 0;
        const running = weights.map((w) => (sum += w) / total);
        const drawn =
          kind === "greedy" ? -1 : kind === "first" ? 0 : kind === "last" ? 1 - 2 ** -24 : (between([0, ...running], next()) ?? 0);
        draws.set(row, drawn);
        const token = {
          greedy: values.indexOf(Math.max(...values)),
          first: weights.findIndex((w) => w > 0),
          last: finite,
        } as Readonly<Record<string, number>>;
        const valid = Number.isFinite(Math.max(...values));
        expected.push(valid ? (token[kind] ?? running.findIndex((r) => r > draws.get(row))) : -1);
      }
      const batch = dimension("batch", s.rows, s.symbolic, 4);
      const problem: TokenProblem = {
        frame: m.frame("token_test", batch.symbols),
        rows: batch.expr,
        vocab: V,
        scores: (row, col) => scores.at(add(mul(row, V), col)),
        draw: (row) => draws.at(row),
        outs: [{ buffer: tokens.name, dtype: "i32", index: (row) => add(row, i32(0)), value: ([token]) => token! }],
      };
      return {
        problem,
        buffers: m.buffers,
        symbols: batch.values,
        expected: { [tokens.name]: expected },
        tolerance: 0,
        about: JSON.stringify(s),
      };
    });
