import type { Executor } from "../../runtime/executor.ts";
import type { CompiledModel, CompileProgress } from "./compiled.ts";
import type { ModelPlan } from "./plan.ts";

export interface EngineOptions {
  /** What to compile for, by the backend's name of it ("x86-64-avx2", "sm_90", "base-sg8"), in place of what this machine is. */
  readonly target?: string;
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
  /** Opens the device anew, after it was lost. What was opened before is gone. */
  reopen(): Promise<void>;
  close(): Promise<void>;
}
