import { join } from "node:path";
import { afterAll, describe, expect, test, vi } from "vitest";
import { openCausalLM } from "../../../models/auto/index.ts";
import { isUserError } from "../../../runtime/errors.ts";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";
import { createSession } from "../../../runtime/model-session.ts";
import { decodeFloats, decodeIntegers } from "../../../runtime/numeric.ts";
import type { Session } from "../../../runtime/session.ts";
import { goldenFolder } from "../../support/model-folder.ts";

/** The session is the same whatever runs the programs, so the interpreter will do here; tests/model holds the compiled ones to the same. */
const load = { backend: "interpret", maxLength: 48, batch: 2 } as const;
const golden = openCheckpoint(join(goldenFolder("base"), "golden.safetensors"));
const integers = (name: string): Int32Array => decodeIntegers("I64", golden.read(name), { min: -1000, max: 1000 }, name);
const ids = integers("padded.input_ids");
const mask = integers("padded.attention_mask");
const length = 37;

const models = await Promise.all([
  openCausalLM(goldenFolder("base"), load),
  openCausalLM(goldenFolder("base"), { ...load, prefillChunk: 5 }),
  openCausalLM(goldenFolder("all-mamba"), { ...load, prefillChunk: 5 }),
]);
afterAll(() => Promise.all(models.map((model) => model.close())));
const [whole, chunked, mamba] = (await Promise.all(models.map((model) => model.session()))) as [Session, Session, Session];

const distance = (a: Float32Array, b: Float32Array): number => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
const logitsOf = async (session: Session): Promise<Float32Array[]> => {
  const rows: Float32Array[] = [];
  for (let row = 0; row < session.rows; row += 1) rows.push((await session.logits(row)).slice());
  return rows;
};

async function refusal(body: () => Promise<unknown>): Promise<string> {
  try {
    await body();
  } catch (error) {
    expect(isUserError(error)).toBe(true);
    const hint = isUserError(error) ? (error.hint ?? "") : "";
    return `${(error as Error).message} ${hint}`;
  }
  throw new Error("was not refused");
}

test("a token that is fed for the likeliest next one only gives that one and no logits, until the next call", async () => {
  const prompt = ids.subarray(length + 7, length + 12);
  const { next } = whole;
  await whole.reset();
  await whole.prefill(prompt);
  await whole.decode(Int32Array.of(5));
  const expected = [next[0]];
  await whole.decode(Int32Array.of(6));
  expected.push(next[0]);
  const logits = (await whole.logits(0)).slice();

  await whole.reset();
  await whole.prefill(prompt);
  await whole.decode(Int32Array.of(5), { logits: false });
  const got = [next[0]];
  const greedy = Float32Array.of(1, 1, 0, 1, 0, -1);
  for (const ask of [() => whole.logits(0), () => whole.choose(greedy)])
    expect(await refusal(ask)).toContain("fed for the likeliest next one only");
  await whole.decode(Int32Array.of(6));
  got.push(next[0]);
  expect(got).toEqual(expected);
  expect(distance(await whole.logits(0), logits)).toBe(0);
});

describe("prefill", () => {
  test("a padded batch in one call gives Transformers' last logits", async () => {
    await whole.reset();
    await whole.prefill(ids, { rows: 2, mask });
    expect(whole.past).toBe(length);
    const expected = decodeFloats("F32", golden.read("padded.logits"));
    for (const [row, logits] of (await logitsOf(whole)).entries()) {
      const at = (row * length + length - 1) * whole.vocabSize;
      expect(distance(logits, expected.subarray(at, at + whole.vocabSize))).toBeLessThan(1e-4);
    }
  });

  test("in chunks is the same as in one call, also when a chunk is all padding", async () => {
    await whole.reset();
    await whole.prefill(ids, { rows: 2, mask });
    await chunked.reset();
    await chunked.prefill(ids, { rows: 2, mask });
    const [a, b] = [await logitsOf(whole), await logitsOf(chunked)];
    for (const row of [0, 1]) expect(distance(a[row]!, b[row]!)).toBeLessThan(1e-5);
    expect([...chunked.next.slice(0, 2)]).toEqual([...whole.next.slice(0, 2)]);
  });

  test("continues from what the states hold, and one token at a time is the same again", async () => {
    const row = ids.subarray(length, 2 * length);
    await whole.reset();
    await whole.prefill(row);
    const expected = (await whole.logits(0)).slice();
    await chunked.reset();
    await chunked.prefill(row.subarray(0, 20));
    await chunked.prefill(row.subarray(20, 33));
    for (let i = 33; i < length; i += 1) await chunked.decode(row.subarray(i, i + 1));
    expect(distance(await chunked.logits(0), expected)).toBeLessThan(1e-5);
  });

  test("positions that are given count, and the next ones follow them", async () => {
    const row = ids.subarray(length, length + 8);
    await whole.reset();
    await whole.prefill(row, { positions: [3, 4, 5, 6, 7, 8, 9, 10] });
    const shifted = (await whole.logits(0)).slice();
    await whole.reset();
    await whole.prefill(row);
    // the rotation is relative
    expect(distance(shifted, await whole.logits(0))).toBeLessThan(1e-5);
    await whole.reset();
    await whole.prefill(row, { positions: [0, 2, 4, 6, 8, 10, 12, 14] });
    expect(distance(shifted, await whole.logits(0))).toBeGreaterThan(1e-4);
  });
});

