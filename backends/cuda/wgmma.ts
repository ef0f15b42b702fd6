import type { MatrixUnit } from "../../compiler/backend.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import { add, i32, intVar, isConst, mod, mul, substitute } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { eachStmt } from "../../compiler/ir/thread-walk.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import type { View } from "../../compiler/ir/tile.ts";
import type { Kernel, Unit, UnitWait } from "../c-like/kernel.ts";
import type { Block } from "../text/block.ts";
import { line } from "../text/block.ts";
import { helper } from "../text/helpers.ts";
import { variableName } from "../text/writer.ts";
import { WGMMA } from "../units.ts";

/**
 * Products of sm_90a, of four warps at a time. Operands are read where they lie: a descriptor says where eight rows of 128 bytes begin, whose vectors of 16
 * bytes are turned against each other (SharedDecl.turned; the hardware takes the row from the address, so that those eight begin with a multiple of 1024), and
 * that the next eight follow. An instruction multiplies 16 elements along k, so that the next one's begin 32 bytes further.
 */
export const ATOM_BYTES = 1024;

const { rowBytes: ROW_BYTES, columns: MOST_COLUMNS } = WGMMA;
const ATOM_ROWS = ATOM_BYTES / ROW_BYTES;
/** What addresses and distances in a descriptor count. */
const GRAIN = 16;

/**
 * The number of a warp's first thread, in place of the thread's own where a product's operands begin: the same for all of the warp, and the assembler sees that
 * from the shuffle. It then computes descriptors once for all lanes; otherwise each costs two moves in front of the instruction that takes it.
 */
export const leadText = (k: Kernel): string[] =>
  operandsOf(k).size > 0 ? [`  const int ${variableName("lead")} = __shfl_sync(0xffffffffu, tid, 0);`] : [];

/** The names of the shared arrays that the program's asynchronous products read, as the kernel calls them. */
export function operandsOf(k: Kernel): ReadonlySet<string> {
  const found = new Set<string>();
  eachStmt(k.program.body, (s) => {
    if (s.op === "unit" && isAsynchronous(s.unit, k)) for (const v of [s.a, s.b]) found.add(k.places.get(v.name)!.name);
  });
  return found;
}

const isAsynchronous = (name: string, k: Kernel): boolean => k.caps.units.find((u) => u.name === name)?.asynchronous !== undefined;

/**
 * These products reach shared memory on a way of their own (PTX: the async proxy): what lanes wrote and copied is there for them when each has said so, before
 * lanes meet. The language asks for it; on an H200 results were right without it too, and it costs 0 to 3 % of a product (tests/bench/cuda-products.ts, --unfenced).
 */
export function aroundBarrier(s: Stmt, _before: readonly Stmt[], b: Block, write: () => void, k: Kernel): void {
  if (s.op === "barrier" && operandsOf(k).size > 0) line(b, 'asm volatile("fence.proxy.async.shared::cta;" ::: "memory");');
  write();
}

export function printWgmma(s: Unit, unit: MatrixUnit, b: Block, k: Kernel): void {
  const half = s.a.dtype;
  if ((half !== "bf16" && half !== "f16") || s.b.dtype !== half) throw new Error(`cuda: ${unit.name} of ${s.a.dtype} and ${s.b.dtype}`);
  const columns = s.fn * unit.n;
  if (columns > MOST_COLUMNS) throw new Error(`cuda: ${unit.name} of ${columns} columns, an instruction takes at most ${MOST_COLUMNS}`);
  if (!isConst(s.k)) throw new Error(`cuda: ${unit.name} of a number of products that is not known`);
  const rows = descriptor(s.a, s.a.rowStride, s.rowBase, b, k),
    cols = descriptor(s.b, s.b.colStride, s.colBase, b, k);
  const product = k.help(productName(half, columns));
  pin(s.acc, b, k);
  line(b, 'asm volatile("wgmma.fence.sync.aligned;" ::: "memory");');
  const perRow = (unit.m * ROW_BYTES) / GRAIN,
    perStep = (unit.k * BYTES[half]) / GRAIN;
  for (let step = 0; step < s.k.value / unit.k; step++)
    for (let r = 0; r < s.fm; r++) {
      const acc = k.register(s.acc, i32(r * s.fn * unit.elems), b);
      line(b, `${product}(&${acc}, ${plus(rows, r * perRow + step * perStep)}, ${plus(cols, step * perStep)});`);
    }
  line(b, 'asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");');
}

