import { COMPUTE_STAGE, USAGE } from "./constants.ts";
import type { Work } from "./work.ts";

/**
 * Copies of any bytes. WebGPU copies words, between different buffers; a row of a 16-bit state may begin in the middle of a word, and rows change places
 * within a buffer. Words go the API's way, through a buffer in between where both ends are one; all else through the kernel below.
 */
export interface ByteCopier {
  copy(to: GPUBuffer, toOffset: number, from: GPUBuffer, fromOffset: number, bytes: number): void;
  /** Less than a word. */
  write(to: GPUBuffer, offset: number, data: Uint8Array): void;
}

const workgroup = 64;
/** Bytes of one launch, within the limit of groups along an axis, and of the buffer in between. */
const most = 8 << 20;

/** One invocation for each word of the target, which keeps the bytes that are not meant. */
const kernel = /* wgsl */ `
struct Range { to: u32, origin: u32, bytes: u32, unused: u32 }
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
@group(0) @binding(2) var<uniform> range: Range;

@compute @workgroup_size(${workgroup})
fn copy_bytes(@builtin(global_invocation_id) id: vec3u) {
  let word = range.to / 4u + id.x;
  let end = range.to + range.bytes;
  if (word * 4u >= end) { return; }
  var value = result[word];
  for (var lane = 0u; lane < 4u; lane++) {
    let at = word * 4u + lane;
    if (at < range.to || at >= end) { continue; }
    let origin = at - range.to + range.origin;
    let byte = (source[origin / 4u] >> (8u * (origin % 4u))) & 255u;
    value = (value & ~(255u << (8u * lane))) | (byte << (8u * lane));
  }
  result[word] = value;
}`;

export function byteCopier(work: Work): ByteCopier {
  const { gpu } = work;
  let between: GPUBuffer | null = null;
  let made: { readonly pipeline: GPUComputePipeline; readonly layout: GPUBindGroupLayout } | null = null;

  const buffer = (bytes: number): GPUBuffer => {
    if (between === null || between.size < bytes) {
      // What was recorded still reads the old one.
      work.submit();
      between?.destroy();
      between = work.create(2 ** Math.ceil(Math.log2(Math.max(4096, bytes))), USAGE.storage | USAGE.copySrc | USAGE.copyDst);
    }
    return between;
  };

  const makeKernel = (): NonNullable<typeof made> => {
    const entry = (binding: number, type: GPUBufferBindingType): GPUBindGroupLayoutEntry => ({
      binding,
      visibility: COMPUTE_STAGE,
      buffer: { type },
    });
    const layout = gpu.createBindGroupLayout({ entries: [entry(0, "read-only-storage"), entry(1, "storage"), entry(2, "uniform")] });
    work.counts.pipelines += 1;
    const pipeline = gpu.createComputePipeline({
      layout: gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: gpu.createShaderModule({ code: kernel }), entryPoint: "copy_bytes" },
    });
    return { pipeline, layout };
  };

  /** From another buffer than `to`. */
  const launch = (to: GPUBuffer, toOffset: number, from: GPUBuffer, fromOffset: number, bytes: number): void => {
    made ??= makeKernel();
    work.counts.buffers += 1;
    const range = gpu.createBuffer({ size: 16, usage: USAGE.uniform, mappedAtCreation: true });
    new Uint32Array(range.getMappedRange()).set([toOffset, fromOffset, bytes, 0]);
    range.unmap();
    const group = work.bindGroup(made.layout, [{ buffer: from }, { buffer: to }, { buffer: range }]);
    const pass = work.copying().beginComputePass();
    pass.setPipeline(made.pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(Math.ceil((bytes + 3) / 4 / workgroup) + 1);
    pass.end();
  };

  const words = (to: GPUBuffer, toOffset: number, from: GPUBuffer, fromOffset: number, bytes: number): void =>
    work.copying().copyBufferToBuffer(from, fromOffset, to, toOffset, bytes);

  const copyPart = (to: GPUBuffer, toOffset: number, from: GPUBuffer, fromOffset: number, bytes: number): void => {
    const whole = toOffset % 4 === 0 && fromOffset % 4 === 0 && bytes % 4 === 0;
    if (to !== from) (whole ? words : launch)(to, toOffset, from, fromOffset, bytes);
    else {
      const start = fromOffset - (fromOffset % 4);
      const span = Math.ceil((fromOffset + bytes - start) / 4) * 4;
      const middle = buffer(span);
      words(middle, 0, from, start, span);
      (whole ? words : launch)(to, toOffset, middle, fromOffset - start, bytes);
    }
  };

  return {
    copy(to, toOffset, from, fromOffset, bytes) {
      for (let done = 0; done < bytes; done += most) copyPart(to, toOffset + done, from, fromOffset + done, Math.min(most, bytes - done));
    },
    write(to, offset, data) {
      const word = new Uint8Array(4);
      word.set(data);
      const middle = buffer(4);
      work.write(middle, 0, word);
      launch(to, offset, middle, 0, data.length);
    },
  };
}