test("a session that starts at a position goes on as one that was restored to it with empty states", async () => {
  const { executor } = mamba;
  await mamba.reset();
  const begin = { rows: 2, past: 30 };
  const session = createSession(executor, { startAt: begin });
  expect([session.rows, session.past, session.lastOf(1)]).toEqual([2, 30, { label: 0, nextPosition: 30 }]);
  await session.decode(ids.subarray(0, 2));
  expect(session.past).toBe(31);
  const decoded = await logitsOf(session);
  await session.reset();
  await session.prefill(ids.subarray(0, 2), { rows: 2 });
  // a recurrence does not know how long ago it began
  const fresh = await logitsOf(session);
  for (const row of [0, 1]) expect(distance(decoded[row]!, fresh[row]!)).toBeLessThan(1e-5);
  expect(await refusal(() => Promise.resolve(createSession(executor, { startAt: { rows: 2, past: 49 } })))).toContain(
    "at most 48 positions",
  );
  expect(await refusal(() => Promise.resolve(createSession(executor, { startAt: { rows: 3, past: 1 } })))).toContain("at most 2");
});

test("a token writes itself and its position; which sequence it belongs to is written ahead, and anew when that changes", async () => {
  const wrote = vi.spyOn(whole.executor, "wrote");
  const written = async (): Promise<string[]> => {
    wrote.mockClear();
    await whole.decode(Int32Array.of(5, 6));
    return wrote.mock.calls.map(([name, first, count]) => `${name} ${first}+${count}`);
  };
  await whole.reset();
  // each row ends in its sixth sequence, which no test before this one had
  await whole.prefill(new Int32Array(12).fill(3), { rows: 2, sequences: [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5] });
  const first = await written();
  expect(first.filter((call) => call.startsWith("sequence_ids"))).toEqual(["sequence_ids 6+42", "sequence_ids 54+42"]);
  for (let i = 0; i < 3; i += 1) expect(await written()).toEqual(["input_ids 0+2", "position_ids 0+2"]);
  // another sequence begins in one of the rows
  const labels = { rows: 2, sequences: [5, 7] };
  await whole.prefill(Int32Array.of(8, 9), labels);
  expect((await written()).filter((call) => call.startsWith("sequence_ids"))).toEqual(["sequence_ids 59+37"]);
  wrote.mockRestore();
});

