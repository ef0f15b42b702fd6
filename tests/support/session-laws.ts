import fc from "fast-check";
import { expect } from "vitest";
import type { Session } from "../../models/auto/index.ts";
import { difference } from "./values.ts";

/**
 * What padding and packing must not change, as a property of a session whose programs give the logits of every position: each sequence is what it is alone,
 * whatever stands beside it in its row and however the row is cut into calls.
 */

/** One call of prefill for one row: tokens with their labels, and padding on one side of them. */
interface Part {
  readonly tokens: readonly number[];
  readonly labels: readonly number[];
  readonly left: boolean;
}
interface Case {
  /** rows x calls */
  readonly rows: readonly (readonly Part[])[];
  /** Padding in each call beyond what the longest row needs. */
  readonly spare: readonly number[];
  /** Tokens of each row that single steps feed in the end. */
  readonly steps: readonly (readonly number[])[];
}

export const MOST_ROWS = 3;
const MOST_CALLS = 3;
const STEPS = 2;

const cases = (vocabSize: number): fc.Arbitrary<Case> => {
  const token = fc.integer({ min: 3, max: vocabSize - 1 });
  const sequence = fc.array(token, { minLength: 1, maxLength: 6 });
  const row = fc.record({
    sequences: fc.array(sequence, { minLength: 1, maxLength: 3 }),
    // where the row's tokens are cut into calls, as shares of their number
    cuts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: MOST_CALLS - 1, maxLength: MOST_CALLS - 1 }),
    left: fc.array(fc.boolean(), { minLength: MOST_CALLS, maxLength: MOST_CALLS }),
    steps: fc.array(token, { minLength: STEPS, maxLength: STEPS }),
  });
  return fc
    .record({
      rows: fc.array(row, { minLength: 1, maxLength: MOST_ROWS }),
      spare: fc.array(fc.nat(3), { minLength: MOST_CALLS, maxLength: MOST_CALLS }),
      calls: fc.integer({ min: 1, max: MOST_CALLS }),
    })
    .map(({ rows, spare, calls }) => ({
      rows: rows.map(({ sequences, cuts, left }) => {
        const tokens = sequences.flat();
        // labels need not be 0, 1, 2: they only have to differ
        const labels = sequences.flatMap((s, i) => s.map(() => 7 - 5 * i));
        const edges = [0, ...cuts.slice(0, calls - 1).map((c) => Math.round(c * tokens.length)), tokens.length].sort((a, b) => a - b);
        return edges.slice(1).map((to, i): Part => {
          const from = edges[i]!;
          // padding before a token that continues its sequence would stand between inputs of the convolution
          const begins = from === 0 || labels[from] !== labels[from - 1];
          return { tokens: tokens.slice(from, to), labels: labels.slice(from, to), left: left[i]! && begins };
        });
      }),
      spare: spare.slice(0, calls),
      steps: rows.map((r) => r.steps),
    }));
};

/** Feeds tokens and gives the logits of every position, [rows, length, vocab]. */
async function logitsOf(
  session: Session,
  ids: Int32Array,
  options: Parameters<Session["prefill"]>[1] & { rows: number },
): Promise<Float32Array> {
  const { vocabSize, executor } = session;
  const view = executor.output("logits") as Float32Array;
  const length = ids.length / options.rows;
  const all = new Float32Array(ids.length * vocabSize);
  await session.prefill(ids, {
    ...options,
    onChunk: async (first, count) => {
      await executor.fetch("logits", options.rows * count * vocabSize);
      for (let row = 0; row < options.rows; row += 1)
        all.set(view.subarray(row * count * vocabSize, (row + 1) * count * vocabSize), (row * length + first) * vocabSize);
    },
  });
  return all;
}

async function stepLogits(session: Session, ids: readonly number[]): Promise<Float32Array> {
  await session.decode(Int32Array.from(ids));
  await session.executor.fetch("logits", ids.length * session.vocabSize);
  return (session.executor.output("logits") as Float32Array).slice(0, ids.length * session.vocabSize);
}

/** The recurrent states of a row, one after another. */
async function statesOf(session: Session, row: number): Promise<Float32Array> {
  const { rows, states } = await session.snapshot();
  const recurrent = [...states].filter(([name]) => /\.(conv|ssm)$/.test(name)).sort(([a], [b]) => (a < b ? -1 : 1));
  const parts = recurrent.map(([, { data }]) => data.subarray((row * data.length) / rows, ((row + 1) * data.length) / rows));
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

export const packedIsSeparate = (session: Session, tolerance: number): fc.IAsyncProperty<[Case]> =>
  fc.asyncProperty(cases(session.vocabSize), async ({ rows, spare, steps }) => {
    const { vocabSize } = session;
    const near = (got: Float32Array, expected: Float32Array, what: string): void => {
      expect(difference(got, expected), what).toBeLessThan(tolerance);
    };
    await session.reset();
    /** Logits of each row's tokens, in order. */
    const got: Float32Array[][] = rows.map(() => []);
    for (const [call, extra] of spare.entries()) {
      const length = Math.max(1, ...rows.map((parts) => parts[call]!.tokens.length)) + extra;
      const flat = (f: (part: Part, i: number) => number, padding: number): Int32Array =>
        Int32Array.from(
          rows.flatMap((parts) => {
            const part = parts[call]!;
            const values = part.tokens.map((_, i) => f(part, i));
            const pads = new Array<number>(length - values.length).fill(padding);
            return part.left ? [...pads, ...values] : [...values, ...pads];
          }),
        );
      const ids = flat(({ tokens }, i) => tokens[i]!, 1);
      const mask = flat(() => 1, 0);
      const logits = await logitsOf(session, ids, { rows: rows.length, mask, sequences: flat(({ labels }, i) => labels[i]!, -99) });
      expect(logits.every(Number.isFinite)).toBe(true);
      for (let at = 0; at < ids.length; at += 1)
        if (mask[at] === 1) got[Math.floor(at / length)]!.push(logits.subarray(at * vocabSize, (at + 1) * vocabSize));
    }
    const stepped: Float32Array[] = [];
    for (let i = 0; i < STEPS; i += 1)
      stepped.push(
        await stepLogits(
          session,
          steps.map((row) => row[i]!),
        ),
      );
    const states: Float32Array[] = [];
    for (const row of rows.keys()) states.push(await statesOf(session, row));

    for (const [row, parts] of rows.entries()) {
      const [tokens, labels] = [parts.flatMap((p) => p.tokens), parts.flatMap((p) => p.labels)];
      for (const label of new Set(labels)) {
        const times = labels.flatMap((l, t) => (l === label ? [t] : []));
        await session.reset();
        const expected = await logitsOf(session, Int32Array.from(times, (t) => tokens[t]!), { rows: 1 }); // prettier-ignore
        for (const [i, t] of times.entries())
          near(got[row]![t]!, expected.subarray(i * vocabSize, (i + 1) * vocabSize), `row ${row}, token ${t}`);
      }
      for (const [i, logits] of stepped.entries())
        near(
          logits.subarray(row * vocabSize, (row + 1) * vocabSize),
          await stepLogits(session, [steps[row]![i]!]),
          `row ${row}, step ${i}`,
        );
      near(states[row]!, await statesOf(session, 0), `states of row ${row}`);
    }
  });
