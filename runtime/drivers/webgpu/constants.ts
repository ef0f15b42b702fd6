/**
 * Numbers of the WebGPU API (https://www.w3.org/TR/webgpu/, sections 5.1, 6.1 and 8). A page has them as globals; Dawn for Node has them in its package,
 * and a library does not write to globalThis.
 */
export const USAGE = { mapRead: 0x1, copySrc: 0x4, copyDst: 0x8, uniform: 0x40, storage: 0x80, queryResolve: 0x200 } as const;
export const MAP_READ = 0x1;
export const COMPUTE_STAGE = 0x4;

/** Limits that every adapter has at least, and that a device has unless it asks for more. */
export const DEFAULT_LIMITS = { maxBufferSize: 256 << 20, maxStorageBufferBindingSize: 128 << 20 } as const;

export const MAX_GROUPS = 65535;
