import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import { complaintOf } from "../../../backends/cuda/report.ts";
import type { Source } from "../../../compiler/backend.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import {
  add,
  cast,
  constant,
  f32,
  i32,
  idiv,
  intVar,
  load,
  lt,
  mod,
  mul,
  neg,
  not,
  reg,
  select,
  sub,
  unary,
} from "../../../compiler/ir/expr.ts";
import { binary } from "../../../compiler/ir/expr.ts";
import { BINARY, UNARY } from "../../../compiler/ir/operators.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { BinaryFn, UnaryFn } from "../../../compiler/ir/operators.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import type { Param, View } from "../../../compiler/ir/tile.ts";
import { assemble, NO_NVCC, nvccAvailable } from "../../support/nvcc.ts";

const tid = intVar("tid", 0, 31);
const symbol = intVar("n", 1, 1000);
const param = (name: string, dtype: DType, access: Param["access"], more: Partial<Param> = {}): Param => ({ name, dtype, access, ...more });
const store = (buffer: string, dtype: DType, index: Expr, value: Expr, guard: Expr | null = null): Stmt => ({
  op: "store",
  buffer,
  dtype,
  index,
  value,
  guard,
});
const assign = (name: string, index: number, value: Expr): Stmt => ({ op: "assign", reg: name, index: i32(index), value });
const program = (p: Partial<ThreadProgram>): ThreadProgram => ({
  name: "k",
  params: [param("p0", "f32", "write"), param("p1", "f32", "read"), param("p2", "bf16", "read", { constant: true })],
  symbols: [],
  grid: [i32(1), i32(1), i32(1)],
  threads: 32,
  lanes: 32,
  shared: [],
  regs: [{ name: "r", dtype: "f32", count: 4, uniform: false }],
  body: [],
  ...p,
});
const on = (name: string, p: Partial<ThreadProgram>): Source => {
  const caps = cudaBackend.caps(name);
  return cudaBackend.print(cudaBackend.legalize!(program(p), caps), caps);
};
const text = (p: Partial<ThreadProgram>): string => on("sm_90", p).text;
const out = (value: Expr): Stmt => store("p0", "f32", tid, value);
const weight = cast(load("p2", "bf16", tid), "f32");

describe("the kernel's head", () => {
  test("has a pointer for each parameter and one to the symbols, and says how many threads there are", () => {
    const source = on("sm_90", { symbols: [symbol], body: [out(cast(symbol, "f32"))], threads: 64 });
    expect(source.entry).toMatch(/^k_[0-9a-f]{12}$/);
    expect(source.text).toContain(
      `extern "C" __global__ void __launch_bounds__(64, 1) ${source.entry}(float* p0, const float* p1, const unsigned short* __restrict__ p2, const int* symbols) {`,
    );
    expect(source.launch).toEqual({ threads: 64, symbols: 1 });
    expect(source.text).not.toContain("#include");
  });

  test("a constant parameter that the kernel writes is no constant", () => {
    const params = [param("p0", "f32", "readwrite", { constant: true })];
    const body = [out(add(load("p0", "f32", tid), 1))];
    expect(text({ params, body })).toContain("(float* p0)");
    expect(text({ params, body }).indexOf("p0[tid] =")).toBeGreaterThan(text({ params, body }).indexOf("griddepcontrol.wait"));
  });

  test("shared arrays lie one after the other at multiples of 16 bytes, those of whole lines first", () => {
    const shared = [
      { name: "a", dtype: "bf16", count: 5 },
      { name: "b", dtype: "f32", count: 3 },
      { name: "c", dtype: "bf16", count: 128 },
    ] as const;
    const body = shared.map(({ name, dtype }) => store(name, dtype, i32(0), cast(f32(1), dtype)));
    const source = on("sm_90", { shared, body });
    expect(source.sharedBytes).toBe(256 + 32);
    expect(source.text).toContain("__align__(128)");
    expect(source.text).toContain("s_c = reinterpret_cast<unsigned short*>(shared + 0);");
    expect(source.text).toContain("s_a = reinterpret_cast<unsigned short*>(shared + 256);");
    expect(source.text).toContain("s_b = reinterpret_cast<float*>(shared + 272);");
  });

  test("copies by the hardware: of 16 bytes past L1, with zeros where a condition does not hold", () => {
    const shared = [{ name: "a", dtype: "bf16", count: 1024 }] as const;
    const copy = (guard: Expr | null, width: number): Stmt => ({
      op: "asyncCopy",
      dst: "a",
      dstAt: mul(tid, width),
      src: "p2",
      srcAt: add(mul(tid, width), 64),
      dtype: "bf16",
      width,
      guard,
    });
    const printed = text({ shared, body: [copy(null, 8), copy(lt(tid, 4), 2), { op: "asyncWait", pending: 1 }] });
    expect(printed).toContain("cp.async.cg.shared.global [%0], [%1], 16;");
    expect(printed).toContain("cp.async.ca.shared.global [%0], [%1], 4, %2;");
    expect(printed).toMatch(/async_copy_16\(s_a \+ x0, \(p2 \+ x0\) \+ 64\);/);
    expect(printed).toMatch(/async_copy_where_4\(.*, \(tid < 4\)\);/);
    expect(printed).toContain('asm volatile("cp.async.commit_group;");');
    expect(printed).toContain('asm volatile("cp.async.wait_group 1;" ::: "memory");');
  });

  test("the name says what is in it", () => {
    const entry = (p: Partial<ThreadProgram>): string => on("sm_90", p).entry;
    expect(entry({ body: [out(f32(1))] })).toBe(entry({ body: [out(f32(1))] }));
    expect(entry({ body: [out(f32(1))] })).not.toBe(entry({ body: [out(f32(2))] }));
  });
});

