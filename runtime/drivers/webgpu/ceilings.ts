import type { DeviceBuffer, StepList } from "../../driver.ts";
import type { WebgpuDevice } from "./device.ts";
import type { KernelsFile, WgslKernel } from "./kernels-file.ts";

/**
 * What this GPU can do at best, through WebGPU: how fast it copies and reads memory from end to end, and how fast fused multiply-adds go when nothing
 * else is done. Speeds are given as shares of these, measured in the same run.
 */
export interface GpuCeilings {
  /** One measurement; GB/s, bytes read and bytes written counted. */
  copyBandwidth(): Promise<number>;
  /** One measurement; GB/s. */
  readBandwidth(): Promise<number>;
  /** One measurement; GFLOP/s in f32. */
  fmaRate(): Promise<number>;
  free(): void;
}

const THREADS = 256;
/** Vectors of 16 bytes that a thread of the reading kernel has under way. */
const READS = 4;
/** Independent multiply-adds that a thread has under way at a time: enough to hide their latency. */
const CHAINS = 16;
const ROUNDS = 512;
/** Blocks of the arithmetic kernel: some dozens for each core of a large GPU. */
const FMA_BLOCKS = 4096;
/** Blocks along x; the others along y, since an axis has up to 65535. */
const ROW = 32768;

/** @param megabytes of each of the two buffers, at most; a device's caches should hold little of it */
export async function openGpuCeilings(device: WebgpuDevice, megabytes = 1024): Promise<GpuCeilings> {
  const window = device.gpu.limits.maxStorageBufferBindingSize;
  const block = THREADS * READS * 16;
  const blocks = Math.floor(Math.min(window, megabytes * 2 ** 20) / block);
  const bytes = blocks * block;
  const kernels = [fillKernel(blocks * READS), copyKernel(blocks * READS), readKernel(blocks), fmaKernel];
  const file: KernelsFile = { format: "culm-wgsl", version: 1, windowBytes: window, kernels };
  const module = await device.load(new TextEncoder().encode(JSON.stringify(file)));
  const [from, to] = [device.alloc(bytes, "io"), device.alloc(bytes, "io")];
  const list = (entry: string, count: number, buffers: readonly DeviceBuffer[]): StepList => {
    const args = buffers.map((buffer) => ({ buffer, offset: 0 }));
    const made = device.prepare([{ kernel: module.kernel(entry), args, symbols: [], sharedBytes: 0 }], []);
    made.grids.set([Math.min(count, ROW), Math.ceil(count / ROW), 1]);
    return made;
  };
  const fill = list("culm_fill", blocks * READS, [from]);
  const copy = list("culm_copy", blocks * READS, [from, to]);
  const read = list("culm_read", blocks, [from, to]);
  const fma = list("culm_fma", FMA_BLOCKS, [to]);
  await device.ready();
  // Memory that was never written may be read without being there.
  await fill.run();
  const nanoseconds = async (steps: StepList): Promise<number> => (await steps.runTimed())[0]!;
  return {
    copyBandwidth: async () => (2 * bytes) / (await nanoseconds(copy)),
    readBandwidth: async () => bytes / (await nanoseconds(read)),
    fmaRate: async () => (FMA_BLOCKS * THREADS * ROUNDS * CHAINS * 2) / (await nanoseconds(fma)),
    free: () => {
      for (const x of [fill, copy, read, fma, from, to, module]) x.free();
    },
  };
}

/** A kernel whose block is number `block` of `blocks`, its thread number `thread`. */
function kernel(entry: string, access: readonly ("read" | "readwrite")[], blocks: number, body: string): WgslKernel {
  const bindings = access.map(
    (how, i) => `@group(0) @binding(${i}) var<storage, ${how === "read" ? "read" : "read_write"}> b${i}: array<vec4<u32>>;\n`,
  );
  const source = `${bindings.join("")}
@compute @workgroup_size(${THREADS})
fn ${entry}(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let block = group.y * ${ROW}u + group.x;
  if (block >= ${blocks}u) { return; }
${body}
}
`;
  return { entry, source, threads: THREADS, params: access.map((how) => ({ access: how, windows: 1 })), symbols: 0 };
}

const each = (count: number, text: (i: number) => string, between = "\n"): string =>
  Array.from({ length: count }, (_, i) => text(i)).join(between);

const fillKernel = (blocks: number): WgslKernel =>
  kernel(
    "culm_fill",
    ["readwrite"],
    blocks,
    `  let i = block * ${THREADS}u + thread;
  b0[i] = vec4<u32>(i, i * 2654435761u, i ^ 2246822519u, i * 3266489917u);`,
  );

const copyKernel = (blocks: number): WgslKernel =>
  kernel("culm_copy", ["read", "readwrite"], blocks, `  let i = block * ${THREADS}u + thread;\n  b1[i] = b0[i];`);

/** The result is stored in a case that does not happen, which the compiler does not know. */
const readKernel = (blocks: number): WgslKernel =>
  kernel(
    "culm_read",
    ["read", "readwrite"],
    blocks,
    `  let i = block * ${THREADS * READS}u + thread;
${each(READS, (j) => `  let v${j} = b0[i + ${j * THREADS}u];`)}
  let all = ${each(READS, (j) => `v${j}`, " & ")};
  if ((all.x & all.y & all.z & all.w) == 0xffffffffu) { b1[block] = all; }`,
  );

const fmaKernel: WgslKernel = kernel(
  "culm_fma",
  ["readwrite"],
  FMA_BLOCKS,
  `  let x = f32(thread) * 0.001;
${each(CHAINS, (j) => `  var a${j} = x + ${j}.0;`)}
  for (var i = 0u; i < ${ROUNDS}u; i++) {
${each(CHAINS, (j) => `    a${j} = fma(a${j}, x, 0.25);`)}
  }
  let sum = ${each(CHAINS, (j) => `a${j}`, " + ")};
  if (sum < 0.0) { b0[block] = vec4<u32>(bitcast<u32>(sum)); }`,
);
