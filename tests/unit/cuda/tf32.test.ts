import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import { complaintOf } from "../../../backends/cuda/report.ts";
import { f32, i32, intVar, load, reg } from "../../../compiler/ir/expr.ts";
import type { Stmt, ThreadProgram } from "../../../compiler/ir/thread.ts";
import type { View } from "../../../compiler/ir/tile.ts";
import { lowerGraph, lowerKernel } from "../../../compiler/pipeline.ts";
import { bambaGraph } from "../../../models/bamba/index.ts";
import { models } from "../../support/kernels.ts";
import { assemble, NO_NVCC, nvccAvailable } from "../../support/nvcc.ts";

const caps = cudaBackend.caps("sm_90-tf32");
const tid = intVar("tid", 0, 31);

/** Elements from line to line, or from product to product: an odd number of vectors, as the rows of shared tiles are (lower/shared.ts). */
const PITCH = 36;
const DEPTH = 32;
const ROWS = 32;
const COLUMNS = 24;

/** Whether the products of a line lie side by side, of either operand. */
type Plain = readonly [a: boolean, b: boolean];

/** A product of one warp, of 32 rows and 24 columns. */
function product([a, b]: Plain): ThreadProgram {
  const view = (name: string, plain: boolean, lines: "rows" | "cols"): View => {
    const [line, along] = plain ? [PITCH, 1] : [1, PITCH];
    const [rowStride, colStride] = (lines === "rows" ? [line, along] : [along, line]).map((n) => i32(n)) as [
      View["rowStride"],
      View["rowStride"],
    ];
    return { source: "tile", name, dtype: "f32", base: i32(0), rowStride, colStride };
  };
  const [fm, fn] = [ROWS / 16, COLUMNS / 8];
  const results = Array.from({ length: fm * fn * 4 }, (_, i) => i);
  const all = (f: (i: number) => Stmt): Stmt[] => results.map(f);
  return {
    name: "k",
    params: [
      { name: "p0", dtype: "f32", access: "write" },
      { name: "p1", dtype: "f32", access: "read" },
    ],
    symbols: [],
    grid: [i32(1), i32(1), i32(1)],
    threads: 32,
    lanes: 32,
    shared: ["a", "b"].map((name) => ({ name, dtype: "f32", count: PITCH * 40 })),
    regs: [{ name: "acc", dtype: "f32", count: results.length, uniform: false }],
    body: [
      ...all((i) => ({ op: "assign", reg: "acc", index: i32(i), value: f32(0) })),
      ...["a", "b"].map((buffer): Stmt => ({ op: "store", buffer, dtype: "f32", index: tid, value: load("p1", "f32", tid), guard: null })),
      { op: "barrier" },
      {
        op: "unit",
        unit: "mma.m16n8k8.tf32",
        acc: "acc",
        fm,
        fn,
        rowBase: i32(0),
        colBase: i32(0),
        a: view("a", a, "rows"),
        b: view("b", b, "cols"),
        k: i32(DEPTH),
        rows: null,
      },
      ...all((i) => ({ op: "store", buffer: "p0", dtype: "f32", index: i32(i), value: reg("acc", "f32", i32(i)), guard: null })),
    ],
  };
}

const printed = (p: ThreadProgram, of = caps) => cudaBackend.print(cudaBackend.legalize!(p, of), of);

interface Registers {
  readonly x: number;
  readonly y: number;
  readonly z: number;
  readonly w: number;
}

/** A product that the kernel starts: where the elements lie that a lane has in its registers. */
interface Call {
  readonly acc: number;
  readonly a: Registers;
  readonly b: readonly [number, number];
}

/** What a warp does at a time with shared memory: the addresses of 4 bytes that its lanes read together. */
type Access = readonly number[];

/**
 * Runs what is printed for a product on 32 lanes, with addresses for values: `b` lies behind `a`. A lane gets of matrix i of ldmatrix its word of the row whose address
 * lane 8 i + lane / 4 gave (PTX: ldmatrix), so that lanes run twice.
 */
