import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../errors.ts";
import type { WebgpuDriver } from "./device.ts";
import { webgpu } from "./device.ts";

/**
 * WebGPU in Node: Dawn, Chrome's implementation, from the optional package `webgpu`. CULM_DAWN has names of Dawn's toggles to enable, with commas
 * between them, such as "allow_unsafe_apis,vulkan_enable_f16_on_nvidia".
 * @throws UserError when the package is not there or does not load.
 */
export async function nodeWebgpu(): Promise<WebgpuDriver> {
  const { create } = await loadDawn();
  const toggles = process.env["CULM_DAWN"] ?? "";
  if (!/^[\w,]*$/.test(toggles))
    throw new UserError(`CULM_DAWN: expected names of Dawn toggles with commas between them, got ${JSON.stringify(toggles)}`);
  const options = [
    // A page must not have an exact clock; a program that measures itself should.
    "disable-dawn-features=timestamp_quantization",
    ...(toggles === "" ? [] : [`enable-dawn-features=${toggles}`]),
  ];
  return webgpu(create(options), noAdapterHint());
}

async function loadDawn(): Promise<typeof import("webgpu")> {
  try {
    return await import("webgpu");
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    if (code === "ERR_MODULE_NOT_FOUND")
      throw new UserError("WebGPU in Node needs the package webgpu, which is not installed", {
        cause,
        hint: "npm install webgpu (it is an optional dependency, which npm leaves out where it has no build for the system)",
      });
    throw new UserError(`the package webgpu does not load: ${cause instanceof Error ? cause.message.split("\n")[0]! : String(cause)}`, {
      cause,
      hint: `it has builds for Linux (x64, arm64; glibc 2.34 or later), macOS and Windows; this is ${process.platform} ${process.arch}`,
    });
  }
}

/** Where a Vulkan loader looks for drivers on Linux. */
const driverFolders = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

/** What was tried, and what is likely to help. */
function noAdapterHint(): string {
  if (process.platform !== "linux") return "Dawn looked for a GPU through the system's own API; a graphics driver may be missing";
  const asked = process.env["VK_DRIVER_FILES"] ?? process.env["VK_ICD_FILENAMES"];
  const found = driverFolders.flatMap((folder) => (existsSync(folder) ? readdirSync(folder).map((file) => join(folder, file)) : []));
  const tried =
    asked !== undefined
      ? `Vulkan was told to use ${asked} (VK_DRIVER_FILES, VK_ICD_FILENAMES)`
      : found.length === 0
        ? "there is no Vulkan driver on this machine"
        : `Vulkan has ${found.join(", ")}`;
  return `${tried}. Install the GPU's Vulkan driver and libvulkan1, or, to run on the processor, Mesa's lavapipe 24 or later (mesa-vulkan-drivers) and name its lvp_icd.json in VK_ICD_FILENAMES`;
}