export function printWgmmaWait(s: UnitWait, b: Block, k: Kernel): void {
  line(b, `asm volatile("wgmma.wait_group.sync.aligned ${s.pending};" ::: "memory");`);
  for (const acc of s.done) pin(acc, b, k);
}

/** What the compiler does with accumulators stays on its side of this: it knows nothing of who else writes to them. No instruction comes of it. */
function pin(acc: string, b: Block, k: Kernel): void {
  const { count } = k.registers.get(acc)!;
  line(b, "#pragma unroll");
  line(b, `for (int i = 0; i < ${count}; i++) asm volatile("" : "+f"(r_${acc}[i]) :: "memory");`);
}

const plus = (name: string, by: number): string => (by === 0 ? name : `${name} + ${by}`);

/** The name of a descriptor of an operand from line `first` on: a row of the left one, or a column of the right one. */
function descriptor(view: View, pitch: Expr, first: Expr, b: Block, k: Kernel): string {
  const place = k.places.get(view.name)!;
  const elements = ROW_BYTES / BYTES[view.dtype];
  const { threads } = k.program;
  const at = substitute(add(view.base, mul(first, pitch)), new Map([[intVar("tid", 0, threads - 1), intVar("lead", 0, threads - 1)]]));
  if (place.turned !== elements || !isConst(pitch, elements) || !isConst(mod(at, ATOM_ROWS * elements), 0))
    throw new Error(
      `cuda: ${view.name} is no operand of wgmma: expected turned rows of ${elements} elements, from a multiple of ${ATOM_ROWS} rows on`,
    );
  const name = k.fresh("d");
  line(b, `const unsigned long long ${name} = ${k.help("turned_rows")}(${place.name} + ${k.value(at, b)});`);
  return name;
}

const productName = (type: "bf16" | "f16", columns: number): string => `wgmma_${type}_n${columns}`;

function productText(type: "bf16" | "f16", columns: number): string {
  const count = columns / 2;
  const sums = Array.from({ length: count }, (_, i) => `%${i}`).join(", ");
  const operands = Array.from({ length: count }, (_, i) => `"+f"(d[${i}])`).join(", ");
  return `static __device__ __forceinline__ void ${productName(type, columns)}(float* d, unsigned long long a, unsigned long long b) {
  asm volatile("{ .reg .pred adds; setp.ne.b32 adds, 1, 0;"
    " wgmma.mma_async.sync.aligned.m64n${columns}k16.f32.${type}.${type} {${sums}}, %${count}, %${count + 1}, adds, 1, 1, 0, 0; }"
    : ${operands} : "l"(a), "l"(b));
}`;
}

/** The bits of a descriptor beside the address: the distance from eight rows to the next eight, and that vectors of rows of 128 bytes are turned. */
const LAYOUT = (BigInt(ATOM_BYTES / GRAIN) << 32n) | (1n << 16n) | (1n << 62n);

export const wgmmaHelpers = {
  turned_rows: helper(
    [],
    `static __device__ __forceinline__ unsigned long long turned_rows(const unsigned short* p) {
  return ((unsigned long long)(unsigned(__cvta_generic_to_shared(p)) & 0x3ffffu) >> 4) | 0x${LAYOUT.toString(16)}ull;
}`,
  ),
  ...Object.fromEntries(
    (["bf16", "f16"] as const).flatMap((type) =>
      Array.from({ length: MOST_COLUMNS / 8 }, (_, i) => [
        productName(type, 8 * (i + 1)),
        helper<string>([], productText(type, 8 * (i + 1))),
      ]),
    ),
  ),
};
