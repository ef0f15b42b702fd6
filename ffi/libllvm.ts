import type { Library, Memory, Pointer, Signature } from "./native.ts";
import { asPointer, background, bind, firstLibrary, hasSymbol, pointerIn, stringAt, viewAt } from "./native.ts";

/**
 * libLLVM through its C API: IR text in, machine code out, no compiler or linker needed. LLVM 14 to 22 are used through the same calls, and take the
 * same IR text when pointers are spelled with types (`float*`): 14 does not know `ptr` by default, later versions accept both.
 */
type Context = Pointer<"LLVMContext">;
type Module = Pointer<"LLVMModule">;
type TargetMachine = Pointer<"LLVMTargetMachine">;
type TargetHandle = Pointer<"LLVMTarget">;
type MemoryBuffer = Pointer<"LLVMMemoryBuffer">;
type Message = Pointer<"char">;
type ErrorRef = Pointer<"LLVMError">;
type PassOptions = Pointer<"LLVMPassBuilderOptions">;
type DataLayout = Pointer<"LLVMTargetData">;
type JitHandle = Pointer<"LLJIT">;
type Dylib = Pointer<"JITDylib">;

interface Api {
  readonly contextCreate: () => Context;
  readonly contextDispose: (context: Context) => void;
  readonly bufferCopy: (data: Memory, bytes: number, name: string) => MemoryBuffer;
  readonly bufferStart: (buffer: MemoryBuffer) => Pointer<"byte">;
  readonly bufferSize: (buffer: MemoryBuffer) => number | bigint;
  readonly bufferDispose: (buffer: MemoryBuffer) => void;
  readonly parse: (context: Context, text: MemoryBuffer, outModule: BigUint64Array, outMessage: BigUint64Array) => number;
  readonly verify: (module: Module, action: number, outMessage: BigUint64Array) => number;
  readonly moduleDispose: (module: Module) => void;
  readonly messageDispose: (message: Message) => void;
  readonly hostCpu: () => Message;
  readonly hostFeatures: () => Message;
  readonly hostTriple: () => Message;
  readonly targetFromTriple: (triple: string, outTarget: BigUint64Array, outMessage: BigUint64Array) => number;
  readonly machineCreate: (
    target: TargetHandle,
    triple: string,
    cpu: string,
    features: string,
    level: number,
    reloc: number,
    model: number,
  ) => TargetMachine | null;
  readonly machineDispose: (machine: TargetMachine) => void;
  readonly layoutCreate: (machine: TargetMachine) => DataLayout;
  readonly layoutDispose: (layout: DataLayout) => void;
  readonly setLayout: (module: Module, layout: DataLayout) => void;
  readonly setTriple: (module: Module, triple: string) => void;
  readonly passOptionsCreate: () => PassOptions;
  readonly passOptionsDispose: (options: PassOptions) => void;
  readonly runPasses: (module: Module, passes: string, machine: TargetMachine, options: PassOptions) => ErrorRef | null;
  readonly errorMessage: (error: ErrorRef) => Message;
  readonly errorMessageDispose: (message: Message) => void;
  readonly emit: (machine: TargetMachine, module: Module, kind: number, outMessage: BigUint64Array, outBuffer: BigUint64Array) => number;
  readonly jitCreate: (out: BigUint64Array, builder: Memory) => ErrorRef | null;
  readonly jitDispose: (jit: JitHandle) => ErrorRef | null;
  readonly jitDylib: (jit: JitHandle) => Dylib;
  readonly jitAddObject: (jit: JitHandle, dylib: Dylib, object: MemoryBuffer) => ErrorRef | null;
  readonly jitLookup: (jit: JitHandle, outAddress: BigUint64Array, name: string) => ErrorRef | null;
  readonly jitGlobalPrefix: (jit: JitHandle) => number;
  readonly jitProcessSymbols: (outGenerator: BigUint64Array, prefix: number, filter: Memory, context: Memory) => ErrorRef | null;
  readonly jitAddGenerator: (dylib: Dylib, generator: Pointer<"DefinitionGenerator">) => void;
}