describe("what comes before the wait for kernels in front", () => {
  /** What the kernel does between letting others start and waiting. */
  const early = (p: Partial<ThreadProgram>): string => {
    const source = text(p);
    const [start, end] = [source.indexOf("griddepcontrol.launch_dependents"), source.indexOf("griddepcontrol.wait")];
    expect(start).toBeGreaterThan(0);
    expect(end).toBeGreaterThan(start);
    return source.slice(start, end);
  };
  const first = assign("r", 0, weight);

  test("statements that read constants, registers and shared memory", () => {
    const shared = [{ name: "a", dtype: "f32", count: 32 }] as const;
    const body: Stmt[] = [first, store("a", "f32", tid, reg("r", "f32", 0)), { op: "barrier" }, assign("r", 1, load("a", "f32", i32(0)))];
    const found = early({ shared, body: [...body, out(reg("r", "f32", 1))] });
    expect(found).toContain("p2[tid]");
    expect(found).toContain("__syncthreads();");
    expect(found).toContain("r_r[1] = s_a[0];");
    expect(found).not.toContain("p0[");
  });

  test("statements that read a state which is the kernel's alone, but none that come after a wait for others", () => {
    const params = [param("p0", "f32", "readwrite", { alone: true }), param("p1", "f32", "read"), param("p2", "bf16", "read")];
    const found = early({ params, body: [assign("r", 0, load("p0", "f32", tid)), assign("r", 1, load("p1", "f32", tid)), out(f32(1))] });
    expect(found).toContain("r_r[0] = p0[tid];");
    expect(found).not.toContain("p1[");
    expect(text({ params, body: [assign("r", 0, load("p0", "f32", tid)), out(f32(1))] })).toContain("float* p0, const float* p1");
  });

  test.each<[string, Stmt]>([
    ["a buffer that another kernel writes", assign("r", 1, load("p1", "f32", tid))],
    ["its guard", assign("r", 1, cast(load("p2", "bf16", tid, lt(tid, cast(load("p1", "f32", i32(0)), "i32"))), "f32"))],
    ["a symbol", assign("r", 1, cast(symbol, "f32"))],
    ["a loop over a symbol", { op: "for", var: intVar("i", 0, 999), count: symbol, unroll: false, body: [first] }],
    ["a condition on a symbol", { op: "if", cond: lt(tid, symbol), body: [first], otherwise: [] }],
    ["a store", out(f32(1))],
    ["a vector", { op: "loadVec", reg: "r", index: i32(0), width: 4, buffer: "p1", dtype: "f32", at: i32(0), guard: null }],
  ])("not %s, nor anything after it", (_, s) => {
    const found = early({ symbols: [symbol], body: [first, s, assign("r", 2, weight), out(reg("r", "f32", 1))] });
    expect(found).toContain("r_r[0] =");
    for (const after of ["r_r[1]", "r_r[2]", "p0[", "p1", "symbols"]) expect(found).not.toContain(after);
  });

  test("is all there is where the architecture has no such launch: nothing is said about it", () => {
    for (const name of ["sm_80", "sm_89"])
      expect(on(name, { body: [first, out(reg("r", "f32", 0))] }).text).not.toContain("griddepcontrol");
  });
});

