import { expect, test, vi } from "vitest";
import { stopwatch } from "../../models/auto/bench-host.ts";
import type { Executor } from "../../runtime/executor.ts";

test("a token's time is that of its writes, its launch and its wait, and the rest", async () => {
  let clock = 100;
  vi.spyOn(performance, "now").mockImplementation(() => clock);
  const calls: string[] = [];
  const executor: Pick<Executor, "wrote" | "run" | "fetch"> = {
    wrote: (name) => {
      calls.push(name);
      clock += 2;
    },
    run: (program) => {
      calls.push(program);
      clock += 6;
    },
    fetch: async (name) => {
      clock += 4;
      await Promise.resolve();
      calls.push(name);
      clock += 8;
    },
  };
  const watch = stopwatch(executor as Executor);
  const token = async (rest: number): Promise<void> => {
    watch.executor.wrote("input_ids", 0, 1);
    watch.executor.wrote("position_ids", 0, 1);
    await watch.executor.run("decode.1", {});
    await watch.executor.fetch("argmax", 1);
    clock += rest;
  };
  expect(await watch.token(() => token(3))).toEqual({ write: 4, launch: 6, wait: 12, rest: 3, total: 25 });
  expect(await watch.token(() => token(0))).toEqual({ write: 4, launch: 6, wait: 12, rest: 0, total: 22 });
  expect(calls.slice(4)).toEqual(["input_ids", "position_ids", "decode.1", "argmax"]);
  vi.restoreAllMocks();
});
