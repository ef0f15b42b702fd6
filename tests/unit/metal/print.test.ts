import { describe, expect, test } from "vitest";
import { metalBackend } from "../../../backends/metal/index.ts";
import type { MetalSource } from "../../../backends/metal/print.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import {
  add,
  binary,
  cast,
  constant,
  f32,
  i32,
  intVar,
  load,
  lt,
  mul,
  neg,
  not,
  reg,
  select,
  sub,
  unary,
} from "../../../compiler/ir/expr.ts";
import { BINARY, UNARY } from "../../../compiler/ir/operators.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { BinaryFn, UnaryFn } from "../../../compiler/ir/operators.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import type { Param, View } from "../../../compiler/ir/tile.ts";
import { faultsOf } from "../../support/metal/check.ts";
import { skipsClang } from "../../support/metal/clang.ts";
import { outsideSubset } from "../../support/metal/subset.ts";

const tid = intVar("tid", 0, 31);
const symbol = intVar("n", 1, 1000);
const param = (name: string, dtype: DType, access: Param["access"]): Param => ({ name, dtype, access });
const store = (buffer: string, dtype: DType, index: Expr, value: Expr): Stmt => ({ op: "store", buffer, dtype, index, value, guard: null });
const assign = (name: string, index: number, value: Expr): Stmt => ({ op: "assign", reg: name, index: i32(index), value });
const on = (name: string, p: Partial<ThreadProgram>): MetalSource => {
  const caps = metalBackend.caps(name);
  const program: ThreadProgram = {
    name: "k",
    params: [param("p0", "f32", "write"), param("p1", "f32", "read"), param("p2", "bf16", "read")],
    symbols: [],
    grid: [i32(1), i32(1), i32(1)],
    threads: 32,
    lanes: 32,
    shared: [],
    regs: [{ name: "r", dtype: "f32", count: 4, uniform: false }],
    body: [],
    ...p,
  };
  return metalBackend.print(metalBackend.legalize(program, caps), caps);
};
const text = (p: Partial<ThreadProgram>): string => on("m4", p).text;
const out = (value: Expr): Stmt => store("p0", "f32", tid, value);

describe("the kernel's head", () => {
  test("says where each argument is, and how many threads there are", () => {
    const other = intVar("seq", 1, 8);
    const source = on("m4", { symbols: [other, symbol], body: [out(cast(add(symbol, intVar("by", 0, 3)), "f32"))], threads: 64 });
    expect(source.entry).toMatch(/^k_[0-9a-f]{12}$/);
    for (const expected of [
      "struct Symbols { int seq; int n; };\nconstant int fixed_n [[function_constant(1)]];",
      `[[max_total_threads_per_threadgroup(64)]]\nkernel void ${source.entry}(\n    device float* p0 [[buffer(0)]],\n    device const float* p1 [[buffer(1)]],`,
      "    device const bfloat* p2 [[buffer(2)]],\n    constant Symbols& symbols [[buffer(3)]],\n    uint3 group [[threadgroup_position_in_grid]],",
      "    uint index [[thread_index_in_threadgroup]]) {",
      "  const int v_n = is_function_constant_defined(fixed_n) ? fixed_n : symbols.n;",
    ])
      expect(source.text).toContain(expected);
    expect(source.text).not.toContain("fixed_seq");
    expect(source.text).not.toContain("metal_simdgroup_matrix");
    expect(source.launch).toEqual({ threads: 64, symbols: 2 });
    expect(source.bindings).toEqual({
      buffers: [
        { name: "p0", type: "float", access: "write" },
        { name: "p1", type: "float", access: "read" },
        { name: "p2", type: "bfloat", access: "read" },
      ],
      symbols: ["seq", "n"],
      constants: [{ name: "n", index: 1 }],
      threadgroup: [],
      group: true,
    });
  });

  test("asks for nothing that the kernel does not use", () => {
    const source = text({ symbols: [symbol], body: [out(f32(1))] });
    for (const unused of ["Symbols", "function_constant", "group [["]) expect(source).not.toContain(unused);
  });

  test("memory of the block lies in vectors", () => {
    const shared = [{ name: "a", dtype: "f32", count: 5 }] as const;
    const source = on("m4", { shared, body: [store("a", "f32", i32(0), f32(1)), { op: "barrier" }, out(load("a", "f32", i32(0)))] });
    expect(source.text).toContain("  threadgroup uint4 v_s_a[2];\n  threadgroup float* const s_a = (threadgroup float*)v_s_a;\n");
    expect(source.sharedBytes).toBe(32);
  });

  test("a barrier orders device memory only where threads read back what others wrote", () => {
    const body: Stmt[] = [out(f32(1)), { op: "barrier" }];
    expect(text({ body })).toContain("threadgroup_barrier(mem_flags::mem_threadgroup);");
    const params = [param("p0", "f32", "readwrite")];
    expect(text({ body, params })).toContain("threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);");
  });
});