describe("memory", () => {
  test("an array whose rows are turned: a vector keeps its elements, eight rows their own places, and what is whole runs of rows is an immediate", () => {
    const stride = 64;
    const shared = [{ name: "a", dtype: "bf16", count: 4 * 8 * stride, turned: stride }] as const;
    const i = intVar("i", 0, 3);
    const at = add(add(mul(i, 8 * stride), mul(mod(idiv(tid, 4), 8), stride)), mul(mod(tid, 4), 8));
    const body: Stmt[] = [{ op: "for", var: i, count: i32(4), unroll: true, body: [store("a", "bf16", at, constant(1, "bf16"))] }];
    const line = text({ shared, body })
      .split("\n")
      .find((l) => l.includes("s_a + ") && l.includes(" ^ "))!;
    expect(line).toContain("(s_a + (v_i * 512))[");
    expect(line).toContain("(x0 ^ (((x0 >> 6) & 7) * 8))] =");
    expect(text({ shared, body })).toContain("const int x0 = (((tid >> 2) * 64) + ((tid & 3) * 8));");
  });

  test("an address is a pointer and an offset of what is a number in the end", () => {
    const i = intVar("i", 0, 3);
    const at = add(add(mul(intVar("bx", 0, 9), 1024), mul(i, 32)), tid);
    const grid = [i32(10), i32(1), i32(1)] as const;
    const loop = (unroll: boolean): string =>
      text({ grid, body: [{ op: "for", var: i, count: i32(4), unroll, body: [store("p0", "f32", at, load("p1", "f32", at))] }] });
    expect(loop(true)).toContain("const int x0 = ((bx * 1024) + tid);");
    expect(loop(true)).toContain("(p0 + x0)[(v_i * 32)] = (p1 + x0)[(v_i * 32)];");
    expect(loop(false)).not.toContain("(p0 +");
  });

  test("vectors of weights that no cache holds are streamed, others are not", () => {
    const vector: Stmt = { op: "loadVec", reg: "w", index: i32(0), width: 8, buffer: "p2", dtype: "bf16", at: mul(tid, 8), guard: null };
    const regs = [{ name: "w", dtype: "bf16", count: 8, uniform: false }] as const;
    const kernel = (elements: number): string =>
      text({
        params: [param("p0", "f32", "write"), param("p2", "bf16", "read", { constant: true, elements })],
        regs,
        body: [vector, out(reg("w", "bf16", 3))],
      });
    expect(kernel(1 << 20)).toContain("streamed_uint4(p2 + (tid * 8))");
    expect(kernel(1 << 10)).toContain("*reinterpret_cast<const uint4*>(p2 + (tid * 8))");
  });

  test("what only carries vectors from memory to memory keeps them as they are", () => {
    const regs = [{ name: "w", dtype: "bf16", count: 8, uniform: false }] as const;
    const shared = [{ name: "a", dtype: "bf16", count: 256 }] as const;
    const vector = { reg: "w", index: i32(0), width: 8, dtype: "bf16", at: mul(tid, 8) } as const;
    const body: Stmt[] = [
      { ...vector, op: "loadVec", buffer: "p2", guard: lt(tid, 7) },
      { ...vector, op: "storeVec", buffer: "a", guard: null },
    ];
    const carried = text({ regs, shared, body });
    expect(carried).toContain("unsigned r_w[4];");
    expect(carried).not.toContain("bf16_");
    // read by an expression as well, they are numbers
    expect(text({ regs, shared, body: [...body, out(reg("w", "bf16", 0))] })).toContain("float r_w[8];");
  });

  test("what goes to memory in the end is rounded there, however many registers it passes", () => {
    const shared = [{ name: "a", dtype: "bf16", count: 64 }] as const;
    const regs = (["next", "w"] as const).map((name) => ({ name, dtype: "bf16" as const, count: 2, uniform: false }));
    const passed: Stmt[] = [
      assign("next", 0, cast(load("p1", "f32", tid), "bf16")),
      assign("next", 1, constant(1, "bf16")),
      assign("w", 0, reg("next", "bf16", 0)),
      assign("w", 1, reg("next", "bf16", 1)),
      { op: "storeVec", reg: "w", index: i32(0), width: 2, buffer: "a", dtype: "bf16", at: mul(tid, 2), guard: null },
    ];
    const rounded = text({ shared, regs, body: passed });
    expect(rounded).toContain("r_next[0] = p1[tid];");
    expect(rounded).toContain("= bf16_pair(r_w[0], r_w[1]);");
    // computed with, it is rounded where it is kept
    const used = text({ shared, regs, body: [...passed, out(cast(reg("w", "bf16", 0), "f32"))] });
    expect(used).toContain("r_next[0] = round_bf16(p1[tid]);");
  });

  test("a loop that is written out says so", () => {
    const loop = (unroll: boolean): string =>
      text({ body: [{ op: "for", var: intVar("i", 0, 3), count: i32(4), unroll, body: [out(f32(1))] }] });
    expect(loop(true)).toContain("#pragma unroll\n");
    expect(loop(false)).not.toContain("#pragma");
  });
});