const API: { readonly [K in keyof Api]: Signature } = {
  contextCreate: ["void *", "LLVMContextCreate", []],
  contextDispose: ["void", "LLVMContextDispose", ["void *"]],
  bufferCopy: ["void *", "LLVMCreateMemoryBufferWithMemoryRangeCopy", ["void *", "size_t", "str"]],
  bufferStart: ["void *", "LLVMGetBufferStart", ["void *"]],
  bufferSize: ["size_t", "LLVMGetBufferSize", ["void *"]],
  bufferDispose: ["void", "LLVMDisposeMemoryBuffer", ["void *"]],
  parse: ["int", "LLVMParseIRInContext", ["void *", "void *", "void *", "void *"]],
  verify: ["int", "LLVMVerifyModule", ["void *", "int", "void *"]],
  moduleDispose: ["void", "LLVMDisposeModule", ["void *"]],
  messageDispose: ["void", "LLVMDisposeMessage", ["void *"]],
  hostCpu: ["void *", "LLVMGetHostCPUName", []],
  hostFeatures: ["void *", "LLVMGetHostCPUFeatures", []],
  hostTriple: ["void *", "LLVMGetDefaultTargetTriple", []],
  targetFromTriple: ["int", "LLVMGetTargetFromTriple", ["str", "void *", "void *"]],
  machineCreate: ["void *", "LLVMCreateTargetMachine", ["void *", "str", "str", "str", "int", "int", "int"]],
  machineDispose: ["void", "LLVMDisposeTargetMachine", ["void *"]],
  layoutCreate: ["void *", "LLVMCreateTargetDataLayout", ["void *"]],
  layoutDispose: ["void", "LLVMDisposeTargetData", ["void *"]],
  setLayout: ["void", "LLVMSetModuleDataLayout", ["void *", "void *"]],
  setTriple: ["void", "LLVMSetTarget", ["void *", "str"]],
  passOptionsCreate: ["void *", "LLVMCreatePassBuilderOptions", []],
  passOptionsDispose: ["void", "LLVMDisposePassBuilderOptions", ["void *"]],
  runPasses: ["void *", "LLVMRunPasses", ["void *", "str", "void *", "void *"]],
  errorMessage: ["void *", "LLVMGetErrorMessage", ["void *"]],
  errorMessageDispose: ["void", "LLVMDisposeErrorMessage", ["void *"]],
  emit: ["int", "LLVMTargetMachineEmitToMemoryBuffer", ["void *", "void *", "int", "void *", "void *"]],
  jitCreate: ["void *", "LLVMOrcCreateLLJIT", ["void *", "void *"]],
  jitDispose: ["void *", "LLVMOrcDisposeLLJIT", ["void *"]],
  jitDylib: ["void *", "LLVMOrcLLJITGetMainJITDylib", ["void *"]],
  jitAddObject: ["void *", "LLVMOrcLLJITAddObjectFile", ["void *", "void *", "void *"]],
  jitLookup: ["void *", "LLVMOrcLLJITLookup", ["void *", "void *", "str"]],
  jitGlobalPrefix: ["int", "LLVMOrcLLJITGetGlobalPrefix", ["void *"]],
  jitProcessSymbols: ["void *", "LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess", ["void *", "int", "void *", "void *"]],
  jitAddGenerator: ["void", "LLVMOrcJITDylibAddGenerator", ["void *", "void *"]],
};

/** What code is made for. Empty `cpu` and `features` mean the plainest machine of the triple. */
export interface Target {
  readonly triple: string;
  readonly cpu: string;
  readonly features: string;
}

export interface CompileOptions {
  /** Names the module in messages. */
  readonly name: string;
  /** A pass pipeline in LLVM's notation, or null for none. */
  readonly passes: string | null;
  /** Effort of the code generator, 0 to 3. */
  readonly level: number;
}

export interface Llvm {
  /** Soname or path of the library in use. */
  readonly path: string;
  /** "19.1.7", or "14" and "15", whose libraries cannot say more. */
  readonly version: string;
  readonly major: number;
  /** The machine this process runs on. */
  readonly host: Target;
  /** IR text to a relocatable object. Throws LlvmError. */
  compile(text: string, target: Target, options: CompileOptions): Uint8Array;
  /** The same on a worker thread, so that modules compile side by side. */
  compileInBackground(text: string, target: Target, options: CompileOptions): Promise<Uint8Array>;
  /** IR text to assembly text, to read. */
  assembly(text: string, target: Target, options: CompileOptions): string;
  /** Makes objects executable in this process. They may call the C library. */
  link(objects: readonly Uint8Array[]): Linked;
}

export interface Linked {
  /** Address of a global symbol; throws LlvmError when there is none of that name. */
  address(symbol: string): Pointer<"code">;
  /** Frees the code. Nothing of it may be running. */
  free(): void;
}

/** libLLVM refused something that this compiler gave it. The message is LLVM's own. */
export class LlvmError extends Error {
  override readonly name = "LlvmError";
}

/** There is no libLLVM: the one failure here that is for the user to mend. Its name tells the command line to print it without a stack. */
export class LlvmMissing extends Error {
  override readonly name = "UserError";
  readonly hint: string;
  constructor(tried: readonly string[]) {
    const hint = "install with: apt-get install -y libllvm19 (any of 14 to 22 will do), or set CULM_LLVM to the path of a libLLVM";
    super(`libLLVM was not found; tried ${tried.join(", ")}; ${hint}`);
    this.hint = hint;
  }
}

