import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { caps, hostWorkers, levelOf } from "../../../backends/llvm/caps.ts";
import { toolchain } from "../../../backends/llvm/toolchain.ts";
import { llvmBindings, verifySources } from "../../../backends/llvm/verify.ts";
import type { Source } from "../../../compiler/backend.ts";
import { add, cast, i32, load, mul, unary } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import type { GemmProblem } from "../../../compiler/template.ts";
import { gemm } from "../../../compiler/templates/gemm.ts";
import { print } from "../../../backends/llvm/print.ts";
import { placed } from "../../support/placed.ts";
import { readArchive, writeArchive } from "../../../ffi/archive.ts";
import { loadLlvm } from "../../../ffi/libllvm.ts";
import { cacheDirectory, compileAll } from "../../../ffi/object-cache.ts";

const llvm = loadLlvm();
const options = { name: "sample", passes: null, level: 2 };
const job = (i: number) => ({ text: `define i32 @f${i}() {\n  ret i32 ${i}\n}`, target: llvm.host, options });

describe("the cache", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "culm-cache-"));
    vi.stubEnv("CULM_CACHE", directory);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    rmSync(directory, { recursive: true });
  });
  const files = (): string[] => readdirSync(join(directory, "llvm")).map((name) => join(directory, "llvm", name));

  test("gives the same objects without compiling again", async () => {
    const first = await compileAll(llvm, [job(1), job(2)]);
    expect(first.cached).toBe(0);
    const second = await compileAll(llvm, [job(2), job(3), job(1)]);
    expect(second.cached).toBe(2);
    expect(Buffer.from(second.objects[0]!).equals(first.objects[1]!)).toBe(true);
    expect(files()).toHaveLength(3);
    expect(files().every((name) => /\/[0-9a-f]{64}\.o$/.test(name))).toBe(true);
  });

  test("compiles again what is damaged or cut short", async () => {
    const { objects } = await compileAll(llvm, [job(1)]);
    const file = files()[0]!;
    const bytes = readFileSync(file);
    for (const damaged of [
      bytes.subarray(0, bytes.length - 1),
      bytes.subarray(0, 10),
      Buffer.from(bytes.map((b, i) => (i === 100 ? b ^ 1 : b))),
    ]) {
      writeFileSync(file, damaged);
      const again = await compileAll(llvm, [job(1)]);
      expect(again.cached).toBe(0);
      expect(Buffer.from(again.objects[0]!).equals(objects[0]!)).toBe(true);
      expect((await compileAll(llvm, [job(1)])).cached).toBe(1);
    }
  });

  test("keeps apart what is compiled for another target, with other passes or another effort", async () => {
    const variants = [
      job(1),
      { ...job(1), target: { ...llvm.host, cpu: "", features: "" } },
      { ...job(1), options: { ...options, passes: "function(sroa)" } },
      { ...job(1), options: { ...options, level: 1 } },
    ];
    expect((await compileAll(llvm, variants)).cached).toBe(0);
    expect((await compileAll(llvm, variants)).cached).toBe(4);
  });

  test("is done without where it cannot be written", async () => {
    vi.stubEnv("CULM_CACHE", join(directory, "file"));
    writeFileSync(join(directory, "file"), "not a directory");
    const { objects, cached } = await compileAll(llvm, [job(1)]);
    expect(cached).toBe(0);
    expect(objects[0]!.length).toBeGreaterThan(100);
  });

  test("lies where CULM_CACHE says, else in the user's cache directory", () => {
    expect(cacheDirectory()).toBe(directory);
    vi.stubEnv("CULM_CACHE", "off");
    expect(cacheDirectory()).toBeNull();
    vi.stubEnv("CULM_CACHE", "");
    vi.stubEnv("XDG_CACHE_HOME", "");
    expect(cacheDirectory()).toBe(join(homedir(), ".cache", "culm"));
    vi.stubEnv("XDG_CACHE_HOME", "/elsewhere");
    expect(cacheDirectory()).toBe("/elsewhere/culm");
  });
});

describe("archives", () => {
  const members = [
    { name: "a.o", data: Uint8Array.of(1, 2, 3) },
    { name: "a_long_name_of_a_kernel_0123456789ab.o", data: new Uint8Array(0) },
    { name: "another_long_name_of_a_kernel_4567.o", data: Uint8Array.from({ length: 1000 }, (_, i) => i & 255) },
  ];

  test("give back what went in", () => {
    const back = readArchive(writeArchive(members));
    expect(back.map(({ name, data }) => [name, [...data]])).toEqual(members.map(({ name, data }) => [name, [...data]]));
    expect(readArchive(writeArchive([]))).toEqual([]);
  });

  test("are refused when damaged or cut short", () => {
    const bytes = writeArchive(members);
    expect(() => readArchive(bytes.subarray(0, bytes.length - 2))).toThrow(/damaged or cut short/);
    expect(() => readArchive(Uint8Array.of(0x7f, 0x45, 0x4c, 0x46))).toThrow(/not an archive/);
  });

  test("are read by ar", (context) => {
    const directory = mkdtempSync(join(tmpdir(), "culm-ar-"));
    const file = join(directory, "kernels.a");
    writeFileSync(file, writeArchive(members));
    const { status, stdout, error } = spawnSync("ar", ["t", file], { encoding: "utf8" });
    rmSync(directory, { recursive: true });
    if (error) return void context.skip("ar is not installed");
    expect(status).toBe(0);
    expect(stdout.trim().split("\n")).toEqual(members.map(({ name }) => name));
  });
});

