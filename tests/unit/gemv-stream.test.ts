import { describe, expect, test } from "vitest";
import { cudaBackend } from "../../backends/cuda/index.ts";
import { independentStatements } from "../../backends/cuda/dependence.ts";
import { llvmBackend } from "../../backends/llvm/index.ts";
import type { Caps } from "../../compiler/backend.ts";
import { add, cast, i32, load, mul, unary, walk } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { accessesOf, eachStmt, expressionsOf } from "../../compiler/ir/thread-walk.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import type { GemmProblem } from "../../compiler/template.ts";
import { gemvStream } from "../../compiler/templates/gemv-stream.ts";
import { placed } from "../support/placed.ts";

interface Shape {
  readonly n: number;
  readonly k: number;
  readonly m?: number;
  readonly weights?: number;
  readonly dtype?: DType;
  readonly norm?: boolean;
}

/** out = norm(x) * wᵀ, of one weight or of two that are multiplied. p0 and p1: weights, p2: the norm's weight, p3: x, p4: the result. */
function problem({ n, k, m = 1, weights = 1, dtype = "bf16", norm = false }: Shape): GemmProblem {
  const x = (row: Expr, at: Expr): Expr => load("p3", "f32", add(mul(row, k), at));
  const scale = (at: Expr): Expr => cast(load("p2", "bf16", at), "f32");
  const constant = (name: string, type: DType) => ({ name, dtype: type, access: "read", constant: true }) as const;
  return {
    frame: {
      name: "product",
      params: [
        constant("p0", dtype),
        constant("p1", dtype),
        constant("p2", "bf16"),
        { name: "p3", dtype: "f32", access: "read" },
        { name: "p4", dtype: "f32", access: "write" },
      ],
      symbols: [],
    },
    m: i32(m),
    n,
    k,
    a: norm
      ? {
          stat: { fn: "sum", value: (row, at) => mul(x(row, at), x(row, at)) },
          value: (row, at, stat) => mul(mul(x(row, at), unary("rsqrt", stat!)), scale(at)),
        }
      : { stat: null, value: (row, at) => x(row, at) },
    weights: ["p0", "p1"].slice(0, weights).map((buffer) => ({ buffer, dtype, panel: 0 })),
    outs: [
      {
        buffer: "p4",
        dtype: "f32",
        columns: null,
        index: (row, col) => add(mul(row, n), col),
        value: (acc) => acc.reduce((a, b) => mul(a, b)),
      },
    ],
  };
}

const h200 = cudaBackend.caps("sm_90");
const chosen = (shape: Shape, caps: Caps = h200): unknown => {
  const found = gemvStream.configs(problem(shape), caps);
  return "reject" in found ? found.reject : found[0];
};

describe("configurations", () => {
  test.each([
    ["in_proj of 9B", { n: 16768, k: 4096 }, { per: 8, stages: 3, groups: 16 }],
    ["out_proj", { n: 4096, k: 8192 }, { per: 4, stages: 3, groups: 16 }],
    ["gate and up", { n: 14336, k: 4096, weights: 2 }, { per: 4, stages: 3, groups: 16 }],
    ["down", { n: 4096, k: 14336 }, { per: 2, stages: 3, groups: 14 }],
    ["a product in f32", { n: 4096, k: 4096, dtype: "f32" }, { per: 4, stages: 3, groups: 16 }],
    // no block is to be left without a tile
    ["few columns", { n: 300, k: 4096 }, { per: 2, stages: 3, groups: 16 }],
  ] as const)("%s: tiles of 64 KiB, all warps along k", (_, shape, config) => {
    expect(chosen(shape)).toEqual(config);
  });

  test("of an architecture with less shared memory, and of one that does not copy", () => {
    expect(chosen({ n: 16768, k: 4096 }, cudaBackend.caps("sm_86"))).toEqual({ per: 2, stages: 3, groups: 16 });
    expect(chosen({ n: 16768, k: 4096 }, llvmBackend.caps("x86-64-avx2"))).toBe("x86-64-avx2 copies nothing by itself");
  });

  test.each([
    [{ n: 16768, k: 4096, m: 5 }, "up to 5 rows; a stream is for at most 4"],
    [{ n: 256, k: 64 }, "rows of 64 elements of bf16 are not whole vectors for 4 warps or more"],
    [{ n: 4096, k: 4100 }, "rows of 4100 elements of bf16 are not whole vectors for 4 warps or more"],
    [{ n: 4096, k: 14336, m: 3 }, "3 rows of 14336 elements do not fit in registers"],
    [{ n: 100, k: 4096 }, "100 columns are fewer than 132 workers"],
  ] as const)("turned down: %j", (shape, why) => {
    expect(chosen(shape)).toBe(why);
  });
});

describe("before a kernel waits for those in front of it", () => {
  const reads = (body: readonly Stmt[]): Set<string> => {
    const found = new Set<string>();
    eachStmt(body, (s) => {
      for (const name of accessesOf(s).reads) found.add(name);
      for (const e of expressionsOf(s))
        walk(e, (x) => {
          if (x.op === "load") found.add(x.buffer);
        });
    });
    return found;
  };

  test.each([1, 2, 4])("%i rows: two tiles and the norm's weight are on their way", (m) => {
    const p = problem({ n: 4096, k: 4096, m, norm: true });
    const thread = placed(gemvStream.build(p, { per: 8, stages: 3, groups: 16 }, h200), h200);
    const early = thread.body.slice(0, independentStatements(thread));
    expect(early.filter((s) => s.op === "asyncWait")).toHaveLength(2);
    expect(reads(early)).toEqual(new Set(["p0", "p2"]));
    // once for all rows
    expect(reads(thread.body.slice(early.length)).has("p2")).toBe(false);
  });
});

test("a turn of the loop meets twice: where sums of the turn before may still be read, and where this turn's are", () => {
  const p = problem({ n: 4096, k: 4096, weights: 2, norm: true });
  const thread = placed(gemvStream.build(p, { per: 4, stages: 3, groups: 16 }, h200), h200);
  const loop = thread.body.find((s) => s.op === "for" && s.var.name === "tile") as Extract<Stmt, { op: "for" }>;
  expect(loop.body.filter((s) => s.op === "barrier")).toHaveLength(2);
});
