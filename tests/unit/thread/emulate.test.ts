import { describe, expect, test } from "vitest";
import type { Caps, MatrixUnit } from "../../../compiler/backend.ts";
import { NO_REQUIREMENTS } from "../../../compiler/backend.ts";
import { add, cast, constant, f32, i32, intVar, load, lt, mod, mul, reg, select, shuffle } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import { printThread, verifyThread } from "../../../compiler/ir/thread-text.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { emulateThread, printFinding } from "../../../compiler/run/thread.ts";
import type { Finding } from "../../../compiler/run/thread.ts";
import type { HostArray } from "../../../compiler/run/tile.ts";

const THREADS = 8;
const LANES = 4;
const tid = intVar("tid", 0, THREADS - 1);
const bx = intVar("bx", 0, 1);

/** Two warps of four lanes; unit2 computes 2 x 2 with k = 2. */
const unit2: MatrixUnit = {
  name: "unit2",
  m: 2,
  n: 2,
  k: 2,
  lanes: 4,
  elems: 1,
  inputs: ["f32"],
  coord: (lane) => [lt2(lane), mod(lane, 2)],
  block: [1, 1],
};
function lt2(lane: Expr): Expr {
  return cast(lt(1, lane), "i32");
}
const caps: Caps = {
  name: "tiny",
  dtypes: new Set(["f32", "i32"]),
  lanes: LANES,
  maxThreads: THREADS,
  sharedBytes: 1024,
  vectorBytes: 16,
  asyncCopy: true,
  indexableRegisters: false,
  directOperands: false,
  arena: "one",
  maxBuffers: Infinity,
  requires: NO_REQUIREMENTS,
  panel: 0,
  units: [unit2, { ...unit2, name: "later2", asynchronous: { rowBytes: 8, columns: 2 } }],
  workers: 1,
};

const program = (body: readonly Stmt[], blocks = 1): ThreadProgram => ({
  name: "t",
  params: [
    { name: "in", dtype: "f32", access: "read" },
    { name: "out", dtype: "f32", access: "write" },
    { name: "both", dtype: "f32", access: "readwrite" },
  ],
  symbols: [],
  grid: [i32(blocks), i32(1), i32(1)],
  threads: THREADS,
  lanes: LANES,
  shared: [{ name: "s", dtype: "f32", count: 16 }],
  regs: [
    { name: "r", dtype: "f32", count: 4, uniform: false },
    { name: "u", dtype: "f32", count: 1, uniform: true },
  ],
  body,
});

const assign = (name: string, index: Expr | number, value: Expr): Stmt => ({
  op: "assign",
  reg: name,
  index: typeof index === "number" ? i32(index) : index,
  value,
});
const store = (buffer: string, index: Expr, value: Expr, guard: Expr | null = null): Stmt => ({
  op: "store",
  buffer,
  dtype: "f32",
  index,
  value,
  guard,
});
const barrier: Stmt = { op: "barrier" };
const when = (cond: Expr, ...body: Stmt[]): Stmt => ({ op: "if", cond, body, otherwise: [] });
const s = (i: Expr): Expr => load("s", "f32", i);
const asFloat = (e: Expr): Expr => cast(e, "f32");

function run(body: readonly Stmt[], blocks = 1): { found: readonly Finding[]; out: HostArray; both: HostArray } {
  const buffers = {
    in: Float32Array.from({ length: 16 }, (_, i) => i + 0.5),
    out: new Float32Array(16).fill(-1),
    both: new Float32Array(16),
  };
  return { found: emulateThread(program(body, blocks), caps, buffers), out: buffers.out, both: buffers.both };
}
const kinds = (body: readonly Stmt[], blocks = 1): string[] => run(body, blocks).found.map((f) => f.kind);

test("of some blocks, only those are run", () => {
  const bx = intVar("bx", 0, 1);
  const buffers = { in: new Float32Array(16), out: new Float32Array(16).fill(-1), both: new Float32Array(16) };
  const body = [store("out", add(mul(bx, THREADS), tid), asFloat(bx))];
  expect(emulateThread(program(body, 2), caps, buffers, {}, [[1, 0, 0]])).toEqual([]);
  expect([...buffers.out]).toEqual([...Array<number>(8).fill(-1), ...Array<number>(8).fill(1)]);
});

