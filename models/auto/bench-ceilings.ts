import type { Requirements } from "../../compiler/artifact.ts";

/** What a device can do at best, to measure a model against. */
export interface Ceilings {
  /** One measurement, bytes a second: memory read from end to end; on a GPU copied, bytes read and bytes written counted. */
  bandwidth(): Promise<number>;
  /** One measurement, floating-point operations a second: multiply-adds in f32. */
  flops(): Promise<number>;
  close(): Promise<void>;
}

/** On a device of their own, opened as the model's was. */
export function openCeilings(backend: string, requires: Requirements, threads: number | null): Promise<Ceilings> {
  return backend === "webgpu" ? gpuCeilings(requires) : cpuCeilings(threads);
}

async function cpuCeilings(threads: number | null): Promise<Ceilings> {
  const [{ cpu }, ceilings] = await Promise.all([
    import("../../runtime/drivers/cpu/device.ts"),
    import("../../runtime/drivers/cpu/ceilings.ts"),
  ]);
  const device = await cpu.open(threads === null ? {} : { threads });
  const measured = await ceilings.openCeilings(device);
  return {
    bandwidth: async () => (await measured.readBandwidth()) * GIGA,
    flops: async () => (await measured.fmaRate()) * GIGA,
    close: () => closeAll(measured, device),
  };
}

async function gpuCeilings(requires: Requirements): Promise<Ceilings> {
  const [{ nodeWebgpu }, { openGpuCeilings }] = await Promise.all([
    import("../../runtime/drivers/webgpu/node.ts"),
    import("../../runtime/drivers/webgpu/ceilings.ts"),
  ]);
  const driver = await nodeWebgpu();
  const device = await driver.open({ requires });
  const measured = await openGpuCeilings(device);
  return {
    bandwidth: async () => (await measured.copyBandwidth()) * GIGA,
    flops: async () => (await measured.fmaRate()) * GIGA,
    close: () => closeAll(measured, device),
  };
}

/** The drivers measure in thousands of millions. */
const GIGA = 1e9;

function closeAll(measured: { free(): void }, device: { close(): Promise<void> }): Promise<void> {
  measured.free();
  return device.close();
}
