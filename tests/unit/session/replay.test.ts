import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { openCausalLM } from "../../../models/auto/index.ts";
import type { BambaForCausalLM, GenerateOptions, Session } from "../../../models/auto/index.ts";
import { goldenFolder } from "../../support/model-folder.ts";
import { farthest, lastLogits } from "../../support/running.ts";

/** Sessions whose states stay behind their rings of inputs, held to one that stores its states at each step. */
const load = { backend: "interpret", maxLength: 48, batch: 4, prefillChunk: 6, dtype: "f32" } as const;
const length = 3;
const models = await Promise.all([
  openCausalLM(goldenFolder("base"), load),
  openCausalLM(goldenFolder("base"), { ...load, replay: length }),
]);
afterAll(() => Promise.all(models.map((model) => model.close())));
const [plain, replaying] = models;
const sessions = (await Promise.all(models.map((model) => model.session()))) as [Session, Session];

const tokensOf = async (model: BambaForCausalLM, inputIds: number[][], options: GenerateOptions): Promise<number[][]> =>
  (await model.generate({ inputIds }, options)).newTokens.map((row) => [...row]);

describe("generation is what it is without", () => {
  const prompts = [
    [5, 77, 130],
    [9, 21, 33, 4, 90, 211, 6],
    [200, 8],
  ];
  test.each<[string, number[][], GenerateOptions]>([
    ["greedy", [prompts[1]!], { maxNewTokens: 11 }],
    ["beams", [prompts[0]!], { maxNewTokens: 8, numBeams: 3 }],
    ["samples of one prompt", [prompts[1]!], { maxNewTokens: 6, doSample: true, numReturnSequences: 3, seed: 5 }],
  ])("%s", async (_, inputIds, options) => {
    expect(await tokensOf(replaying, inputIds, options)).toEqual(await tokensOf(plain, inputIds, options));
  });

  test("several prompts, padded on the left", async () => {
    const width = 7;
    const input = {
      inputIds: prompts.map((row) => [...new Array<number>(width - row.length).fill(0), ...row]),
      attentionMask: prompts.map((row) => Array.from({ length: width }, (_, i) => (i < width - row.length ? 0 : 1))),
    };
    const [a, b] = await Promise.all([plain, replaying].map((model) => model.generate(input, { maxNewTokens: 7 })));
    expect(b!.newTokens.map((row) => [...row])).toEqual(a!.newTokens.map((row) => [...row]));
  });
});

/** What a session is asked to do, with numbers that say with what. */
const actions = fc.array(
  fc.record({
    kind: fc.constantFrom("decode", "decode", "decode", "prefill", "reorder", "snapshot", "exchange"),
    numbers: fc.array(fc.integer({ min: 3, max: 200 }), { minLength: 8, maxLength: 8 }),
  }),
  { minLength: 3, maxLength: 9 },
);
type Action = typeof actions extends fc.Arbitrary<(infer A)[]> ? A : never;

async function act(session: Session, { kind, numbers }: Action): Promise<void> {
  const { rows } = session;
  switch (kind) {
    case "decode":
      return session.decode(Int32Array.from(numbers.slice(0, rows)));
    case "prefill":
      return session.prefill(Int32Array.from(numbers.slice(0, rows * Math.floor(4 / rows))), { rows });
    case "reorder":
      return session.reorder(numbers.slice(0, 1 + (numbers[7]! % 4)).map((n) => n % rows));
    case "snapshot":
      return session.restore(await session.snapshot());
    default:
  }
}

test("whatever else happens between steps, the states and the logits are those of a session without", () =>
  fc.assert(
    fc.asyncProperty(actions, async (list) => {
      for (const session of sessions) {
        await session.reset();
        await session.prefill(Int32Array.from([7, 40, 3, 99, 12, 54]), { rows: 2 });
      }
      for (const action of list) {
        // a value of the states fits either session
        if (action.kind === "exchange") {
          const [a, b] = [await sessions[0].snapshot(), await sessions[1].snapshot()];
          await sessions[0].restore(b);
          await sessions[1].restore(a);
        } else for (const session of sessions) await act(session, action);
        const [expected, got] = [await lastLogits(sessions[0]), await lastLogits(sessions[1])];
        if (action.kind !== "snapshot" && action.kind !== "exchange")
          for (const [row, logits] of got.entries()) expect(farthest(logits, expected[row]!), action.kind).toBeLessThan(1e-4);
      }
      const [expected, got] = [await sessions[0].snapshot(), await sessions[1].snapshot()];
      expect([...got.states.keys()].sort()).toEqual([...expected.states.keys()].sort());
      for (const [name, { shape, data }] of expected.states) {
        expect(got.states.get(name)!.shape).toEqual(shape);
        expect(farthest(got.states.get(name)!.data as Float32Array, data as Float32Array), name).toBeLessThan(1e-4);
      }
    }),
    { numRuns: 15 },
  ));

test("the states are stored once in so many steps, and what is in a ring does not outlive a reset", async () => {
  const { executor } = sessions[1];
  const state = executor.states.find(({ name }) => name.endsWith(".ssm"))!;
  const stored = async (): Promise<Float32Array> => {
    const data = new Float32Array(state.bytes / 4);
    await executor.readState(state.name, 0, data);
    return data;
  };
  const session = sessions[1];
  await session.reset();
  await session.prefill(Int32Array.of(5, 6, 7));
  const changed: boolean[] = [];
  for (let i = 0; i < 2 * length; i += 1) {
    const before = await stored();
    await session.decode(Int32Array.of(20 + i));
    changed.push(farthest(before, await stored()) > 0);
  }
  expect(changed).toEqual([false, false, true, false, false, true]);
  await session.decode(Int32Array.of(3));
  await session.reset();
  await session.prefill(Int32Array.of(5, 6, 7));
  const [again] = await lastLogits(session);
  await sessions[0].reset();
  await sessions[0].prefill(Int32Array.of(5, 6, 7));
  expect(farthest(again!, (await lastLogits(sessions[0]))[0]!)).toBeLessThan(1e-4);
});

test("a plan says what it cannot be", async () => {
  for (const [options, why] of [
    [{ replay: 1 }, "from 2 to 32, got 1"],
    [{ replay: 33 }, "from 2 to 32, got 33"],
    [{ replay: 16, strict: true }, "strict"],
    [{ replay: 16, backend: "webgpu" }, "more buffers than WebGPU"],
  ] as const)
    await expect(openCausalLM(goldenFolder("base"), { ...load, ...options })).rejects.toThrow(why);
});
