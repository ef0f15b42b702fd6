import { parseArgs } from "node:util";
import { cudaBackend } from "../../backends/cuda/index.ts";
import type { Caps, Source } from "../../compiler/backend.ts";
import { add, div, exp, i32, load, mul, neg } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import type { GemmProblem } from "../../compiler/template.ts";
import { gemmStream } from "../../compiler/templates/gemm-stream.ts";
import { tilesOf } from "../../compiler/templates/stream-tiles.ts";
import type { StreamConfig } from "../../compiler/templates/stream-tiles.ts";
import { kernelOf, writeProgram } from "./cuda-program.ts";
import type { Kernel } from "./cuda-program.ts";

/**
 * Products of many rows on an NVIDIA GPU, each by several tiles: writes one program in CUDA C++ that checks them and times them, beside what the model of cycles says.
 *   npx tsx tests/bench/cuda-products.ts --target sm_90a,sm_90 --rows 128,256 --tiles 4 --unfenced --out products.cu
 *   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a products.cu -o products && ./products
 * The tiles are the best ones by the model, whatever parts of k they take; `--parts 1,2,4` gives as many of each. `--unfenced` adds kernels without the fence between copies and wgmma: what that costs; the language asks for it.
 */
const { values } = parseArgs({
  options: {
    target: { type: "string", default: "sm_90a,sm_90" },
    rows: { type: "string", default: "128,256" },
    tiles: { type: "string", default: "4" },
    parts: { type: "string" },
    unfenced: { type: "boolean", default: false },
    out: { type: "string", default: "products.cu" },
  },
});

interface Product {
  readonly name: string;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly weights: number;
}

/** Those of a Bamba of 9.78 billion parameters. */
const products = (m: number): readonly Product[] => [
  { name: "in_proj", m, n: 16768, k: 4096, weights: 1 },
  { name: "out_proj", m, n: 4096, k: 8192, weights: 1 },
  { name: "gate and up", m, n: 14336, k: 4096, weights: 2 },
  { name: "down", m, n: 4096, k: 14336, weights: 1 },
  { name: "qkv", m, n: 6144, k: 4096, weights: 1 },
  { name: "o", m, n: 4096, k: 4096, weights: 1 },
];

/** The left operand is p0, the weights follow, and the result comes last: f32, with SwiGLU of two weights, or of each part of k. */
function problemOf({ m, n, k, weights }: Product, parts: number): GemmProblem {
  const out = `p${weights + 1}`;
  const value = ([gate, up]: readonly Expr[]): Expr => (up ? mul(div(gate!, add(exp(neg(gate!)), 1)), up) : gate!);
  return {
    frame: {
      name: "product",
      params: [
        { name: "p0", dtype: "bf16", access: "read" },
        ...Array.from(
          { length: weights },
          (_, i) => ({ name: `p${i + 1}`, dtype: "bf16", access: "read", constant: true, elements: n * k }) as const,
        ),
        { name: out, dtype: "f32", access: "write" },
      ],
      symbols: [],
    },
    m: i32(m),
    n,
    k,
    a: { stat: null, value: (row, at) => load("p0", "bf16", add(mul(row, k), at)) },
    weights: Array.from({ length: weights }, (_, i) => ({ buffer: `p${i + 1}`, dtype: "bf16", panel: 0 })),
    outs: parts > 1 ? [] : [{ buffer: out, dtype: "f32", index: (row, col) => add(mul(row, n), col), value, columns: null }],
    ...(parts > 1 ? { parts: { count: parts, buffer: out, index: (part, row, col) => add(mul(add(mul(part, m), row), n), col) } } : {}),
  };
}

interface Variant extends Kernel {
  readonly product: Product;
  readonly parts: number;
  readonly label: string;
  readonly cycles: number;
}

function variantsOf(product: Product, caps: Caps, count: number): Variant[] {
  const { m, n, k, weights } = product;
  const shape = { m, n, k, weights, dtype: "bf16" } as const;
  const tilesIn = (parts: number) => tilesOf(shape, parts, caps).map((tile) => ({ ...tile, parts }));
  const given = weights > 1 ? ["1"] : values.parts?.split(",");
  const tiles = given
    ? given.flatMap((parts) => tilesIn(Number(parts)).slice(0, count))
    : [1, 2, 4, 8].flatMap(tilesIn).sort((a, b) => a.cycles - b.cycles); // prettier-ignore
  return (given ? tiles : tiles.slice(0, count)).flatMap(({ config, cycles, parts }) => {
    const plain = { product, parts, cycles, ...kernelOf(gemmStream.build(problemOf(product, parts), config, caps), caps) };
    const label = `${caps.name} ${tileText(config)}${parts > 1 ? `, ${parts} parts` : ""}`;
    const variants: Variant[] = [{ ...plain, label }];
    if (values.unfenced && plain.source.text.includes(FENCE))
      variants.push({ ...plain, label: `${label}, no fence`, source: unfenced(plain.source) });
    return variants;
  });
}

const tileText = ({ bm, bn, kc, stages, groupRows, groupCols }: StreamConfig): string =>
  `${bm} x ${bn} by ${kc} in ${stages}, groups ${groupRows} x ${groupCols}`;

const FENCE = 'asm volatile("fence.proxy.async.shared::cta;" ::: "memory");';
const unfenced = (s: Source): Source => ({ ...s, text: s.text.replaceAll(FENCE, "") });

const variants = values.rows
  .split(",")
  .flatMap((rows) => products(Number(rows)))
  .flatMap((product) => values.target.split(",").flatMap((name) => variantsOf(product, cudaBackend.caps(name), Number(values.tiles))));
writeProgram(values.out, "products-main.cu", variants, ({ product: { name, m, n, k, weights }, parts, label, cycles }, launch) =>
  [`"${name}", "${label}"`, launch, m, n, k, weights, parts, cycles.toFixed(0)].join(", "),
);
