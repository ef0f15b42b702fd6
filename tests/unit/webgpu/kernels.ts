import type { KernelsFile, WgslKernel } from "../../../runtime/drivers/webgpu/kernels-file.ts";

/** A kernels.bin of kernels written by hand. */
export const kernelsFile = (kernels: readonly WgslKernel[], windowBytes = 128 << 20): Uint8Array =>
  new TextEncoder().encode(JSON.stringify({ format: "culm-wgsl", version: 1, windowBytes, kernels } satisfies KernelsFile));

const read = { access: "read", windows: 1 } as const;
const readwrite = { access: "readwrite", windows: 1 } as const;

/** y[i] = a[i] * scale + shift, of two symbols, 64 elements a workgroup. */
export const affine: WgslKernel = {
  entry: "affine",
  threads: 64,
  params: [read, readwrite],
  symbols: 2,
  source: `
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> symbols: array<vec4<i32>, 1>;
@compute @workgroup_size(64) fn affine(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < arrayLength(&y)) { y[id.x] = a[id.x] * f32(symbols[0].x) + f32(symbols[0].y); }
}`,
};

/** y[0] += 1: counts how often it ran. */
export const tick: WgslKernel = {
  entry: "tick",
  threads: 1,
  params: [readwrite],
  symbols: 0,
  source: `
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1) fn tick() { y[0] += 1u; }`,
};

/** sum[0] = the sum of all elements of a buffer in three windows of 64 words; sum[1] the last element of the last. */
export const windows: WgslKernel = {
  entry: "windows",
  threads: 1,
  params: [{ access: "read", windows: 3 }, readwrite],
  symbols: 0,
  source: `
@group(0) @binding(0) var<storage, read> a0: array<u32>;
@group(0) @binding(1) var<storage, read> a1: array<u32>;
@group(0) @binding(2) var<storage, read> a2: array<u32>;
@group(0) @binding(3) var<storage, read_write> sum: array<u32>;
@compute @workgroup_size(1) fn windows() {
  var total = 0u;
  for (var i = 0u; i < arrayLength(&a0); i++) { total += a0[i]; }
  for (var i = 0u; i < arrayLength(&a1); i++) { total += a1[i]; }
  for (var i = 0u; i < arrayLength(&a2); i++) { total += a2[i]; }
  sum[0] = total;
  sum[1] = a2[arrayLength(&a2) - 1u];
}`,
};
