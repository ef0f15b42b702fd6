import "./patient-dawn.ts";
import { create, globals } from "webgpu";
import { skipsEngines, useLavapipe } from "../../scripts/engines.mjs";

/** False only where CULM_SKIP_GPU_TESTS=1 says so: `describe.skipIf(!lavapipeAvailable)`. Where lavapipe is just missing, its tests fail. */
export const lavapipeAvailable = !skipsEngines;

/** One for each list of switches, in each process: Dawn loads a driver once, and each test file is a process of its own. */
const opened = new Map<string, GPU>();

function dawn(switches: readonly string[]): GPU {
  const key = switches.join(" ");
  const gpu = opened.get(key) ?? create([...switches]);
  opened.set(key, gpu);
  Object.assign(globalThis, globals); // GPUBufferUsage and its like, as in a browser
  return gpu;
}

/** Switches of Dawn by name: https://dawn.googlesource.com/dawn/+/HEAD/src/dawn/native/Toggles.cpp */
export interface DawnOptions {
  readonly enable?: readonly string[];
  readonly disable?: readonly string[];
}

function switchesOf({ enable = [], disable = [] }: DawnOptions): string[] {
  return [
    ...(enable.length > 0 ? [`enable-dawn-features=${enable.join(",")}`] : []),
    ...(disable.length > 0 ? [`disable-dawn-features=${disable.join(",")}`] : []),
  ];
}

/**
 * Dawn without a device: shaders, pipelines, bindings and limits are validated as they are for real, and nothing runs. Its adapter has every
 * feature, subgroup matrices with `enable: ["allow_unsafe_apis"]`.
 */
export function nullGpu(options: DawnOptions = {}): GPU {
  return dawn(["backend=null", ...switchesOf(options)]);
}

/**
 * Vulkan on the CPU: subgroups of 8 lanes, shader-f16, timestamp-query, bindings of 128 MiB. Timestamps are multiples of 65.5 us unless
 * "timestamp_quantization" is disabled.
 * @throws SetupError when it is not there, with what to do
 */
export function lavapipe(options: DawnOptions = {}): GPU {
  useLavapipe();
  return dawn(["backend=vulkan", ...switchesOf(options)]);
}
