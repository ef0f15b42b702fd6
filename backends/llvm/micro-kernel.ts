import type { DType } from "../../compiler/ir/dtype.ts";
import { Arith } from "./arith.ts";
import type { ModuleText } from "./module-text.ts";
import { FunctionText } from "./module-text.ts";

/**
 * The inner kernel of a matrix product, in the manner of GotoBLAS: a register tile of `rows` x `vectors` accumulators gains the product of a column
 * of the left operand (one broadcast a row) and a row of the right one (contiguous vectors), for each step of k. With one row it is a matrix-vector
 * product that streams its panel: 128 bytes a step reach the read bandwidth without software prefetch, which made it slower (29 against 21 GB/s on Zen 4).
 */
export interface MicroKernel {
  readonly rows: number;
  readonly vectors: number;
  /** Accumulator vectors between one row of the fragment and the next. */
  readonly accStride: number;
  readonly a: DType;
  /** Elements between rows of the left operand, and between steps of k; null = known at run time only. */
  readonly aRow: number | null;
  readonly aK: number | null;
  readonly b: DType;
  readonly bK: number | null;
  /** Number of steps, if it is known; it is positive then. */
  readonly k: number | null;
}

export const memoryType = (d: DType): string => (d === "f32" ? "float" : d === "i32" ? "i32" : d === "bool" ? "i8" : "i16");

const part = (x: number | null): string => (x === null ? "v" : String(x));

/** FMA latency times throughput: this many independent accumulators keep the units busy (Zen 4, Golden Cove and Neoverse V2 all need 8). */
const IN_FLIGHT = 8;

/** Adds the kernel to the module. It is called as `void (acc, a, b, aRow, aK, bK, k)`; numbers that the kernel knows are ignored. */
export function microKernel(module: ModuleText, m: MicroKernel): string {
  const name = `@fma_${m.rows}x${m.vectors}_${m.accStride}_${m.a}_${part(m.aRow)}_${part(m.aK)}_${m.b}_${part(m.bK)}_${part(m.k)}`;
  return module.helper(name, () => text(module, m, name));
}

