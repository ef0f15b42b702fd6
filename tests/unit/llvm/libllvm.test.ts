import { describe, expect, test } from "vitest";
import { caps, hostLevel, targetOf } from "../../../backends/llvm/caps.ts";
import { compileOptions } from "../../../backends/llvm/toolchain.ts";
import { add, cast, exp, i32, intVar, load, lt, mul, reg, unary } from "../../../compiler/ir/expr.ts";
import type { ThreadProgram } from "../../../compiler/ir/thread.ts";
import { NEWEST, OLDEST, candidates, loadLlvm, LlvmError } from "../../../ffi/libllvm.ts";
import type { Llvm } from "../../../ffi/libllvm.ts";
import { functionAt } from "../../../ffi/native.ts";
import { hostLevels, runNative } from "../../support/native.ts";

const versions = Array.from({ length: NEWEST - OLDEST + 1 }, (_, i) => NEWEST - i);
const installed: readonly Llvm[] = versions.flatMap((major) => {
  try {
    return [loadLlvm(String(major))];
  } catch {
    return [];
  }
});
const options = { name: "sample", passes: null, level: 2 };

/** Relocations of 64 bits: R_X86_64_64, PC64, GOTOFF64, GOT64, GOTPC64 (System V ABI, AMD64 supplement). */
const wide: ReadonlySet<number> = new Set([1, 24, 25, 27, 29]);

/** Types of the relocations of `.text`, which newer versions call `.ltext` in the large code model, in an ELF64 object. */
function textRelocations(object: Uint8Array): readonly number[] {
  const view = new DataView(object.buffer, object.byteOffset, object.byteLength);
  const at = (offset: number): number => Number(view.getBigUint64(offset, true));
  const [table, count, names] = [at(0x28), view.getUint16(0x3c, true), view.getUint16(0x3e, true)];
  const section = (i: number) => ({
    name: view.getUint32(table + 64 * i, true),
    offset: at(table + 64 * i + 24),
    size: at(table + 64 * i + 32),
  });
  const nameOf = (i: number): string => {
    const start = section(names).offset + section(i).name;
    return new TextDecoder().decode(object.subarray(start, object.indexOf(0, start)));
  };
  const found = Array.from({ length: count }, (_, i) => i).filter((i) => /^\.rela\.l?text$/.test(nameOf(i)));
  return found.flatMap((i) => Array.from({ length: section(i).size / 24 }, (_, r) => view.getUint32(section(i).offset + 24 * r + 8, true)));
}

test("the newest version there is is used", () => {
  expect(installed.length).toBeGreaterThan(0);
  if (process.env["CULM_LLVM"] === undefined) expect(loadLlvm().major).toBe(installed[0]!.major);
  console.log(
    `libLLVM versions tested: ${installed.map((l) => l.version).join(", ")}; not installed: ${versions.filter((v) => !installed.some((l) => l.major === v)).join(", ") || "none"}`,
  );
});

test("candidates go from the newest version to the oldest, a number names a version, anything else a file", () => {
  const all = candidates(undefined);
  const at = (text: string): number => all.findIndex((name) => name.includes(text));
  expect(at("22")).toBeLessThan(at("19"));
  expect(at("19")).toBeLessThan(at("14"));
  expect(candidates("16").every((name) => name.includes("16"))).toBe(true);
  expect(candidates("/opt/x/libLLVM.so")).toEqual(["/opt/x/libLLVM.so"]);
});

test("without a libLLVM the error says what was tried and how to install one, and is the user's to mend", () => {
  const attempt = (): unknown => loadLlvm("/nowhere/libLLVM.so");
  expect(attempt).toThrow(/libLLVM was not found; tried \/nowhere\/libLLVM\.so; install with: apt-get install -y libllvm19/);
  expect(attempt).toThrow(expect.objectContaining({ name: "UserError", hint: expect.stringContaining("CULM_LLVM") as unknown }) as Error);
});

