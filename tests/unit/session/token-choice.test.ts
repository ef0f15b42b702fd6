import { expect, test } from "vitest";
import { sampleGraph } from "../../../models/auto/sample.ts";
import { createInterpreter } from "../../../models/auto/interpret.ts";
import { isUserError } from "../../../runtime/errors.ts";
import { openTokenChoice } from "../../../runtime/token-choice.ts";

const none = { path: "nothing", tensors: new Map(), readInto: () => undefined };
const interpreter = (vocab: number) => createInterpreter([{ name: "sample", graph: sampleGraph(vocab, [1, 3]) }], none);

test("what rows have seen moves with them", async () => {
  const choice = openTokenChoice(await interpreter(5), 5)!;
  choice.markSeen(0, [4, 0]);
  choice.markSeen(1, [2]);
  choice.moveSeen([1, 0, 0]);
  expect([0, 1, 2].map((row) => [...choice.seen(row)])).toEqual([[2], [0, 4], [0, 4]]);
  choice.clear(2);
  expect([0, 1, 2].map((row) => [...choice.seen(row)])).toEqual([[], [], [0, 4]]);
});

test("a program of this name that is another one is refused, and none is none", async () => {
  const executor = await interpreter(5);
  expect(() => openTokenChoice(executor, 6)).toThrow(/program "sample" of the compiled model has no scores/);
  try {
    openTokenChoice({ ...executor, input: () => undefined }, 5);
  } catch (error) {
    expect(isUserError(error) && error.hint).toContain("compile the model again");
  }
  expect(openTokenChoice({ ...executor, programs: [] }, 5)).toBeUndefined();
});
