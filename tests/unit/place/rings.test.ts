import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { nullBackend } from "../../../backends/null/index.ts";
import { allocate, write } from "../../../compiler/ir/dtype.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { add, cast, ceilDiv, i32, intVar, load, lt, mul, sub } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import { printThread } from "../../../compiler/ir/thread-text.ts";
import { eachStmt } from "../../../compiler/ir/thread-walk.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { at, tileBuilder, viewOf } from "../../../compiler/ir/tile-builder.ts";
import type { Param, TileProgram } from "../../../compiler/ir/tile.ts";
import { differences, placed } from "../../support/placed.ts";
import type { Buffers } from "../../support/placed.ts";
import { random } from "../../support/problems/case.ts";

const caps = nullBackend.caps("null-32");
const m = intVar("m", 1, 64);

function fill(dtype: DType, count: number, seed: number): ReturnType<typeof allocate> {
  const data = allocate(dtype, count);
  const next = random(seed);
  for (let i = 0; i < count; i++) write(data, dtype, i, 2 * next() - 1);
  return data;
}
const read = (name: string, dtype: DType): Param => ({ name, dtype, access: "read", constant: true });

/** c[m, 16] = a[m, k] * b[16, k] transposed, by steps of 32; `again`: the whole twice, in a loop of its own. Both operands are copied as they are. */
function product(k: number, stages: number, again = false): TileProgram {
  const header = { name: "product", symbols: [m], params: [read("p0", "bf16"), read("p1", "bf16"), { name: "p2", dtype: "f32", access: "write" } as const] }; // prettier-ignore
  const b = tileBuilder(header, [ceilDiv(m, 32), 1, 1], [2, 2]);
  const acc = b.frag("acc", 32, 16),
    left = b.shared("left", 32, 32, "bf16"),
    right = b.shared("right", 16, 32, "bf16");
  const row = (r: Expr): Expr => add(mul(b.bx, 32), r);
  b.fill(acc, 0);
  b.loop("again", again ? 2 : 1, () => {
    b.loop(
      "step",
      k / 32,
      (step) => {
        b.load(left, (r, c) => load("p0", "bf16", add(mul(row(r), k), add(mul(step, 32), c)), lt(row(r), m)));
        b.load(right, (r, c) => load("p1", "bf16", add(mul(r, k), add(mul(step, 32), c))));
        b.mma(acc, viewOf(left), viewOf(right, { transposed: true }), 32);
      },
      stages,
    );
  });
  b.store(acc, {
    buffer: "p2",
    dtype: "f32",
    index: (r, c) => add(mul(row(r), 16), c),
    value: (r, c) => at(acc, r, c),
    guard: (r) => lt(row(r), m),
  });
  return b.build();
}
const productBuffers = (k: number, rows: number): Buffers => ({
  p0: fill("bf16", rows * k, 1),
  p1: fill("bf16", 16 * k, 2),
  p2: allocate("f32", rows * 16),
});

/** y[n] = w[n, 512] x in tiles of two rows, which the blocks take in turns; both warps lie along k, and x stays in registers. */
function stream(n: number, blocks: number, stages: number, dtype: DType): TileProgram {
  const header = { name: "stream", symbols: [], params: [read("p0", dtype), { name: "p1", dtype: "f32", access: "read" } as const, { name: "p2", dtype: "f32", access: "write" } as const] }; // prettier-ignore
  const b = tileBuilder(header, [blocks, 1, 1], [1, 2]);
  const x = b.frag("x", 1, 512),
    w = b.frag("w", 2, 512, dtype),
    both = b.frag("both", 2, 512),
    parts = b.shared("parts", 2, 2),
    y = b.shared("y", 2, 1);
  b.map(x, (_, c) => load("p1", "f32", c));
  b.loop(
    "tile",
    ceilDiv(sub(i32(n / 2), b.bx), blocks),
    (i) => {
      const first = mul(add(mul(i, blocks), b.bx), 2);
      b.map(w, (r, c) => load("p0", dtype, add(mul(add(first, r), 512), c)));
      b.map(both, (r, c) => mul(at(w, r, c), at(x, 0, c)));
      b.rowReduce(parts, "sum", both);
      b.store(y, {
        buffer: "p2",
        dtype: "f32",
        index: (r) => add(first, r),
        value: (r) => add(at(parts, r, 0), at(parts, r, 1)),
      });
    },
    stages,
  );
  return b.build();
}
const streamBuffers = (n: number, dtype: DType): Buffers => ({
  p0: fill(dtype, n * 512, 3),
  p1: fill("f32", 512, 4),
  p2: allocate("f32", n),
});

