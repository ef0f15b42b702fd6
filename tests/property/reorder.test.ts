import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { openCausalLM } from "../../models/auto/index.ts";
import { moveArrayRows, rowMoves } from "../../runtime/rows.ts";
import { goldenFolder } from "../support/model-folder.ts";
import { farthest, lastLogits } from "../support/running.ts";

/** Numbers of rows, and for each row to be the row that it becomes: repeats, drops and cycles of all lengths. */
const sources = (most: number): fc.Arbitrary<{ readonly rows: number; readonly source: number[] }> =>
  fc.integer({ min: 1, max: most }).chain((rows) =>
    fc.record({
      rows: fc.constant(rows),
      source: fc.oneof(
        fc.array(fc.integer({ min: 0, max: rows - 1 }), { minLength: 1, maxLength: most }),
        fc.shuffledSubarray(
          Array.from({ length: rows }, (_, i) => i),
          { minLength: 1 },
        ),
      ),
    }),
  );

test("moves give each row what its source held, and leave alone the rows that stay and what is not in use", () => {
  const [size, runs, length, stride] = [7, 2, 2, 3];
  fc.assert(
    fc.property(sources(9), ({ rows, source }) => {
      const before = Int32Array.from({ length: 9 * size }, (_, i) => i);
      const after = before.slice();
      const moves = rowMoves(source);
      moveArrayRows(after, moves, { size, runs, length, stride });
      for (let row = 0; row < 9; row += 1)
        for (let i = 0; i < size; i += 1) {
          const used = i % stride < length && i < runs * stride;
          const from = used && row < source.length ? source[row]! : row;
          expect(after[row * size + i], `row ${row}, element ${i} of ${rows}`).toBe(before[from * size + i]);
        }
      expect(moves.length).toBeLessThanOrEqual(1.5 * source.filter((from, to) => from !== to).length);
    }),
  );
});

describe.each([
  ["llvm", "base", 24],
  ["llvm", "all-mamba", 8],
  ["interpret", "base", 6],
] as const)("a session's rows, %s, %s", async (backend, name, numRuns) => {
  const model = await openCausalLM(goldenFolder(name), { backend, maxLength: 24, batch: 5, dtype: "f32" });
  afterAll(() => model.close());
  const session = await model.session();

  test("go on as the rows that they have become", async () => {
    await fc.assert(
      fc.asyncProperty(
        sources(5),
        fc.integer({ min: 1, max: 9 }),
        fc.infiniteStream(fc.integer({ min: 3, max: 200 })),
        async ({ rows, source }, length, stream) => {
          const draw = (count: number): Int32Array => Int32Array.from({ length: count }, () => stream.next().value as number);
          const ids = draw(rows * length);
          // Row r has r tokens of padding, as far as there is room for them.
          const mask = Int32Array.from(ids, (_, at) => (at % length < Math.min(Math.floor(at / length), length - 1) ? 0 : 1));
          // Odd rows are two texts, as far as they have tokens for them.
          const sequences = Int32Array.from(ids, (_, at) => (Math.floor(at / length) % 2 === 1 && at % length > length / 2 ? 8 : 7));
          const first = draw(rows);
          const later = draw(source.length);
          const permuted = (values: Int32Array): Int32Array => {
            const width = values.length / rows;
            return Int32Array.from(
              { length: source.length * width },
              (_, at) => values[source[Math.floor(at / width)]! * width + (at % width)]!,
            );
          };

          await session.reset();
          await session.prefill(permuted(ids), { rows: source.length, mask: permuted(mask), sequences: permuted(sequences) });
          await session.decode(permuted(first));
          const straight = { logits: await lastLogits(session), next: [...session.next.subarray(0, source.length)] };
          await session.decode(later);
          const straightLater = await lastLogits(session);
          const straightEnd = await session.snapshot();

          await session.reset();
          await session.prefill(ids, { rows, mask, sequences });
          await session.decode(first);
          await session.reorder(source);
          expect([session.rows, session.past]).toEqual([source.length, length + 1]);
          expect([...session.next.subarray(0, source.length)]).toEqual(straight.next);
          for (const [row, logits] of (await lastLogits(session)).entries())
            expect(farthest(logits, straight.logits[row]!)).toBeLessThan(1e-5);
          await session.decode(later);
          for (const [row, logits] of (await lastLogits(session)).entries())
            expect(farthest(logits, straightLater[row]!)).toBeLessThan(1e-5);
          const end = await session.snapshot();
          expect([...end.positions]).toEqual([...straightEnd.positions]);
          expect([...end.labels]).toEqual([...straightEnd.labels]);
          expect([...end.sequenceIds]).toEqual([...straightEnd.sequenceIds]);
        },
      ),
      { numRuns },
    );
  });

  test("allocates nothing", async () => {
    await session.reset();
    await session.prefill(Int32Array.of(3, 4, 5, 6), { rows: 2 });
    const { allocations } = session.executor;
    await session.reorder([1, 0, 1, 0, 0]);
    await session.reorder([4, 3, 2, 1, 0]);
    expect(session.executor.allocations).toBe(allocations);
  });

  test.runIf(name === "base")("take with them the tokens that they have seen", async () => {
    await session.reset();
    await session.prefill(Int32Array.of(3, 4, 5, 6, 7, 8), { rows: 3 });
    const seen = [[9, 10], [11], [12, 13]];
    seen.forEach((ids, row) => session.markSeen(row, ids));
    const held = async (): Promise<number[][]> => (await session.snapshot()).seen.map((ids) => [...ids]);
    await session.reorder([2, 0, 2, 1]);
    expect(await held()).toEqual([seen[2], seen[0], seen[2], seen[1]]);
    await session.reorder([1]);
    expect(await held()).toEqual([seen[0]]);
    // Rows that were dropped come back with nothing.
    await session.reset();
    await session.prefill(Int32Array.of(3, 4, 5, 6), { rows: 4 });
    expect(await held()).toEqual([[], [], [], []]);
  });

  test("that are not there are refused, and nothing changes", async () => {
    await session.reset();
    await expect(session.reorder([0])).rejects.toThrow("starts with a prefill");
    await session.prefill(Int32Array.of(3, 4, 5, 6), { rows: 2 });
    await expect(session.reorder([0, 2])).rejects.toThrow("row 1 cannot become row 2: the session has rows 0 to 1");
    await expect(session.reorder([0.5])).rejects.toThrow("row 0 cannot become row 0.5");
    await expect(session.reorder([])).rejects.toThrow("0 rows at once");
    await expect(session.reorder([0, 0, 0, 0, 0, 0])).rejects.toThrow("6 rows at once, but the model was compiled for 1 to 5");
    expect(session.rows).toBe(2);
  });
});
