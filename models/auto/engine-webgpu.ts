import type { Requirements } from "../../compiler/artifact.ts";
import { shortfalls } from "../../runtime/drivers/webgpu/adapter.ts";
import type { AdapterFacts } from "../../runtime/drivers/webgpu/adapter.ts";
import { UserError } from "../../runtime/errors.ts";
import { capsOf } from "./compiled.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import { openCompiledEngine } from "./engine-compiled.ts";
import type { ModelSource } from "./source.ts";

/** WGSL, and WebGPU in Node. Compiled for what the adapter has, or for `target`, or for what CULM_WGSL names. */
export async function openWebgpuEngine(source: ModelSource, options: EngineOptions): Promise<Engine> {
  const [{ nodeWebgpu }, { wgslBackend: backend, capsFor }] = await Promise.all([
    import("../../runtime/drivers/webgpu/node.ts"),
    import("../../backends/wgsl/index.ts"),
  ]);
  if (options.threads !== undefined) throw new UserError("threads (--threads) are the CPU's: leave them out with the backend webgpu");
  const driver = await nodeWebgpu();
  const facts = await driver.facts();
  const target = options.target ?? process.env["CULM_WGSL"] ?? capsFor(facts)[0];
  if (target === undefined) throw tooLittle(facts, capsOf(backend, "base").requires);
  const { requires } = capsOf(backend, target);
  return openCompiledEngine(source, options, { backend, target, open: () => driver.open({ requires }) });
}

/** An adapter without WebGPU's default limits; a browser would not offer it. */
const tooLittle = (facts: AdapterFacts, requires: Requirements): UserError =>
  new UserError(`${facts.name} cannot run models: it has ${shortfalls(facts, requires).join(", ")}`, {
    hint: "use another GPU, or --backend llvm",
  });
