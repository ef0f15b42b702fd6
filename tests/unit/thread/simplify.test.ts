import { describe, expect, test } from "vitest";
import { add, and, cast, f32, FALSE, i32, intVar, load, lt, mul, reg, TRUE } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import { printThread } from "../../../compiler/ir/thread-text.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { affine, isVector, isVectorCondition } from "../../../compiler/lower/affine.ts";
import { plainLoad } from "../../../compiler/lower/copy.ts";
import { simplifyThread } from "../../../compiler/lower/simplify.ts";
import { unrollThread } from "../../../compiler/lower/unroll.ts";
import { guarded } from "../../../compiler/templates/common.ts";

const tid = intVar("tid", 0, 31);
const i = intVar("i", 0, 3),
  j = intVar("j", 0, 3);
const barrier: Stmt = { op: "barrier" };
const set = (index: Expr, value: Expr): Stmt => ({ op: "assign", reg: "r", index, value });
const loop = (v: typeof i, count: Expr, unroll: boolean, ...body: Stmt[]): Stmt => ({ op: "for", var: v, count, unroll, body });
const when = (cond: Expr, body: Stmt[], otherwise: Stmt[] = []): Stmt => ({ op: "if", cond, body, otherwise });

const program = (body: readonly Stmt[]): ThreadProgram => ({
  name: "t",
  params: [],
  symbols: [],
  grid: [i32(1), i32(1), i32(1)],
  threads: 32,
  lanes: 32,
  shared: [{ name: "s", dtype: "f32", count: 64 }],
  regs: [{ name: "r", dtype: "f32", count: 8, uniform: false }],
  body,
});
/** The statements' lines without the declarations. */
const lines = (p: ThreadProgram): string[] =>
  printThread({ ...p, shared: [], regs: [] })
    .split("\n")
    .slice(3, -1)
    .map((l) => l.slice(2));
const simplified = (...body: Stmt[]): string[] => lines(simplifyThread(program(body)));

describe("simplifyThread", () => {
  test("asks neighbours' condition once, unless the first of them may change it", () => {
    const few = lt(tid, 4),
      kept = lt(reg("r", "f32", 0), f32(1));
    expect(simplified(when(few, [set(i32(0), f32(1))]), when(few, [set(i32(1), f32(2))]), when(lt(tid, 5), [set(i32(2), f32(3))]))).toEqual(
      ["if (tid < 4)", "  r.0 = 1.0", "  r.1 = 2.0", "if (tid < 5)", "  r.2 = 3.0"],
    );
    expect(simplified(when(kept, [set(i32(0), f32(1))]), when(kept, [set(i32(0), f32(2))])).filter((l) => l.startsWith("if"))).toHaveLength(
      2,
    );
    expect(simplified(when(few, [set(i32(0), f32(1))], [set(i32(0), f32(2))]), when(few, [set(i32(1), f32(3))]))).toHaveLength(6);
  });

  test("drops loops and conditions around nothing", () => {
    expect(simplified(loop(i, i32(4), false), when(lt(tid, 3), []), loop(i, i32(0), false, set(i, f32(1))))).toEqual([]);
    expect(simplified(loop(i, i32(4), false, when(lt(tid, i), [loop(j, i32(2), false)])))).toEqual([]);
  });

  test("a loop of one turn becomes its body, folded", () => {
    expect(simplified(loop(i, i32(1), true, set(add(mul(i, 2), 1), f32(2)), when(lt(i, 1), [set(i, f32(3))])))).toEqual([
      "r.1 = 2.0",
      "r.0 = 3.0",
    ]);
  });

  test("decides conditions and guards that are known", () => {
    const store = (guard: Expr): Stmt => ({ op: "store", buffer: "s", dtype: "f32", index: tid, value: f32(1), guard });
    expect(
      simplified(when(TRUE, [set(i32(0), f32(1))], [set(i32(1), f32(1))]), when(FALSE, [set(i32(2), f32(1))], [set(i32(3), f32(1))])),
    ).toEqual(["r.0 = 1.0", "r.3 = 1.0"]);
    expect(simplified(store(TRUE), store(FALSE))).toEqual(["s[tid] = 1.0"]);
    expect(simplified(when(lt(tid, 3), [], [set(i32(0), f32(1))]))).toEqual(["if (tid < 3)", "else", "  r.0 = 1.0"]);
  });

  test("drops barriers that nothing happens between, and those at the ends", () => {
    const s = set(i32(0), f32(1));
    expect(simplified(barrier, s, barrier, loop(i, i32(0), false, s), barrier, s, barrier)).toEqual(["r.0 = 1.0", "barrier", "r.0 = 1.0"]);
    expect(simplified(loop(i, i32(4), false, barrier, s, barrier))).toEqual(["for i < 4", "  barrier", "  r.0 = 1.0", "  barrier"]);
  });
});

