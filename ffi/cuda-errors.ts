/** CUresult, those that somebody looks for. */
export const CODES = {
  invalidValue: 1,
  outOfMemory: 2,
  noDevice: 100,
  invalidImage: 200,
  noBinary: 209,
  ecc: 214,
  invalidPtx: 218,
  nvlink: 220,
  unsupportedPtx: 222,
  contained: 226,
  notFound: 500,
  notReady: 600,
  illegalAddress: 700,
  launchOutOfResources: 701,
  launchTimeout: 702,
  contextIsDestroyed: 709,
  assert: 710,
  hardwareStack: 714,
  illegalInstruction: 715,
  misalignedAddress: 716,
  invalidAddressSpace: 717,
  invalidPc: 718,
  launchFailed: 719,
  tensorMemoryLeak: 721,
  externalDevice: 911,
  unknown: 999,
} as const;

/** A call of the CUDA driver failed. */
export class CudaError extends Error {
  override readonly name = "CudaError";
  readonly code: number;
  /** The driver's function: "cuMemAlloc_v2". */
  readonly call: string;

  /** @param codeName and `text` are the driver's own: "CUDA_ERROR_OUT_OF_MEMORY", "out of memory" */
  constructor(call: string, code: number, codeName: string, text: string) {
    super(`${call}: ${codeName} (${code}): ${text}`);
    this.code = code;
    this.call = call;
  }
}

/** There is no CUDA driver, or none that can be used: for the user to mend. Its name tells the command line to print it without a stack. */
export class CudaMissing extends Error {
  override readonly name = "UserError";
  readonly hint: string;
  constructor(message: string, hint: string) {
    super(message);
    this.hint = hint;
  }
}