const source = (entry: string, body = "  ret void"): Source => ({
  language: "llvm",
  text: `define void @${entry}(i8** %args, i32* %symbols, i32 %bx, i32 %by, i32 %bz, i8* %scratch) {\n${body}\n}\n`,
  entry,
  sharedBytes: 0,
});

/** A whole kernel as the compiler makes them: a product with a norm before it and bf16 on both sides. */
function product(level: string): Source {
  const target = caps(level);
  const [m, n, k] = [20, 40, 30];
  const a = (row: Expr, at: Expr): Expr => cast(load("p0", "bf16", add(mul(row, k), at)), "f32");
  const p: GemmProblem = {
    frame: {
      name: "product",
      params: [
        { name: "p0", dtype: "bf16", access: "read" },
        { name: "p1", dtype: "bf16", access: "read" },
        { name: "p2", dtype: "bf16", access: "write" },
      ],
      symbols: [],
    },
    m: i32(m),
    n,
    k,
    a: {
      stat: { fn: "sum", value: (row, at) => mul(a(row, at), a(row, at)) },
      value: (row, at, stat) => mul(a(row, at), unary("rsqrt", add(stat!, 1))),
    },
    weights: [{ buffer: "p1", dtype: "bf16", panel: target.panel }],
    outs: [
      { buffer: "p2", dtype: "bf16", index: (row, col) => add(mul(row, n), col), value: ([acc]) => unary("tanh", acc!), columns: null },
    ],
  };
  const configs = gemm.configs(p, target);
  if ("reject" in configs) throw new Error(configs.reject);
  return print(placed(gemm.build(p, configs[0]!, target), target), target);
}

describe("the toolchain", () => {
  const target = caps("host");

  test("puts each kernel into the archive once", async () => {
    const binary = await toolchain.compile([source("one"), source("two"), source("one")], target);
    expect(readArchive(binary).map(({ name }) => name)).toEqual(["one.o", "two.o"]);
  });

  test("names the kernel that LLVM refuses", async () => {
    await expect(toolchain.compile([source("good"), source("bad", "  ret i32 0")], target)).rejects.toThrow(
      /bad: IR does not parse: bad:2:/,
    );
    await expect(toolchain.compile([{ ...source("shader"), language: "wgsl" }], target)).rejects.toThrow(/shader is wgsl source/);
  });

  test("makes objects for another architecture than its own", async () => {
    for (const [level, machine] of [
      ["aarch64", 183],
      ["x86-64-avx2", 62],
    ] as const) {
      const other = caps(level);
      const binary = await toolchain.compile([product(level)], other);
      const elf = readArchive(binary)[0]!.data;
      expect(new TextDecoder().decode(elf.subarray(1, 4))).toBe("ELF");
      expect(elf[18]! | (elf[19]! << 8)).toBe(machine);
    }
  });

  test("says in its version what a binary depends on", () => {
    expect(toolchain.version(target)).toContain(llvm.version);
    expect(toolchain.version(caps("x86-64"))).not.toBe(toolchain.version(caps("x86-64-avx2")));
  });
});

describe("capabilities", () => {
  afterEach(() => vi.unstubAllEnvs());

  test("of the named levels fit their register files", () => {
    for (const [name, registers] of [
      ["x86-64-avx512", 32],
      ["x86-64-avx2", 16],
      ["x86-64", 16],
      ["aarch64", 32],
    ] as const) {
      const { units, lanes, panel } = caps(name);
      const [rows, vectors] = units[0]!.block;
      expect(rows * vectors + vectors + 1, name).toBeLessThanOrEqual(registers);
      expect(panel).toBe(lanes * vectors);
    }
  });

  test("of an unknown level are refused with the known ones named", () => {
    expect(() => caps("z80")).toThrow(/no CPU level is called z80; there are: x86-64-avx512, x86-64-avx2, x86-64, aarch64/);
  });

  test("of the host can be held lower, but not higher than it is", () => {
    const lower = process.arch === "x64" ? "x86-64" : "aarch64";
    vi.stubEnv("CULM_CPU", lower);
    expect(caps("host").name).toBe(lower);
    vi.stubEnv("CULM_CPU", process.arch === "x64" ? "aarch64" : "x86-64");
    expect(() => caps("host")).toThrow(/this machine cannot run it/);
    vi.stubEnv("CULM_THREADS", "7");
    expect(hostWorkers()).toBe(7);
  });

  test("name a level of the printer", () => {
    expect(levelOf(caps("host")).name).toBe(caps("host").name);
  });
});

describe("llvm-bindings", () => {
  test("agrees that good modules are good, and refuses bad ones without ending this process", (context) => {
    if (llvmBindings() === null) {
      console.warn(
        "SKIPPED: llvm-bindings is not installed, so no second parser has seen the IR (npm install llvm-bindings; it needs LLVM 14's headers)",
      );
      context.skip("llvm-bindings is not installed");
    }
    verifySources([source("one"), ...["x86-64-avx512", "x86-64-avx2", "x86-64", "aarch64"].map(product)]);
    expect(() => verifySources([source("fine"), source("broken", "  ret i32 %x")])).toThrow(/llvm-bindings refuses broken/);
  });
});
