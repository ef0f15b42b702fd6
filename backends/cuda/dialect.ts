import type { Dialect } from "../c-like/dialect.ts";
import { helper } from "../text/helpers.ts";
import { wgmmaHelpers } from "./wgmma.ts";

const fn = (head: string, ...lines: readonly string[]): string =>
  [`static __device__ __forceinline__ ${head} {`, ...lines.map((l) => `  ${l}`), "}"].join("\n");

/** One instruction of PTX as a function. Not volatile: the compiler may drop it, repeat it and move it. */
const instruction = (head: string, result: string, text: string, out: string, ...operands: readonly string[]): string =>
  fn(head, `${result} y;`, `asm("${text}" : "=${out}"(y) : ${operands.join(", ")});`, "return y;");

const conversion = (type: "bf16" | "f16"): Record<string, ReturnType<typeof helper<string>>> => ({
  [`${type}_bits`]: helper(
    [],
    instruction(`unsigned short ${type}_bits(float x)`, "unsigned short", `cvt.rn.${type}.f32 %0, %1;`, "h", '"f"(x)'),
  ),
  // the first operand of the instruction is the high half
  [`${type}_pair`]: helper(
    [],
    instruction(`unsigned ${type}_pair(float x, float z)`, "unsigned", `cvt.rn.${type}x2.f32 %0, %1, %2;`, "r", '"f"(z)', '"f"(x)'),
  ),
  [`round_${type}`]: helper(
    [`${type}_bits`, `${type}_value`],
    fn(`float round_${type}(float x)`, `return ${type}_value(${type}_bits(x));`),
  ),
});

/** Of an array that is larger than caches: nothing stays in L1, and L2 fetches the neighbours. */
const streamed = (type: string, letter: string, form: string): string =>
  fn(
    `${type} streamed_${type}(const void* p)`,
    `${type} y;`,
    `asm("ld.global.nc.L1::no_allocate.L2::256B.v4.${form} {%0, %1, %2, %3}, [%4];" : ${["x", "y", "z", "w"].map((c) => `"=${letter}"(y.${c})`).join(", ")} : "l"(p));`,
    "return y;",
  );

/** Past L1 where the instruction can: of 16 bytes. With a condition, the bytes that are not read are zeros. */
const asyncCopy = (bytes: number, where: boolean): string =>
  fn(
    `void async_copy${where ? "_where" : ""}_${bytes}(void* to, const void* from${where ? ", bool holds" : ""})`,
    `asm volatile("cp.async.${bytes === 16 ? "cg" : "ca"}.shared.global [%0], [%1], ${bytes}${where ? ", %2" : ""};"`,
    `  :: "r"(unsigned(__cvta_generic_to_shared(to))), "l"(from)${where ? `, "r"(holds ? ${bytes} : 0)` : ""} : "memory");`,
  );

const copyHelpers = Object.fromEntries(
  [4, 8, 16].flatMap((bytes) => [
    [`async_copy_${bytes}`, helper([], asyncCopy(bytes, false))],
    [`async_copy_where_${bytes}`, helper([], asyncCopy(bytes, true))],
  ]),
);

const matrixLoad = (count: 2 | 4, trans: "" | ".trans"): string => {
  const parts = ["x", "y", "z", "w"].slice(0, count);
  const registers = parts.map((_, i) => `%${i}`).join(", ");
  return fn(
    `uint${count} ldmatrix_x${count}${trans.replace(".", "_")}(const unsigned short* p)`,
    `uint${count} y;`,
    `const unsigned at = unsigned(__cvta_generic_to_shared(p));`,
    `asm volatile("ldmatrix.sync.aligned.m8n8.x${count}${trans}.shared.b16 {${registers}}, [%${count}];" : ${parts.map((c) => `"=r"(y.${c})`).join(", ")} : "r"(at) : "memory");`,
    "return y;",
  );
};

const product = (type: "bf16" | "f16"): string =>
  fn(
    `void mma_${type}(float* d, uint4 a, unsigned b0, unsigned b1)`,
    `asm("mma.sync.aligned.m16n8k16.row.col.f32.${type}.${type}.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"`,
    '  : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));',
  );

const productOfTf32 = fn(
  "void mma_tf32(float* d, uint4 a, unsigned b0, unsigned b1)",
  'asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"',
  '  : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));',
);

/** Bits of so many f32, rounded: the hardware would cut off what it does not take. */
const roundedBits = (count: 2 | 4): string => {
  const parts = ["x", "y", "z", "w"].slice(0, count).map((c) => `tf32_bits(__uint_as_float(y.${c}))`);
  return fn(`uint${count} tf32_x${count}(uint${count} y)`, `return make_uint${count}(${parts.join(", ")});`);
};

const matrices = {
  ldmatrix_x2: helper([], matrixLoad(2, "")),
  ldmatrix_x4: helper([], matrixLoad(4, "")),
  ldmatrix_x2_trans: helper([], matrixLoad(2, ".trans")),
  ldmatrix_x4_trans: helper([], matrixLoad(4, ".trans")),
  mma_bf16: helper([], product("bf16")),
  mma_f16: helper([], product("f16")),
  mma_tf32: helper([], productOfTf32),
  tf32_bits: helper([], instruction("unsigned tf32_bits(float x)", "unsigned", "cvt.rna.tf32.f32 %0, %1;", "r", '"f"(x)')),
  tf32_x2: helper(["tf32_bits"], roundedBits(2)),
  tf32_x4: helper(["tf32_bits"], roundedBits(4)),
};