describe("memory between lanes", () => {
  const shift = s(mod(add(tid, 1), THREADS));

  test("a barrier orders what lanes write and others read", () => {
    const { found, out } = run([store("s", tid, asFloat(tid)), barrier, store("out", tid, shift)]);
    expect(found).toEqual([]);
    expect([...out].slice(0, THREADS)).toEqual([1, 2, 3, 4, 5, 6, 7, 0]);
  });

  test("reading what another lane wrote, without one", () => {
    const { found } = run([store("s", tid, asFloat(tid)), store("out", tid, shift)]);
    expect(found.map((f) => f.kind)).toEqual(["race"]);
    expect(found[0]).toMatchObject({ at: "1: out[tid] = s[((tid + 1) % 8)]", address: "s[1]", lanes: [1, 0], times: 8 });
    expect(printFinding(found[0]!)).toContain("reads what is written by thread 1 at 0: s[tid] = f32(tid), no barrier between");
  });

  test("writing what another lane read or wrote, without one", () => {
    expect(kinds([store("s", tid, f32(0)), barrier, assign("r", 0, shift), store("s", tid, f32(1))])).toEqual(["race"]);
    expect(kinds([store("s", i32(3), f32(0))])).toEqual(["race"]);
    expect(kinds([store("s", i32(3), f32(0), lt(tid, 1))])).toEqual([]);
    expect(kinds([store("both", i32(3), f32(0))])).toEqual(["race"]);
  });

  test("a hazard carried round a loop", () => {
    const i = intVar("i", 0, 2);
    const loop = (...body: Stmt[]): Stmt => ({ op: "for", var: i, count: i32(3), unroll: false, body });
    const write = store("s", tid, asFloat(i));
    const read = assign("r", 0, shift);
    expect(kinds([loop(write, barrier, read)])).toEqual(["race"]);
    expect(kinds([loop(barrier, write, barrier, read)])).toEqual([]);
  });

  test("global memory between blocks", () => {
    const at = add(mul(bx, 8), tid);
    expect(kinds([store("both", at, f32(1))], 2)).toEqual([]);
    expect(kinds([store("both", tid, f32(1))], 2)).toEqual(["block race"]);
    expect(kinds([store("both", at, load("both", "f32", tid), lt(0, bx))], 2)).toEqual([]);
    expect(kinds([store("both", at, load("both", "f32", mod(add(at, 8), 16)))], 2)).toEqual(["block race"]);
  });
});

describe("memory that is not there", () => {
  test("reads of what nothing wrote", () => {
    expect(kinds([assign("r", 0, s(tid))])).toEqual(["uninitialised"]);
    expect(kinds([assign("r", 0, reg("r", "f32", 1))])).toEqual(["uninitialised"]);
    expect(kinds([assign("r", 0, load("out", "f32", tid))])).toEqual(["uninitialised"]);
  });

  test("a block finds shared memory and registers empty", () => {
    const first = lt(bx, 1);
    expect(kinds([store("s", tid, f32(1), first), barrier, assign("r", 0, s(tid))], 2)).toEqual(["uninitialised"]);
    expect(kinds([when(first, assign("r", 0, f32(1))), store("out", add(mul(bx, 8), tid), reg("r", "f32", 0))], 2)).toEqual([
      "uninitialised",
    ]);
  });

  test("accesses outside, unless a guard holds them back", () => {
    const past = add(tid, 12);
    expect(run([assign("r", 0, load("in", "f32", past))]).found).toMatchObject([
      { kind: "out of range", address: "in[16]", lanes: [4], times: 4 },
    ]);
    expect(kinds([assign("r", 0, load("in", "f32", past, lt(past, 16)))])).toEqual([]);
    expect(kinds([store("out", past, f32(0))])).toEqual(["out of range"]);
    expect(kinds([store("out", past, load("in", "f32", past), lt(past, 16))])).toEqual([]);
    expect(kinds([store("s", past, f32(0))])).toEqual(["out of range"]);
    expect(kinds([assign("r", tid, f32(0))])).toEqual(["out of range"]);
  });

  test("a parameter declared as read is not written", () => {
    expect(kinds([store("in", tid, f32(0))])).toEqual(["access"]);
  });
});

