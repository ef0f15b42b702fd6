import { CODES, CudaError } from "../../../ffi/cuda-errors.ts";
import { DeviceLostError, UserError } from "../../errors.ts";

/** What a kernel itself did, and not the machine. */
const BY_KERNEL: ReadonlySet<number> = new Set([
  CODES.illegalAddress,
  CODES.assert,
  CODES.hardwareStack,
  CODES.illegalInstruction,
  CODES.misalignedAddress,
  CODES.invalidAddressSpace,
  CODES.invalidPc,
  CODES.launchFailed,
  CODES.launchTimeout,
]);

/** After one of these the context does nothing any more, and answers every call with the same. */
const LOST: ReadonlySet<number> = new Set([
  ...BY_KERNEL,
  CODES.ecc,
  CODES.nvlink,
  CODES.contained,
  CODES.contextIsDestroyed,
  CODES.tensorMemoryLeak,
  CODES.externalDevice,
  CODES.unknown,
]);

/** Kernels that a message names; the rest is counted. */
const NAMED = 6;

/** "gemv_3, norm_1 and 7 more" */
export function listed(kernels: readonly string[]): string {
  const names = [...new Set(kernels)];
  const rest = names.length - NAMED;
  return rest > 0 ? `${names.slice(0, NAMED).join(", ")} and ${rest} more` : names.join(", ");
}

/** The first failure of a device, and whether the device is lost by it. */
export interface Fault {
  readonly error: Error;
  readonly lost: boolean;
}

/**
 * What an error of the driver means for the device.
 * @param device for messages
 * @param running kernels that may have caused it: one, or all that were under way
 */
export function faultOf(error: unknown, device: string, running: readonly string[]): Fault {
  if (!(error instanceof CudaError)) return { error: error instanceof Error ? error : new Error(String(error)), lost: false };
  const { code, message: said } = error;
  if (!LOST.has(code)) {
    const at = running.length === 1 ? ` at kernel ${running[0]!}` : "";
    if (code === CODES.outOfMemory) return { error: new RangeError(`${device}: ${said}`, { cause: error }), lost: false };
    return { error: new Error(`${device}: CUDA refused a call${at}: ${said}`, { cause: error }), lost: false };
  }
  const [first] = running;
  if (!BY_KERNEL.has(code) || first === undefined)
    return {
      error: new DeviceLostError(`${device}: the GPU was lost: ${said}`, {
        cause: error,
        hint: "start the program again; nvidia-smi and the system's log (dmesg, Xid) say more about the GPU",
      }),
      lost: true,
    };
  const found = running.length === 1;
  return {
    error: new DeviceLostError(
      found ? `${device}: kernel ${first} broke off: ${said}` : `${device}: a kernel broke off: ${said}; under way were ${listed(running)}`,
      {
        cause: error,
        hint: found
          ? "this is a bug of culm: a kernel's accesses are checked for every size that a model is compiled for"
          : "run it again with CULM_CUDA_SYNC=1 in the environment, which waits after each launch and so names the kernel",
      },
    ),
    lost: true,
  };
}

/** Why a device cannot be opened. What a kernel broke stays broken for the whole process, whatever is done with its contexts (seen with CUDA 13.0). */
export function openFault(error: unknown, device: string): unknown {
  if (!(error instanceof CudaError) || !LOST.has(error.code)) return error;
  return new DeviceLostError(
    `${device} cannot be opened: in this process a kernel broke off, or the GPU was lost, after which CUDA refuses it everything: ${error.message}`,
    { cause: error, hint: "start the program again" },
  );
}

/** Why the driver does not load kernels, for the user. @param what "kernels.bin: gemv.cubin" @param driver version, as text */
export function loadFault(error: unknown, what: string, device: string, driver: string): unknown {
  if (!(error instanceof CudaError)) return error;
  switch (error.code) {
    case CODES.unsupportedPtx:
    case CODES.invalidPtx:
      return new UserError(`${what} was made by a newer CUDA than ${device}'s driver (${driver}) knows: ${error.message}`, {
        cause: error,
        hint: "install a newer driver, or compile with the NVRTC of an older CUDA (CULM_NVRTC names one)",
      });
    case CODES.noBinary:
      return new UserError(`${what} has no code for ${device}: ${error.message}`, {
        cause: error,
        hint: "compile the model again on this machine, or for its architecture, such as --target cuda:sm_90",
      });
    case CODES.invalidImage:
      return new UserError(`${what} is no program that ${device}'s driver (${driver}) can read: ${error.message}`, {
        cause: error,
        hint: "fetch the artifact again, compile the model again (--no-cache), or install a newer driver",
      });
    default:
      return error;
  }
}