describe("a snapshot", () => {
  for (const [name, session] of [
    ["with attention", chunked],
    ["of states only", mamba],
  ] as const) {
    test(`${name}: what follows it is the same each time`, async () => {
      await session.reset();
      await session.prefill(ids, { rows: 2, mask });
      const at = await session.snapshot();
      const follow = async (): Promise<number[]> => {
        const out: number[] = [];
        for (let i = 0; i < 4; i += 1) {
          out.push(...session.next.slice(0, 2));
          await session.decode(session.next.slice(0, 2));
        }
        return out;
      };
      const first = await follow();
      const logits = await logitsOf(session);
      await session.prefill(Int32Array.of(9, 9, 9, 9, 9, 9), { rows: 2 });
      await session.restore(at);
      expect([session.past, session.rows]).toEqual([length, 2]);
      await session.decode(Int32Array.from(first.slice(0, 2)));
      await session.restore(at);
      // `next` is not part of it: it belongs to the call that made it
      for (let i = 0; i < 4; i += 1) await session.decode(Int32Array.from(first.slice(2 * i, 2 * i + 2)));
      const again = await logitsOf(session);
      for (const row of [0, 1]) expect(distance(again[row]!, logits[row]!)).toBe(0);
    });
  }

  test("has the used part of each state, and none of the rest", async () => {
    await chunked.reset();
    await chunked.prefill(ids.subarray(0, 7));
    const { states, past, rows } = await chunked.snapshot();
    expect([past, rows]).toEqual([7, 1]);
    expect(states.get("layers.2.keys")?.shape).toEqual([1, 2, 7, 16]);
    expect(states.get("layers.0.ssm")?.shape).toEqual([1, 8, 16, 16]);
    for (const { shape, data } of states.values()) expect(data).toHaveLength(shape.reduce((n, d) => n * d, 1));
  });

  test("of another model, or too large, is refused", async () => {
    await mamba.reset();
    await mamba.prefill(ids.subarray(0, 7));
    const other = await mamba.snapshot();
    expect(await refusal(() => whole.restore(other))).toContain("snapshot is of another model: state layers.2.");
    const narrow = await openCausalLM(goldenFolder("all-mamba"), { ...load, state: "bf16" });
    const rounded = await narrow.session();
    expect(await refusal(() => rounded.restore(other))).toContain("layers.0.conv is f32 [1, 4, 160], expected bf16 [1, 4, 160]");
    await narrow.close();
    expect(await refusal(() => openCausalLM(goldenFolder("all-mamba"), { ...load, state: "bf16", strict: true }))).toContain(
      "state (--state): bf16 is a rounding that Transformers does not do",
    );
    expect(await refusal(() => whole.restore({ ...other, past: 49 }))).toContain("49 positions, the session has room for 2 and 48");
  });
});

describe("choosing tokens", () => {
  const off = [1, 1, 0, 1, 0, -1];
  const settings = (...rows: number[][]): Float32Array => Float32Array.from(rows.flat());

  test("the likeliest ones are those of the step", async () => {
    await whole.reset();
    await whole.prefill(ids, { rows: 2, mask });
    const tokens = await whole.choose(settings(off, off));
    expect([...tokens]).toEqual([...whole.next.slice(0, 2)]);
    for (const row of [0, 1]) expect(distance(await whole.scores(row), await whole.logits(row))).toBe(0);
    expect(await whole.choose(settings(off, off))).toBe(tokens);
    await whole.decode(tokens);
    await whole.choose(settings(off, off));
    expect([...tokens]).toEqual([...whole.next.slice(0, 2)]);
  });

  test("seen tokens are penalised until reset, and part of a snapshot", async () => {
    await whole.reset();
    await whole.prefill(ids, { rows: 2, mask });
    whole.markSeen(1, [7, 9, 7]);
    const penalty = settings(off, [2, ...off.slice(1)]);
    const changed = async (row: number): Promise<number[]> => {
      await whole.choose(penalty);
      const [scores, logits] = [await whole.scores(row), await whole.logits(row)];
      return [...scores.keys()].filter((id) => scores[id] !== logits[id]);
    };
    expect(await changed(0)).toEqual([]);
    expect(await changed(1)).toEqual([7, 9]);
    const at = await whole.snapshot();
    expect(at.seen.map((seen) => [...seen])).toEqual([[], [7, 9]]);
    await whole.reset();
    await whole.prefill(ids, { rows: 2, mask });
    expect(await changed(1)).toEqual([]);
    await whole.restore(at);
    expect((await whole.snapshot()).seen).toEqual(at.seen);
    expect(await changed(1)).toEqual([7, 9]);
  });

  test("logits that the host has processed are what counts, and those that allow no token are an error", async () => {
    await whole.reset();
    await whole.prefill(ids, { rows: 2, mask });
    const logits = await whole.logits(1);
    logits.fill(-Infinity);
    logits[42] = 0;
    whole.setLogits(1, logits);
    expect((await whole.choose(settings(off, [1, 1, 5, 0.9, 0, 0.99])))[1]).toBe(42);
    whole.setLogits(0, new Float32Array(256).fill(NaN));
    expect(await refusal(() => whole.choose(settings(off, off)))).toMatch(
      /the logits hold NaN or infinity, or allow no token .*checkpoint/,
    );
  });

  test.each<[what: string, call: (session: Session) => unknown, message: RegExp]>([
    ["settings of another number of rows", (s) => s.choose(settings(off)), /2 rows have 12 settings, 6 each; got 6/],
    ["a temperature of 0", (s) => s.choose(settings(off, [1, 0, 0, 1, 0, 0])), /temperature of row 1: expected a number above 0, got 0/],
    ["half a top-k", (s) => s.choose(settings([1, 1, 0.5, 1, 0, 0], off)), /top-k of row 0: expected a whole number/],
    ["a draw of 1", (s) => s.choose(settings([1, 1, 0, 1, 0, 1], off)), /draw of row 0: expected a number below 1/],
    ["a top-p of NaN", (s) => s.choose(settings([1, 1, 0, NaN, 0, 0], off)), /top-p of row 0/],
    ["a row that is not there", (s) => s.scores(2), /there is no row 2; the session has 2/],
    ["an id outside", (s) => s.markSeen(0, [1, 256]), /token id 256 \(number 1\) is outside/],
    ["logits of another length", (s) => s.setLogits(0, [1]), /a row of logits has 256 elements, got 1/],
  ])("%s is refused", async (_, call, message) => {
    await whole.reset();
    await whole.prefill(ids, { rows: 2, mask });
    expect(await refusal(() => Promise.resolve().then(() => call(whole)))).toMatch(message);
  });

  test("a model compiled for its logits does not choose", async () => {
    const { session } = await models[0].forwardSession();
    await session.prefill(Int32Array.of(1, 2));
    expect(await refusal(() => session.choose(settings(off)))).toMatch(/no program "sample", .*every position/);
  });
});

