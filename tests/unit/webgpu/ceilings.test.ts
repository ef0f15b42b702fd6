import { describe, expect, test } from "vitest";
import { openGpuCeilings } from "../../../runtime/drivers/webgpu/ceilings.ts";
import { webgpu } from "../../../runtime/drivers/webgpu/device.ts";
import { lavapipe, lavapipeAvailable } from "../../support/webgpu.ts";

describe.skipIf(!lavapipeAvailable)("what a GPU can do", () => {
  test("is measured with kernels of the driver's own, which leave nothing behind", async () => {
    const device = await webgpu(lavapipe({ disable: ["timestamp_quantization"] })).open();
    const ceilings = await openGpuCeilings(device, 8);
    // A software renderer on some cores: more than nothing, and less than a GPU.
    for (const [rate, most] of [
      [await ceilings.copyBandwidth(), 1000],
      [await ceilings.readBandwidth(), 1000],
      [await ceilings.fmaRate(), 20_000],
    ] as const) {
      expect(rate).toBeGreaterThan(0);
      expect(rate).toBeLessThan(most);
    }
    ceilings.free();
    // Whatever the GPU found wrong with them would come out here.
    await device.alloc(16, "io").read();
    await device.close();
  }, 120_000);
});
