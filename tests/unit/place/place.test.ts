import { describe, expect, test } from "vitest";
import { nullBackend } from "../../../backends/null/index.ts";
import type { Caps, MatrixUnit } from "../../../compiler/backend.ts";
import { allocate, write } from "../../../compiler/ir/dtype.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { add, and, cast, f32, i32, idiv, intVar, load, lt, mod, mul, sub, unary } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import { printThread } from "../../../compiler/ir/thread-text.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import { at, bufferView, tileBuilder, viewOf } from "../../../compiler/ir/tile-builder.ts";
import type { TileBuilder } from "../../../compiler/ir/tile-builder.ts";
import type { Access, TileProgram } from "../../../compiler/ir/tile.ts";
import { place } from "../../../compiler/lower/place.ts";
import { unrollThread } from "../../../compiler/lower/unroll.ts";
import { differences, findings, placed } from "../../support/placed.ts";
import type { Buffers } from "../../support/placed.ts";
import { random } from "../../support/problems/case.ts";

const warp32 = nullBackend.caps("null-32");
const simd8 = nullBackend.caps("null-simd8");
const cpu8 = nullBackend.caps("null-cpu8");

const param = (name: string, dtype: DType, access: Access = "read"): TileProgram["params"][number] => ({ name, dtype, access });

function fill(dtype: DType, count: number, seed: number): ReturnType<typeof allocate> {
  const data = allocate(dtype, count);
  const next = random(seed);
  for (let i = 0; i < count; i++) write(data, dtype, i, 2 * next() - 1);
  return data;
}

const m = intVar("m", 1, 100);

/** c[m, 64] = a[m, 96] * b[64, 96] transposed, in blocks of 32 x 64 by steps of 32, four warps. */
function staged(dtype: DType): TileProgram {
  const [M, N, K, step] = [32, 64, 96, 32];
  const header = { name: "staged", symbols: [m], params: [param("p0", dtype), param("p1", dtype), param("p2", "f32", "write")] };
  const b = tileBuilder(header, [1, idiv(add(m, M - 1), M), 1], [2, 2]);
  const acc = b.frag("acc", M, N),
    left = b.shared("left", M, step, dtype),
    right = b.shared("right", N, step, dtype);
  const row = (r: Expr): Expr => add(mul(b.by, M), r);
  b.fill(acc, 0);
  b.loop("k", K / step, (k) => {
    b.load(left, (r, c) => load("p0", dtype, add(mul(row(r), K), add(mul(k, step), c)), lt(row(r), m)));
    b.load(right, (r, c) => load("p1", dtype, add(mul(r, K), add(mul(k, step), c))));
    b.mma(acc, viewOf(left), viewOf(right, { transposed: true }), step);
  });
  b.store(acc, {
    buffer: "p2",
    dtype: "f32",
    index: (r, c) => add(mul(row(r), N), c),
    value: (r, c) => at(acc, r, c),
    guard: (r) => lt(row(r), m),
  });
  return b.build();
}
const stagedBuffers = (dtype: DType, rows: number): Buffers => ({
  p0: fill(dtype, rows * 96, 1),
  p1: fill(dtype, 64 * 96, 2),
  p2: allocate("f32", rows * 64),
});

/** Every program that leaves out or changes one statement; `change` returns undefined for those it does not concern. */
function mutants(body: readonly Stmt[], change: (s: Stmt) => Stmt | null | undefined): (readonly Stmt[])[] {
  return body.flatMap((s, i) => {
    const around = (inside: readonly Stmt[]): readonly Stmt[] => [...body.slice(0, i), ...inside, ...body.slice(i + 1)];
    const changed = change(s);
    const here = changed === undefined ? [] : [around(changed === null ? [] : [changed])];
    const nested = s.op === "for" || s.op === "if" ? mutants(s.body, change).map((inner) => around([{ ...s, body: inner }])) : [];
    return [...here, ...nested];
  });
}