describe.each(installed.map((l) => [l.version, l] as const))("libLLVM %s", (_version, llvm) => {
  test("compiles, links and runs", () => {
    const linked = llvm.link([
      llvm.compile("define i32 @twice(i32 %x) {\n  %y = add i32 %x, %x\n  ret i32 %y\n}", llvm.host, options),
      llvm.compile(
        "declare i32 @twice(i32)\ndefine i32 @four(i32 %x) {\n  %y = call i32 @twice(i32 %x)\n  %z = call i32 @twice(i32 %y)\n  ret i32 %z\n}",
        llvm.host,
        options,
      ),
    ]);
    expect(functionAt<(x: number) => number>(linked.address("four"), "int", ["int"])(5)).toBe(20);
    expect(() => linked.address("missing")).toThrow(/missing/);
    linked.free();
  });

  test("constants are referred to by 64 bits, since the loader may put them anywhere", () => {
    const text =
      "define <8 x float> @f(<8 x float> %x) {\n  %y = fadd <8 x float> %x, <float 1.0, float 2.0, float 3.0, float 4.0, float 5.0, float 6.0, float 7.0, float 8.0>\n  ret <8 x float> %y\n}";
    const plain = llvm.compile(text, { triple: "x86_64-unknown-linux-gnu", cpu: "x86-64", features: "" }, options);
    const types = textRelocations(plain);
    expect(types.length).toBeGreaterThan(0);
    expect(types.filter((type) => !wide.has(type))).toEqual([]);
  });

  test("reports text that does not parse with its place and the line itself", () => {
    const bad = "define i32 @f() {\n  %x = add i32 1, 2\n  ret i33 %x\n}";
    expect(() => llvm.compile(bad, llvm.host, options)).toThrow(LlvmError);
    expect(() => llvm.compile(bad, llvm.host, options)).toThrow(/sample: IR does not parse: sample:3:\d+: error: .*\n\s+ret i33 %x/);
  });

  test("reports text that is not valid, unknown passes and unknown targets", async () => {
    const entry = "define void @f() {\na:\n  br label %a\n}";
    expect(() => llvm.compile(entry, llvm.host, options)).toThrow(/sample: IR is not valid: Entry block/);
    const fine = "define void @f() {\n  ret void\n}";
    expect(() => llvm.compile(fine, llvm.host, { ...options, passes: "no-such-pass" })).toThrow(/unknown pass name 'no-such-pass'/);
    await expect(llvm.compileInBackground(fine, llvm.host, { ...options, passes: "no-such-pass" })).rejects.toThrow(/unknown pass/);
    expect(() => llvm.compile(fine, { ...llvm.host, triple: "pdp11-dec-unix" }, options)).toThrow(/no such target/);
  });

  test("compiles modules side by side", async () => {
    const text = (i: number): string => `define i32 @f${i}() {\n  ret i32 ${i}\n}`;
    const objects = await Promise.all(
      Array.from({ length: 12 }, (_, i) => llvm.compileInBackground(text(i), llvm.host, { ...options, passes: "function(sroa)" })),
    );
    const linked = llvm.link(objects);
    for (const i of [0, 7, 11]) expect(functionAt<() => number>(linked.address(`f${i}`), "int", [])()).toBe(i);
    linked.free();
  });

  test("writes assembly", () => {
    const text = llvm.assembly("define i32 @f() {\n  ret i32 42\n}", targetOf(hostLevel()), compileOptions("f"));
    expect(text).toMatch(/f:[^]*42/);
  });

  // The IR text is one for all versions: typed pointers, masked loads and stores, gathers, fma, reductions.
  test.each(hostLevels)("takes the printer's text for %s", (level) => {
    const target = caps(level);
    const W = target.lanes;
    const tid = intVar("tid", 0, W - 1);
    const inside = lt(tid, intVar("n", 0, W));
    const k = 37;
    const program: ThreadProgram = {
      name: "sample",
      params: [
        { name: "a", dtype: "f32", access: "read" },
        { name: "b", dtype: "bf16", access: "read" },
        { name: "h", dtype: "f16", access: "read" },
        { name: "o", dtype: "f32", access: "write" },
        { name: "g", dtype: "bf16", access: "write" },
      ],
      symbols: [intVar("n", 0, W)],
      grid: [i32(1), i32(1), i32(1)],
      threads: W,
      lanes: W,
      shared: [],
      regs: [
        { name: "acc", dtype: "f32", count: 9, uniform: false },
        { name: "s", dtype: "f32", count: 1, uniform: true },
      ],
      body: [
        ...Array.from({ length: 9 }, (_, i) => ({ op: "assign" as const, reg: "acc", index: i32(i), value: cast(tid, "f32") })),
        {
          op: "unit",
          unit: "fma",
          acc: "acc",
          fm: 3,
          fn: 3,
          rowBase: i32(0),
          colBase: i32(0),
          a: { source: "buffer", name: "a", dtype: "f32", base: i32(0), rowStride: i32(k), colStride: i32(1) },
          b: { source: "buffer", name: "b", dtype: "bf16", base: i32(0), rowStride: i32(1), colStride: i32(k) },
          k: i32(k),
          rows: intVar("n", 0, W),
        },
        {
          op: "laneReduce",
          reg: "s",
          index: i32(0),
          fn: "max",
          value: unary("tanh", load("a", "f32", mul(tid, 2))),
          masks: [1, 2, 4, 8].filter((m) => m < W),
        },
        {
          op: "store",
          buffer: "o",
          dtype: "f32",
          index: tid,
          value: add(exp(cast(load("h", "f16", tid, inside), "f32")), reg("s", "f32", 0)),
          guard: inside,
        },
        { op: "store", buffer: "g", dtype: "bf16", index: tid, value: cast(load("a", "f32", mul(tid, 3), inside), "bf16"), guard: null },
      ],
    };
    const n = 2;
    const a = Float32Array.from({ length: k * 3 }, (_, i) => Math.sin(i));
    const b = new Uint16Array(k * 3 * W).fill(0x3f80);
    const h = new Uint16Array(W).fill(0x3c00);
    const [o, g] = [new Float32Array(W), new Uint16Array(W).fill(7)];
    runNative(program, target, { a, b, h, o, g }, { n }, llvm);
    let largest = -Infinity;
    for (let i = 0; i < W; i++) largest = Math.max(largest, Math.tanh(a[2 * i]!));
    expect(o[0]).toBeCloseTo(Math.E + largest, 5);
    expect(o[n]).toBe(0);
    expect([...g.subarray(n)]).toEqual(Array.from({ length: W - n }, () => 0));
  });
});