describe("values", () => {
  const value = (e: Expr): string => /p0\[tid\] = (.*);/.exec(text({ body: [out(e)] }))![1]!;
  const x = load("p1", "f32", tid);

  test.each([
    [0.1, "0.10000000149011612f"],
    [2, "2.0f"],
    [-0, "(-0.0f)"],
    [1e30, "1.0000000150474662e+30f"],
    [Infinity, "__uint_as_float(0x7f800000u)"],
    [-Infinity, "__uint_as_float(0xff800000u)"],
    [NaN, "__uint_as_float(0x7fc00000u)"],
  ])("the constant %d is %s, and no double", (number, expected) => {
    expect(value(f32(number))).toBe(expected);
  });

  test("the least integer is no literal", () => {
    expect(value(cast(add(tid, constant(-(2 ** 31), "i32")), "f32"))).toContain("(-2147483647 - 1)");
  });

  test("storing rounds once", () => {
    const params = [param("p0", "bf16", "write"), param("p1", "f32", "read")];
    const body = [store("p0", "bf16", tid, cast(load("p1", "f32", tid), "bf16"))];
    expect(text({ params, body })).toContain("p0[tid] = bf16_bits(p1[tid]);");
    expect(value(cast(cast(x, "bf16"), "f32"))).toBe("round_bf16(p1[tid])");
  });

  test("division rounds down", () => {
    const n = sub(tid, 13);
    expect(value(cast(idiv(n, 8), "f32"))).toBe("float(((tid + (-13)) >> 3))");
    expect(value(cast(mod(n, 7), "f32"))).toBe("float(mod_i32((tid + (-13)), 7))");
    expect(value(cast(idiv(tid, 7), "f32"))).toBe("float((tid / 7))");
  });
});

const a = load("p1", "f32", tid),
  b = load("p1", "f32", add(tid, 32));
const logical = new Set<BinaryFn>(["and", "or"]);
const integer = new Set<BinaryFn>(["idiv", "mod"]);
const asFloat = (e: Expr): Expr => (e.dtype === "f32" ? e : cast(e, "f32"));
const apply = (fn: UnaryFn): Expr => (fn === "not" ? not(lt(a, b)) : unary(fn, a));
const combine = (fn: BinaryFn): Expr =>
  logical.has(fn) ? binary(fn, lt(a, b), lt(b, a)) : integer.has(fn) ? binary(fn, sub(cast(a, "i32"), 5), add(tid, 1)) : binary(fn, a, b);

