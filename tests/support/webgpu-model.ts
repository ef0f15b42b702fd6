import "./patient-dawn.ts";
import { globals } from "webgpu";
import { openCausalLM } from "../../models/auto/index.ts";
import type { BambaForCausalLM, LoadOptions } from "../../models/auto/index.ts";
import { useLavapipe } from "../../scripts/engines.mjs";

/** Opens a model on lavapipe, with vectors of four lanes: Mesa compiles kernels for them in less than half the time, which is what such tests spend. */
export function openOnLavapipe(
  folder: string,
  target: "base" | "base-sg4" | "base-sg4-f16",
  options: LoadOptions = {},
): Promise<BambaForCausalLM> {
  useLavapipe();
  process.env["LP_NATIVE_VECTOR_WIDTH"] = "128"; // read when the driver is loaded, once a process
  return openCausalLM(folder, { ...options, backend: "webgpu", target });
}

/** Every WebGPU device that is opened from now on, so that a test can take one away. */
export function watchDevices(): readonly GPUDevice[] {
  const { GPUAdapter } = globals as unknown as { readonly GPUAdapter: { readonly prototype: GPUAdapter } };
  const devices: GPUDevice[] = [];
  const open = Object.getOwnPropertyDescriptor(GPUAdapter.prototype, "requestDevice")!.value as GPUAdapter["requestDevice"];
  GPUAdapter.prototype.requestDevice = async function (this: GPUAdapter, descriptor) {
    const device = await open.call(this, descriptor);
    devices.push(device);
    return device;
  };
  return devices;
}
