import fc from "fast-check";
import { describe, test } from "vitest";
import { decomposeGraph } from "../../compiler/graph/decompose.ts";
import type { Graph } from "../../compiler/ir/graph.ts";
import { interpretGraph } from "../../compiler/run/graph.ts";
import type { Execute, LawOptions } from "../support/laws.ts";
import { ssdLaws, ssdRunner } from "../support/laws.ts";
import { attentionLaws, mixerLaws } from "../support/mixer-laws.ts";

/** Executors of graphs that this folder can compare: the definitions, and the primitives they decompose into. */
const decomposed: Execute = (graph, bindings) => interpretGraph(primitive(graph), bindings);
const cache = new WeakMap<Graph, Graph>();
function primitive(graph: Graph): Graph {
  const hit = cache.get(graph) ?? decomposeGraph(graph);
  cache.set(graph, hit);
  return hit;
}

const F64: LawOptions = { tolerance: 1e-12 };
const F32: LawOptions = { tolerance: 1e-5 };

for (const [name, run, options] of [
  ["interpreted, double precision", ssdRunner(interpretGraph, { f64: true }), F64],
  ["interpreted", ssdRunner(interpretGraph), F32],
  ["decomposed, double precision", ssdRunner(decomposed, { f64: true }), F64],
  ["decomposed", ssdRunner(decomposed), F32],
  ["decomposed with built-in sizes", ssdRunner(decomposed, { fixed: true, f64: true }), F64],
] as const)
  describe(`laws of the scan, ${name}`, () => {
    for (const law of ssdLaws(run, options)) test(law.name, () => fc.assert(law.property, { numRuns: 40 }));
  });

for (const [name, execute, options] of [
  ["interpreted, double precision", interpretGraph, { tolerance: 1e-11, f64: true }],
  ["interpreted", interpretGraph, { tolerance: 2e-5 }],
  ["decomposed, double precision", decomposed, { tolerance: 1e-11, f64: true }],
  ["decomposed", decomposed, { tolerance: 2e-5 }],
] as const) {
  describe(`laws of the mixer, ${name}`, () => {
    for (const law of mixerLaws(execute, options)) test(law.name, () => fc.assert(law.property, { numRuns: 30 }));
  });
  describe(`laws of attention, ${name}`, () => {
    for (const law of attentionLaws(execute, options)) test(law.name, () => fc.assert(law.property, { numRuns: 30 }));
  });
}