test("unrollThread writes marked loops out, others stay", () => {
  const body = [
    loop(i, i32(2), false, loop(j, i32(3), true, set(j, cast(add(i, j), "f32")), when(lt(tid, j), [set(i32(4), reg("r", "f32", j))]))),
  ];
  expect(lines(unrollThread(program(body)))).toEqual([
    "for i < 2",
    "  r.0 = f32(i)",
    "  r.1 = f32((i + 1))",
    "  if (tid < 1)",
    "    r.4 = r.1",
    "  r.2 = f32((i + 2))",
    "  if (tid < 2)",
    "    r.4 = r.2",
  ]);
});

test("arrays that nothing mentions are dropped", () => {
  const p = simplifyThread({ ...program([set(i32(0), f32(1)), loop(i, i32(0), false, set(i32(1), load("s", "f32", tid)))]) });
  expect([p.shared, p.regs.map((d) => d.name)]).toEqual([[], ["r"]]);
});

describe("copies", () => {
  const [row, col] = [intVar("row", 0, 15), intVar("col", 0, 63)];
  const m = intVar("m", 1, 100);

  test("sums of multiples", () => {
    const { atoms, constant } = affine(add(mul(add(row, 3), 8), add(col, mul(row, -2))));
    expect([[...atoms].map(([e, by]) => [e === row ? "row" : "col", by]), constant]).toEqual([
      [
        ["row", 6],
        ["col", 1],
      ],
      24,
    ]);
  });

  test("vectors are consecutive and aligned", () => {
    expect(isVector(add(mul(row, 64), col), col, 8)).toBe(true);
    expect(isVector(add(mul(row, 64), add(col, 8)), col, 8)).toBe(true);
    expect(isVector(add(mul(row, 64), add(col, 4)), col, 8)).toBe(false);
    expect(isVector(add(mul(row, 60), col), col, 8)).toBe(false);
    expect(isVector(add(mul(col, 64), row), col, 8)).toBe(false);
    expect(isVector(add(mul(row, m), col), col, 8)).toBe(false);
  });

  test("a condition is one for the whole vector", () => {
    expect(isVectorCondition(and(lt(row, m), lt(add(col, mul(row, 16)), 48)), col, 8)).toBe(true);
    expect(isVectorCondition(lt(col, 50), col, 8)).toBe(false);
    expect(isVectorCondition(lt(col, m), col, 8)).toBe(false);
    expect(isVectorCondition(lt(mul(col, 2), 48), col, 8)).toBe(false);
  });

  test("a guarded value of another type is still a copy", () => {
    const inside = lt(add(row, 1), m);
    const stored = load("p0", "bf16", add(mul(row, 64), col));
    const value = guarded(cast(stored, "f32"), inside);
    expect(plainLoad(cast(value, "bf16"), "bf16")).toBe(load("p0", "bf16", add(mul(row, 64), col), inside));
    expect(plainLoad(value, "f32")).toBeNull();
    expect(plainLoad(cast(guarded(cast(stored, "f32"), inside, 1), "bf16"), "bf16")).toBeNull();
    expect(plainLoad(mul(cast(stored, "f32"), 2), "bf16")).toBeNull();
  });
});
