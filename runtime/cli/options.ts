import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import type { LoadOptions } from "../../models/auto/model.ts";
import { definedOnly } from "../defined.ts";
import { UserError } from "../errors.ts";
import type { HubOptions } from "../hub/options.ts";
import { formatBytes, Progress } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

/** Readers of option values: commander says which option was wrong and gives what these throw as the reason. */
export function wholeNumber(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new InvalidArgumentError("Expected a whole number.");
  return value;
}

export function anyNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("Expected a number.");
  return value;
}

/** "1,2" */
export function numberList(text: string): readonly number[] {
  return text.split(",").map(wholeNumber);
}

/** "forward,cache" */
export function nameList(text: string): readonly string[] {
  return text.split(",").map((name) => name.trim());
}

export function oneOf<T extends string>(...choices: readonly T[]): (text: string) => T {
  return (text) => {
    const found = choices.find((choice) => choice === text);
    if (found === undefined) throw new InvalidArgumentError(`There are: ${choices.join(", ")}.`);
    return found;
  };
}

/** Where a model of the hub comes from. */
export interface HubFlags {
  readonly revision?: string;
  readonly cacheDir?: string;
  readonly token?: string;
  readonly offline?: boolean;
}

/** What every command that opens a model takes. */
export interface ModelFlags extends HubFlags {
  readonly backend?: string;
  readonly target?: string;
  readonly dtype?: NonNullable<LoadOptions["dtype"]>;
  readonly kvCache?: NonNullable<LoadOptions["kvCache"]>;
  readonly state?: NonNullable<LoadOptions["state"]>;
  readonly activations?: NonNullable<LoadOptions["activations"]>;
  readonly replay?: number;
  readonly rotary?: NonNullable<LoadOptions["rotary"]>;
  readonly strict?: boolean;
  readonly threads?: number;
  readonly maxLength?: number;
  readonly prefillChunk?: number;
  readonly cache: boolean;
  /** Whoever reads JSON wants nothing else on the way. */
  readonly json?: boolean;
}

/** What a command has instead of the usual. */
interface ModelFlagDefaults {
  readonly threads?: (text: string) => unknown;
  readonly description?: string;
  readonly backend?: string;
  /** Whether it decodes enough rows for `--replay` to be of use. */
  readonly replay?: boolean;
}

export function addModelFlags(command: Command, defaults: ModelFlagDefaults = {}): Command {
  const { threads = wholeNumber, description = "threads of the CPU backend (default: all processors)", backend, replay } = defaults;
  command.optionsGroup("How the model is opened:");
  command
    .option(
      "--backend <name>",
      `what runs the model: llvm (the processor), cuda (an NVIDIA GPU), webgpu (a GPU) or interpret (slow, the reference)${backend === undefined ? " (default: llvm)" : ""}`,
      oneOf("llvm", "cuda", "webgpu", "interpret"),
      backend,
    )
    .option("--device <name>", "the same by device: cpu, cuda or webgpu", oneOf(...Object.keys(ofDevice)))
    .hook("preAction", (_, action) => takeDevice(action))
    .option(
      "--target <name>",
      "what to compile for, in place of this machine: a level of the processor such as x86-64-avx2, the architecture of an NVIDIA GPU such as sm_90 (sm_90a for what only Hopper has; with -tf32 at the end, as in sm_90a-tf32, products of f32 of many rows keep 11 bits of their operands and are faster), or what WebGPU offers such as base or large-sg32-f16; cuda:sm_90 and wgsl:base name the language too, and metal:m4 is for Apple's GPUs (culm compile only)",
    )
    .option(
      "--dtype <type>",
      "how weights are held: auto (as the checkpoint says), f32, bf16 or f16",
      oneOf("auto", "f32", "bf16", "f16"),
      "auto",
    )
    .option(
      "--kv-cache <type>",
      "how keys and values are held: f32, bf16 or f16 (default: as the weights on CUDA, f32 elsewhere)",
      oneOf("auto", "f32", "bf16", "f16"),
    )
    .option(
      "--state <type>",
      "how the states of Mamba layers are held between tokens: f32, or bf16 in half the memory",
      oneOf("f32", "bf16"),
    )
    .option(
      "--activations <type>",
      "how what Mamba layers compute is held between kernels: f32, or bf16, which is one percent faster with hundreds of rows and as rough there as Transformers in bf16 (default: f32)",
      oneOf("f32", "bf16"),
    );
  if (replay === true)
    command.option(
      "--replay <n>",
      "keep the last n inputs (2 to 32) beside the states of Mamba layers, so that a token only reads the states and every n-th one stores them; 0 keeps none (default: 16 for 8 rows and more on CUDA with --state bf16, else 0)",
      wholeNumber,
    );
  command
    .option(
      "--rotary <type>",
      "rounding of the rotary frequencies: f32, or bf16 to match a PyTorch model that was cast to bfloat16 as a whole",
      oneOf("f32", "bf16"),
      "f32",
    )
    .option("--strict", "be Transformers in all that it does: its rounding in bf16 (slow), its single steps, its padding")
    .option("--threads <n>", description, threads)
    .option(
      "--max-length <n>",
      "positions that the model is compiled for: prompt and answer together (default: 4096, or the model's own limit)",
      wholeNumber,
    )
    .option("--prefill-chunk <n>", "most tokens of a prompt worked on at once (default: 512)", wholeNumber)
    .option("--no-cache", "compile anew, and keep nothing for the next start");
  addHubFlags(command);
  return command.optionsGroup("Options:");
}

