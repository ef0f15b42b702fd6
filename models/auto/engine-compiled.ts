import type { Backend } from "../../compiler/backend.ts";
import type { Device } from "../../runtime/driver.ts";
import { openArtifact } from "../../runtime/steps.ts";
import type { WeightBank } from "../../runtime/steps.ts";
import { compileBamba } from "./compiled.ts";
import type { Engine, EngineOptions, Opened } from "./engine.ts";
import type { ModelPlan } from "./plan.ts";
import type { ModelSource } from "./source.ts";

/** A compiler's backend with a device that runs what it makes. */
export interface CompiledTarget {
  readonly backend: Backend;
  /** What to compile for, by the backend's name. */
  readonly target: string;
  readonly open: () => Promise<Device>;
}

/** Compiles programs, or takes them from the cache, and opens them on a device. */
export async function openCompiledEngine(
  source: ModelSource,
  { cache, onCompile, onLoad }: EngineOptions,
  { backend, target, open }: CompiledTarget,
): Promise<Engine> {
  let device = await open();
  let bank: WeightBank = new Map();
  /** What is being opened: its weights may be on their way into memory of the device, which must not be gone before they are there. */
  const opening = new Set<Promise<Opened>>();
  const settled = (): Promise<unknown> => Promise.allSettled(opening);
  const begin = async (plan: ModelPlan): Promise<Opened> => {
    const { workers } = device;
    const compiled = await compileBamba(
      source.config,
      plan,
      { backend, device: target, parameters: source.parameters, ...(workers === null ? {} : { workers }) },
      { ...(cache === undefined ? {} : { cache }), ...(onCompile === undefined ? {} : { onProgress: onCompile }) },
    );
    const executor = await openArtifact(device, compiled.artifact, source.weights, {
      bank,
      // The source has the tensors of the whole model and nothing else; one that takes embeddings does not read the table of them.
      spare: () => true,
      ...(onLoad === undefined ? {} : { onLoad }),
    });
    return { executor, compiled };
  };
  return {
    open(plan) {
      const opened = begin(plan).finally(() => opening.delete(opened));
      opening.add(opened);
      return opened;
    },
    async reopen() {
      await settled();
      await device.close();
      device = await open();
      bank = new Map();
    },
    async close() {
      await settled();
      await device.close();
    },
  };
}
