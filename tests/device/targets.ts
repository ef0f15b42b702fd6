import { capsFor, cudaBackend } from "../../backends/cuda/index.ts";
import { llvmBackend } from "../../backends/llvm/index.ts";
import { parseTarget } from "../../backends/cuda/caps.ts";
import type { Backend, Caps, MatrixUnit } from "../../compiler/backend.ts";
import type { Device } from "../../runtime/driver.ts";
import { cpu } from "../../runtime/drivers/cpu/device.ts";
import { cuda } from "../../runtime/drivers/cuda/device.ts";
import type { CudaDriver } from "../../runtime/drivers/cuda/device.ts";
import type { Target } from "../conformance/backends.ts";
import { COARSE } from "../conformance/coarse.ts";
import { DeviceRunner } from "../support/device-run.ts";

/** What a machine's backend is tried with, by what tells the targets apart. */
export type DeviceTargets = Readonly<Record<string, Target>>;

/** The device is opened by the first test that needs it. */
function target(backend: Backend, caps: Caps, open: () => Promise<Device>, share: number, coarse: number): Target {
  let runner: Promise<DeviceRunner> | undefined;
  return {
    caps,
    share,
    coarse,
    run: async (program, _, buffers, symbols) => {
      runner ??= open().then((device) => new DeviceRunner(device, backend, caps));
      await (await runner).run(program, buffers, symbols);
    },
  };
}

/**
 * Once with the units that compute in f32 alone, to the last digits, once with all, which round operands to 16 bits, once with those of f32 of a target for tf32, and once with
 * those that this architecture alone has in place of those that others have too, so that they get all products that they can compute.
 */
function cudaTargets(): DeviceTargets {
  const driver = cuda();
  const facts = driver.facts();
  const names = capsFor(facts);
  const name = names.find((n) => !isOwn(n));
  const own = names.find(isOwn);
  if (name === undefined) throw new Error(`${facts.name} is of no architecture that there are kernels for`);
  const all = cudaBackend.caps(name);
  const takesF32 = ({ inputs }: MatrixUnit): boolean => inputs.includes("f32");
  const rounding = cudaBackend.caps(`${names[0]!}-tf32`);
  const openFor =
    ({ requires }: Caps) =>
    (): Promise<Device> =>
      driver.open({ requires });
  return {
    "units of f32": target(cudaBackend, { ...all, units: all.units.filter(takesF32) }, openFor(all), 0.25, 0),
    "all units": target(cudaBackend, all, openFor(all), 0.25, COARSE.half),
    "units of tf32": target(cudaBackend, { ...rounding, units: rounding.units.filter(takesF32) }, openFor(rounding), 0.25, COARSE.tf32),
    ...(own === undefined ? {} : { "units of its own": ownTarget(cudaBackend.caps(own), driver) }),
  };
}

const isOwn = (name: string): boolean => parseTarget(name).own;

function ownTarget(all: Caps, driver: CudaDriver): Target {
  const units = all.units.filter((u) => u.inputs.includes("f32") || u.asynchronous !== undefined);
  const open = (): Promise<Device> => driver.open({ requires: all.requires });
  return { ...target(cudaBackend, { ...all, units }, open, 0.25, COARSE.half), products: { rows: 300, columns: 600 } };
}

const llvmTargets = (): DeviceTargets => ({
  host: target(llvmBackend, llvmBackend.caps("host"), () => cpu.open({ threads: 2 }), 0.1, 0),
});

/** By the name of a backend, as openCausalLM takes it. @throws Error for one that there is not, and what the driver says where there is no device */
export function deviceTargets(backend: string): DeviceTargets {
  switch (backend) {
    case "cuda":
      return cudaTargets();
    case "llvm":
      return llvmTargets();
    default:
      throw new Error(`--backend ${backend}: there are cuda and llvm`);
  }
}