function run(text: string): { readonly calls: readonly (readonly Call[])[]; readonly accesses: readonly Access[] } {
  const loop = text.slice(text.indexOf("__syncthreads();") + "__syncthreads();".length);
  const body = loop
    .slice(0, loop.indexOf("\n  }\n") + 4)
    .replaceAll("#pragma unroll", "")
    .replaceAll("for (int", "for (let")
    .replaceAll(/const (?:int|uint\d|float2) (\w+) =/g, "const $1 =")
    .replaceAll("reinterpret_cast<const unsigned short*>", "")
    .replaceAll("*reinterpret_cast<const float2*>", "pair")
    .replaceAll(/(\([^()]*\)|s_[ab])\[([^\]]+)\]/g, (whole, pointer: string, index: string) =>
      pointer === "r_acc" ? whole : `one(${pointer} + ${index})`,
    )
    .replaceAll(/&r_acc\[(\d+)\]/g, "$1");
  const given: number[][] = [];
  const accesses: number[][] = [];
  const runLane = (lane: number): Call[] => {
    const calls: Call[] = [];
    let matrices = 0;
    let loads = 0;
    const note = (words: readonly number[]): void => {
      (accesses[loads++] ??= []).push(...words);
    };
    const words = (count: number, at: number): Registers => {
      const addresses = (given[matrices++] ??= []);
      addresses[lane] = at;
      const [x, y, z, w] = [0, 1, 2, 3].map((i) => (i < count ? addresses[8 * i + (lane >> 2)]! + (lane & 3) : NaN)) as [
        number,
        number,
        number,
        number,
      ];
      return { x, y, z, w };
    };
    const same = <T>(x: T): T => x;
    runInNewContext(body, {
      tid: lane,
      s_a: 0,
      s_b: PITCH * 40,
      ldmatrix_x4: (at: number) => words(4, at),
      ldmatrix_x2: (at: number) => words(2, at),
      pair: (at: number) => (note([at, at + 1]), { x: at, y: at + 1 }),
      one: (at: number) => (note([at]), at),
      tf32_bits: same,
      tf32_x4: same,
      tf32_x2: same,
      make_uint4: (x: number, y: number, z: number, w: number) => ({ x, y, z, w }),
      make_uint2: (x: number, y: number) => ({ x, y }),
      mma_tf32: (acc: number, a: Registers, b0: number, b1: number) => calls.push({ acc, a, b: [b0, b1] }),
    });
    return calls;
  };
  const lanes = Array.from({ length: 32 }, (_, lane) => lane);
  lanes.forEach(runLane);
  accesses.length = 0;
  return { calls: lanes.map(runLane), accesses };
}

const forms = [
  [true, true],
  [true, false],
  [false, true],
  [false, false],
] as const satisfies readonly Plain[];