describe("vectors", () => {
  const four = (op: "loadVec" | "storeVec", buffer: string, at: Expr, guard: Expr | null = null): Stmt => ({
    op,
    reg: "r",
    index: i32(0),
    width: 4,
    buffer,
    dtype: "f32",
    at,
    guard,
  });
  test("move consecutive elements, zeros where the guard is false", () => {
    const { found, out } = run([four("loadVec", "in", mul(tid, 4), lt(tid, 3)), four("storeVec", "out", mul(tid, 4), lt(tid, 4))]);
    expect(found).toEqual([]);
    expect([...out]).toEqual([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 10.5, 11.5, 0, 0, 0, 0]);
  });
  test("are aligned and inside", () => {
    expect(kinds([four("loadVec", "in", add(mul(tid, 4), 1), lt(tid, 2))])).toEqual(["alignment"]);
    expect(kinds([four("loadVec", "in", mul(tid, 4))])).toEqual(["out of range"]);
  });
});

describe("lanes together", () => {
  test("a reduction gives every lane of the group the result", () => {
    const sum = (masks: number[]): Stmt => ({ op: "laneReduce", reg: "r", index: i32(0), fn: "sum", value: asFloat(tid), masks });
    const { found, out } = run([sum([1, 2]), store("out", tid, reg("r", "f32", 0))]);
    expect(found).toEqual([]);
    expect([...out].slice(0, 8)).toEqual([6, 6, 6, 6, 22, 22, 22, 22]);
    expect([...run([sum([2]), store("out", tid, reg("r", "f32", 0))]).out].slice(0, 8)).toEqual([2, 4, 2, 4, 10, 12, 10, 12]);
  });

  test("a shuffle reads the other lane's value from before the statement", () => {
    const { found, out } = run([
      assign("r", 0, asFloat(tid)),
      assign("r", 0, shuffle(reg("r", "f32", 0), 1)),
      store("out", tid, reg("r", "f32", 0)),
    ]);
    expect(found).toEqual([]);
    expect([...out].slice(0, 8)).toEqual([1, 0, 3, 2, 5, 4, 7, 6]);
  });

  test("what needs all lanes is not for some of them", () => {
    const some = lt(tid, 3);
    expect(run([when(some, barrier)]).found).toMatchObject([{ kind: "divergence", lanes: [3, 4, 5, 6, 7] }]);
    expect(kinds([when(some, { op: "laneReduce", reg: "r", index: i32(0), fn: "sum", value: f32(1), masks: [1] })])).toEqual([
      "divergence",
    ]);
    expect(kinds([when(some, assign("r", 0, shuffle(f32(1), 1)))])).toEqual(["divergence"]);
    expect(kinds([{ op: "for", var: intVar("i", 0, 7), count: tid, unroll: false, body: [] }])).toEqual(["divergence"]);
  });

  test("a uniform register is the same everywhere", () => {
    expect(kinds([assign("u", 0, f32(2))])).toEqual([]);
    expect(kinds([assign("u", 0, asFloat(tid))])).toEqual(["divergence"]);
    expect(kinds([when(lt(tid, 1), assign("u", 0, f32(2)))])).toEqual(["divergence"]);
    // the maximum of 0 and -0 is either, depending on the lane
    expect(kinds([assign("u", 0, select(lt(tid, 1), f32(0), f32(-0)))])).toEqual([]);
  });

  test("both sides of a condition run, each with its lanes", () => {
    const { found, out } = run([
      { op: "if", cond: lt(tid, 3), body: [assign("r", 0, f32(1))], otherwise: [assign("r", 0, f32(2))] },
      store("out", tid, reg("r", "f32", 0)),
    ]);
    expect(found).toEqual([]);
    expect([...out].slice(0, 8)).toEqual([1, 1, 1, 2, 2, 2, 2, 2]);
  });
});