describe("a staged product", () => {
  test.each([
    ["null-32", "bf16", "mma.m16n8k16"],
    ["null-32", "f32", "fma4x8"],
    ["null-simd8", "f32", "simdgroup8x8"],
    ["null-simd8", "f16", "simdgroup8x8"],
  ] as const)("on %s in %s, by %s", (device, dtype, unit) => {
    const caps = nullBackend.caps(device);
    const program = staged(dtype);
    const thread = placed(program, caps);
    expect(printThread(thread)).toContain(`${unit} acc[`);
    expect(differences(program, thread, caps, stagedBuffers(dtype, 45), { m: 45 })).toEqual([]);
    // written out, no register is indexed by a variable
    const unrolled = unrollThread(thread);
    expect(printThread(unrolled)).not.toMatch(/\bunroll\b/);
    expect(differences(program, unrolled, caps, stagedBuffers(dtype, 45), { m: 45 })).toEqual([]);
  });

  test("prints", () => {
    expect(printThread(placed(staged("bf16"), warp32))).toMatchInlineSnapshot(`
      "thread staged
        param p0: read bf16
        param p1: read bf16
        param p2: write f32
        symbol m in [1, 100]
        grid [1, ((m + 31) // 32), 1]
        threads 128 lanes 32
        shared left: bf16[1280]
        shared right: bf16[2560]
        reg acc: f32[16]
        reg v0: bf16[8]
        reg v1: bf16[8]
        for i0 < 16 unroll
          acc.i0 = 0.0
        for k < 3
          barrier
          v0.0 .. +8 = p0[((((by * 32) + (tid // 4)) * 96) + ((k * 32) + ((tid % 4) * 8))) .. +8] if (((by * 32) + (tid // 4)) < m)
          left[(((tid // 4) * 40) + ((tid % 4) * 8)) .. +8] = v0.0 .. +8
          for r0 < 2
            v1.0 .. +8 = p1[((((r0 * 32) + (tid // 4)) * 96) + ((k * 32) + ((tid % 4) * 8))) .. +8]
            right[((((r0 * 32) + (tid // 4)) * 40) + ((tid % 4) * 8)) .. +8] = v1.0 .. +8
          barrier
          mma.m16n8k16 acc[1 x 4] += left<0; 40, 1> * right<0; 1, 40>, at [((tid // 64) * 16), (((tid // 32) % 2) * 32)], k 32
        for c0 < 4 unroll
          p2[((((by * 32) + (((tid // 64) * 16) + ((tid % 32) // 4))) * 64) + (((((tid // 32) % 2) * 32) + (c0 * 8)) + (((tid % 32) % 4) * 2)))] = acc.(c0 * 4) if (((by * 32) + (((tid // 64) * 16) + ((tid % 32) // 4))) < m)
          p2[((((by * 32) + (((tid // 64) * 16) + ((tid % 32) // 4))) * 64) + (((((tid // 32) % 2) * 32) + (c0 * 8)) + ((((tid % 32) % 4) * 2) + 1)))] = acc.((c0 * 4) + 1) if (((by * 32) + (((tid // 64) * 16) + ((tid % 32) // 4))) < m)
          p2[((((by * 32) + (((tid // 64) * 16) + (((tid % 32) // 4) + 8))) * 64) + (((((tid // 32) % 2) * 32) + (c0 * 8)) + (((tid % 32) % 4) * 2)))] = acc.((c0 * 4) + 2) if (((by * 32) + (((tid // 64) * 16) + (((tid % 32) // 4) + 8))) < m)
          p2[((((by * 32) + (((tid // 64) * 16) + (((tid % 32) // 4) + 8))) * 64) + (((((tid // 32) % 2) * 32) + (c0 * 8)) + ((((tid % 32) % 4) * 2) + 1)))] = acc.((c0 * 4) + 3) if (((by * 32) + (((tid // 64) * 16) + (((tid % 32) // 4) + 8))) < m)
      "
    `);
  });

  const thread = placed(staged("bf16"), warp32);
  const broken = (body: readonly Stmt[], caps: Caps = warp32): string[] => {
    const program: ThreadProgram = { ...thread, body };
    // the edge falls on rows that different elements of a lane hold
    return [45, 37].flatMap((rows) => differences(staged("bf16"), program, caps, stagedBuffers("bf16", rows), { m: rows }));
  };

  test("without one of its barriers is caught", () => {
    const without = mutants(thread.body, (s) => (s.op === "barrier" ? null : undefined));
    expect(without.length).toBe(2);
    for (const body of without) expect(broken(body).join("\n")).toMatch(/^race at/m);
  });

  test("with one guard off by one is caught", () => {
    const looser = (e: Expr | null): Expr | null => (e?.op === "binary" && e.fn === "lt" ? lt(sub(e.a, 1), e.b) : e);
    const wrong = mutants(thread.body, (s) =>
      (s.op === "store" || s.op === "loadVec") && s.guard ? { ...s, guard: looser(s.guard) } : undefined,
    );
    expect(wrong.length).toBe(5);
    for (const body of wrong) expect(broken(body).join("\n")).toMatch(/out of range/);
  });

  test("with another lane map than the hardware's is caught", () => {
    const unit = warp32.units[0]!;
    const swapped: MatrixUnit = { ...unit, coord: (lane, i) => unit.coord(lane, add(mul(mod(i, 2), 2), idiv(i, 2))) };
    const program = placed(staged("bf16"), { ...warp32, units: [swapped] });
    expect(broken(program.body).length).toBeGreaterThan(10);
    expect(broken(program.body, { ...warp32, units: [swapped] })).toEqual([]);
  });

  test("with one statement left out is caught", () => {
    for (const body of mutants(thread.body, (s) => (s.op === "barrier" || s.op === "for" ? undefined : null)))
      expect(broken(body)).not.toEqual([]);
  });
});