const loopNamed = (p: ThreadProgram, name: string): Extract<Stmt, { op: "for" }> => {
  const found: Extract<Stmt, { op: "for" }>[] = [];
  eachStmt(p.body, (s) => {
    if (s.op === "for" && s.var.name === name) found.push(s);
  });
  return found[0]!;
};

/** Every program in which one statement is changed, or left out where `change` gives null. */
function mutants(body: readonly Stmt[], change: (s: Stmt) => Stmt | null | undefined): (readonly Stmt[])[] {
  return body.flatMap((s, i) => {
    const around = (inside: readonly Stmt[]): readonly Stmt[] => [...body.slice(0, i), ...inside, ...body.slice(i + 1)];
    const changed = change(s);
    const here = changed === undefined ? [] : [around(changed === null ? [] : [changed])];
    return [...here, ...(s.op === "for" || s.op === "if" ? mutants(s.body, change).map((inner) => around([{ ...s, body: inner }])) : [])];
  });
}

describe("tiles that a block copies together", () => {
  test("a turn waits for its copies, meets once, and starts the copies of a later one", () => {
    const thread = placed(product(256, 3), caps);
    expect(thread.shared).toEqual([
      { name: "left", dtype: "bf16", count: 3 * 32 * 40 },
      { name: "right", dtype: "bf16", count: 3 * 16 * 40 },
    ]);
    expect(loopNamed(thread, "step").body.map((s) => s.op)).toEqual(["asyncWait", "barrier", "if", "unit", "assign", "assign"]);
    const text = printThread(thread);
    expect(text).toContain("wait 1\n");
    // rows beyond the last are zeros
    expect(text).toMatch(/async left\[.* if \(.* < m\)/);
  });

  test("which slot is a turn's own is counted where a remainder is no mask", () => {
    const [counted, masked] = [3, 4].map((stages) => placed(product(256, stages), caps));
    expect(counted!.regs.find((r) => r.name.startsWith("slot"))).toMatchObject({ dtype: "i32", count: 2, uniform: true });
    expect(printThread(counted!)).not.toContain("step %");
    expect(masked!.regs.some((r) => r.name.startsWith("slot"))).toBe(false);
  });

  /** Adds rows 1 to 4 of p0 to its first, in a ring; the result is p1's, or a row of p0 itself. */
  const sums = (itself: boolean): TileProgram => {
    const own: Param = { name: "p0", dtype: "f32", access: itself ? "readwrite" : "read" };
    const b = tileBuilder(
      { name: "t", symbols: [], params: itself ? [own] : [own, { name: "p1", dtype: "f32", access: "write" }] },
      [1, 1, 1],
    );
    const sum = b.frag("sum", 1, 32);
    const next = b.shared("next", 1, 32);
    b.map(sum, (_, c) => load("p0", "f32", c));
    b.loop(
      "i",
      4,
      (i) => {
        b.load(next, (_, c) => load("p0", "f32", add(mul(add(i, 1), 32), c)));
        b.map(sum, (_, c) => add(at(sum, 0, c), at(next, 0, c)));
      },
      3,
      true,
    );
    b.store(sum, { buffer: itself ? "p0" : "p1", dtype: "f32", index: (_, c) => c, value: (_, c) => at(sum, 0, c) });
    return b.build();
  };

  test.each([false, true])("the first copies come before everything else, unless the program writes what they read (%s)", (itself) => {
    const thread = placed(sums(itself), caps);
    const isCopy = (s: Stmt): boolean => s.op === "asyncCopy" || (s.op === "if" && s.body.some(isCopy));
    const first = thread.body.findIndex(isCopy);
    const loaded = thread.body.findIndex((s) => s.op === "assign" && s.reg === "sum");
    expect(Math.min(first, loaded)).toBe(0);
    expect(first < loaded).toBe(!itself);
    expect(differences(sums(itself), thread, caps, { p0: fill("f32", 160, 8), p1: allocate("f32", 32) }, {})).toEqual([]);
  });

  test("the meaning is the same for every number of stages and turns, and in a loop around it", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 5 }),
        fc.integer({ min: 2, max: 7 }),
        fc.integer({ min: 1, max: 45 }),
        fc.boolean(),
        (stages, turns, rows, again) => {
          const program = product(32 * turns, stages, again);
          expect(differences(program, placed(program, caps), caps, productBuffers(32 * turns, rows), { m: rows })).toEqual([]);
        },
      ),
      { numRuns: 25 },
    );
  });

  test("without a barrier, without a wait, or with one that waits for too little, it is caught", () => {
    const program = product(160, 3, true);
    const thread = placed(program, caps);
    const wrong = [
      ...mutants(thread.body, (s) => (s.op === "barrier" ? null : undefined)),
      ...mutants(loopNamed(thread, "again").body, (s) => (s.op === "asyncWait" && s.pending === 1 ? { ...s, pending: 2 } : undefined)).map(
        (body): readonly Stmt[] => thread.body.map((s) => (s.op === "for" && s.var.name === "again" ? { ...s, body } : s)),
      ),
    ];
    expect(wrong.length).toBe(3);
    for (const body of wrong)
      expect(differences(program, { ...thread, body }, caps, productBuffers(160, 32), { m: 32 }).join("\n")).toMatch(/^race at/m);
  });

  test("what is not copied as it is keeps to its turn", () => {
    const b = tileBuilder(
      { name: "t", symbols: [], params: [read("p0", "f32"), { name: "p1", dtype: "f32", access: "write" }] },
      [1, 1, 1],
    );
    const [twice, plain] = [b.shared("twice", 1, 32), b.shared("plain", 1, 32)];
    b.loop(
      "i",
      4,
      (i) => {
        b.load(twice, (_, c) => mul(load("p0", "f32", add(mul(i, 32), c)), 2));
        b.load(plain, (_, c) => load("p0", "f32", add(mul(i, 32), c)));
        b.store(plain, {
          buffer: "p1",
          dtype: "f32",
          index: (_, c) => add(mul(i, 32), c),
          value: (_, c) => add(at(twice, 0, sub(i32(31), c)), at(plain, 0, c)),
        });
      },
      3,
    );
    const thread = placed(b.build(), caps);
    expect(thread.shared.map((d) => [d.name, d.count])).toEqual([["twice", 32], ["plain", 96]]); // prettier-ignore
    expect(differences(b.build(), thread, caps, { p0: fill("f32", 128, 5), p1: allocate("f32", 128) }, {})).toEqual([]);
  });

  test.each([
    ["that a statement after the loop reads", true, false],
    ["that a statement in the loop writes", false, true],
  ])("a tile %s has no ring", (_, readAfter, written) => {
    const b = tileBuilder(
      { name: "t", symbols: [], params: [read("p0", "f32"), { name: "p1", dtype: "f32", access: "write" }] },
      [1, 1, 1],
    );
    const tile = b.shared("tile", 1, 32);
    const put = (): void => {
      b.store(tile, { buffer: "p1", dtype: "f32", index: (_, c) => c, value: (_, c) => at(tile, 0, c) });
    };
    b.loop(
      "i",
      4,
      (i) => {
        b.load(tile, (_, c) => load("p0", "f32", add(mul(i, 32), c)));
        put();
        if (written) b.fill(tile, 0);
      },
      3,
    );
    if (readAfter) put();
    const thread = placed(b.build(), caps);
    expect(thread.shared).toEqual([{ name: "tile", dtype: "f32", count: 32 }]);
    expect(printThread(thread)).not.toContain("async");
    expect(differences(b.build(), thread, caps, { p0: fill("f32", 128, 6), p1: allocate("f32", 32) }, {})).toEqual([]);
  });
});

