import { levelOf, targetOf } from "../../backends/llvm/caps.ts";
import { loadLlvm } from "../../ffi/libllvm.ts";
import { allocate } from "../../ffi/memory.ts";
import { background, functionAt } from "../../ffi/native.ts";
import type { Caps } from "../../compiler/backend.ts";

/**
 * What this machine can do, measured: how fast it reads memory and how fast it multiplies and adds. Two loops in LLVM IR, as plain as they come, with
 * enough loads or sums in flight to hide every latency. A compiled model is held against these, in the same run and at the same level of instructions.
 */
export interface Ceiling {
  readonly threads: number;
  /** Bytes read a second. */
  readonly read: number;
  /** Floating-point operations a second, f32; a multiplication and an addition count as two. */
  readonly flops: number;
}

/** Larger than any cache of today's. */
const readBytes = 1 << 29;
const passes = 5;

type Loop = (memory: bigint, count: bigint | number) => number;

export async function measureCeilings(caps: Caps, threads: readonly number[]): Promise<readonly Ceiling[]> {
  const level = levelOf(caps);
  const llvm = loadLlvm();
  const text = readLoop(level.lanes) + fmaLoop(level.lanes, level.fma);
  const linked = llvm.link([llvm.compile(text, targetOf(level), { name: "probe", passes: "function(sroa,early-cse)", level: 2 })]);
  const memory = allocate(readBytes);
  try {
    // Written once, so that every page is there; as floats these bytes are 0.19, far from overflow and from zero.
    new Uint8Array(memory.view).fill(0x3e);
    const read = functionAt<Loop>(linked.address("culm_read"), "uint32_t", ["void *", "int64_t"]);
    const fma = functionAt<Loop>(linked.address("culm_fma"), "uint32_t", ["void *", "int64_t"]);
    const ceilings: Ceiling[] = [];
    for (const count of threads) {
      const part = Math.floor(readBytes / count / stride(level.lanes)) * stride(level.lanes);
      const bytes = await best(count, (thread) => background(read, memory.address + BigInt(thread * part), part));
      const rounds = 20_000_000;
      const flops = await best(count, () => background(fma, memory.address, rounds));
      ceilings.push({ threads: count, read: (part * count) / bytes, flops: (rounds * accumulators * level.lanes * 2 * count) / flops });
    }
    return ceilings;
  } finally {
    memory.free();
    linked.free();
  }
}

/** Seconds of the fastest of several runs, all threads at once. */
async function best(threads: number, run: (thread: number) => Promise<number>): Promise<number> {
  let least = Infinity;
  for (let pass = 0; pass < passes; pass += 1) {
    const started = performance.now();
    await Promise.all(Array.from({ length: threads }, (_, thread) => run(thread)));
    least = Math.min(least, (performance.now() - started) / 1000);
  }
  return least;
}

const streams = 8;
const accumulators = 12;
/** Bytes that one round of the read loop takes. */
const stride = (lanes: number): number => streams * lanes * 4;
const each = (count: number, line: (i: number) => string): string => Array.from({ length: count }, (_, i) => line(i)).join("\n");

/** Sums 32-bit words. */
function readLoop(lanes: number): string {
  const v = `<${lanes} x i32>`;
  return `
define i32 @culm_read(i8* %p, i64 %bytes) {
entry:
  br label %loop
loop:
  %at = phi i64 [ 0, %entry ], [ %next, %loop ]
${each(streams, (i) => `  %s${i} = phi ${v} [ zeroinitializer, %entry ], [ %t${i}, %loop ]`)}
${each(
  streams,
  (i) => `  %o${i} = add i64 %at, ${i * lanes * 4}
  %a${i} = getelementptr i8, i8* %p, i64 %o${i}
  %b${i} = bitcast i8* %a${i} to ${v}*
  %x${i} = load ${v}, ${v}* %b${i}, align 4
  %t${i} = add ${v} %s${i}, %x${i}`,
)}
  %next = add i64 %at, ${stride(lanes)}
  %more = icmp ult i64 %next, %bytes
  br i1 %more, label %loop, label %done
done:
${reduction("i32", "add", streams, lanes)}
}
`;
}

/** a = a * x + y in many independent chains. */
function fmaLoop(lanes: number, fused: boolean): string {
  const v = `<${lanes} x float>`;
  const step = fused
    ? (i: number) => `  %t${i} = call ${v} @llvm.fma.v${lanes}f32(${v} %s${i}, ${v} %x, ${v} %y)`
    : (i: number) => `  %m${i} = fmul ${v} %s${i}, %x\n  %t${i} = fadd ${v} %m${i}, %y`;
  return `
${fused ? `declare ${v} @llvm.fma.v${lanes}f32(${v}, ${v}, ${v})` : ""}
define i32 @culm_fma(i8* %p, i64 %rounds) {
entry:
  %q = bitcast i8* %p to ${v}*
  %x = load ${v}, ${v}* %q, align 4
  %y = fadd ${v} %x, %x
  br label %loop
loop:
  %at = phi i64 [ 0, %entry ], [ %next, %loop ]
${each(accumulators, (i) => `  %s${i} = phi ${v} [ %x, %entry ], [ %t${i}, %loop ]`)}
${each(accumulators, step)}
  %next = add i64 %at, 1
  %more = icmp ult i64 %next, %rounds
  br i1 %more, label %loop, label %done
done:
${each(accumulators, (i) => `  %c${i} = bitcast ${v} %t${i} to <${lanes} x i32>`)}
${reduction("i32", "xor", accumulators, lanes, "c")}
}
`;
}

/** All lanes of all accumulators in one word, so that nothing can be left out as unused. */
function reduction(type: string, operation: string, count: number, lanes: number, name = "t"): string {
  const v = `<${lanes} x ${type}>`;
  const lines = [`  %r0 = ${operation} ${v} %${name}0, zeroinitializer`];
  for (let i = 1; i < count; i += 1) lines.push(`  %r${i} = ${operation} ${v} %r${i - 1}, %${name}${i}`);
  lines.push(`  %e0 = extractelement ${v} %r${count - 1}, i32 0`);
  for (let i = 1; i < lanes; i += 1)
    lines.push(`  %l${i} = extractelement ${v} %r${count - 1}, i32 ${i}`, `  %e${i} = ${operation} ${type} %e${i - 1}, %l${i}`);
  return `${lines.join("\n")}\n  ret ${type} %e${lanes - 1}`;
}
