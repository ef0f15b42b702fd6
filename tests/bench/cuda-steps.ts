import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { cudaBackend } from "../../backends/cuda/index.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import { lowerGraph } from "../../compiler/pipeline.ts";
import type { KernelPlan } from "../../compiler/plan.ts";
import type { Config, Template } from "../../compiler/template.ts";
import { ssdReplayStream } from "../../compiler/templates/ssd-replay-stream.ts";
import { ssdReplay } from "../../compiler/templates/ssd-replay.ts";
import { ssdStep } from "../../compiler/templates/ssd-step.ts";
import { parseBambaConfig } from "../../models/bamba/config.ts";
import { bambaGraph } from "../../models/bamba/index.ts";
import { kernelOf, writeProgram } from "./cuda-program.ts";
import type { Kernel } from "./cuda-program.ts";

/**
 * State updates of Bamba 9B on an NVIDIA GPU by each template and configuration: writes one program in CUDA C++ that compares them with the first and times them, with
 * a ring of `--replay` inputs at each of its fillings, empty, full and when it is stored.
 *   npx tsx tests/bench/cuda-steps.ts --rows 8,64 --replay 0,8,16 [--heads 4,8 --rings 64x2,64x3] --out steps.cu
 *   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a steps.cu -o steps && ./steps
 */
const { values } = parseArgs({
  options: {
    target: { type: "string", default: "sm_90a" },
    rows: { type: "string", default: "8,64,256" },
    replay: { type: "string", default: "0,8,16" },
    heads: { type: "string" },
    rings: { type: "string" },
    out: { type: "string", default: "steps.cu" },
  },
});
const caps = cudaBackend.caps(values.target);
const file = new URL("configs/bamba-9b.json", import.meta.url);
const whole = parseBambaConfig(JSON.parse(readFileSync(file, "utf8")), file.pathname);
const config = { ...whole, numHiddenLayers: 1, layerKinds: whole.layerKinds.slice(0, 1), attentionLayers: [] };
const numbers = (list: string): readonly number[] => list.split(",").map(Number);

function stepOf(batch: number, replay: number): KernelPlan {
  const graph = bambaGraph(config, { phase: "decode", batch, capacity: 2048, weights: "bf16", kvCache: "bf16", state: "bf16", replay });
  return lowerGraph(graph, caps).fused.kernels.find(({ problem: { kind } }) => kind === "ssd" || kind === "replay")!;
}

/** A template's configurations; and of one that goes through heads, `--rings` (rows of a step x stages) by `--heads`. */
function configsOf<P>(template: Template<P>, problem: P): readonly Config[] {
  const configs = template.configs(problem, caps);
  if ("reject" in configs) throw new Error(`${template.name}: ${configs.reject}`);
  if (values.rings === undefined || values.heads === undefined || !("heads" in configs[0]!)) return configs;
  const rings = values.rings.split(",").map((ring) => ring.split("x").map(Number) as [number, number]);
  return rings.flatMap(([pb, stages]) => numbers(values.heads!).map((heads) => ({ heads, pb, stages, groups: Math.min(4, pb / 16) })));
}

interface Variant extends Kernel {
  readonly rows: number;
  readonly replay: number;
  readonly plan: KernelPlan;
  readonly label: string;
}

function variantsOf(rows: number, replay: number): readonly Variant[] {
  const plan = stepOf(rows, replay);
  const { problem } = plan;
  if (problem.kind === "ssd") return ofTemplates([ssdStep], problem, plan).map((v) => ({ ...v, rows, replay, plan }));
  if (problem.kind !== "replay") throw new Error(`a step of ${rows} rows updates no states`);
  return ofTemplates([ssdReplay, ssdReplayStream], problem, plan).map((v) => ({ ...v, rows, replay, plan }));
}

/** Kernels as `lowerKernel` makes them, by all configurations of some templates. */
function ofTemplates<P>(
  templates: readonly Template<P>[],
  problem: P,
  { args }: KernelPlan,
): readonly (Kernel & { readonly label: string })[] {
  return templates.flatMap((template) =>
    configsOf(template, problem).map((config) => {
      const program = template.build(problem, config, caps);
      const params = program.params.map((p, i) => (args[i]!.alone === true ? { ...p, alone: true } : p));
      const label = `${template.name} ${Object.entries(config).map(([k, v]) => `${k} ${String(v)}`).join(", ")}`; // prettier-ignore
      return { ...kernelOf({ ...program, params }, caps), label };
    }),
  );
}

const variants = numbers(values.rows).flatMap((rows) => numbers(values.replay).flatMap((replay) => variantsOf(rows, replay)));
writeProgram(values.out, "steps-main.cu", variants, ({ rows, replay, plan, label }, launch) => {
  const { params, symbols } = plan.problem.frame;
  const list = params.map(({ dtype, access, elements }) => `{${BYTES[dtype]}, ${access !== "read"}, ${elements}LL}`);
  const held = symbols.findIndex(({ name }) => name === "held");
  return `${rows}, ${replay}, ${symbols.length}, ${held}, {${list.join(", ")}}, "${label}", ${launch}`;
});