/** A product of a warp whose operands lie as they come, or transposed. */
function product(dtype: "bf16" | "f16", transposed: boolean, tiles: readonly [number, number]): Partial<ThreadProgram> {
  const [fm, fn] = tiles;
  const view = (name: string, lines: "rows" | "cols"): View => {
    const along = (lines === "rows") !== transposed;
    return { source: "tile", name, dtype, base: i32(0), rowStride: i32(along ? 40 : 1), colStride: i32(along ? 1 : 40) };
  };
  return {
    shared: ["a", "b"].map((name) => ({ name, dtype, count: 40 * 64 })),
    regs: [{ name: "acc", dtype: "f32", count: fm * fn * 4, uniform: false }],
    body: [
      ...Array.from({ length: fm * fn * 4 }, (_, i) => assign("acc", i, f32(0))),
      store("a", dtype, tid, cast(a, dtype)),
      store("b", dtype, tid, cast(b, dtype)),
      { op: "barrier" },
      {
        op: "unit",
        unit: "mma.m16n8k16",
        acc: "acc",
        fm,
        fn,
        rowBase: i32(0),
        colBase: i32(0),
        a: view("a", "rows"),
        b: view("b", "cols"),
        k: i32(32),
        rows: null,
      },
      ...Array.from({ length: fm * fn * 4 }, (_, i) => store("p0", "f32", add(mul(tid, fm * fn * 4), i), reg("acc", "f32", i))),
    ],
  };
}

describe("products by the hardware", () => {
  test("take operands by fours of 8 x 8, two tiles of columns at a time", () => {
    const source = text(product("bf16", false, [2, 3]));
    expect(source.match(/ldmatrix_x4\(s_a/g)).toHaveLength(2);
    expect(source.match(/ldmatrix_x4\(s_b/g)).toHaveLength(1);
    expect(source.match(/ldmatrix_x2\(s_b/g)).toHaveLength(1);
    expect(source.match(/mma_bf16\(&r_acc\[\d+\], /g)).toHaveLength(6);
  });

  test("transpose on the way where lines lie side by side", () => {
    expect(text(product("f16", true, [1, 2]))).toMatch(
      /ldmatrix_x4_trans\(s_a[^]*ldmatrix_x4_trans\(s_b|ldmatrix_x4_trans\(s_b[^]*ldmatrix_x4_trans\(s_a/,
    );
  });

  test("refuse rows that do not begin at multiples of 16 bytes", () => {
    const p = product("bf16", false, [1, 1]);
    const body = p.body!.map((s): Stmt => (s.op === "unit" ? { ...s, a: { ...s.a, rowStride: i32(36) } } : s));
    expect(() => text({ ...p, body })).toThrow("cuda: rows of a do not begin at multiples of 16 bytes");
  });
});

test("every operation, and every form of a product, compiles", (context) => {
  if (!nvccAvailable) return void context.skip(NO_NVCC);
  const values = [...UNARY.map(apply), ...BINARY.map(combine), neg(cast(a, "i32")), unary("abs", cast(a, "i32")), select(lt(a, b), a, b)];
  for (const dtype of ["bf16", "f16"] as const) values.push(cast(a, dtype));
  for (const fn of ["min", "max"] as const) values.push(binary(fn, cast(a, "i32"), cast(b, "i32")));
  const all: Partial<ThreadProgram> = {
    body: values.map((e, i) => store("p0", "f32", add(mul(tid, 64), i), asFloat(e))),
  };
  const forms = (["bf16", "f16"] as const).flatMap((dtype) => [true, false].map((t) => product(dtype, t, [2, 3])));
  for (const name of ["sm_80", "sm_90"]) {
    const reports = assemble(
      [all, ...forms].map((p) => on(name, p)),
      name,
    );
    expect(reports.size).toBe(5);
    for (const [entry, report] of reports) expect(complaintOf(report), entry).toBeNull();
  }
});
