import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { nullBackend } from "../../../backends/null/index.ts";
import { printThread } from "../../../compiler/ir/thread-text.ts";
import { eachStmt } from "../../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { i32, load } from "../../../compiler/ir/expr.ts";
import { tileBuilder, viewOf } from "../../../compiler/ir/tile-builder.ts";
import type { TileProgram } from "../../../compiler/ir/tile.ts";
import { place } from "../../../compiler/lower/place.ts";
import type { GemmProblem } from "../../../compiler/template.ts";
import { gemmStream } from "../../../compiler/templates/gemm-stream.ts";
import { differences, findings, placed } from "../../support/placed.ts";
import { differences as wrong } from "../../support/problems/case.ts";
import type { Case } from "../../support/problems/case.ts";
import { gemmOf, streamCase } from "../../support/problems/gemm.ts";

/** Products by units of several warps that work by themselves, while the block copies what comes next. */
const caps = nullBackend.caps("null-groups");

const built = (c: Case<GemmProblem>, pick: number): TileProgram => {
  const configs = gemmStream.configs(c.problem, caps);
  if ("reject" in configs) throw new Error(configs.reject);
  return gemmStream.build(c.problem, configs[pick % configs.length]!, caps);
};

/** Whether parts of k are whole steps. */
const fits = (c: Case<GemmProblem>): boolean => !("reject" in gemmStream.configs(c.problem, caps));

/** A product of 64 x 64 rows in steps of 64, with rows and columns that are not there. */
const small = (k: number, weights = 1): Case<GemmProblem> => gemmOf({ m: 61, n: 13, k, weights, a: "bf16", w: "bf16" }, caps);

const turnOf = (p: ThreadProgram): readonly Stmt[] => {
  const found: (readonly Stmt[])[] = [];
  eachStmt(p.body, (s) => {
    if (s.op === "for" && s.var.name === "step") found.push(s.body);
  });
  return found[0]!;
};

/** The program with the statements of a turn of its loop replaced. */
const withTurn = (p: ThreadProgram, change: (body: readonly Stmt[]) => readonly Stmt[]): ThreadProgram => ({
  ...p,
  body: p.body.map((s) => (s.op === "for" && s.var.name === "step" ? { ...s, body: change(s.body) } : s)),
});

describe("a product that streams", () => {
  test("the turn before is still multiplied when one begins, and copies start behind the products", () => {
    const thread = placed(built(small(512), 0), caps);
    expect(thread.threads % 128).toBe(0);
    const stages = thread.shared[0]!.count / (64 * 64);
    // which slot is a turn's own and which it copies to are counted where a remainder is no mask (rings.test.ts)
    const counted = Number.isInteger(Math.log2(stages)) ? [] : ["assign", "assign"];
    expect(turnOf(thread).map((s) => s.op)).toEqual(["asyncWait", "unitWait", "barrier", "unit", "if", ...counted]);
    expect(turnOf(thread).slice(0, 2)).toEqual([
      { op: "asyncWait", pending: stages - 3 },
      { op: "unitWait", pending: 1, done: [] },
    ]);
    expect(thread.shared.map((d) => d.turned)).toEqual([64, 64]);
    const after = thread.body[thread.body.findIndex((s) => s.op === "for" && s.var.name === "step") + 1];
    expect(after).toEqual({ op: "unitWait", pending: 0, done: ["acc0"] });
  });

  test("of two weights one product is under way where one instruction takes both, otherwise two are", () => {
    const c = small(512, 2);
    const tile = { bm: 64, kc: 64, stages: 4, groupRows: 1, groupWarps: 4 };
    const [together, apart] = [1, 2].map((groupCols) =>
      placed(gemmStream.build(c.problem, { ...tile, bn: 8 * groupCols, groupCols }, caps), caps),
    ) as [ThreadProgram, ThreadProgram];
    expect(turnOf(together).map((s) => s.op)).toEqual(["asyncWait", "unitWait", "barrier", "unit", "if"]);
    expect(printThread(together)).toContain("wait for products 1\n");
    expect(printThread(together)).toContain("wait for products 0, done acc0\n");
    expect(turnOf(apart).map((s) => s.op)).toEqual(["asyncWait", "unitWait", "barrier", "unit", "unit", "if"]);
    expect(printThread(apart)).toContain("wait for products 2\n");
    expect(printThread(apart)).toContain("wait for products 0, done acc0, acc1\n");
  });

  test("a product of one step waits for itself", () => {
    const thread = placed(built(small(64), 0), caps);
    const ops: string[] = [];
    eachStmt(thread.body, (s) => ops.push(s.op));
    expect(ops.slice(ops.indexOf("unit"), ops.indexOf("unit") + 2)).toEqual(["unit", "unitWait"]);
    expect(printThread(thread)).toContain("wait for products 0, done acc0\n");
  });

  test("means the same as the tile program, and what it should, for any size and tile", () => {
    fc.assert(
      fc.property(streamCase(70).filter(fits), fc.nat(63), (c, pick) => {
        const program = built(c, pick);
        expect(program.groupWarps).toBe(4);
        const thread = placed(program, caps);
        expect(differences(program, thread, caps, c.buffers, c.symbols), c.about).toEqual([]);
        const { memory } = findings(thread, caps, c.buffers, c.symbols);
        expect(wrong(c, memory), c.about).toEqual([]);
      }),
      { numRuns: 6 },
    );
  });

  test.each<readonly [string, (body: readonly Stmt[]) => readonly Stmt[]]>([
    ["the barrier", (body) => body.filter((s) => s.op !== "barrier")],
    ["the wait for copies", (body) => body.filter((s) => s.op !== "asyncWait")],
    ["the wait for products", (body) => body.filter((s) => s.op !== "unitWait")],
    ["one product of it", (body) => body.map((s) => (s.op === "unitWait" ? { ...s, pending: s.pending + 1 } : s))],
    ["one group of copies", (body) => body.map((s) => (s.op === "asyncWait" ? { ...s, pending: s.pending + 1 } : s))],
  ])("without %s it is caught", (_, change) => {
    const c = small(512);
    const thread = placed(built(c, 0), caps);
    expect(findings(thread, caps, c.buffers, c.symbols).text).toEqual([]);
    expect(findings(withTurn(thread, change), caps, c.buffers, c.symbols).text.join("\n")).toMatch(/^race/m);
  });

  test("without the last wait it is caught", () => {
    const c = small(512);
    const thread = placed(built(c, 0), caps);
    const body = thread.body.filter((s) => s.op !== "unitWait");
    expect(findings({ ...thread, body }, caps, c.buffers, c.symbols).text.join("\n")).toMatch(/^race .*reads the accumulators/m);
  });
});

test.each([
  ["of rows of another length", 32, 0],
  ["from another row on", 64, 8],
])("an operand %s is for other units", (_, cols, row) => {
  const b = tileBuilder({ name: "t", symbols: [], params: [{ name: "p0", dtype: "bf16", access: "read" }] }, [1, 1, 1], [1, 1], 4);
  const tile = b.shared("tile", 128, cols, "bf16");
  const acc = b.frag("acc", 64, 64);
  b.load(tile, () => load("p0", "bf16", i32(0)));
  b.fill(acc, 0);
  b.mma(acc, viewOf(tile, { row }), viewOf(tile, { transposed: true }), cols);
  expect(() => place(b.build(), caps)).toThrow(/wgmma.m64k16: takes whole tiles of rows of 64 elements along k, which tile is not/);
});
