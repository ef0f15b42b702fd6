import { describe, expect, test } from "vitest";
import { after, canWrite, INITIAL, progressText, statusOf } from "../../../runtime/web/page/state.ts";
import type { Happening, State } from "../../../runtime/web/page/state.ts";
import type { Failure, ModelFacts, Progress, Result, Token } from "../../../runtime/web/protocol.ts";

const model: ModelFacts = {
  name: "tiny",
  adapter: {
    name: "a GPU",
    vendor: "",
    architecture: "",
    device: "",
    description: "",
    features: [],
    limits: {},
    subgroupMinSize: 0,
    subgroupMaxSize: 0,
  },
  caps: "base",
  requires: { features: [], limits: {}, subgroup: null },
  compiler: "0.1.0",
  parameters: 1,
  dtype: "bf16",
  vocabSize: 1,
  maxLength: 1,
  weightBytes: 1,
  stateBytes: 1,
  launches: 1,
  bytes: 1,
  downloaded: 1,
  time: 1,
  chat: false,
  timing: true,
  settings: {},
};
const token = (text: string, count: number): Token => ({ text, count, first: 5, tokensPerSecond: 100 });
const result = (of: Partial<Result> = {}): Result => ({
  reason: "length",
  rest: "",
  promptTokens: 2,
  newTokens: 2,
  ids: [1, 2],
  first: 5,
  total: 15,
  tokensPerSecond: 100,
  seed: 7,
  warnings: [],
  ...of,
});
const progress = (of: Partial<Progress> = {}): Progress => ({ stage: "weights", bytes: 0, total: 0, cached: 0, bytesPerSecond: 0, ...of });
const user: Failure = { kind: "user", message: "too small", hint: "take another" };
const lost: Failure = { kind: "lost", message: "the device is gone" };

const play = (...events: readonly Happening[]): State => events.reduce(after, INITIAL);
const loaded: readonly Happening[] = [
  { type: "began", task: "open" },
  { type: "ready", model },
];
const begun: readonly Happening[] = [...loaded, { type: "began", task: "write", prompt: "It was" }];

describe("loading", () => {
  test("goes from stage to stage and leaves the model", () => {
    const opening = play({ type: "began", task: "open" }, { type: "progress", progress: progress({ stage: "kernels" }) });
    expect(statusOf(opening)).toBe("Loading the kernels");
    expect(canWrite(opening)).toBe(false);
    const ready = play(...loaded);
    expect(ready).toMatchObject({ task: null, progress: null, model });
    expect(canWrite(ready)).toBe(true);
    expect(statusOf(ready)).toBe("Ready");
  });

  test("that fails can be done again, and the failure is then forgotten", () => {
    const failed = play({ type: "began", task: "open" }, { type: "failed", task: "open", failure: user });
    expect(failed.failed).toEqual({ task: "open", failure: user });
    expect(canWrite(failed)).toBe(false);
    expect(statusOf(failed)).toBe("Something went wrong");
    expect(after(failed, { type: "began", task: "open" }).failed).toBeNull();
  });

  test("that is stopped is no mistake", () => {
    const stopping = play({ type: "began", task: "open" }, { type: "stopping" });
    expect(statusOf(stopping)).toBe("Stopping");
    const stopped = after(stopping, { type: "failed", task: "open", failure: { kind: "aborted", message: "stopped" } });
    expect(statusOf(stopped)).toBe("Stopped");
    expect(stopped.stopping).toBe(false);
  });

  test.each([
    [progress(), ""],
    [progress({ bytes: 1_000_000, total: 10_000_000, bytesPerSecond: 2_000_000 }), "1.00 MB of 10.0 MB, 2.00 MB/s"],
    [progress({ bytes: 10_000_000, total: 10_000_000, bytesPerSecond: 2_000_000 }), "10.0 MB of 10.0 MB"],
    [progress({ bytes: 5_000_000, total: 10_000_000, cached: 5_000_000 }), "5.00 MB of 10.0 MB, from this browser's cache"],
  ])("tells how far it is: %#", (of, text) => expect(progressText(of)).toBe(text));
});

describe("writing", () => {
  test("joins what becomes certain, and what is left in the end", () => {
    const writing = play(...begun, { type: "token", token: token(" the", 1) }, { type: "token", token: token("", 2) });
    expect(writing.written).toMatchObject({ prompt: "It was", text: " the", token: { count: 2 }, result: null });
    expect(canWrite(writing)).toBe(false);
    const done = after(writing, { type: "done", result: result({ rest: " é" }) });
    expect(done.written).toMatchObject({ text: " the é", result: { newTokens: 2 } });
    expect(canWrite(done)).toBe(true);
  });

  test("is announced in words that do not change with each token", () => {
    expect(statusOf(play(...begun))).toBe("Reading the prompt");
    const said = [1, 2, 3].map((count) => statusOf(play(...begun, { type: "token", token: token("x", count) })));
    expect(new Set(said)).toEqual(new Set(["Writing"]));
  });

  test.each([
    ["length", "Done: 2 tokens, the length was reached"],
    ["eos", "Done: 2 tokens, the model ended the text"],
    ["stop", "Done: 2 tokens, a stop text was reached"],
    ["aborted", "Done: 2 tokens, stopped"],
  ] as const)("that ends by %s says so", (reason, text) => {
    expect(statusOf(play(...begun, { type: "done", result: result({ reason }) }))).toBe(text);
  });

  test("that fails leaves the text so far and the model", () => {
    const failed = play(...begun, { type: "token", token: token(" a", 1) }, { type: "failed", task: "write", failure: user });
    expect(failed.written?.text).toBe(" a");
    expect(canWrite(failed)).toBe(true);
    expect(after(failed, { type: "began", task: "write", prompt: "new" }).written).toMatchObject({ prompt: "new", text: "", token: null });
  });
});

describe("a lost device", () => {
  const orders: readonly (readonly Happening[])[] = [
    [
      { type: "lost", message: lost.message },
      { type: "failed", task: "write", failure: lost },
    ],
    [
      { type: "failed", task: "write", failure: lost },
      { type: "lost", message: lost.message },
    ],
    [{ type: "lost", message: lost.message }],
  ];

  test.each(orders)("takes the model with it, and is opened again, in whichever order it is told: %#", (...events) => {
    const state = play(...begun, { type: "token", token: token(" a", 1) }, ...events);
    expect(state).toMatchObject({ task: null, model: null, failed: { task: "open", failure: lost }, written: { text: " a" } });
    expect(canWrite(state)).toBe(false);
    const again = [
      { type: "began", task: "open" },
      { type: "ready", model },
    ] as const;
    expect(canWrite(again.reduce<State>(after, state))).toBe(true);
  });
});

test("measuring leaves a breakdown, and the next text leaves it there", () => {
  const steps = [{ label: "layers.0.mlp", kernel: "gemm", template: "gemv", milliseconds: 1, bytes: 1, flops: 1 }];
  const measured = play(...loaded, { type: "began", task: "measure" }, { type: "measured", profile: { past: 1, steps } });
  expect(measured.breakdown?.segments).toHaveLength(1);
  expect(canWrite(measured)).toBe(true);
  expect(after(measured, { type: "began", task: "write", prompt: "" }).breakdown).toBe(measured.breakdown);
});

test("a note is kept once", () => {
  const note = { type: "note", message: "no room" } as const;
  expect(play(note, note, { type: "note", message: "no ranges" }).notes).toEqual(["no room", "no ranges"]);
});
