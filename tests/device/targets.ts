import { capsFor, cudaBackend } from "../../backends/cuda/index.ts";
import { llvmBackend } from "../../backends/llvm/index.ts";
import type { Backend, Caps } from "../../compiler/backend.ts";
import type { Device } from "../../runtime/driver.ts";
import { cpu } from "../../runtime/drivers/cpu/device.ts";
import { cuda } from "../../runtime/drivers/cuda/device.ts";
import type { Target } from "../conformance/backends.ts";
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

/** Once with the units that compute in f32 alone, to the last digits, and once with all, which round operands to 16 bits. */
function cudaTargets(): DeviceTargets {
  const driver = cuda();
  const facts = driver.facts();
  const [name] = capsFor(facts);
  if (name === undefined) throw new Error(`${facts.name} is of no architecture that there are kernels for`);
  const all = cudaBackend.caps(name);
  const exact = all.units.filter(({ inputs }) => inputs.includes("f32"));
  const open = (): Promise<Device> => driver.open({ requires: all.requires });
  return {
    "units of f32": target(cudaBackend, { ...all, units: exact }, open, 0.25, 0),
    "all units": target(cudaBackend, all, open, 0.25, 0.1),
  };
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