describe("a row kernel", () => {
  /** out = x / sqrt(mean x^2), argument columns 100: not a multiple of any number of lanes. */
  function norm(rows: number, groups: readonly [number, number]): TileProgram {
    const C = 100;
    const b = tileBuilder({ name: "norm", symbols: [m], params: [param("p0", "bf16"), param("p1", "f32", "write")] }, [
      idiv(add(m, rows - 1), rows),
      1,
      1,
    ]);
    const x = b.frag("x", rows, C),
      square = b.frag("square", rows, C),
      total = b.frag("total", rows, 1);
    const index = (r: Expr, c: Expr): Expr => add(mul(add(mul(b.bx, rows), r), C), c);
    const inside = (r: Expr): Expr => lt(add(mul(b.bx, rows), r), m);
    b.map(x, (r, c) => cast(load("p0", "bf16", index(r, c), inside(r)), "f32"));
    b.map(square, (r, c) => mul(at(x, r, c), at(x, r, c)));
    b.rowReduce(total, "sum", square);
    b.map(total, (r) => unary("rsqrt", add(mul(at(total, r, 0), 0.01), 1e-6)));
    b.rowReduce(total, "max", square, true);
    b.store(x, { buffer: "p1", dtype: "f32", index, value: (r, c) => mul(at(x, r, c), at(total, r, 0)), guard: inside });
    return { ...b.build(), groups };
  }
  const buffers = { p0: fill("bf16", 11 * 100, 3), p1: allocate("f32", 1100) };

  /** The first `live` rows of 16 get their sum and their largest, the others keep 5; `operands`: of a product that x takes part in, so that a lane has several rows. */
  function some(live: number, groups: readonly [number, number], operands: "f32" | "bf16" | null): TileProgram {
    const b = tileBuilder({ name: "some", symbols: [], params: [param("p0", "f32"), param("p1", "f32", "write")] }, [1, 1, 1]);
    const [x, sum, most] = [b.frag("x", 16, 32), b.frag("sum", 16, 1), b.frag("most", 16, 1)];
    b.map(x, (r, c) => load("p0", "f32", add(mul(r, 32), c)));
    if (operands) {
      const [left, right] = [b.shared("left", 16, 16, operands), b.shared("right", 16, 32, operands)];
      for (const tile of [left, right]) b.load(tile, (r, c) => load("p0", "f32", add(mul(r, tile.cols), c)));
      b.mma(x, viewOf(left), viewOf(right), 16);
    }
    b.fill(sum, 5);
    b.fill(most, 5);
    b.rowReduce(sum, "sum", x, false, live);
    b.rowReduce(most, "max", x, true, live);
    b.store(sum, { buffer: "p1", dtype: "f32", index: (r) => r, value: (r) => add(at(sum, r, 0), at(most, r, 0)) });
    return { ...b.build(), groups };
  }

  test.each([
    ["null-cpu8", [1, 1]],
    ["null-32", [1, 1]],
    ["null-32", [2, 1]],
    ["null-32", [1, 2]],
    ["null-simd8", [1, 2]],
  ] as const)("of some rows, on %s, warps %j", (device, groups) => {
    const caps = nullBackend.caps(device);
    for (const live of [1, 5, 8, 16])
      for (const operands of [null, device === "null-32" ? "bf16" : "f32"] as const) {
        const program = some(live, groups, operands);
        expect(differences(program, placed(program, caps), caps, { p0: fill("f32", 512, 7), p1: allocate("f32", 16) }, {})).toEqual([]);
      }
  });

  test.each([
    ["null-cpu8", 1, [1, 1]],
    ["null-cpu8", 3, [1, 1]],
    ["null-32", 1, [1, 1]],
    ["null-32", 3, [1, 1]],
    ["null-32", 4, [4, 1]],
    ["null-32", 3, [2, 1]],
    // a row over several warps: they meet in shared memory
    ["null-32", 1, [1, 4]],
    ["null-32", 4, [2, 3]],
    ["null-simd8", 2, [2, 2]],
  ] as const)("on %s, %i rows a block, warps %j", (device, rows, groups) => {
    const caps = nullBackend.caps(device);
    const program = norm(rows, groups);
    expect(differences(program, placed(program, caps), caps, buffers, { m: 11 })).toEqual([]);
  });

  test("guards only the last columns, and keeps row values once on a CPU", () => {
    const text = printThread(placed(norm(1, [1, 1]), cpu8));
    expect(text).toContain("reg total: f32[1] uniform");
    expect(text.match(/\bif \(\(tid \+ 96\) < 100\)/g)).toHaveLength(4);
  });

  test("without a meeting's barrier is caught", () => {
    const program = norm(1, [1, 4]);
    const thread = placed(program, warp32);
    for (const body of mutants(thread.body, (s) => (s.op === "barrier" ? null : undefined)))
      expect(findings({ ...thread, body }, warp32, buffers, { m: 11 }).text.join()).toContain("race");
  });
});