/** memory[step] = 2 memory[step] in rows of 64, in place; with `shift`, what a turn reads is the row that the turn before the last wrote. */
function inPlace(apart: true | undefined, shift = 0): TileProgram {
  const b = tileBuilder({ name: "t", symbols: [], params: [{ name: "p0", dtype: "f32", access: "readwrite" }] }, [1, 1, 1], [2, 1]);
  const tile = b.shared("tile", 2, 32);
  const doubled = b.frag("doubled", 2, 32);
  const place = (step: Expr, r: Expr, c: Expr): Expr => add(mul(step, 64), add(mul(r, 32), c));
  b.loop(
    "step",
    6,
    (step) => {
      b.load(tile, (r, c) => load("p0", "f32", place(step, r, c)));
      // the warps' rows change places, so that they meet
      b.map(doubled, (r, c) => mul(at(tile, sub(i32(1), r), c), 2));
      b.store(doubled, { buffer: "p0", dtype: "f32", index: (r, c) => place(add(step, shift), r, c), value: (r, c) => at(doubled, r, c) });
    },
    3,
    apart,
  );
  return b.build();
}

describe("turns that change the memory that they read", () => {
  const memory = (): Buffers => ({ p0: fill("f32", 8 * 64, 7) });

  test("have it copied ahead where they are apart, without meeting for it again", () => {
    const thread = placed(inPlace(true), caps);
    expect(loopNamed(thread, "step").body.map((s) => s.op).slice(0, 3)).toEqual(["asyncWait", "barrier", "if"]); // prettier-ignore
    let meetings = 0;
    eachStmt(loopNamed(thread, "step").body, (s) => (meetings += s.op === "barrier" ? 1 : 0));
    expect(meetings).toBe(1);
    expect(differences(inPlace(true), thread, caps, memory(), {})).toEqual([]);
  });

  test("keep to themselves where nobody says so", () => {
    const thread = placed(inPlace(undefined), caps);
    expect(printThread(thread)).not.toContain("async");
    expect(differences(inPlace(undefined), thread, caps, memory(), {})).toEqual([]);
  });

  test("that say so and are not are caught", () => {
    expect(differences(inPlace(true, 2), placed(inPlace(true, 2), caps), caps, memory(), {})).not.toEqual([]);
  });
});