describe("asynchronous copies", () => {
  const copy: Stmt = { op: "asyncCopy", dst: "s", dstAt: mul(tid, 2), src: "in", srcAt: mul(tid, 2), dtype: "f32", width: 2, guard: null };
  const wait = (pending: number): Stmt => ({ op: "asyncWait", pending });
  const use = store("out", tid, s(mod(add(mul(tid, 2), 3), 16)));

  test("arrive at the wait that covers them, and are seen by others after a barrier", () => {
    const { found, out } = run([copy, wait(0), barrier, use]);
    expect(found).toEqual([]);
    expect(out[0]).toBe(3.5);
  });
  test("are not there before", () => {
    expect(kinds([copy, barrier, use, wait(0)])).toContain("race");
    expect(kinds([copy, wait(1), barrier, use, wait(0)])).toContain("race");
    expect(kinds([copy, wait(0), use])).toEqual(["race"]);
    expect(kinds([copy])).toEqual(["race"]);
  });
  test("an older group arrives while a newer one is under way", () => {
    expect(kinds([copy, wait(1), wait(0), barrier, use])).toEqual([]);
  });
});

describe("matrix units", () => {
  const product = (rows: Expr | null, unit = "unit2"): Stmt => ({
    op: "unit",
    unit,
    acc: "r",
    fm: 1,
    fn: 1,
    rowBase: i32(0),
    colBase: mul(cast(lt(3, tid), "i32"), 2),
    a: { source: "tile", name: "s", dtype: "f32", base: i32(0), rowStride: i32(2), colStride: i32(1) },
    b: { source: "tile", name: "s", dtype: "f32", base: i32(4), rowStride: i32(4), colStride: i32(1) },
    k: i32(2),
    rows,
  });
  const fillShared = [store("s", tid, asFloat(tid)), store("s", add(tid, 8), asFloat(tid))];
  // a = [[0, 1], [2, 3]], b = [[4, 5, 6, 7], [0, 1, 2, 3]]; the first warp has columns 0 and 1
  test("add a times b to each lane's element", () => {
    const { found, out } = run([...fillShared, barrier, assign("r", 0, f32(100)), product(null), store("out", tid, reg("r", "f32", 0))]);
    expect(found).toEqual([]);
    expect([...out].slice(0, 8)).toEqual([100, 101, 108, 113, 102, 103, 118, 123]);
  });
  test("leave rows that do not count alone", () => {
    const { out } = run([...fillShared, barrier, assign("r", 0, f32(100)), product(i32(1)), store("out", tid, reg("r", "f32", 0))]);
    expect([...out].slice(0, 8)).toEqual([100, 101, 100, 100, 102, 103, 100, 100]);
  });
  test("read operands for the lanes that own the results, and need an accumulator", () => {
    expect(kinds([...fillShared, assign("r", 0, f32(0)), product(null)])).toEqual(["race"]);
    expect(kinds([...fillShared, barrier, product(null)])).toEqual(["uninitialised"]);
    expect(kinds([fillShared[0]!, barrier, assign("r", 0, f32(0)), product(null)])).toEqual(["uninitialised"]);
    expect(kinds([...fillShared, barrier, assign("r", 0, f32(0)), when(lt(tid, 4), product(null))])).toEqual(["divergence"]);
  });

  describe("that work by themselves", () => {
    const later = product(null, "later2");
    const wait = (pending: number, ...done: string[]): Stmt => ({ op: "unitWait", pending, done });
    const start = [...fillShared, barrier, assign("r", 0, f32(100))];
    const put = store("out", tid, reg("r", "f32", 0));
    const replace = store("s", tid, f32(0));

    test("have computed the same when they were waited for, and may add to one accumulator before", () => {
      const { found, out } = run([...start, later, later, wait(1), wait(0, "r"), put]);
      expect(found).toEqual([]);
      expect([...out].slice(0, 8)).toEqual([100, 102, 116, 126, 104, 106, 136, 146]);
    });
    test("own their accumulators until then, and must be waited for", () => {
      expect(kinds([...start, later, put, wait(0, "r")])).toEqual(["race"]);
      expect(kinds([...start, later, assign("r", 0, f32(1)), wait(0, "r")])).toEqual(["race"]);
      expect(kinds([...start, later, later, wait(1, "r"), wait(0, "r"), put])).toEqual(["race"]);
      expect(kinds([...start, later])).toEqual(["race"]);
      expect(kinds([...start, later, when(lt(tid, 4), wait(0, "r"))])).toEqual(["divergence"]);
    });
    test("read their operands until then, and others may replace them after a barrier", () => {
      const copy: Stmt = { op: "asyncCopy", dst: "s", dstAt: tid, src: "in", srcAt: tid, dtype: "f32", width: 1, guard: null };
      const copied: Stmt = { op: "asyncWait", pending: 0 };
      for (const change of [[replace], [copy, copied]]) {
        expect(kinds([...start, later, wait(0, "r"), barrier, ...change])).toEqual([]);
        expect(kinds([...start, later, barrier, ...change, wait(0, "r")])).toContain("race");
        expect(kinds([...start, later, barrier, wait(0, "r"), ...change])).toContain("race");
        expect(kinds([...start, later, later, wait(1), barrier, ...change, wait(0, "r")])).toContain("race");
      }
    });
  });
});

