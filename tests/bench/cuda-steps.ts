import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { cudaBackend } from "../../backends/cuda/index.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import { evaluateInt } from "../../compiler/ir/expr.ts";
import { lowerGraph } from "../../compiler/pipeline.ts";
import type { KernelPlan } from "../../compiler/plan.ts";
import type { Config, Template } from "../../compiler/template.ts";
import { ssdReplayStream } from "../../compiler/templates/ssd-replay-stream.ts";
import { ssdReplay } from "../../compiler/templates/ssd-replay.ts";
import { ssdStep } from "../../compiler/templates/ssd-step.ts";
import { parseBambaConfig } from "../../models/bamba/config.ts";
import { bambaGraph } from "../../models/bamba/index.ts";
import { placed } from "../support/placed.ts";

/**
 * State updates of Bamba 9B on an NVIDIA GPU by each template and configuration: writes one program in CUDA C++ that compares them with the first and times them.
 *   npx tsx tests/bench/cuda-steps.ts --rows 8,64 --replay 0,8,16 --out steps.cu
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

interface Group {
  readonly rows: number;
  readonly replay: number;
  readonly kernel: KernelPlan;
  readonly variants: readonly { readonly label: string; readonly entry: string; readonly fields: string }[];
}

/** Texts of kernels by what they are called, which is made of what they are. */
const sources = new Map<string, string>();
function groupOf(rows: number, replay: number): Group {
  const kernel = stepOf(rows, replay);
  const { problem } = kernel;
  const templates = (problem.kind === "replay" ? [ssdReplay, ssdReplayStream] : [ssdStep]) as unknown as readonly Template<
    typeof problem
  >[];
  const variants = templates.flatMap((template) =>
    configsOf(template, problem).map((c) => {
      const built = template.build(problem, c, caps);
      const params = built.params.map((p, i) => (kernel.args[i]!.alone === true ? { ...p, alone: true } : p));
      const program = cudaBackend.legalize!(placed({ ...built, params }, caps), caps);
      const source = cudaBackend.print(program, caps);
      const grid = program.grid.map((g) => evaluateInt(g, {}));
      const label = `${template.name} ${Object.entries(c).map(([k, v]) => `${k} ${String(v)}`).join(", ")}`; // prettier-ignore
      sources.set(source.entry, source.text);
      return {
        label,
        entry: `k_${source.entry}::${source.entry}`,
        fields: `{${grid.join(", ")}}, ${source.launch!.threads}, ${source.sharedBytes}`,
      };
    }),
  );
  return { rows, replay, kernel, variants };
}

const groups = numbers(values.rows).flatMap((rows) => numbers(values.replay).map((replay) => groupOf(rows, replay)));
const texts = groups.map(({ rows, replay, kernel: { problem }, variants }) => {
  const { params, symbols } = problem.frame;
  const list = params.map(({ dtype, access, elements }) => `{${BYTES[dtype]}, ${access !== "read"}, ${elements}LL}`);
  const held = symbols.findIndex(({ name }) => name === "held");
  const of = variants.map(({ label, entry, fields }) => `    {"${label}", (const void*)${entry}, ${fields}},`);
  return `  {${rows}, ${replay}, ${symbols.length}, ${held}, {${list.join(", ")}}, {\n${of.join("\n")}\n  }},`;
});
const harness = readFileSync(new URL("cuda-prototypes/steps-main.cu", import.meta.url), "utf8");
const kernels = [...sources].map(([entry, text]) => `namespace k_${entry} {\n${text}}`);
writeFileSync(values.out, [...kernels, harness.replace("  // groups", texts.join("\n"))].join("\n"));
console.log(`${values.out}: ${kernels.length} kernels`);