describe("fragments that each lane copies for itself", () => {
  test("need no barrier, and the first turns' copies come before everything else", () => {
    const thread = placed(stream(20, 3, 3, "bf16"), caps);
    expect(thread.shared[0]).toEqual({ name: "w", dtype: "bf16", count: 3 * 2 * 512 });
    expect(thread.regs.map((d) => d.name)).not.toContain("w");
    // that blocks have two turns each is known, so nothing is asked
    expect(thread.body.slice(0, 4).map((s) => s.op)).toEqual(["for", "asyncWait", "for", "asyncWait"]);
    const { body } = loopNamed(thread, "tile");
    expect(body.filter((s) => s.op === "asyncWait")).toEqual([{ op: "asyncWait", pending: 2 }]);
    // one for the sums of two warps, one before the next turn's replace them
    expect(body.filter((s) => s.op === "barrier").length).toBe(2);
  });

  test("the meaning is the same for every number of stages, blocks and turns", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 5 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 4, max: 12 }),
        fc.constantFrom<DType>("bf16", "f16", "f32"),
        (stages, blocks, tiles, dtype) => {
          const program = stream(2 * tiles, blocks, stages, dtype);
          const thread = placed(program, caps);
          expect(printThread(thread).includes("async w[")).toBe(true);
          expect(differences(program, thread, caps, streamBuffers(2 * tiles, dtype), {})).toEqual([]);
        },
      ),
      { numRuns: 25 },
    );
  });

  test("one that waits for too little, or reads what another lane copied, is caught", () => {
    const program = stream(20, 3, 3, "bf16");
    const thread = placed(program, caps);
    const late = mutants(thread.body, (s) => (s.op === "asyncWait" && s.pending === 2 ? { ...s, pending: 3 } : undefined)).at(-1)!;
    const other = mutants(thread.body, (s) => (s.op === "asyncCopy" ? { ...s, dstAt: add(s.dstAt, sub(1016, mul(intVar("tid", 0, 63), 16))) } : undefined)).at(-1)!; // prettier-ignore
    for (const body of [late, other])
      expect(differences(program, { ...thread, body }, caps, streamBuffers(20, "bf16"), {}).join("\n")).toMatch(/^race at w/m);
  });

  test("a fragment whose rows do not fill the lanes has no ring", () => {
    const b = tileBuilder(
      { name: "t", symbols: [], params: [read("p0", "bf16"), { name: "p1", dtype: "f32", access: "write" }] },
      [1, 1, 1],
    );
    const w = b.frag("w", 1, 200, "bf16");
    b.loop(
      "i",
      3,
      (i) => {
        b.map(w, (_, c) => load("p0", "bf16", add(mul(i, 200), c)));
        b.store(w, { buffer: "p1", dtype: "f32", index: (_, c) => add(mul(i, 200), c), value: (_, c) => cast(at(w, 0, c), "f32") });
      },
      2,
    );
    const thread = placed(b.build(), caps);
    expect(thread.shared).toEqual([]);
    expect(differences(b.build(), thread, caps, { p0: fill("bf16", 600, 7), p1: allocate("f32", 600) }, {})).toEqual([]);
  });
});