/** CUDA C++ with nothing included: what NVRTC knows by itself, and instructions of PTX for the rest. */
export const cudaDialect: Dialect = {
  language: "cuda",
  memory: { f32: "float", i32: "int", bf16: "unsigned short", f16: "unsigned short", bool: "unsigned char" },
  vectors: {
    float: { 1: "float", 2: "float2", 4: "float4" },
    int: { 1: "int", 2: "int2", 4: "int4" },
    bits: { 1: "unsigned", 2: "uint2", 4: "uint4" },
  },
  makeVector: (type) => `make_${type}`,
  functions: {
    abs: "fabsf",
    exp: "expf",
    exp2: "exp2_f32",
    log: "logf",
    log1p: "log1pf",
    sqrt: "sqrtf",
    rsqrt: "rsqrtf",
    floor: "floorf",
    sin: "sin_f32",
    cos: "cos_f32",
    tanh: "tanhf",
    erf: "erff",
    pow: "powf",
    min: "min_f32",
    max: "max_f32",
    idiv: "idiv_i32",
    mod: "mod_i32",
    abs_i32: "abs",
    min_i32: "min",
    max_i32: "max",
    fma: "fmaf",
    bf16_value: "bf16_value",
    bf16_bits: "bf16_bits",
    bf16_low: "bf16_low",
    bf16_high: "bf16_high",
    bf16_pair: "bf16_pair",
    round_bf16: "round_bf16",
    f16_value: "f16_value",
    f16_bits: "f16_bits",
    f16_low: "f16_low",
    f16_high: "f16_high",
    f16_pair: "f16_pair",
    round_f16: "round_f16",
  },
  helpers: {
    // fminf and fmaxf drop a NaN
    min_f32: helper([], instruction("float min_f32(float a, float b)", "float", "min.NaN.f32 %0, %1, %2;", "f", '"f"(a)', '"f"(b)')),
    max_f32: helper([], instruction("float max_f32(float a, float b)", "float", "max.NaN.f32 %0, %1, %2;", "f", '"f"(a)', '"f"(b)')),
    // exp2f scales its argument twice so that results below 2^-126 are not 0
    exp2_f32: helper([], instruction("float exp2_f32(float x)", "float", "ex2.approx.ftz.f32 %0, %1;", "f", '"f"(x)')),
    // the divisor is positive
    idiv_i32: helper([], fn("int idiv_i32(int a, int b)", "const int q = a / b;", "return a - q * b < 0 ? q - 1 : q;")),
    mod_i32: helper([], fn("int mod_i32(int a, int b)", "const int r = a % b;", "return r < 0 ? r + b : r;")),
    // sinf keeps a table on the stack for large arguments. In double precision pi/2 needs two parts, and nothing is lost up to 2^31 quarters.
    quarters: helper(
      [],
      [
        "struct Turned { float rest; int quarter; };",
        fn(
          "Turned quarters(float x)",
          "const double n = rint(double(x) * 0.63661977236758134);",
          "const double r = fma(n, -6.1232339957367660e-17, fma(n, -1.5707963267948966, double(x)));",
          "return {float(r), int(n)};",
        ),
        fn(
          "float quadrant(float r, int q)",
          "const float z = r * r;",
          "const float s = fmaf(z * r, fmaf(fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f), r);",
          "const float c = fmaf(z * z, fmaf(fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f), fmaf(z, -0.5f, 1.0f));",
          "const float y = (q & 1) != 0 ? c : s;",
          "return (q & 2) != 0 ? -y : y;",
        ),
      ].join("\n"),
    ),
    sin_f32: helper(["quarters"], fn("float sin_f32(float x)", "const Turned t = quarters(x);", "return quadrant(t.rest, t.quarter);")),
    cos_f32: helper(["quarters"], fn("float cos_f32(float x)", "const Turned t = quarters(x);", "return quadrant(t.rest, t.quarter + 1);")),
    bf16_value: helper([], fn("float bf16_value(unsigned short x)", "return __uint_as_float(unsigned(x) << 16);")),
    bf16_low: helper([], fn("float bf16_low(unsigned x)", "return __uint_as_float(x << 16);")),
    bf16_high: helper([], fn("float bf16_high(unsigned x)", "return __uint_as_float(x & 0xffff0000u);")),
    f16_value: helper([], instruction("float f16_value(unsigned short x)", "float", "cvt.f32.f16 %0, %1;", "f", '"h"(x)')),
    f16_low: helper(["f16_value"], fn("float f16_low(unsigned x)", "return f16_value((unsigned short)(x & 0xffffu));")),
    f16_high: helper(["f16_value"], fn("float f16_high(unsigned x)", "return f16_value((unsigned short)(x >> 16));")),
    ...conversion("bf16"),
    ...conversion("f16"),
    ...matrices,
    ...wgmmaHelpers,
    ...copyHelpers,
    streamed_uint4: helper([], streamed("uint4", "r", "u32")),
    streamed_float4: helper([], streamed("float4", "f", "f32")),
  },
  vectorAt: (type, _, address, use) => `*reinterpret_cast<${use === "read" ? "const " : ""}${type}*>(${address})`,
  streamed: { uint4: "streamed_uint4", float4: "streamed_float4" },
  floatOf: (bits) => `__uint_as_float(${bits})`,
  shuffle: (x, mask) => `__shfl_xor_sync(0xffffffffu, ${x}, ${mask})`,
  barrier: "__syncthreads();",
  copies: {
    start: (bytes) => `async_copy_${bytes}`,
    startWhere: (bytes) => `async_copy_where_${bytes}`,
    wait: (pending) => ['asm volatile("cp.async.commit_group;");', `asm volatile("cp.async.wait_group ${pending};" ::: "memory");`],
  },
  // written out, the operands of several steps of a product would take more registers than there are
  unroll: { out: "#pragma unroll", loop: "#pragma unroll 1", product: "#pragma unroll 1" },
};
