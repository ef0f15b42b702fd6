import { parseArgs } from "node:util";
import { cudaBackend } from "../../backends/cuda/index.ts";
import type { Caps, Source } from "../../compiler/backend.ts";
import { add, i32, load, mul } from "../../compiler/ir/expr.ts";
import type { Config, GemmProblem } from "../../compiler/template.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { kernelOf, writeProgram } from "./cuda-program.ts";
import type { Kernel } from "./cuda-program.ts";

/**
 * A product of f32 on an NVIDIA GPU, by lanes and by tiles of tf32: writes one program in CUDA C++ that checks them in double precision and times them.
 *   npx tsx tests/bench/cuda-f32.ts --rows 512 --tiles 4 --out f32.cu
 *   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a f32.cu -o f32 && ./f32
 * The tiles are those that the template tries first. `--unrounded` adds kernels that leave the rounding of operands to the hardware, which cuts them off: what it costs.
 */
const { values } = parseArgs({
  options: {
    target: { type: "string", default: "sm_90a,sm_90a-tf32" },
    rows: { type: "string", default: "512" },
    n: { type: "string", default: "4096" },
    k: { type: "string", default: "4096" },
    tiles: { type: "string", default: "4" },
    unrounded: { type: "boolean", default: false },
    out: { type: "string", default: "f32.cu" },
  },
});
const [n, k] = [Number(values.n), Number(values.k)];

/** Of sums that are about 1: what an f32 sum of so many products is off, and five times what rounding of both operands to tf32 makes it be off (2^-11 each at most). */
const ALLOWED = { exact: 1e-4, tf32: 3e-3 };

const problemOf = (m: number): GemmProblem => ({
  frame: {
    name: "product",
    params: [
      { name: "p0", dtype: "f32", access: "read" },
      { name: "p1", dtype: "f32", access: "read", constant: true, elements: n * k },
      { name: "p2", dtype: "f32", access: "write" },
    ],
    symbols: [],
  },
  m: i32(m),
  n,
  k,
  a: { stat: null, value: (row, at) => load("p0", "f32", add(mul(row, k), at)) },
  weights: [{ buffer: "p1", dtype: "f32", panel: 0 }],
  outs: [{ buffer: "p2", dtype: "f32", index: (row, col) => add(mul(row, n), col), value: ([sum]) => sum!, columns: null }],
});

interface Variant extends Kernel {
  readonly m: number;
  readonly label: string;
  readonly allowed: number;
}

function variantsOf(m: number, caps: Caps): Variant[] {
  const problem = problemOf(m);
  const configs = gemm.configs(problem, caps);
  if ("reject" in configs) throw new Error(configs.reject);
  const rounds = caps.units[0]!.fraction !== undefined;
  return configs.slice(0, Number(values.tiles)).flatMap((config) => {
    const kernel = kernelOf(gemm.build(problem, config, caps), caps);
    const label = `${m} rows, ${caps.name} ${tileText(config)}`;
    const plain = { ...kernel, m, label, allowed: rounds ? ALLOWED.tf32 : ALLOWED.exact };
    return rounds && values.unrounded ? [plain, { ...plain, label: `${label}, cut off`, allowed: 2 * ALLOWED.tf32, source: unrounded(kernel.source) }] : [plain]; // prettier-ignore
  });
}

const tileText = ({ bm, bn, kc, groupRows, groupCols }: Config): string => `${bm} x ${bn} by ${kc}, groups ${groupRows} x ${groupCols}`;

const unrounded = (s: Source): Source => ({ ...s, text: s.text.replace("cvt.rna.tf32.f32 %0, %1;", "mov.b32 %0, %1;") });

const variants = values.rows
  .split(",")
  .flatMap((m) => values.target.split(",").flatMap((name) => variantsOf(Number(m), cudaBackend.caps(name))));
writeProgram(values.out, "f32-main.cu", variants, ({ m, label, allowed }, launch) => [`"${label}"`, launch, m, n, k, allowed].join(", "));