describe("what does not fit is refused, and leaves the session as it was", () => {
  const cases: readonly (readonly [what: string, call: (session: Session) => Promise<void>, message: RegExp])[] = [
    ["too long", (s) => s.prefill(new Int32Array(49)), /the prompt has 49 tokens, .* at most 48 positions .*--max-length/],
    ["too long together", (s) => s.prefill(new Int32Array(42)), /7 tokens and 42 more are 49/],
    ["too many rows", (s) => s.prefill(new Int32Array(6), { rows: 3 }), /3 prompts at once, .* at most 2 .*--batch/],
    ["rows of different length", (s) => s.prefill(new Int32Array(5), { rows: 2 }), /whole number of tokens/],
    ["no token", (s) => s.prefill(new Int32Array(0)), /at least one/],
    ["an id above the vocabulary", (s) => s.prefill(Int32Array.of(1, 256)), /token id 256 \(number 1\) is outside the vocabulary of 256/],
    ["a negative id", (s) => s.decode(Int32Array.of(-1)), /token id -1/],
    ["a mask of another length", (s) => s.prefill(Int32Array.of(1, 2), { mask: [1] }), /the mask has 1 elements, the ids have 2/],
    ["labels of another length", (s) => s.prefill(Int32Array.of(1, 2), { sequences: [1] }), /list of sequence labels has 1 elements/],
    [
      "a label that is none",
      (s) => s.prefill(Int32Array.of(1, 2), { sequences: [1, 0.5] }),
      /label 0.5 is no 32-bit integer .*number the sequences/,
    ],
    ["a position outside", (s) => s.prefill(Int32Array.of(1, 2), { positions: [47, 48] }), /position 48 is outside/],
    ["another batch", (s) => s.prefill(Int32Array.of(1, 2), { rows: 2 }), /the session has 1 rows, got 2/],
    ["a decode of two", (s) => s.decode(Int32Array.of(1, 2)), /the session has 1 rows, got 2 tokens/],
  ];
  test.each(cases)("%s", async (what, call, message) => {
    await whole.reset();
    if (what !== "too long" && what !== "too many rows") await whole.prefill(ids.subarray(length, length + 7));
    const { past, rows } = whole;
    expect(await refusal(() => call(whole))).toMatch(message);
    expect([whole.past, whole.rows]).toEqual([past, rows]);
    if (past === 0) return;
    await whole.prefill(ids.subarray(length + 7, length + 12));
    await chunked.reset();
    await chunked.prefill(ids.subarray(length, length + 12));
    expect(distance(await whole.logits(0), await chunked.logits(0))).toBeLessThan(1e-5);
  });

  test("decode before prefill, and two calls at once", async () => {
    await whole.reset();
    expect(await refusal(() => whole.decode(Int32Array.of(1)))).toContain("starts with a prefill");
    const first = whole.prefill(Int32Array.of(1, 2, 3));
    expect(await refusal(() => whole.decode(Int32Array.of(1)))).toMatch(/still at work|starts with a prefill/);
    await first;
  });
});
