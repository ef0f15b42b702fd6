import { parseArgs } from "node:util";
import { cudaBackend } from "../../backends/cuda/index.ts";
import { add, i32, intVar, load, mul } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { AttentionProblem } from "../../compiler/template.ts";
import { attentionStream } from "../../compiler/templates/attention-stream.ts";
import { kernelOf, writeProgram } from "./cuda-program.ts";
import type { Kernel } from "./cuda-program.ts";

/**
 * A decoded query's attention over keys and values in bf16 on an NVIDIA GPU, by several rings and parts: writes one program in CUDA C++ that checks them and times them.
 *   npx tsx tests/bench/cuda-attention.ts --sizes 64x2048,8x1024 --rings 16x3,32x3 --parts 1,2 --out attention.cu
 *   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a attention.cu -o attention && ./attention
 * `--sizes`: rows and the position of the token, `--rings`: keys of a step and turns of the ring, `--parts`: into how many parts the keys are cut.
 */
const { values } = parseArgs({
  options: {
    target: { type: "string", default: "sm_90" },
    sizes: { type: "string", default: "64x1024,64x2048,64x8192,256x2048,8x1024,1x1024" },
    rings: { type: "string", default: "16x3,32x3" },
    parts: { type: "string", default: "1,2" },
    out: { type: "string", default: "attention.cu" },
  },
});

/** Heads of a Bamba of 9.78 billion parameters. */
const [HEADS, KV_HEADS, DIM] = [32, 8, 128];
/** Places of a cache beyond the token's position. */
const SPARE = 256;

interface Size {
  readonly rows: number;
  readonly position: number;
}

/** Parameters in order: queries in f32, keys, values, sequence ids, and the result: f32, or of each part what the combining kernel takes. */
function problemOf({ rows, position }: Size, parts: number): AttentionProblem {
  const capacity = position + SPARE;
  const past = intVar("past", 0, capacity - 1);
  const cached =
    (buffer: string) =>
    (b: Expr, h: Expr, j: Expr, d: Expr): Expr =>
      load(buffer, "bf16", add(mul(add(mul(add(mul(b, KV_HEADS), h), capacity), j), DIM), d));
  const row = (b: Expr, h: Expr): Expr => add(mul(b, HEADS), h);
  return {
    frame: {
      name: "attention",
      params: [
        { name: "q", dtype: "f32", access: "read" },
        { name: "k", dtype: "bf16", access: "read" },
        { name: "v", dtype: "bf16", access: "read" },
        { name: "ids", dtype: "i32", access: "read" },
        { name: "out", dtype: "f32", access: "write" },
      ],
      symbols: [past],
    },
    batch: i32(rows),
    seq: i32(1),
    past,
    heads: HEADS,
    kvHeads: KV_HEADS,
    dim: DIM,
    capacity,
    causal: true,
    scale: 1 / Math.sqrt(DIM),
    q: (b, _t, h, d) => load("q", "f32", add(mul(row(b, h), DIM), d)),
    k: cached("k"),
    v: cached("v"),
    ids: (b, j) => load("ids", "i32", add(mul(b, capacity), j)),
    outs: parts > 1 ? [] : [{ buffer: "out", dtype: "f32", index: (b, _t, h, d) => add(mul(row(b, h), DIM), d), value: ([x]) => x! }],
    parts:
      parts > 1
        ? { count: parts, buffer: "out", index: (b, _t, h, part, d) => add(mul(add(mul(row(b, h), parts), part), DIM + 2), d) }
        : null,
  };
}

interface Variant extends Kernel {
  readonly size: Size;
  readonly parts: number;
  readonly label: string;
}

const pairs = (text: string): (readonly [number, number])[] => text.split(",").map((x) => x.split("x").map(Number) as [number, number]);
const caps = cudaBackend.caps(values.target);
const variants = pairs(values.sizes).flatMap(([rows, position]) =>
  pairs(values.rings).flatMap(([keys, stages]) =>
    values.parts
      .split(",")
      .map(Number)
      .map((parts): Variant => {
        const size = { rows, position };
        const kernel = kernelOf(attentionStream.build(problemOf(size, parts), { queries: 1, keys, stages }, caps), caps, {
          past: position,
        });
        return { size, parts, label: `${keys} keys in ${stages}`, ...kernel };
      }),
  ),
);
writeProgram(values.out, "attention-main.cu", variants, ({ size: { rows, position }, parts, label }, launch) =>
  [`"${label}"`, launch, rows, position, position + SPARE, parts].join(", "),
);
