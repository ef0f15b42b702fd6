import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BambaForCausalLM } from "../../models/auto/index.ts";
import { DeviceLostError } from "../../runtime/errors.ts";
import { tinyFolder } from "../support/model-folder.ts";
import { openOnLavapipe, watchDevices } from "../support/webgpu-model.ts";
import { lavapipeAvailable } from "../support/webgpu.ts";

const { generations } = JSON.parse(readFileSync("tests/reference/bamba-tiny/reference_generations.json", "utf8")) as {
  readonly generations: readonly {
    readonly prompt: string;
    readonly prompt_ids: readonly number[];
    readonly output_ids: readonly number[];
  }[];
};

/** What every WebGPU adapter has: no subgroups, no half floats, 16 KiB of workgroup memory. */
describe.skipIf(!lavapipeAvailable)("bamba-tiny on WebGPU", () => {
  let devices: readonly GPUDevice[];
  let model: BambaForCausalLM;
  beforeAll(async () => {
    devices = watchDevices();
    model = await openOnLavapipe(tinyFolder, "base", { dtype: "f32", maxLength: 128 });
  }, 600_000);
  afterAll(() => model.close());

  // The first one waits for Mesa's compiler, unless its cache has the kernels of an earlier run.
  test.each(generations.filter((entry) => "prompt_ids" in entry).map((entry) => [entry.prompt, entry] as const))(
    "%s",
    { timeout: 600_000 },
    async (_, { prompt_ids, output_ids }) => {
      const { sequences } = await model.generate([...prompt_ids], { maxNewTokens: output_ids.length - prompt_ids.length, eosTokenId: [] });
      expect([...sequences[0]!]).toEqual(output_ids);
    },
  );

  const prompt = Int32Array.from(generations[0]!.prompt_ids);
  const follow = async (count: number): Promise<number[]> => {
    const session = await model.session();
    const token = new Int32Array(1);
    const tokens: number[] = [];
    for (let i = 0; i < count; i += 1) {
      token[0] = session.next[0]!;
      tokens.push(token[0]);
      await session.decode(token);
    }
    return tokens;
  };

  test("a token makes no buffer and no bind group", async () => {
    const session = await model.session();
    await session.reset();
    await session.prefill(prompt);
    await follow(3);
    const { allocations } = session.executor;
    await follow(20);
    expect(session.executor.allocations).toBe(allocations);
    const choice = Float32Array.of(1, 0.8, 40, 0.9, 0, 0.5);
    await session.choose(choice);
    const after = session.executor.allocations;
    for (let i = 0; i < 5; i += 1) await session.choose(choice);
    expect(session.executor.allocations).toBe(after);
  });

  test("a profile has the time of each kernel, and a prompt in two chunks is the prompt", async () => {
    const session = await model.session();
    const times = await session.executor.profile!("decode.1", { batch: 1, seq: 1, past: session.past, kept: 1, with_logits: 1 });
    expect(times.every(({ milliseconds }) => milliseconds >= 0)).toBe(true);
    expect(times.some(({ milliseconds }) => milliseconds > 0)).toBe(true);
    await session.reset();
    await session.prefill(prompt, { chunk: 2 });
    expect(await follow(4)).toEqual(generations[0]!.output_ids.slice(prompt.length, prompt.length + 4));
  });

  test("a device that is taken away in the middle says so, and the model goes on after reopen()", async () => {
    const whole = generations[0]!.output_ids;
    const generating = model.generate([...prompt], {
      maxNewTokens: 24,
      eosTokenId: [],
      onStep: ({ tokens: [token] }) => {
        if (token === whole[prompt.length + 5]) devices.at(-1)!.destroy();
      },
    });
    await expect(generating).rejects.toThrow(DeviceLostError);
    await expect(model.generate([...prompt], { maxNewTokens: 2 })).rejects.toThrow(/the GPU device was lost \(destroyed/);
    await model.reopen();
    const { sequences } = await model.generate([...prompt], { maxNewTokens: 6, eosTokenId: [] });
    expect([...sequences[0]!]).toEqual(whole.slice(0, prompt.length + 6));
  });
});