describe("rules and text", () => {
  const bad = (body: readonly Stmt[]) => () => {
    verifyThread(program(body));
  };
  test.each<[string, Stmt[], string]>([
    ["an undeclared variable", [assign("r", 0, asFloat(intVar("x", 0, 3)))], "the variable x in [0, 3] is not in scope"],
    ["a register index past the end", [assign("r", mod(tid, 5), f32(0))], "r.(tid % 5) covers 0 .. 4 of 4"],
    ["an unknown buffer", [store("nope", tid, f32(0))], "nope is neither a parameter nor a shared array"],
    ["a write to a read parameter", [store("in", tid, f32(0))], "in is written, it is declared as read"],
    ["a read of a write parameter", [assign("r", 0, load("out", "f32", tid))], "out is read, it is declared as write"],
    ["the wrong dtype", [store("out", tid, i32(0))], "the value is i32, it should be f32"],
    ["a shared array always past its end", [store("s", add(tid, 16), f32(0))], "s[(tid + 16)] is always outside of 16 elements"],
    ["a barrier that lanes may miss", [when(lt(tid, 3), barrier)], "a barrier under a condition that may differ between lanes"],
    [
      "a loop of different lengths",
      [{ op: "for", var: intVar("i", 0, 7), count: tid, unroll: false, body: [] }],
      "the count of a loop may differ between lanes",
    ],
    [
      "a counter with too narrow a range",
      [{ op: "for", var: intVar("i", 0, 1), count: i32(3), unroll: false, body: [] }],
      "i in [0, 1] is too narrow",
    ],
    ["a uniform register that is not", [assign("u", 0, asFloat(tid))], "the value of a uniform register may differ between lanes"],
    [
      "a partial reduction into a uniform register",
      [{ op: "laneReduce", reg: "u", index: i32(0), fn: "sum", value: f32(1), masks: [1] }],
      "u is uniform, the reduction is not over all threads",
    ],
    [
      "lanes of another warp",
      [{ op: "laneReduce", reg: "r", index: i32(0), fn: "sum", value: f32(1), masks: [4] }],
      "lanes are reached by xor with 1 .. 3",
    ],
    ["a condition that is a number", [when(i32(1), barrier)], "a condition is i32, it should be bool"],
  ])("%s", (_, body, message) => {
    expect(bad(body)).toThrow(message);
  });

  test("a guard lets an index run past, a uniform condition holds a barrier", () => {
    verifyThread(program([store("s", add(tid, 12), f32(0), lt(tid, 4)), when(lt(intVar("bx", 0, 0), 1), barrier)]));
  });

  test("print", () => {
    const i = intVar("i", 0, 2);
    const text = printThread(
      program([
        { op: "for", var: i, count: i32(3), unroll: true, body: [assign("r", i, constant(1.5, "f32"))] },
        { op: "if", cond: lt(tid, 3), body: [store("out", tid, reg("r", "f32", 0), lt(tid, 2))], otherwise: [assign("r", 0, f32(0))] },
        barrier,
      ]),
    );
    expect(text).toMatchInlineSnapshot(`
      "thread t
        param in: read f32
        param out: write f32
        param both: readwrite f32
        grid [1, 1, 1]
        threads 8 lanes 4
        shared s: f32[16]
        reg r: f32[4]
        reg u: f32[1] uniform
        for i < 3 unroll
          r.i = 1.5
        if (tid < 3)
          out[tid] = r.0 if (tid < 2)
        else
          r.0 = 0.0
        barrier
      "
    `);
  });
});
