import type { Library, Memory, Pointer, Signature } from "./native.ts";
import { background, bind, firstLibrary, pointerIn } from "./native.ts";

/**
 * NVRTC, the CUDA C++ compiler as a library: text in, a cubin out, no toolkit or device needed. Versions 12 and 13 are used through the same calls.
 */
type Program = Pointer<"nvrtcProgram">;

interface Api {
  readonly version: (outMajor: Int32Array, outMinor: Int32Array) => number;
  readonly create: (out: BigUint64Array, text: string, name: string, headers: number, headerTexts: Memory, headerNames: Memory) => number;
  readonly compile: (program: Program, count: number, options: readonly string[]) => number;
  readonly cubinSize: (program: Program, out: BigUint64Array) => number;
  readonly cubin: (program: Program, out: Uint8Array) => number;
  readonly logSize: (program: Program, out: BigUint64Array) => number;
  readonly log: (program: Program, out: Uint8Array) => number;
  readonly destroy: (inout: BigUint64Array) => number;
  readonly errorText: (result: number) => string;
}

const API: { readonly [K in keyof Api]: Signature } = {
  version: ["int", "nvrtcVersion", ["void *", "void *"]],
  create: ["int", "nvrtcCreateProgram", ["void *", "str", "str", "int", "void *", "void *"]],
  compile: ["int", "nvrtcCompileProgram", ["void *", "int", "const char **"]],
  cubinSize: ["int", "nvrtcGetCUBINSize", ["void *", "void *"]],
  cubin: ["int", "nvrtcGetCUBIN", ["void *", "void *"]],
  logSize: ["int", "nvrtcGetProgramLogSize", ["void *", "void *"]],
  log: ["int", "nvrtcGetProgramLog", ["void *", "void *"]],
  destroy: ["int", "nvrtcDestroyProgram", ["void *"]],
  errorText: ["str", "nvrtcGetErrorString", ["int"]],
};

/** What a compilation gives: the device's binary, and what compiler and assembler said on the way. */
export interface Cubin {
  readonly binary: Uint8Array;
  readonly log: string;
}

export interface Nvrtc {
  /** Soname or path of the library in use. */
  readonly path: string;
  /** "13.0" */
  readonly version: string;
  /** CUDA C++ to a cubin, on a worker thread, so that programs compile side by side. `name` stands in messages. Throws NvrtcError. */
  compileInBackground(text: string, name: string, options: readonly string[]): Promise<Cubin>;
}

/** NVRTC refused something that this compiler gave it. The message is NVRTC's own. */
export class NvrtcError extends Error {
  override readonly name = "NvrtcError";
}

/** There is no NVRTC: for the user to mend. Its name tells the command line to print it without a stack. */
export class NvrtcMissing extends Error {
  override readonly name = "UserError";
  readonly hint: string;
  constructor(tried: readonly string[]) {
    const hint =
      "it comes with the CUDA toolkit 12 or 13 (Debian and Ubuntu: cuda-nvrtc-13-0; pip: nvidia-cuda-nvrtc); set CULM_NVRTC to the path of the library where it lies elsewhere";
    super(`libnvrtc, which compiles kernels for CUDA, was not found; tried ${tried.join(", ")}; ${hint}`);
    this.hint = hint;
  }
}

const NAMES = process.platform === "win32" ? ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"] : ["libnvrtc.so.13", "libnvrtc.so.12"];
const TOOLKIT = ["/usr/local/cuda/targets/x86_64-linux/lib", "/usr/local/cuda/targets/sbsa-linux/lib", "/usr/local/cuda/lib64"];

/** Where to look, in order: the path that is asked for and nowhere else, or by name, then in the toolkit's directories. */
export function candidates(wanted: string | undefined): string[] {
  if (wanted !== undefined && wanted !== "") return [wanted];
  return process.platform === "win32" ? NAMES : [...NAMES, ...TOOLKIT.flatMap((d) => NAMES.map((name) => `${d}/${name}`))];
}

const loaded = new Map<string, Nvrtc>();

/** The newest NVRTC of this machine, or the one at `wanted` (default: environment variable CULM_NVRTC). Throws NvrtcMissing. */
export function loadNvrtc(wanted: string | undefined = process.env["CULM_NVRTC"]): Nvrtc {
  const key = wanted ?? "";
  const known = loaded.get(key);
  if (known) return known;
  const names = candidates(wanted);
  // cubins came with 11.1
  const library = firstLibrary(names, "nvrtcGetCUBIN");
  if (!library) throw new NvrtcMissing(names);
  const nvrtc = wrap(library);
  loaded.set(key, nvrtc);
  return nvrtc;
}

function wrap(library: Library): Nvrtc {
  const api = bind<Api>(library, API);
  const [major, minor] = [new Int32Array(1), new Int32Array(1)];
  checked(api, api.version(major, minor), "nvrtcVersion");
  return {
    path: library.path,
    version: `${major[0]!}.${minor[0]!}`,
    compileInBackground: (text, name, options) => compile(api, text, name, options),
  };
}

function checked(api: Api, result: number, what: string): void {
  if (result !== 0) throw new NvrtcError(`${what}: ${api.errorText(result)} (${result})`);
}

async function compile(api: Api, text: string, name: string, options: readonly string[]): Promise<Cubin> {
  const handle = new BigUint64Array(1);
  checked(api, api.create(handle, text, `${name}.cu`, 0, null, null), `${name}: nvrtcCreateProgram`);
  const program = pointerIn<"nvrtcProgram">(handle);
  try {
    const result = await background(api.compile, program, options.length, options);
    const log = logOf(api, program, name);
    if (result !== 0) throw new NvrtcError(`${name}: ${api.errorText(result)} (${result})${log === "" ? "" : `\n${log}`}`);
    const size = new BigUint64Array(1);
    checked(api, api.cubinSize(program, size), `${name}: nvrtcGetCUBINSize`);
    if (size[0] === 0n) throw new NvrtcError(`${name}: NVRTC made no cubin; the options name no real architecture: ${options.join(" ")}`);
    const binary = new Uint8Array(Number(size[0]));
    checked(api, api.cubin(program, binary), `${name}: nvrtcGetCUBIN`);
    return { binary, log };
  } finally {
    api.destroy(handle);
  }
}

/** What was said, without the zero at its end. */
function logOf(api: Api, program: Program, name: string): string {
  const size = new BigUint64Array(1);
  checked(api, api.logSize(program, size), `${name}: nvrtcGetProgramLogSize`);
  const bytes = new Uint8Array(Math.max(1, Number(size[0])));
  checked(api, api.log(program, bytes), `${name}: nvrtcGetProgramLog`);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0) < 0 ? bytes.length : bytes.indexOf(0))).trim();
}