describe("numbers of 16 bits", () => {
  const body = [
    store("p0", "bf16", tid, cast(load("p2", "bf16", tid), "bf16")),
    store("p3", "f16", tid, cast(load("p1", "f32", tid), "f16")),
  ];
  const params = [param("p0", "bf16", "write"), param("p1", "f32", "read"), param("p2", "bf16", "read"), param("p3", "f16", "write")];
  test("are of the language's types where it has them", () => {
    const source = on("m4", { params, body }).text;
    expect(source).toContain("p0[tid] = bfloat(float(p2[tid]));");
    expect(source).toContain("p3[tid] = half(p1[tid]);");
  });
  test("bf16 is taken apart where it has not", () => {
    const source = on("m1", { params, body }).text;
    expect(source).toContain("device ushort* p0");
    expect(source).toContain("p0[tid] = bf16_bits(bf16_value(p2[tid]));");
    expect(source).not.toContain("bfloat");
  });
});

/** A product of a simdgroup whose operands lie as they come, or transposed, or in device memory. */
function product(dtype: "f32" | "bf16" | "f16", transposed: boolean, direct: boolean): Partial<ThreadProgram> {
  const view = (name: string, lines: "rows" | "cols"): View => {
    const along = (lines === "rows") !== transposed;
    const source = direct && name === "p2" ? "buffer" : "tile";
    return { source, name, dtype, base: i32(0), rowStride: i32(along ? 40 : 1), colStride: i32(along ? 1 : 40) };
  };
  const acc = Array.from({ length: 12 }, (_, i) => i);
  const unit = { f32: "simdgroup_float8x8", f16: "simdgroup_half8x8", bf16: "simdgroup_bfloat8x8" }[dtype];
  const at = { acc: "acc", fm: 2, fn: 3, rowBase: i32(0), colBase: i32(0) };
  return {
    params: [param("p0", "f32", "write"), param("p1", "f32", "read"), param("p2", dtype, "read")],
    shared: ["a", ...(direct ? [] : ["b"])].map((name) => ({ name, dtype, count: 40 * 64 })),
    regs: [{ name: "acc", dtype: "f32", count: acc.length, uniform: false }],
    body: [
      ...acc.map((i) => assign("acc", i, f32(0))),
      ...["a", ...(direct ? [] : ["b"])].map((name) => store(name, dtype, tid, cast(load("p1", "f32", tid), dtype))),
      { op: "barrier" },
      { op: "unit", unit, ...at, a: view("a", "rows"), b: view(direct ? "p2" : "b", "cols"), k: i32(32), rows: null },
      ...acc.map((i) => store("p0", "f32", add(mul(tid, acc.length), i), reg("acc", "f32", i))),
    ],
  };
}