export const NEWEST = 22;
export const OLDEST = 14;

/** Names a version's library goes by: Debian, other Linux distributions, Homebrew. */
function sonames(major: number): string[] {
  // From 18 on the soname carries a minor number, which is 1 for every release (and 0 for development versions).
  const linux = major >= 18 ? [`libLLVM.so.${major}.1`, `libLLVM-${major}.so`] : [`libLLVM-${major}.so.1`, `libLLVM-${major}.so`];
  const brew = [`/opt/homebrew/opt/llvm@${major}/lib/libLLVM.dylib`, `/usr/local/opt/llvm@${major}/lib/libLLVM.dylib`];
  return process.platform === "darwin" ? brew : linux;
}

/** Where to look, in order. `wanted` is a version number, a path, or undefined for the newest there is. */
export function candidates(wanted: string | undefined): string[] {
  if (wanted !== undefined && wanted !== "") {
    const major = Number(wanted);
    return Number.isInteger(major) ? sonames(major) : [wanted];
  }
  const all: string[] = [];
  for (let major = NEWEST; major >= OLDEST; major--) all.push(...sonames(major));
  if (process.platform === "darwin") all.unshift("/opt/homebrew/opt/llvm/lib/libLLVM.dylib", "/usr/local/opt/llvm/lib/libLLVM.dylib");
  return all;
}

const loaded = new Map<string, Llvm>();

/** The newest libLLVM of this machine, or the one that `wanted` (default: environment variable CULM_LLVM) names by version or path. */
export function loadLlvm(wanted: string | undefined = process.env["CULM_LLVM"]): Llvm {
  const key = wanted ?? "";
  const known = loaded.get(key);
  if (known) return known;
  const names = candidates(wanted);
  // the new pass manager came to the C API with 13
  const library = firstLibrary(names, "LLVMRunPasses");
  if (!library) throw new LlvmMissing(names);
  const llvm = wrap(library);
  loaded.set(key, llvm);
  return llvm;
}

/** Targets that code can be made for, as LLVM names them, where the library has them. Code of the other architecture can be looked at and stored. */
const TARGETS = ["X86", "AArch64"];

function wrap(library: Library): Llvm {
  const api = bind<Api>(library, API);
  for (const target of TARGETS)
    for (const part of ["TargetInfo", "Target", "TargetMC", "AsmPrinter"]) {
      const name = `LLVMInitialize${target}${part}`;
      if (hasSymbol(library, name)) bind<{ call: () => void }>(library, { call: ["void", name, []] }).call();
    }

  const generate = (job: Job, kind: number): Uint8Array => {
    try {
      const passes = job.passArguments();
      if (passes) job.check(api.runPasses(...passes));
      return job.output(api.emit(...job.emitArguments(kind)));
    } finally {
      job.dispose();
    }
  };
  const take = (message: Message): string => {
    const text = stringAt(message);
    api.messageDispose(message);
    return text;
  };
  const host = { triple: take(api.hostTriple()), cpu: take(api.hostCpu()), features: take(api.hostFeatures()) };
  const version = versionOf(library);
  return {
    path: library.path,
    version,
    major: Number.parseInt(version, 10),
    host,
    compile: (text, target, options) => generate(new Job(api, text, target, options), OBJECT),
    compileInBackground: async (text, target, options) => {
      const job = new Job(api, text, target, options);
      try {
        const passes = job.passArguments();
        if (passes) job.check(await background(api.runPasses, ...passes));
        return job.output(await background(api.emit, ...job.emitArguments(OBJECT)));
      } finally {
        job.dispose();
      }
    },
    assembly: (text, target, options) => new TextDecoder().decode(generate(new Job(api, text, target, options), ASSEMBLY)),
    link: (objects) => link(api, objects),
  };
}

function versionOf(library: Library): string {
  if (hasSymbol(library, "LLVMGetVersion")) {
    const parts = new Uint32Array(3);
    const { get } = bind<{ get: (a: Uint32Array, b: Uint32Array, c: Uint32Array) => void }>(library, {
      get: ["void", "LLVMGetVersion", ["void *", "void *", "void *"]],
    });
    get(parts.subarray(0, 1), parts.subarray(1, 2), parts.subarray(2, 3));
    return parts.join(".");
  }
  return /1[45]/.exec(library.path)?.[0] ?? "15"; // LLVMGetVersion came with 16
}

function errorText(api: Api, error: ErrorRef): string {
  const message = api.errorMessage(error);
  const text = stringAt(message);
  api.errorMessageDispose(message);
  return text;
}

