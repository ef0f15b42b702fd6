import { UserError } from "../../runtime/errors.ts";
import type { Executor } from "../../runtime/executor.ts";
import type { CompiledModel, CompileProgress } from "./compiled.ts";
import type { ModelPlan } from "./plan.ts";
import type { ModelSource } from "./source.ts";

/** What runs a model: the compiler and the CPU driver, or the interpreter. */
export type BackendName = "llvm" | "interpret";
export const backendNames: readonly BackendName[] = ["llvm", "interpret"];

export interface EngineOptions {
  /** Threads of the CPU driver; all processors unless given. */
  readonly threads?: number;
  /** Folder of compiled models; null keeps none. */
  readonly cache?: string | null;
  readonly onCompile?: (progress: CompileProgress) => void;
  /** Bytes of weights loaded so far, and in all. */
  readonly onLoad?: (bytes: number, total: number) => void;
}

export interface Opened {
  readonly executor: Executor;
  /** null when nothing was compiled. */
  readonly compiled: CompiledModel | null;
}

/** Programs of one model on one device. Those opened on the same engine share the weights that they hold alike. */
export interface Engine {
  open(plan: ModelPlan): Promise<Opened>;
  close(): Promise<void>;
}

/** @throws UserError for a backend that there is not. */
export async function openEngine(backend: string, source: ModelSource, options: EngineOptions): Promise<Engine> {
  switch (backend) {
    case "llvm":
      return (await import("./engine-llvm.ts")).openLlvmEngine(source, options);
    case "interpret":
      return interpretEngine(source);
    default:
      throw new UserError(`unknown backend "${backend}"`, { hint: `there are: ${backendNames.join(", ")}` });
  }
}

function interpretEngine(source: ModelSource): Engine {
  return {
    async open(plan) {
      const [{ createInterpreter }, { traceModel }] = await Promise.all([import("./interpret.ts"), import("./plan.ts")]);
      return { executor: await createInterpreter(await traceModel(source.config, plan), source.weights), compiled: null };
    },
    close: () => Promise.resolve(),
  };
}