describe("the statements", () => {
  // the rules of Tile IR are asked for one warp; the others must not change the meaning
  const build = (f: (b: TileBuilder) => void, groups: readonly [number, number] = [1, 1]): TileProgram => {
    const params = [param("p0", "f32"), param("p1", "f32", "write"), param("p2", "f32", "readwrite")];
    const b = tileBuilder({ name: "t", symbols: [], params }, [1, 1, 1]);
    f(b);
    return { ...b.build(), groups };
  };
  const memory = { p0: fill("f32", 512, 4), p1: allocate("f32", 512), p2: fill("f32", 512, 5) };
  const all: readonly (readonly [string, Caps, readonly [number, number]])[] = [
    ["one vector", cpu8, [1, 1]],
    ["one warp", warp32, [1, 1]],
    ["four warps", warp32, [2, 2]],
  ];

  describe.each(all)("on %s", (_, caps, groups) => {
    const check = (f: (b: TileBuilder) => void): ThreadProgram => {
      const program = build(f, groups);
      const thread = placed(program, caps);
      expect(differences(program, thread, caps, memory, {})).toEqual([]);
      return thread;
    };
    const p0 = (r: Expr, c: Expr, cols: number): Expr => load("p0", "f32", add(mul(r, cols), c));

    test.each([
      [4, 64],
      [3, 7],
      [13, 1],
      [16, 2],
      [5, 40],
      [1, 100],
      [9, 13],
    ])("load, fill and store of a shared tile of %i x %i", (rows, cols) => {
      check((b) => {
        const s = b.shared("s", rows, cols),
          t = b.shared("t", rows, cols);
        b.load(s, (r, c) => p0(r, c, cols));
        b.fill(t, 3);
        // another element than the lane's own
        b.store(t, {
          buffer: "p1",
          dtype: "f32",
          index: (r, c) => add(mul(r, cols), c),
          value: (r, c) => add(at(s, sub(i32(rows - 1), r), c), at(t, r, c)),
        });
      });
    });

    test("stage of a fragment and of its row values, read back transposed", () => {
      check((b) => {
        const f = b.frag("f", 6, 11),
          top = b.frag("top", 6, 1),
          s = b.shared("s", 6, 11, "bf16"),
          v = b.shared("v", 6, 1);
        b.map(f, (r, c) => p0(r, c, 11));
        b.stage(s, f);
        b.map(top, (r) => cast(r, "f32"));
        b.stage(v, top);
        b.map(f, (r, c) => add(at(s, mod(add(c, r), 6), mod(r, 11)), mul(at(v, mod(c, 6), 0), at(top, r, 0))));
        b.store(f, { buffer: "p1", dtype: "f32", index: (r, c) => add(mul(r, 11), c), value: (r, c) => at(f, r, c) });
        b.store(top, { buffer: "p2", dtype: "f32", index: (r) => r, value: (r) => at(top, r, 0), guard: (r) => lt(r, 4) });
      });
    });

    test("scan, in row order", () => {
      check((b) => {
        const s = b.shared("s", 37, 1);
        b.load(s, (r) => load("p0", "f32", r));
        b.scan(s);
        b.store(s, { buffer: "p1", dtype: "f32", index: (r) => r, value: (r) => at(s, r, 0) });
      });
    });

    test("a long row is reduced in several chains", () => {
      const thread = check((b) => {
        const f = b.frag("f", 1, 510),
          least = b.frag("least", 1, 1);
        b.map(f, (_, c) => p0(i32(0), c, 510));
        b.rowReduce(least, "min", f);
        b.store(least, { buffer: "p1", dtype: "f32", index: (r) => r, value: (r) => at(least, r, 0) });
      }).regs.find((d) => d.name === "t0")!;
      expect(thread.count).toBe(groups[1] === 1 ? 4 : 1);
    });

    test("global memory replaced in place, by other lanes than read it", () => {
      check((b) => {
        const f = b.frag("f", 2, 40),
          s = b.shared("s", 40, 2);
        b.loop("i", 3, () => {
          b.load(s, (r, c) => load("p2", "f32", add(mul(c, 40), r)));
          b.map(f, (r, c) => add(at(s, sub(i32(39), c), r), 1));
          b.store(f, { buffer: "p2", dtype: "f32", index: (r, c) => add(mul(r, 40), c), value: (r, c) => at(f, r, c) });
        });
      });
    });

    test("loops and conditions of the block", () => {
      check((b) => {
        const f = b.frag("f", 2, 8),
          s = b.shared("s", 2, 8);
        b.fill(f, 0);
        b.loop("i", 4, (i) => {
          b.load(s, (r, c) => p0(add(r, i), c, 8));
          b.when(
            lt(mod(i, 2), 1),
            () => {
              b.map(f, (r, c) => add(at(f, r, c), at(s, sub(i32(1), r), c)));
            },
            () => {
              b.map(f, (r, c) => mul(at(f, r, c), 2));
            },
          );
        });
        b.store(f, { buffer: "p1", dtype: "f32", index: (r, c) => add(mul(r, 8), c), value: (r, c) => at(f, r, c) });
      });
    });
  });

  test("an mma on a CPU reads global operands in place and stops at its rows", () => {
    const program = build((b) => {
      const acc = b.frag("acc", 5, 16);
      b.fill(acc, 1);
      b.mma(acc, bufferView("p0", "f32", 0, 12, 1), bufferView("p0", "f32", 7, 16, 1), 12, i32(3));
      b.store(acc, { buffer: "p1", dtype: "f32", index: (r, c) => add(mul(r, 16), c), value: (r, c) => at(acc, r, c) });
    });
    expect(differences(program, placed(program, cpu8), cpu8, memory, {})).toEqual([]);
  });

  test("an attention step: two products, a row maximum carried between them, and a rescale", () => {
    const program = build(
      (b) => {
        const [Q, K, D] = [16, 16, 32];
        const q = b.shared("q", Q, D),
          k = b.shared("k", K, D),
          p = b.shared("p", Q, K);
        const s = b.frag("s", Q, K),
          o = b.frag("o", Q, D),
          top = b.frag("top", Q, 1),
          old = b.frag("old", Q, 1);
        b.load(q, (r, c) => load("p0", "f32", add(mul(r, D), c)));
        b.fill(o, 0);
        b.fill(top, -1e30);
        b.loop("j", 3, (j) => {
          b.load(k, (r, c) => mul(load("p0", "f32", mod(add(mul(add(mul(j, K), r), D), mul(c, 3)), 512)), 0.5));
          b.fill(s, 0);
          b.mma(s, viewOf(q), viewOf(k, { transposed: true }), D);
          b.map(old, (r) => at(top, r, 0));
          b.rowReduce(top, "max", s, true);
          b.map(s, (r, c) => unary("exp", sub(at(s, r, c), at(top, r, 0))));
          b.stage(p, s);
          b.map(o, (r, c) => mul(at(o, r, c), unary("exp", sub(at(old, r, 0), at(top, r, 0)))));
          b.mma(o, viewOf(p), viewOf(k), K);
        });
        b.store(o, { buffer: "p1", dtype: "f32", index: (r, c) => add(mul(r, D), c), value: (r, c) => at(o, r, c) });
      },
      [2, 1],
    );
    for (const caps of [warp32, simd8]) {
      const thread = placed(program, caps);
      expect(differences(program, thread, caps, memory, {})).toEqual([]);
      for (const body of mutants(thread.body, (s) => (s.op === "barrier" ? null : undefined)))
        expect(findings({ ...thread, body }, caps, memory, {}).text.join()).toContain("race");
    }
    const one = { ...program, groups: [1, 1] as const };
    expect(differences(one, placed(one, cpu8), cpu8, memory, {})).toEqual([]);
  });

  describe("what cannot be placed says why", () => {
    test("too many threads", () => {
      expect(() =>
        place(
          build(() => undefined, [8, 8]),
          warp32,
        ),
      ).toThrow("place t: 8 x 8 groups of 32 lanes are 2048 threads, null-32 has at most 1024");
    });
    test("too much shared memory", () => {
      const program = build((b) => {
        b.fill(b.shared("s", 256, 64), 0);
      });
      expect(() => place(program, warp32)).toThrow("place t: needs 65536 bytes of shared memory, null-32 has 49152");
    });
    test("a product that no unit computes", () => {
      const product = (rows: number, dtype: DType, k: number): TileProgram =>
        build((b) => {
          const s = b.shared("s", 64, 64, dtype);
          const acc = b.frag("acc", rows, 16);
          b.fill(acc, 0);
          b.mma(acc, viewOf(s), viewOf(s), k);
        });
      expect(() => place(product(20, "bf16", 16), { ...warp32, units: [warp32.units[0]!] })).toThrow(
        "place t: no unit of null-32 computes acc\n  mma.m16n8k16: acc [20, 16] over 1 x 1 groups is not a multiple of 16 x 8",
      );
      expect(() => place(product(16, "bf16", 8), { ...warp32, units: [warp32.units[0]!] })).toThrow("computes 16 products at a time");
      expect(() => place(product(16, "i32", 16), warp32)).toThrow("mma.m16n8k16: does not take i32 (s)\n  fma4x8: does not take i32 (s)");
      const direct = build((b) => {
        const acc = b.frag("acc", 16, 16);
        b.mma(acc, bufferView("p0", "f32", 0, 16, 1), bufferView("p0", "f32", 0, 16, 1), 16);
      });
      expect(() => place(direct, simd8)).toThrow("simdgroup8x8: reads operands from shared memory only, p0 is a global buffer");
    });
  });

  test("names made on the way do not meet the program's", () => {
    const program = build((b) => {
      const f = b.frag("t0", 4, 100),
        row = b.frag("c0", 4, 1);
      b.loop("r0", 2, () => {
        b.map(f, (r, c) => load("p0", "f32", add(mul(r, 100), c)));
        b.rowReduce(row, "sum", f);
      });
      b.store(row, {
        buffer: "p1",
        dtype: "f32",
        index: (r) => r,
        value: (r) => at(row, r, 0),
        guard: (r) => and(lt(r, 3), lt(at(row, r, 0), f32(1e9))),
      });
    });
    expect(differences(program, placed(program, cpu8), cpu8, memory, {})).toEqual([]);
  });
});