const ASSEMBLY = 0;
const OBJECT = 1;
const RELOC_PIC = 2;
/**
 * For code that is loaded while a process runs: a section may be put anywhere, so addresses have 64 bits. The default model refers to a module's constants by 32
 * bits, and in an address space that is full (V8 reserves gigabytes for each WebAssembly memory) they may not fit: the loader of older versions then
 * links to a wrong address without a word.
 */
const CODE_MODEL_JIT = 1;
const RETURN_STATUS = 2;

/** One module on its way from text to code. A context of its own makes it independent of every other, so that several can be compiled at once. */
class Job {
  private readonly api: Api;
  private readonly options: CompileOptions;
  private readonly context: Context;
  private readonly passOptions: PassOptions;
  private readonly module: Module | undefined;
  private readonly machine: TargetMachine | undefined;
  private readonly outMessage = new BigUint64Array(1);
  private readonly outBuffer = new BigUint64Array(1);

  constructor(api: Api, text: string, target: Target, options: CompileOptions) {
    this.api = api;
    this.options = options;
    this.context = api.contextCreate();
    this.passOptions = api.passOptionsCreate();
    try {
      this.module = this.parse(text);
      this.machine = this.createMachine(target);
      const layout = api.layoutCreate(this.machine);
      api.setLayout(this.module, layout);
      api.layoutDispose(layout);
      api.setTriple(this.module, target.triple);
      this.verify();
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  private fail(stage: string, message: string): never {
    throw new LlvmError(`${this.options.name}: ${stage}: ${message.trim()}`);
  }

  private message(): string {
    const message = pointerIn<"char">(this.outMessage);
    if (message === 0n) return "(no message)";
    const text = stringAt(message);
    this.api.messageDispose(message);
    return text;
  }

  private parse(text: string): Module {
    const bytes = new TextEncoder().encode(text);
    const buffer = this.api.bufferCopy(bytes, bytes.length, this.options.name);
    const out = new BigUint64Array(1);
    // The message has the line, the column, the line itself and a caret.
    if (this.api.parse(this.context, buffer, out, this.outMessage)) this.fail("IR does not parse", this.message());
    return pointerIn<"LLVMModule">(out);
  }

  private verify(): void {
    const failed = this.api.verify(this.module!, RETURN_STATUS, this.outMessage);
    const message = this.message(); // LLVM allocates one either way
    if (failed) this.fail("IR is not valid", message);
  }

  private createMachine({ triple, cpu, features }: Target): TargetMachine {
    const out = new BigUint64Array(1);
    if (this.api.targetFromTriple(triple, out, this.outMessage)) this.fail("no such target", this.message());
    const target = pointerIn<"LLVMTarget">(out);
    const machine = this.api.machineCreate(target, triple, cpu, features, this.options.level, RELOC_PIC, CODE_MODEL_JIT);
    if (!machine) this.fail("no such target", `${triple} ${cpu}`);
    return machine;
  }

  passArguments(): [Module, string, TargetMachine, PassOptions] | null {
    return this.options.passes === null ? null : [this.module!, this.options.passes, this.machine!, this.passOptions];
  }

  check(error: ErrorRef | null): void {
    if (error) this.fail("passes failed", errorText(this.api, error));
  }

  emitArguments(kind: number): [TargetMachine, Module, number, BigUint64Array, BigUint64Array] {
    return [this.machine!, this.module!, kind, this.outMessage, this.outBuffer];
  }

  output(failed: number): Uint8Array {
    if (failed) this.fail("code generation failed", this.message());
    const buffer = pointerIn<"LLVMMemoryBuffer">(this.outBuffer);
    const bytes = new Uint8Array(viewAt(this.api.bufferStart(buffer), Number(this.api.bufferSize(buffer)))).slice();
    this.api.bufferDispose(buffer);
    return bytes;
  }

  dispose(): void {
    if (this.module) this.api.moduleDispose(this.module);
    if (this.machine) this.api.machineDispose(this.machine);
    this.api.passOptionsDispose(this.passOptions);
    this.api.contextDispose(this.context);
  }
}

function link(api: Api, objects: readonly Uint8Array[]): Linked {
  const check = (error: ErrorRef | null): void => {
    if (error) throw new LlvmError(errorText(api, error));
  };
  const out = new BigUint64Array(1);
  check(api.jitCreate(out, null));
  const jit = pointerIn<"LLJIT">(out);
  const dylib = api.jitDylib(jit);
  check(api.jitProcessSymbols(out, api.jitGlobalPrefix(jit), null, null));
  api.jitAddGenerator(dylib, pointerIn<"DefinitionGenerator">(out));
  for (const object of objects) check(api.jitAddObject(jit, dylib, api.bufferCopy(object, object.length, "object")));
  return {
    address: (symbol) => {
      check(api.jitLookup(jit, out, symbol));
      return asPointer<"code">(out[0]!);
    },
    free: () => check(api.jitDispose(jit)),
  };
}
