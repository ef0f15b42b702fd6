import { writeArchive } from "../../../ffi/archive.ts";
import type { Llvm } from "../../../ffi/libllvm.ts";
import { loadLlvm } from "../../../ffi/libllvm.ts";
import { compileAll } from "../../../ffi/object-cache.ts";
import type { DeviceBuffer, KernelModule, StepList } from "../../driver.ts";
import type { CpuDevice } from "./device.ts";

/**
 * What this machine can do at best, on the same threads that run the kernels: how fast memory is read from end to end, and how fast fused
 * multiply-adds go when nothing else is done. Speeds are given as shares of these, measured in the same run, since machines are shared.
 */
export interface Ceilings {
  /** One measurement; GB/s. */
  readBandwidth(): Promise<number>;
  /** One measurement; GFLOP/s in f32. */
  fmaRate(): Promise<number>;
  free(): void;
}

/** Vectors that a loop has under way at a time: enough to hide the latency of the multiply-add. */
const CHAINS = 12;
/** Work of one block. */
const FMA_ROUNDS = 20_000;
const READ_BYTES = 4 << 20;

export async function openCeilings(device: CpuDevice, megabytes = 512): Promise<Ceilings> {
  const llvm = loadLlvm();
  const lanes = lanesOf(llvm);
  const options = { name: "ceilings", passes: null, level: 2 };
  const { objects } = await compileAll(llvm, [{ text: text(lanes, llvm), target: llvm.host, options }]);
  const module: KernelModule = await device.load(writeArchive([{ name: "ceilings.o", data: objects[0]! }]));
  const blocks = Math.max(device.workers, Math.floor((megabytes << 20) / READ_BYTES));
  const fmaBlocks = 16 * device.workers;
  const source = device.alloc(blocks * READ_BYTES, "weights");
  // Written, or every page would be the one page of zeros, and come from the cache.
  source.host?.fill(1);
  const sums = device.alloc(Math.max(blocks, fmaBlocks) * 256, "io");
  const list = (entry: string, grid: number, buffers: readonly DeviceBuffer[]): StepList => {
    const args = buffers.map((buffer) => ({ buffer, offset: 0 }));
    const made = device.prepare([{ kernel: module.kernel(entry), args, symbols: [], sharedBytes: 0 }], []);
    made.grids.set([grid, 1, 1]);
    return made;
  };
  const read = list("culm_read", blocks, [source, sums]);
  const fma = list("culm_fma", fmaBlocks, [source, sums]);
  const nanoseconds = async (steps: StepList): Promise<number> => (await steps.runTimed())[0]!;
  return {
    readBandwidth: async () => (blocks * READ_BYTES) / (await nanoseconds(read)),
    fmaRate: async () => (fmaBlocks * FMA_ROUNDS * CHAINS * lanes * 2) / (await nanoseconds(fma)),
    free: () => {
      for (const x of [read, fma, source, sums, module]) x.free();
    },
  };
}

function lanesOf(llvm: Llvm): number {
  const features = new Set(llvm.host.features.split(","));
  return features.has("+avx512f") ? 16 : features.has("+avx2") ? 8 : 4;
}

/** Kernels in the form that the driver calls, with two arguments: what to read, and where each block leaves a result so that its work is not dropped. */
function text(lanes: number, llvm: Llvm): string {
  const [F, I] = [`<${lanes} x float>`, `<${lanes} x i32>`];
  const fused = process.arch === "arm64" || llvm.host.features.split(",").includes("+fma");
  const chains = Array.from({ length: CHAINS }, (_, j) => j);
  const attributes = `nounwind "prefer-vector-width"="${lanes * 32}" "min-legal-vector-width"="${lanes * 32}"`;
  const head = (name: string): string => `
define void @${name}(i8** %args, i32* %symbols, i32 %bx, i32 %by, i32 %bz, i8* %scratch) ${attributes} {
entry:
  %p1 = getelementptr inbounds i8*, i8** %args, i64 1
  %in = load i8*, i8** %args, align 8
  %out = load i8*, i8** %p1, align 8
  %b = sext i32 %bx to i64
  %result.at = mul i64 %b, 256
  %result = getelementptr inbounds i8, i8* %out, i64 %result.at`;
  const multiply = (j: number): string =>
    fused
      ? `  %n${j} = call ${F} @llvm.fma.v${lanes}f32(${F} %x, ${F} %a${j}, ${F} %x)`
      : `  %m${j} = fmul ${F} %x, %a${j}\n  %n${j} = fadd ${F} %m${j}, %x`;
  const vectors = 8;
  const loads = Array.from({ length: vectors }, (_, j) => j);
  return `
declare ${F} @llvm.fma.v${lanes}f32(${F}, ${F}, ${F})
${head("culm_fma")}
  %xp = bitcast i8* %in to ${F}*
  %x = load ${F}, ${F}* %xp, align 64
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
${chains.map((j) => `  %a${j} = phi ${F} [ zeroinitializer, %entry ], [ %n${j}, %loop ]`).join("\n")}
${chains.map(multiply).join("\n")}
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, ${FMA_ROUNDS}
  br i1 %more, label %loop, label %end
end:
  %rp = bitcast i8* %result to ${F}*
${chains.map((j) => `  store volatile ${F} %n${j}, ${F}* %rp, align 64`).join("\n")}
  ret void
}
${head("culm_read")}
  %from.at = mul i64 %b, ${READ_BYTES}
  %from8 = getelementptr inbounds i8, i8* %in, i64 %from.at
  %from = bitcast i8* %from8 to ${I}*
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
${loads.map((j) => `  %a${j} = phi ${I} [ zeroinitializer, %entry ], [ %n${j}, %loop ]`).join("\n")}
${loads
  .map(
    (j) => `  %i${j} = add i64 %i, ${j}
  %p${j}x = getelementptr inbounds ${I}, ${I}* %from, i64 %i${j}
  %v${j} = load ${I}, ${I}* %p${j}x, align 64
  %n${j} = add ${I} %a${j}, %v${j}`,
  )
  .join("\n")}
  %i.next = add i64 %i, ${vectors}
  %more = icmp ult i64 %i.next, ${READ_BYTES / (lanes * 4)}
  br i1 %more, label %loop, label %end
end:
  %rp = bitcast i8* %result to ${I}*
${loads.map((j) => `  store volatile ${I} %n${j}, ${I}* %rp, align 64`).join("\n")}
  ret void
}
`;
}
