import { parseArgs } from "node:util";
import { cudaBackend } from "../../backends/cuda/index.ts";
import { add, i32, intVar, load, mul } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { AttentionProblem } from "../../compiler/template.ts";
import { cacheRings, partsOfCache } from "../../compiler/templates/attention-rings.ts";
import { attentionStream } from "../../compiler/templates/attention-stream.ts";
import { kernelOf, writeProgram } from "./cuda-program.ts";
import type { Kernel } from "./cuda-program.ts";

/**
 * A decoded query's attention over keys and values in bf16 on an NVIDIA GPU, by the rings that the template offers and by several parts: writes one program in CUDA C++ that
 * checks them and times them. What the compiler would choose is marked.
 *   npx tsx tests/bench/cuda-attention.ts --sizes 64x2048,8x1024 --out attention.cu
 *   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a attention.cu -o attention && ./attention
 * `--sizes`: rows and the position of the token, `--parts`: into how many parts the keys are cut.
 */
const { values } = parseArgs({
  options: {
    target: { type: "string", default: "sm_90" },
    sizes: { type: "string", default: "64x1024,64x2048,64x8192,256x2048,32x4096,16x1024,8x1024,1x1024" },
    parts: { type: "string", default: "1,2,4,6,8,12,16,24,32" },
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

const caps = cudaBackend.caps(values.target);
const sizes = values.sizes.split(",").map((text): Size => {
  const [rows, position] = text.split("x").map(Number) as [number, number];
  return { rows, position };
});
const rings = cacheRings({ queries: 1, sharing: HEADS / KV_HEADS, dim: DIM, dtype: "bf16" }, caps);
if ("reject" in rings) throw new Error(rings.reject);

const variants = sizes.flatMap((size) => {
  const blocks = size.rows * KV_HEADS;
  const best = partsOfCache(blocks, size.position + SPARE, rings[0]!, caps);
  const parts = [...new Set([best, ...values.parts.split(",").map(Number)])].sort((x, y) => x - y);
  return rings.flatMap((ring): Variant[] => {
    const { keys, stages, held } = ring;
    // beside the choice: two waves are more than enough, and so are two steps of a block
    const sensible = parts.filter((n) => n === 1 || n === best || (blocks * n <= 2 * held * caps.workers && 2 * keys * n <= size.position));
    return sensible.map((n) => {
      const tile = attentionStream.build(problemOf(size, n), { queries: 1, keys, stages }, caps);
      const label = `${keys} keys in ${stages}${ring === rings[0] && n === best ? ", chosen" : ""}`;
      return { size, parts: n, label, ...kernelOf(tile, caps, { past: size.position }) };
    });
  });
});

writeProgram(values.out, "attention-main.cu", variants, ({ size: { rows, position }, parts, label }, launch) =>
  [`"${label}"`, launch, rows, position, position + SPARE, parts].join(", "),
);
