import { expect, test } from "vitest";
import { metalBackend } from "../../../backends/metal/index.ts";
import { cast, i32, idiv, intVar, sub } from "../../../compiler/ir/expr.ts";
import { printed } from "../../support/metal/program.ts";
import { outsideSubset } from "../../support/metal/subset.ts";

/** A kernel with a helper and a symbol, into which what the subset does not allow is put. */
const tid = intVar("tid", 0, 31);
const symbol = intVar("n", 1, 100);
const source = printed(
  {
    name: "k",
    params: [{ name: "p0", dtype: "f32", access: "write" }],
    symbols: [symbol],
    grid: [i32(1), i32(1), i32(1)],
    threads: 32,
    lanes: 32,
    shared: [],
    regs: [],
    body: [{ op: "store", buffer: "p0", dtype: "f32", index: tid, value: cast(idiv(sub(tid, 40), symbol), "f32"), guard: null }],
  },
  metalBackend.caps("m1"),
);

test("what is emitted keeps to it", () => {
  expect(source.text).toContain("static inline int idiv_i32(");
  expect(outsideSubset(source)).toEqual([]);
});

test.each([
  ["const int4 v = (int4)x;", "a cast of a vector"],
  ["const float a = 1.0;", "a literal without a suffix"],
  ["const float a = 1e5;", "a literal without a suffix"],
  ["auto a = 1;", "a template"],
  ["const int a = [](int x) { return x; }(1);", "a lambda"],
  ["const double a = 1.0f;", "a double"],
  ["m_a[0].thread_elements()[0] = 1.0f;", "the elements of a matrix"],
  ["if (simd_is_first()) return;", "what some versions of the compiler get wrong"],
  ["const float a = simd_prefix_inclusive_sum(1.0f);", "what some versions of the compiler get wrong"],
  ["threadgroup_barrier(mem_flags::mem_none);", "a barrier that does not order"],
  ["const float2 v = w.xy;", "a swizzle"],
  ["const float a = w.s0;", "a swizzle"],
  ["  threadgroup float s[8];", "memory of the block inside of a block"],
  ["const int _a = 1;", "a name that begins with an underscore"],
])("%s is outside of it", (line, what) => {
  const text = source.text.replace("  const int tid =", `  ${line}\n  const int tid =`);
  expect(outsideSubset({ ...source, text }).join("\n")).toContain(what);
});

test.each([
  ["kernel void", "float counter;\nkernel void", "a variable of the file"],
  ["kernel void", "template <class T> void f(T x);\nkernel void", "a template"],
  ["kernel void", "kernel void other() {}\nkernel void", "more or fewer than one kernel"],
  ["[[buffer(1)]]", "[[buffer(0)]]", "buffers 0,0 for 2 arguments"],
  ["const int q = a / b;", "const int q = idiv_i32(a, b);", "idiv_i32 calls itself"],
])("neither is %s as %s", (from, to, what) => {
  expect(source.text).toContain(from);
  expect(outsideSubset({ ...source, text: source.text.replace(from, to) }).join("\n")).toContain(what);
});