function text(module: ModuleText, m: MicroKernel, name: string): string {
  const f = new FunctionText(module);
  const lanes = module.level.lanes;
  const v = new Arith(f, lanes, module.level);
  const s = new Arith(f, 0, module.level);
  const [A, B, F] = [memoryType(m.a), memoryType(m.b), v.F];
  const aRow = m.aRow === null ? "%aRow" : String(m.aRow);
  const aK = m.aK === null ? "%aK" : String(m.aK);
  const bK = m.bK === null ? "%bK" : String(m.bK);
  const k = m.k === null ? "%k" : String(m.k);

  const tile = m.rows * m.vectors;
  // Few accumulators: several sets of them, one for each step of an unrolled round, summed at the end.
  const sets = tile >= IN_FLIGHT ? 1 : Math.min(4, 2 ** Math.ceil(Math.log2(IN_FLIGHT / tile)));
  const unroll = Math.max(2, sets);

  const accAt = (r: number, c: number): string => f.ins(`getelementptr inbounds ${F}, ${F}* %acc, i64 ${r * m.accStride + c}`);
  const scaled = (a: string, b: string): string => (b === "1" ? a : b === "0" ? "0" : f.ins(`mul nsw i64 ${a}, ${b}`));
  const vectorAt = (pointer: string, element: number): string => {
    const p = f.ins(`getelementptr inbounds ${B}, ${B}* ${pointer}, i64 ${element}`);
    const wide = v.of(B);
    const raw = f.ins(`load ${wide}, ${wide}* ${f.ins(`bitcast ${B}* ${p} to ${wide}*`)}, align ${m.b === "f32" ? 4 : 2}`);
    return m.b === "f32" ? raw : m.b === "bf16" ? v.fromBf16(raw) : v.fromF16(raw);
  };
  const broadcastAt = (pointer: string): string => {
    const raw = f.ins(`load ${A}, ${A}* ${pointer}, align ${m.a === "f32" ? 4 : 2}`);
    const x = m.a === "f32" ? raw : m.a === "bf16" ? s.fromBf16(raw) : s.fromF16(raw);
    return f.ins(
      `shufflevector ${F} ${f.ins(`insertelement ${F} poison, float ${x}, i32 0`)}, ${F} poison, <${lanes} x i32> zeroinitializer`,
    );
  };
  /** One step of k: `acc` + column times row. */
  const step = (at: string, acc: readonly string[]): string[] => {
    const b = f.ins(`getelementptr inbounds ${B}, ${B}* %b, i64 ${scaled(at, bK)}`);
    const a = f.ins(`getelementptr inbounds ${A}, ${A}* %a, i64 ${scaled(at, aK)}`);
    const vectors = Array.from({ length: m.vectors }, (_, c) => vectorAt(b, c * lanes));
    return Array.from({ length: m.rows }, (_, r) => {
      const x = broadcastAt(r === 0 ? a : f.ins(`getelementptr inbounds ${A}, ${A}* ${a}, i64 ${scaled(String(r), aRow)}`));
      return vectors.map((y, c) => v.fma(x, y, acc[r * m.vectors + c]!));
    }).flat();
  };
  /** Rounds of `width` steps from `from` up to `to`, with the accumulators in registers. Returns them and leaves the position in `to`. */
  const rounds = (from: string, to: string, width: number, sure: boolean, initial: readonly string[][]): string[][] => {
    const [head, exit] = [f.label(), f.label()];
    const before = f.block;
    if (sure) f.jump(head);
    else f.branch(f.ins(`icmp slt i64 ${from}, ${to}`), head, exit);
    f.start(head);
    const phis = f.openPlace();
    const fresh = f.label();
    const counter = `%k${fresh}`;
    const names = initial.map((set, e) => set.map((_, j) => `%a${fresh}_${e}_${j}`));
    const results = names.map((set) => [...set]);
    for (let u = 0; u < width; u++) {
      const e = u % names.length;
      results[e] = step(u === 0 ? counter : f.ins(`add nuw nsw i64 ${counter}, ${u}`), results[e]!);
    }
    const next = f.ins(`add nuw nsw i64 ${counter}, ${width}`);
    f.branch(f.ins(`icmp slt i64 ${next}, ${to}`), head, exit);
    phis.push(`  ${counter} = phi i64 [ ${from}, %${before} ], [ ${next}, %${f.block} ]`);
    names.forEach((set, e) =>
      set.forEach((n, j) => phis.push(`  ${n} = phi ${F} [ ${initial[e]![j]!}, %${before} ], [ ${results[e]![j]!}, %${f.block} ]`)),
    );
    const last = f.block;
    f.start(exit);
    if (sure) return results;
    return results.map((set, e) => set.map((n, j) => f.ins(`phi ${F} [ ${initial[e]![j]!}, %${before} ], [ ${n}, %${last} ]`)));
  };

  const pointers = Array.from({ length: tile }, (_, j) => accAt(Math.floor(j / m.vectors), j % m.vectors));
  const first = pointers.map((p) => f.ins(`load ${F}, ${F}* ${p}, align ${lanes * 4}`));
  let acc: string[][] = [first, ...Array.from({ length: sets - 1 }, () => first.map(() => "zeroinitializer"))];
  if (m.k === null) {
    const whole = f.ins(`and i64 ${k}, ${-unroll}`);
    acc = rounds("0", whole, unroll, false, acc);
    acc = [...rounds(whole, k, 1, false, [acc[0]!]), ...acc.slice(1)];
  } else {
    const whole = m.k - (m.k % unroll);
    if (whole > 0) acc = rounds("0", String(whole), unroll, true, acc);
    for (let at = whole; at < m.k; at++) acc[(at - whole) % sets] = step(String(at), acc[(at - whole) % sets]!);
  }
  pointers.forEach((p, j) => {
    const total = acc.slice(1).reduce((sum, set) => v.exact("fadd", sum, set[j]!), acc[0]![j]!);
    f.effect(`store ${F} ${total}, ${F}* ${p}, align ${lanes * 4}`);
  });
  f.effect("ret void");
  const parameters = `${F}* noalias %acc, ${A}* noalias readonly %a, ${B}* noalias readonly %b, i64 %aRow, i64 %aK, i64 %bK, i64 %k`;
  return `define internal void ${name}(${parameters}) #0 noinline {\nentry:\n${f.toString()}\n}\n`;
}

/** How many rows each call takes, to cover `rows` of them: whole register tiles, then halves, so that few kernels serve every remainder. */
export function rowSteps(block: number, rows: number): number[] {
  const steps: number[] = [];
  let left = rows;
  while (left >= block) {
    steps.push(block);
    left -= block;
  }
  if (left > 0) steps.push(left);
  return steps;
}

/** Kernel heights for remainders that are known at run time only: each is used at most once, largest first. */
export function remainderRows(block: number): number[] {
  const steps: number[] = [];
  for (let r = 2 ** Math.floor(Math.log2(Math.max(1, block - 1))); r >= 1; r /= 2) if (r < block) steps.push(r);
  return steps;
}
