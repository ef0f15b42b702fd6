import { describe, expect, test } from "vitest";
import type { Caps } from "../../compiler/backend.ts";
import { read } from "../../compiler/ir/dtype.ts";
import { evaluateInt, i32 } from "../../compiler/ir/expr.ts";
import type { Stmt, TileProgram } from "../../compiler/ir/tile.ts";
import { interpretTile } from "../../compiler/run/tile.ts";
import type { AttentionProblem, Config, Template } from "../../compiler/template.ts";
import { attentionDecode } from "../../compiler/templates/attention-decode.ts";
import { attention } from "../../compiler/templates/attention.ts";
import { vectorCaps, warpCaps } from "../support/caps.ts";
import { findings, placed } from "../support/placed.ts";
import { PLAIN, attentionProblem } from "../support/problems/attention.ts";
import type { AttentionShape } from "../support/problems/attention.ts";
import { copyBuffers, differences } from "../support/problems/case.ts";

const vector = (lanes: number): Caps => ({
  ...vectorCaps,
  name: `vector-${lanes}`,
  lanes,
  maxThreads: lanes,
  units: [{ ...vectorCaps.units[0]!, n: lanes, lanes }],
});
/** A matrix unit that takes 16-bit operands only, as tensor cores do. */
const halves: Caps = { ...warpCaps, name: "warp-bf16", units: [{ ...warpCaps.units[0]!, inputs: ["bf16", "f16"] }] };

const configsOf = (template: Template<AttentionProblem>, p: AttentionProblem, caps: Caps): readonly Config[] => {
  const found = template.configs(p, caps);
  if ("reject" in found) throw new Error(found.reject);
  return found;
};

const rejection = (template: Template<AttentionProblem>, p: AttentionProblem, caps: Caps): string => {
  const found = template.configs(p, caps);
  return "reject" in found ? found.reject : "";
};

/** Interprets and emulates the default configuration, both against the reference. */
function check(template: Template<AttentionProblem>, shape: Partial<AttentionShape>, caps: Caps, tolerance?: number): TileProgram {
  const made = attentionProblem({ ...PLAIN, ...shape });
  const c = tolerance === undefined ? made : { ...made, tolerance };
  const program = template.build(c.problem, configsOf(template, c.problem, caps)[0]!, caps);
  const buffers = copyBuffers(c);
  interpretTile(program, buffers, c.symbols);
  expect(differences(c, buffers)).toEqual([]);
  const { text, memory } = findings(placed(program, caps), caps, c.buffers, c.symbols);
  expect(text).toEqual([]);
  expect(differences(c, memory)).toEqual([]);
  return program;
}

const loopOf = (program: TileProgram): Extract<Stmt, { op: "for" }> => program.body.find((s) => s.op === "for")!;

/** A model's own size: 32 query heads over 8 key heads of 128. */
const model = (seq: number): AttentionProblem => {
  const { problem } = attentionProblem({ ...PLAIN, cache: "bf16", dim: 128 });
  return { ...problem, heads: 32, kvHeads: 8, capacity: 4096, seq: i32(seq), past: i32(1000) };
};

describe("lanes and units", () => {
  test.each([4, 8, 16])("%i lanes of a vector", (lanes) => {
    check(attention, { seq: 9, past: 5, share: 2, dim: 20, ids: "mixed", symbolic: true }, vector(lanes));
    check(attentionDecode, { seq: 2, past: 33, share: 2, dim: 20, ids: "mixed", symbolic: true }, vector(lanes));
  });

  test("a unit that takes 16-bit operands gets them, from a cache of either type", () => {
    for (const cache of ["bf16", "f16", "f32"] as const) {
      check(attention, { seq: 7, past: 20, share: 2, dim: 24, q: "bf16", cache }, halves, 0.03);
      check(attentionDecode, { past: 40, share: 2, dim: 24, q: "bf16", cache }, halves, 0.03);
    }
  });

  test("heads longer than one statement adds up", () => {
    for (const dim of [128, 136, 257]) check(attentionDecode, { past: 9, share: 2, dim }, vectorCaps);
    check(attentionDecode, { past: 9, dim: 70 }, vector(4));
  });
});