/** What runs a model on a device. */
const ofDevice: Readonly<Record<string, string>> = { cpu: "llvm", cuda: "cuda", webgpu: "webgpu" };

/** `--device` is another way to say `--backend`. @throws UserError when both are said and differ */
function takeDevice(command: Command): void {
  const { device, backend } = command.opts<{ readonly device?: string; readonly backend?: string }>();
  const meant = device === undefined ? undefined : ofDevice[device];
  if (meant === undefined) return;
  if (command.getOptionValueSource("backend") === "cli" && backend !== meant)
    throw new UserError(`--device ${device} is --backend ${meant}, not ${backend}`, { hint: "leave out one of them" });
  command.setOptionValueWithSource("backend", meant, "cli");
}

export function addHubFlags(command: Command): Command {
  return command
    .option("--revision <name>", "of a model of the hub: branch, tag or commit (default: main)")
    .option("--cache-dir <dir>", "where models of the hub are kept (default: HF_HUB_CACHE, or hub in HF_HOME)")
    .option("--token <token>", "access token of the hub; HF_TOKEN is better, because others can see command lines")
    .option("--offline", "take a model of the hub from the cache and make no request (as HF_HUB_OFFLINE=1)");
}

/** How a model of the hub is fetched, with a bar on the way. Call `stop` when it is done. */
export function hubOptions(
  { revision, cacheDir, token, offline }: HubFlags,
  terminal: Terminal,
  interactive: boolean,
): { readonly options: HubOptions; readonly stop: () => void } {
  const downloading = new Progress(interactive, "downloading", formatBytes);
  return {
    options: {
      ...definedOnly({ revision, cacheDir, token }),
      ...(offline === true ? { localFilesOnly: true } : {}),
      signal: terminal.signal,
      onDownload: ({ bytes, total }) => {
        downloading.update(bytes, total);
        if (bytes === total) downloading.stop();
      },
    },
    stop: () => downloading.stop(),
  };
}

/** What `--model` takes. */
export const modelDescription = "folder of the model, or its name on the Hugging Face hub";

/** What runs what a compiler's backend makes. */
const runs: Readonly<Record<string, string>> = { llvm: "llvm", cuda: "cuda", wgsl: "webgpu", metal: "metal" };

/** `--target`: a name, a language, or both with a colon between them. A language says which backend is meant. */
function targetOf({ backend, target }: ModelFlags): { readonly backend: string | undefined; readonly target: string | undefined } {
  if (target === undefined) return { backend, target };
  const [language, name] = target.includes(":") || runs[target] !== undefined ? target.split(/:(.*)/s) : [undefined, target];
  if (language === undefined) return { backend, target: name };
  const meant = runs[language];
  if (meant === undefined)
    throw new UserError(`--target ${target}: there is no language ${language}`, { hint: `there are: ${Object.keys(runs).join(", ")}` });
  if (backend !== undefined && backend !== meant)
    throw new UserError(`--target ${target} is for --backend ${meant}, not ${backend}`, { hint: "leave out one of them" });
  return { backend: meant, target: name };
}

/** How a model is loaded, and what is shown while that lasts. Call `stop` when it is done. */
export function loadOptions(
  flags: ModelFlags,
  terminal: Terminal,
  batch?: number,
): { readonly options: LoadOptions; readonly stop: () => void } {
  const interactive = terminal.interactive && flags.json !== true;
  const hub = hubOptions(flags, terminal, interactive);
  const compiling = new Progress(interactive, "compiling");
  const loading = new Progress(interactive, "loading weights", formatBytes);
  const { dtype, kvCache, state, activations, replay, rotary, strict, threads, maxLength, prefillChunk } = flags;
  const options: LoadOptions = {
    ...hub.options,
    ...definedOnly({
      ...targetOf(flags),
      dtype,
      kvCache,
      state,
      activations,
      replay,
      rotary,
      strict,
      threads,
      maxLength,
      prefillChunk,
      batch,
    }),
    ...(flags.cache ? {} : { cache: null }),
    onCompile: ({ done, total }) => {
      terminal.signal.throwIfAborted();
      compiling.update(done, total);
    },
    onLoad: (bytes, total) => {
      terminal.signal.throwIfAborted();
      loading.update(bytes, total);
    },
  };
  return {
    options,
    stop: () => {
      hub.stop();
      compiling.stop();
      loading.stop();
    },
  };
}

/** For a model that could not be opened: no bar may stay on the screen behind the message. */
export function stopped(stop: () => void): (error: unknown) => never {
  return (error) => {
    stop();
    throw error;
  };
}