describe.each(forms)("a product whose lines lie along k: of rows %s, of columns %s", (...plain) => {
  const { calls, accesses } = run(printed(product(plain)).text);
  const place = (at: number, operand: 0 | 1): readonly [line: number, k: number] => {
    const within = at - operand * PITCH * 40;
    const [far, near] = [Math.floor(within / PITCH), within % PITCH];
    return plain[operand] ? [far, near] : [near, far];
  };

  test("gives every register the element that the instruction takes it for, and both operands the same products under one number", () => {
    expect(calls[0]!.length).toBe((ROWS / 16) * (COLUMNS / 8) * (DEPTH / 8));
    for (const [i, { acc }] of calls[0]!.entries()) {
      const [row, col] = [16 * Math.floor(acc / 4 / (COLUMNS / 8)), 8 * ((acc / 4) % (COLUMNS / 8))];
      const numbers = new Map<number, number>();
      for (const [lane, of] of calls.entries()) {
        const { a, b } = of[i]!;
        const line = lane >> 2;
        const products = [
          [a.x, a.y, b[0]],
          [a.z, a.w, b[1]],
        ] as const;
        for (const [half, [low, high, right]] of products.entries()) {
          const number = (lane & 3) + 4 * half;
          const [, k] = place(low, 0);
          expect(numbers.get(number) ?? k).toBe(k);
          numbers.set(number, k);
          expect([place(low, 0), place(high, 0), place(right, 1)]).toEqual([
            [row + line, k],
            [row + line + 8, k],
            [col + line, k],
          ]);
        }
      }
      const ks = [...numbers.values()].sort((x, y) => x - y);
      expect(ks).toEqual(Array.from({ length: 8 }, (_, j) => 8 * Math.floor(ks[0]! / 8) + j));
    }
  });

  test("reads what lies across lines from all banks at a time", () => {
    const single = accesses.filter((words) => words.length === 32);
    expect(single.length).toBe(
      plain.filter((p) => !p).length === 0 ? 0 : (DEPTH / 8) * ((plain[0] ? 0 : (4 * ROWS) / 16) + (plain[1] ? 0 : (2 * COLUMNS) / 8)),
    );
    for (const words of single) expect(new Set(words.map((at) => at % 32)).size).toBe(32);
  });

  test("rounds all of its operands", () => {
    const { text } = printed(product(plain));
    expect(text).toContain("cvt.rna.tf32.f32 %0, %1;");
    const loop = text.slice(text.indexOf("__syncthreads();"));
    const rounded = new Set([...loop.matchAll(/(\w+) = (?:tf32_x[24]|make_uint[24])\(/g)].map(([, name]) => name));
    const taken = [...loop.matchAll(/mma_tf32\(&r_acc\[\d+\], (\w+), (\w+)\.\w, (\w+)\.\w\);/g)];
    expect(taken.length).toBe((ROWS / 16) * (COLUMNS / 8));
    for (const [, ...names] of taken) for (const name of names) expect(rounded).toContain(name);
    const count = (what: string): number => loop.split(what).length - 1;
    expect(count("tf32_bits(")).toBe(4 * count("make_uint4(") + 2 * count("make_uint2("));
  });
});

test("operands of another type are an error", () => {
  const p = product([true, true]);
  const body = p.body.map((s): Stmt => (s.op === "unit" ? { ...s, b: { ...s.b, dtype: "bf16" } } : s));
  expect(() => printed({ ...p, body })).toThrow("cuda: mma.m16n8k8.tf32 of f32 and bf16");
});

test("a model in f32 multiplies many rows by it, and few rows by lanes", () => {
  const kernelsOf = (phase: "prefill" | "decode"): readonly { readonly name: string; readonly text: string }[] => {
    const sizes = phase === "prefill" ? { phase, batch: [1, 2] as const, maxSeq: 64 } : { phase, batch: 1 };
    const graph = bambaGraph(models.tiny, { ...sizes, capacity: 128, weights: "f32" });
    return lowerGraph(graph, caps).fused.kernels.map((k) => {
      const { choice, thread } = lowerKernel(k, caps);
      return { name: choice.template, text: printed(thread).text };
    });
  };
  const using = (kernels: ReturnType<typeof kernelsOf>): string[] => [...new Set(kernels.filter(({ text }) => text.includes("mma_tf32(")).map(({ name }) => name))].sort(); // prettier-ignore
  const prefill = kernelsOf("prefill");
  expect(using(prefill)).toEqual(["attention", "gemm", "ssd-scan"]);
  expect(prefill.filter(({ name }) => name === "gemm").every(({ text }) => text.includes("mma_tf32("))).toBe(true);
  expect(using(kernelsOf("decode"))).toEqual(["attention-decode"]);
});

test.skipIf(!nvccAvailable)(nvccAvailable ? "every form of the product compiles" : `every form compiles (skipped: ${NO_NVCC})`, () => {
  for (const [target, architecture] of [
    ["sm_80-tf32", "sm_80"],
    ["sm_90a-tf32", "sm_90a"],
    ["sm_100-tf32", "sm_100"],
  ] as const) {
    const reports = assemble(
      forms.map((plain) => printed(product(plain), cudaBackend.caps(target))),
      architecture,
    );
    expect(reports.size).toBe(forms.length);
    for (const [entry, report] of reports) expect(complaintOf(report), entry).toBeNull();
  }
});