describe("products by matrices", () => {
  test("load operands as they lie, and multiply eight at a time", () => {
    const source = text(product("bf16", false, true));
    expect(source).toContain("for (int v_k1 = 0; v_k1 < 4; v_k1++) {");
    expect(source).toMatch(/simdgroup_load\(x\d+, p2 \+ \(\(v_k1 \* 8\) \+ 320\), ulong\(40\), ulong2\(0, 0\), true\);/);
    expect(source).toMatch(/simdgroup_load\(x\d+, s_a \+ \(v_k1 \* 8\), ulong\(40\)\);/);
    expect(source.match(/simdgroup_multiply_accumulate\(m_acc\[\d\], x\d+, x\d+, m_acc\[\d\]\);/g)).toHaveLength(6);
    expect(text(product("f16", true, false))).toMatch(/simdgroup_load\(x\d+, s_a \+ \(v_k1 \* 320\), ulong\(40\), ulong2\(0, 0\), true\);/);
  });

  test("begin with zeros where registers hold them, and with the registers where not; lanes meet around what goes through memory", () => {
    const p = product("f32", false, false);
    expect(text(p)).toMatch(/m_acc\[v_m\d+\] = make_filled_simdgroup_matrix<float, 8, 8>\(0.0f\);/);
    const loaded = text({ ...p, body: [assign("acc", 3, load("p1", "f32", tid)), ...p.body!.slice(1, 3), ...p.body!.slice(4)] });
    expect(loaded).toMatch(/simdgroup_barrier\(mem_flags::mem_threadgroup\);\n\s+exchange\[.*\] = r_acc/);
    expect(loaded).toMatch(/simdgroup_load\(m_acc\[v_m\d+\], exchange \+ \(tid \/ 32\) \* 64, ulong\(8\)\);/);
    expect(loaded).toContain("simdgroup_store(m_acc[v_m");
  });

  test("refuse operands with neither lines nor products side by side", () => {
    const p = product("f32", false, false);
    const body = p.body!.map((s): Stmt => (s.op === "unit" ? { ...s, a: { ...s.a, colStride: i32(2) } } : s));
    expect(() => text({ ...p, body })).toThrow("metal: a is a matrix with neither rows nor columns side by side");
  });
});

const [a, b] = [load("p1", "f32", tid), load("p1", "f32", add(tid, 32))];
const logical = new Set<BinaryFn>(["and", "or"]);
const integer = new Set<BinaryFn>(["idiv", "mod"]);
const apply = (fn: UnaryFn): Expr => (fn === "not" ? not(lt(a, b)) : unary(fn, a));
const combine = (fn: BinaryFn): Expr =>
  logical.has(fn) ? binary(fn, lt(a, b), lt(b, a)) : integer.has(fn) ? binary(fn, sub(cast(a, "i32"), 5), add(tid, 1)) : binary(fn, a, b);
const asFloat = (e: Expr): Expr => (e.dtype === "f32" ? e : cast(e, "f32"));

test("every operation, and every form of a product, compiles and keeps to the subset", (context) => {
  const values = [...UNARY.map(apply), ...BINARY.map(combine), neg(cast(a, "i32")), unary("abs", cast(a, "i32")), select(lt(a, b), a, b)];
  for (const dtype of ["bf16", "f16"] as const) values.push(cast(a, dtype));
  for (const fn of ["min", "max"] as const) values.push(binary(fn, cast(a, "i32"), cast(b, "i32")));
  for (const x of [Infinity, -Infinity, NaN, -0, 1e30, 1e-30, -(2 ** 31)])
    values.push(x === -(2 ** 31) ? add(tid, constant(x, "i32")) : mul(a, x));
  const all: Partial<ThreadProgram> = { regs: [], body: values.map((e, i) => store("p0", "f32", add(mul(tid, 64), i), asFloat(e))) };
  const forms = (["f32", "bf16", "f16"] as const).flatMap((dtype) =>
    [true, false].flatMap((transposed) => [true, false].map((direct) => product(dtype, transposed, direct))),
  );
  const sources = [on("m1", all), ...[all, ...forms].map((p) => on("m4", p))];
  expect(sources.flatMap(outsideSubset)).toEqual([]);
  if (skipsClang) return void context.skip();
  expect(faultsOf(sources)).toEqual([]);
});
