import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../backends/cuda/index.ts";
import { i32, some } from "../../compiler/ir/expr.ts";
import { eachStmt } from "../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";
import type { AttentionProblem } from "../../compiler/template.ts";
import { cacheRings, partsOfCache } from "../../compiler/templates/attention-rings.ts";
import { attentionStream } from "../../compiler/templates/attention-stream.ts";
import { PLAIN, attentionProblem } from "../support/problems/attention.ts";
import { placed } from "../support/placed.ts";

const caps = cudaBackend.caps("sm_90");
/** The heads of a Bamba of 9.78 billion parameters. */
const shape = { queries: 1, sharing: 4, dim: 128, dtype: "bf16" } as const;
const ringsFor = (of: typeof caps, dim = 128) => cacheRings({ ...shape, dim }, of);

function thread(spare: number): { readonly program: ThreadProgram; readonly problem: AttentionProblem } {
  const made = attentionProblem({ ...PLAIN, past: 100, spare, kvHeads: 2, share: 4, dim: 128, cache: "bf16", ids: "mixed" }).problem;
  const problem = { ...made, past: i32(100) };
  const configs = attentionStream.configs(problem, caps);
  if ("reject" in configs) throw new Error(configs.reject);
  return { program: placed(attentionStream.build(problem, configs[0]!, caps), caps), problem };
}
type Copy = Extract<Stmt, { op: "asyncCopy" }>;
function copies(program: ThreadProgram): readonly Copy[] {
  const found: Copy[] = [];
  eachStmt(program.body, (s) => {
    if (s.op === "asyncCopy") found.push(s);
  });
  return found;
}

describe("what is on its way", () => {
  test("in a cache of whole tiles, ids are copied too, and no copy waits for what memory says", () => {
    const all = copies(thread(27).program);
    expect([...new Set(all.map(({ dst }) => dst))].sort()).toEqual(["k_tile", "key_ids", "v_tile"]);
    for (const { guard, srcAt } of all) for (const e of [guard, srcAt]) expect(e && some(e, (x) => x.op === "load")).toBeFalsy();
  });

  test("in another cache, keys and values are", () => {
    const all = copies(thread(26).program);
    expect([...new Set(all.map(({ dst }) => dst))].sort()).toEqual(["k_tile", "v_tile"]);
    for (const { guard, srcAt } of all) for (const e of [guard, srcAt]) expect(e && some(e, (x) => x.op === "load")).toBeFalsy();
  });

  test("the first keys are asked for before the query is", () => {
    const { program } = thread(27);
    const first = program.body.findIndex((s) => s.op === "asyncWait");
    const before: string[] = [];
    eachStmt(program.body.slice(0, first), (s) => before.push(s.op));
    expect(before).toContain("asyncCopy");
    expect(before.filter((op) => !["for", "if", "asyncCopy"].includes(op))).toEqual([]);
  });
});

describe("rings and parts", () => {
  test("steps of 32 keys where a multiprocessor holds three such rings, of 16 where it does not", () => {
    expect(ringsFor(caps)).toMatchObject([{ keys: 32, stages: 3, held: 4 }, { keys: 16, stages: 3, held: 7 }, {}]);
    expect(ringsFor(cudaBackend.caps("sm_86"))).toMatchObject([{ keys: 16, stages: 3, held: 3 }]);
    expect(ringsFor({ ...caps, sharedBytes: 48 * 1024 })).toMatchObject({ reject: expect.stringContaining("heads of 128") as string });
    expect(ringsFor(caps, 136)).toMatchObject({ reject: expect.stringContaining("no whole tiles") as string });
  });

  test("blocks are one wave, or whole waves, or have too few keys for that", () => {
    const [ring] = ringsFor(caps) as [{ keys: number; stages: number; held: number }];
    const room = ring.held * caps.workers;
    const parts = (rows: number, capacity = 2048): number => partsOfCache(rows * 8, capacity, ring, caps);
    expect([64, 256].map((rows) => parts(rows))).toEqual([1, 1]);
    for (const rows of [1, 2, 4, 8, 16]) {
      expect(parts(rows)).toBeGreaterThan(1);
      expect(parts(rows) * rows * 8).toBeLessThanOrEqual(room);
    }
    expect(parts(1, 100)).toBe(1);
    // few rows more than fill a wave
    expect(parts(70, 8192)).toBeGreaterThan(1);
  });
});
