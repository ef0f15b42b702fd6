import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { openCausalLM } from "../../../models/auto/index.ts";
import { isUserError } from "../../../runtime/errors.ts";
import { placeTokens } from "../../../runtime/sequences.ts";
import type { RowEnds } from "../../../runtime/sequences.ts";
import { goldenFolder } from "../../support/model-folder.ts";
import { MOST_ROWS, packedIsSeparate } from "../../support/session-laws.ts";

const fresh: RowEnds = { sequence: () => 0, label: () => 0, position: () => 0 };
const place = (before: RowEnds, call: Partial<Parameters<typeof placeTokens>[1]> & { length: number }): Record<string, number[]> => {
  const { ids, positions, ends } = placeTokens(before, { rows: 1, ...call }, 16);
  return { ids: [...ids], positions: [...positions], ends: [...ends] };
};

describe("where the tokens of a call go", () => {
  test("without mask and labels: one sequence", () => {
    expect(place(fresh, { length: 3 })).toEqual({ ids: [1, 1, 1], positions: [0, 1, 2], ends: [3] });
  });

  test("padding is of the sequence before it, and of the first one where there is none", () => {
    const call = { length: 6, mask: [0, 0, 1, 0, 1, 0] };
    expect(place(fresh, call)).toEqual({ ids: [-1, -1, 1, -1, 1, -1], positions: [0, 0, 0, 0, 1, 0], ends: [5] });
    expect(place(fresh, { length: 2, mask: [0, 0] })).toEqual({ ids: [-1, -1], positions: [0, 0], ends: [0] });
  });

  test("a change of label begins a sequence at position 0, whatever the labels are and also when one comes back", () => {
    const call = { length: 6, sequences: [9, 9, -4, 9, 9, 0] };
    expect(place(fresh, call)).toEqual({ ids: [1, 1, 2, 3, 3, 4], positions: [0, 1, 0, 0, 1, 0], ends: [6] });
  });

  test("labels of padding do not matter, and padding ends no sequence", () => {
    const call = { length: 5, sequences: [5, 8, 5, 8, 6], mask: [1, 0, 1, 0, 1] };
    expect(place(fresh, call)).toEqual({ ids: [1, -1, 1, -1, 2], positions: [0, 0, 1, 0, 0], ends: [5] });
  });

  test("a row goes on from what it holds", () => {
    const before: RowEnds = { sequence: () => 3, label: () => 7, position: () => 5 };
    expect(place(before, { length: 2 })).toEqual({ ids: [3, 3], positions: [5, 6], ends: [2] });
    expect(place(before, { length: 2, sequences: [7, 8] })).toEqual({ ids: [3, 4], positions: [5, 0], ends: [2] });
    expect(place(before, { length: 2, mask: [0, 0] })).toEqual({ ids: [-3, -3], positions: [0, 0], ends: [0] });
  });

  test("positions that are given count, and those after them follow", () => {
    expect(place(fresh, { length: 3, positions: [4, 6, 0], sequences: [1, 1, 2] })["positions"]).toEqual([4, 6, 0]);
  });

  test("what no model can use is refused", () => {
    const refused = (call: Parameters<typeof place>[1]): string => {
      try {
        place(fresh, call);
      } catch (error) {
        if (isUserError(error)) return error.message;
        throw error;
      }
      return "";
    };
    expect(refused({ length: 17 })).toContain("position 16 is outside the compiled model's 0 to 15");
    expect(refused({ length: 1, positions: [0.5] })).toContain("position 0.5");
    expect(refused({ length: 1, positions: [-1], mask: [0] })).toContain("position -1");
    for (const label of [0.5, NaN, 2 ** 31])
      expect(refused({ length: 1, sequences: [label] })).toContain(`label ${label} is no 32-bit integer`);
  });
});

describe("in a session", async () => {
  const load = { backend: "interpret", maxLength: 48, batch: MOST_ROWS } as const;
  const models = await Promise.all([
    openCausalLM(goldenFolder("base"), load),
    openCausalLM(goldenFolder("base"), { ...load, prefillChunk: 4 }),
    openCausalLM(goldenFolder("all-mamba"), { ...load, prefillChunk: 4 }),
  ]);
  afterAll(() => Promise.all(models.map((model) => model.close())));
  const sessions = await Promise.all(models.map(async (model) => (await model.forwardSession({ rows: MOST_ROWS })).session));

  test.each([
    ["base", sessions[0]!],
    ["base, in chunks of 4", sessions[1]!],
    ["all-mamba, in chunks of 4", sessions[2]!],
  ])("%s: packed and padded sequences are what each is alone", async (_, session) => {
    await fc.assert(packedIsSeparate(session, 2e-5), { numRuns: 12 });
  });

  test("a snapshot carries the sequences: what follows it begins one or does not, as it would have", async () => {
    const session = sessions[0]!;
    const follow = async (): Promise<number[]> => {
      await session.prefill(Int32Array.of(4, 5), { sequences: [3, 4] });
      return [...(await session.snapshot()).sequenceIds];
    };
    await session.reset();
    await session.prefill(Int32Array.of(9, 8, 7), { sequences: [1, 3, 3], mask: [1, 1, 0] });
    const at = await session.snapshot();
    expect([[...at.sequenceIds], [...at.labels], [...at.positions]]).toEqual([[1, 2, -2], [3], [1]]);
    expect(await follow()).toEqual([1, 2, -2, 2, 3]);
    await session.reset();
    await session.prefill(Int32Array.of(9));
    await session.restore(at);
    expect(await follow()).toEqual([1, 2, -2, 2, 3]);
  });
});
