import { expect, test, vi } from "vitest";
import type { Recording } from "../../../runtime/text/choose.ts";
import { takesLogits } from "../../../runtime/text/choose.ts";
import { generateSteps } from "../../../runtime/text/loop.ts";
import { fakeSession } from "../../support/fake-session.ts";
import { plainSettings } from "../../support/loop-settings.ts";

const nothing: Recording = { logits: null, scores: null };

/** For each token that is fed, whether it is with logits. */
async function fed(recording: Recording): Promise<unknown[]> {
  const session = fakeSession(4, (text) => Float32Array.from({ length: 4 }, (_, id) => (id === text.length % 4 ? 1 : 0)));
  const decode = vi.spyOn(session, "decode");
  const prompts = { ids: Int32Array.of(1, 2, 3), rows: 1 };
  const tokens: number[] = [];
  for await (const step of generateSteps(session, prompts, plainSettings, { recording })) tokens.push(step.tokens[0]!);
  expect(tokens).toEqual([3, 0, 1, 2, 3, 0]);
  return decode.mock.calls.map(([, options]) => options?.logits);
}

test("greedy search feeds tokens for the likeliest next ones, unless somebody keeps the logits", async () => {
  expect(await fed(nothing)).toEqual(new Array(5).fill(false));
  expect(await fed({ logits: [], scores: null })).toEqual(new Array(5).fill(true));
});

test("samples, processors, guidance and scores take logits", () => {
  const processor = { name: "none", process: () => undefined };
  expect(takesLogits(plainSettings, nothing)).toBe(false);
  expect(takesLogits({ ...plainSettings, doSample: true }, nothing)).toBe(true);
  expect(takesLogits({ ...plainSettings, processors: { always: [processor], sampling: [] } }, nothing)).toBe(true);
  expect(takesLogits({ ...plainSettings, processors: { always: [], sampling: [processor] } }, nothing)).toBe(false);
  expect(takesLogits({ ...plainSettings, guidanceScale: 2 }, nothing)).toBe(true);
  expect(takesLogits(plainSettings, { logits: null, scores: [] })).toBe(true);
});