describe("weights", () => {
  test.each([attention, attentionDecode])("$name: a row that sees no key is 0", (template) => {
    for (const caps of [vectorCaps, warpCaps]) {
      const c = attentionProblem({ ...PLAIN, seq: 3, past: 20, dim: 8 });
      const problem = { ...c.problem, ids: () => i32(-1) };
      const buffers = copyBuffers(c);
      interpretTile(template.build(problem, configsOf(template, problem, caps)[0]!, caps), buffers, c.symbols);
      const [out] = Object.keys(c.expected);
      expect(Array.from(buffers[out!]!)).toEqual(new Array(3 * 8).fill(0));
    }
  });

  test.each([attention, attentionDecode])("$name: scores of any size give finite results", (template) => {
    for (const scale of [1e30, -1e30, 0]) {
      const c = attentionProblem({ ...PLAIN, seq: 4, past: 70, dim: 8, share: 2 });
      const problem = { ...c.problem, scale };
      for (const caps of [vectorCaps, warpCaps]) {
        const buffers = copyBuffers(c);
        interpretTile(template.build(problem, configsOf(template, problem, caps)[0]!, caps), buffers, c.symbols);
        const [out] = Object.keys(c.expected);
        expect(Array.from(buffers[out!]!).every((x) => Math.abs(x) <= 1)).toBe(true);
      }
    }
  });

  test("the same weight for every key gives the mean of the values", () => {
    const c = attentionProblem({ ...PLAIN, seq: 1, past: 99, dim: 8 });
    const problem = { ...c.problem, scale: 0 };
    const [, , values] = Object.values(c.buffers);
    for (const template of [attention, attentionDecode]) {
      const buffers = copyBuffers(c);
      interpretTile(template.build(problem, configsOf(template, problem, vectorCaps)[0]!, vectorCaps), buffers, c.symbols);
      const [out] = Object.keys(c.expected);
      for (let d = 0; d < 8; d++) {
        let mean = 0;
        for (let j = 0; j < 100; j++) mean += read(values!, "f32", j * 8 + d) / 100;
        expect(read(buffers[out!]!, "f32", d)).toBeCloseTo(mean, 6);
      }
    }
  });
});

describe("work", () => {
  test("a causal block walks over the keys that its queries see, and no more", () => {
    const caps = vectorCaps;
    const p = { ...model(256), past: i32(0) };
    const program = attention.build(p, { queries: 32, heads: 4, keys: 64, groupRows: 1 }, caps);
    expect([0, 1, 2, 7].map((bx) => evaluateInt(loopOf(program).count, { bx }))).toEqual([1, 1, 2, 4]);
    const full = attention.build({ ...p, causal: false }, { queries: 32, heads: 4, keys: 64, groupRows: 1 }, caps);
    expect(evaluateInt(loopOf(full).count, { bx: 0 })).toBe(4);
  });

  test("keys past a full cache are not asked for", () => {
    const program = attentionDecode.build({ ...model(4), past: i32(4094) }, { queries: 4, heads: 4, keys: 32 }, vectorCaps);
    expect(evaluateInt(loopOf(program).count, {})).toBe(4096 / 32);
  });

  test("the heads that share a key head share a block", () => {
    const [prefill] = configsOf(attention, model(512), vectorCaps);
    expect(prefill).toMatchObject({ heads: 4 });
    const program = attentionDecode.build(model(1), configsOf(attentionDecode, model(1), vectorCaps)[0]!, vectorCaps);
    expect(program.grid.map((g) => evaluateInt(g, {}))).toEqual([8, 1, 1]);
  });

  test("tiles of a model's size fit the target", () => {
    const shared = (p: TileProgram): number =>
      p.tiles.filter((t) => t.scope === "shared").reduce((n, t) => n + t.rows * t.cols * (t.dtype === "f32" ? 4 : 2), 0);
    for (const config of configsOf(attention, model(512), vectorCaps)) {
      const program = attention.build(model(512), config, vectorCaps);
      expect(shared(program)).toBeLessThan(512 * 1024);
    }
    for (const caps of [warpCaps, halves])
      for (const template of [attention, attentionDecode]) {
        const p = model(template === attention ? 512 : 1);
        for (const config of configsOf(template, p, caps)) placed(template.build(p, config, caps), caps);
      }
  });
});

describe("rejections say why", () => {
  test("heads that do not divide", () => {
    const p = { ...model(1), heads: 30 };
    expect(rejection(attention, p, vectorCaps)).toContain("30 query heads do not share 8 key heads");
    expect(rejection(attentionDecode, p, vectorCaps)).toContain("30 query heads");
  });
  test("too many rows for decode", () => {
    expect(rejection(attentionDecode, model(5), vectorCaps)).toContain("5 queries a call");
    expect(rejection(attentionDecode, { ...model(1), heads: 64, kvHeads: 1 }, vectorCaps)).toContain("64 query rows");
  });
  test("a head that fits no shared memory", () => {
    expect(rejection(attention, model(64), { ...warpCaps, sharedBytes: 4096 })).toContain("heads of 128");
  });
});
