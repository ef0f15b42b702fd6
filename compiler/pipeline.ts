import type { Caps } from "./backend.ts";
import { CulmError } from "./diagnostics.ts";
import { fuse } from "./fuse.ts";
import type { Fused } from "./fuse.ts";
import { decomposeGraph } from "./graph/decompose.ts";
import { gatesFirst } from "./graph/gates.ts";
import { packWeights } from "./graph/pack.ts";
import type { Graph, Node } from "./ir/graph.ts";
import { verify } from "./ir/graph-verify.ts";
import type { ThreadProgram } from "./ir/thread.ts";
import { verifyThread } from "./ir/thread-text.ts";
import { verifyTile } from "./ir/tile-text.ts";
import { place } from "./lower/place.ts";
import { simplifyThread } from "./lower/simplify.ts";
import type { KernelPlan } from "./plan.ts";
import type { Choice } from "./select.ts";
import { buildKernel } from "./select.ts";

/**
 * The whole compiler, in order. Graph passes:
 *
 * | pass            | does                                                | must come after, because                                            |
 * |-----------------|-----------------------------------------------------|---------------------------------------------------------------------|
 * | verify          | re-infers every node                                | first: every later pass relies on the types                          |
 * | selectComposites| decomposes what no template or row kernel computes  | verify                                                               |
 * | gatesFirst      | moves gates in front of norms (not with panels)     | selectComposites: what is decomposed anyway has no gate left         |
 * | packWeights     | stacks and lays out weights                         | selectComposites: a decomposition may bring new matmuls              |
 * | fuse            | nodes to kernels                                    | packWeights: a stacked projection is one kernel                      |
 * | planMemory      | temporaries to places in memory                     | fuse: only then is it known what is stored (memory.ts, by compile.ts)|
 *
 * and for each kernel: buildKernel (template, Tile IR), verify, place (Thread IR), simplifyThread, verify, print.
 */
export const GRAPH_PASSES: readonly { readonly name: string; readonly run: (g: Graph, caps: Caps) => Graph }[] = [
  { name: "verify", run: (g) => (verify(g), g) },
  { name: "selectComposites", run: (g) => decomposeGraph(g, (n) => !hasLowering(n)) },
  // where weights lie in panels, a block multiplies enough of them to pay for its own gate
  { name: "gatesFirst", run: (g, caps) => (caps.panel > 0 ? g : gatesFirst(g)) },
  { name: "packWeights", run: (g, caps) => packWeights(g, caps.panel) },
  { name: "verify", run: (g) => (verify(g), g) },
];

/** Composites that stay whole: a template, a row kernel or an inline expression computes them. */
function hasLowering(n: Node): boolean {
  return n.op !== "crossEntropy";
}

export function lowerGraph(graph: Graph, caps: Caps): { readonly graph: Graph; readonly fused: Fused } {
  const lowered = GRAPH_PASSES.reduce((g, pass) => pass.run(g, caps), graph);
  const fused = fuse(lowered, caps);
  const wide = fused.kernels.find(({ args }) => args.length > caps.maxBuffers);
  if (wide)
    throw new CulmError({
      what: `a kernel has ${wide.args.length} buffers as arguments`,
      path: wide.label,
      expected: `at most ${caps.maxBuffers} on ${caps.name}`,
      fix: "store a value on the way (an output, say), so that fewer operations fuse",
    });
  return { graph: lowered, fused };
}

export interface LoweredKernel {
  readonly choice: Choice;
  readonly thread: ThreadProgram;
}

export function lowerKernel(kernel: KernelPlan, caps: Caps): LoweredKernel {
  const built = buildKernel(kernel, caps);
  const params = built.program.params.map((p, i) => (kernel.args[i]?.alone === true ? { ...p, alone: true } : p));
  const choice = { ...built, program: { ...built.program, params } };
  verifyTile(choice.program);
  const thread = simplifyThread(place(choice.program, caps));
  verifyThread(thread);
  return { choice, thread };
}
