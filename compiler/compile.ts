import { createHash } from "node:crypto";
import type { BufferRef, KernelEntry, LiteralEntry, Manifest, ProgramEntry, StepEntry, TensorEntry, WeightEntry } from "./artifact.ts";
import type { Backend, Caps, Source } from "./backend.ts";
import { ARTIFACT_VERSION } from "./artifact.ts";
import { CulmError } from "./diagnostics.ts";
import type { Graph, Node, NodeOf } from "./ir/graph.ts";
import { topological, typeOf } from "./ir/graph.ts";
import { BYTES } from "./ir/dtype.ts";
import type { ThreadProgram } from "./ir/thread.ts";
import { printThread } from "./ir/thread-text.ts";
import { toIntExpr } from "./int-expr.ts";
import { planMemory } from "./memory.ts";
import { lowerGraph, lowerKernel } from "./pipeline.ts";
import type { LoweredKernel } from "./pipeline.ts";
import type { BufferInfo, KernelPlan } from "./plan.ts";
import { dimExpr, dimMax, maxBytes } from "./plan.ts";

/** The compiler's own version: part of the artifact and of every cache key. */
export const COMPILER_VERSION = "0.1.0";

export interface CompileRequest {
  readonly name: string;
  /** One graph a program ("prefill", "decode.1"). States and weights are shared between programs by name. */
  readonly programs: readonly { readonly name: string; readonly graph: Graph }[];
  readonly backend: Backend;
  readonly caps: Caps;
  readonly metadata: Readonly<Record<string, unknown>>;
  /** Called for each kernel with the program that its source was printed from, and the model path of its first operation. */
  readonly onKernel?: (entry: string, program: ThreadProgram, label: string) => void;
  /** Called as kernels are lowered and then compiled. */
  readonly onProgress?: (done: number, total: number, what: string) => void;
}

export interface Compiled {
  readonly manifest: Manifest;
  readonly kernels: Uint8Array;
  readonly literals: Uint8Array;
}

export interface LoweredProgram {
  readonly name: string;
  readonly graph: Graph;
  readonly kernels: readonly KernelPlan[];
  readonly outputs: readonly BufferInfo[];
}

/** Compiles the programs of a model into an artifact. Throws CulmError for a mistake in the model; any other error is one of ours. */
export async function compileModel(request: CompileRequest): Promise<Compiled> {
  const { backend, caps, onProgress } = request;
  if (!backend.toolchain) throw new Error(`backend ${backend.name} has no toolchain: it cannot make an artifact that runs`);
  const programs: LoweredProgram[] = request.programs.map(({ name, graph }) => {
    const { graph: lowered, fused } = lowerGraph(graph, caps);
    return { name, graph: lowered, kernels: fused.kernels, outputs: fused.outputs };
  });

  const library = kernelLibrary(backend, caps, request.onKernel);
  const total = programs.reduce((n, p) => n + p.kernels.length, 0);
  let done = 0;
  const entries: ProgramEntry[] = programs.map((p) => {
    const steps = p.kernels.map((k) => {
      onProgress?.(done++, total, k.label);
      return library.add(k);
    });
    return programEntry(p, steps, caps);
  });
  onProgress?.(total, total, `${backend.name}: ${library.sources.length} kernels`);
  const kernels = await backend.toolchain.compile(library.sources, caps);

  const nodes = programs.flatMap((p) => topological(p.graph));
  const { literals, blob } = literalEntries(nodes);
  const manifest: Manifest = {
    format: "culm-artifact",
    version: ARTIFACT_VERSION,
    compiler: COMPILER_VERSION,
    name: request.name,
    target: { backend: backend.name, caps: caps.name, toolchain: backend.toolchain.version(caps), requires: caps.requires },
    weights: unique(programs, "weight").map((b) => weightEntry(b, nodes)),
    literals,
    states: unique(programs, "state").map(tensorEntry),
    programs: entries,
    kernels: library.entries,
    metadata: request.metadata,
  };
  return { manifest, kernels, literals: blob };
}

// ---- kernels --------------------------------------------------------------------------------------------------------
interface Library {
  readonly sources: Source[];
  readonly entries: KernelEntry[];
  add(k: KernelPlan): { readonly plan: KernelPlan; readonly kernel: number; readonly grid: StepEntry["grid"] };
}

/** Kernels by content: layers of one shape give the same thread program and share one compiled kernel. */
function kernelLibrary(backend: Backend, caps: Caps, onKernel: CompileRequest["onKernel"]): Library {
  const sources: Source[] = [];
  const entries: KernelEntry[] = [];
  const known = new Map<string, { readonly kernel: number; readonly grid: StepEntry["grid"] }>();
  const compile = (
    k: KernelPlan,
    { choice, thread: placed }: LoweredKernel,
  ): { readonly kernel: number; readonly grid: StepEntry["grid"] } => {
    const thread = backend.legalize?.(placed, caps) ?? placed;
    const entry = `${choice.template.replaceAll("-", "_")}_${hashOf(thread)}`;
    const source = backend.print({ ...thread, name: entry }, caps);
    const bindings = source.params?.reduce((n, p) => n + p.windows, 0) ?? 0;
    if (bindings > caps.maxBuffers)
      throw new CulmError({
        what: `a kernel's ${thread.params.length} buffers take ${bindings} bindings, because some are larger than one can be`,
        path: k.label,
        expected: `at most ${caps.maxBuffers} bindings on ${caps.name}`,
        fix: "take a target with larger bindings, fewer rows at a time (batch, prefill chunk), or a smaller vocabulary",
      });
    onKernel?.(source.entry, thread, k.label);
    sources.push({ ...source, about: `${k.label}: ${choice.template} ${JSON.stringify(choice.config)}` });
    const kernel = entries.push({
      entry: source.entry,
      name: k.problem.frame.name,
      template: choice.template,
      config: choice.config,
      symbols: thread.symbols.map((s) => s.name),
      threads: thread.threads,
      sharedBytes: source.sharedBytes,
    });
    return { kernel: kernel - 1, grid: [toIntExpr(thread.grid[0]), toIntExpr(thread.grid[1]), toIntExpr(thread.grid[2])] };
  };
  return {
    sources,
    entries,
    add(k) {
      const lowered = lowerKernel(k, caps);
      const hash = hashOf(lowered.thread);
      const compiled = known.get(hash) ?? compile(k, lowered);
      known.set(hash, compiled);
      return { plan: k, ...compiled };
    },
  };
}

const hashOf = (thread: LoweredKernel["thread"]): string =>
  createHash("sha256")
    .update(printThread({ ...thread, name: "kernel" }))
    .digest("hex")
    .slice(0, 12);

// ---- manifest -------------------------------------------------------------------------------------------------------
function programEntry(p: LoweredProgram, steps: readonly ReturnType<Library["add"]>[], caps: Caps): ProgramEntry {
  const memory = planMemory(p.kernels, caps.arena);
  const ref = (b: BufferInfo): BufferRef =>
    b.kind === "arena" ? { kind: "arena", ...memory.places.get(b)! } : { kind: b.kind, name: b.name };
  const inputs = topological(p.graph).filter((n): n is NodeOf<"input"> => n.op === "input");
  const both = p.outputs.find(({ name }) => inputs.some((n) => n.attrs.name === name));
  if (both)
    throw new CulmError({
      what: `program ${p.name}: ${both.name} is an input and an output`,
      fix: "call them differently: an input and an output of one name are one buffer, which a program cannot read and replace",
    });
  return {
    name: p.name,
    symbols: p.graph.symbols.map((s) => ({ name: s.name, min: s.min, max: s.max })),
    inputs: inputs.map((n) => tensorEntry({ kind: "input", name: n.attrs.name, dtype: typeOf(n).dtype, shape: typeOf(n).shape, panel: 0 })),
    outputs: p.outputs.map(tensorEntry),
    arenas: memory.arenas,
    steps: steps.map(({ plan, kernel, grid }) => ({
      kernel,
      grid,
      args: plan.args.map((a) => ref(a.buffer)),
      label: plan.label,
      bytes: plan.bytes,
      flops: plan.flops,
    })),
  };
}

const tensorEntry = (b: BufferInfo): TensorEntry => ({
  name: b.name,
  dtype: b.dtype,
  shape: b.shape.map((d) => toIntExpr(dimExpr(d))),
  bytes: maxBytes(b),
});

/** Buffers of a kind that any kernel touches, once by name. Two programs must agree on what a name means. */
function unique(programs: readonly LoweredProgram[], kind: BufferInfo["kind"]): BufferInfo[] {
  const found = new Map<string, BufferInfo>();
  for (const p of programs)
    for (const k of p.kernels)
      for (const { buffer: b } of k.args) {
        if (b.kind !== kind) continue;
        const known = found.get(b.name);
        if (known && (known.dtype !== b.dtype || known.panel !== b.panel || maxBytes(known) !== maxBytes(b)))
          throw new Error(
            `programs disagree on ${kind} ${b.name}: ${known.dtype} ${maxBytes(known)} bytes and ${b.dtype} ${maxBytes(b)} bytes`,
          );
        if (!known) found.set(b.name, b);
      }
  return [...found.values()];
}

function weightEntry(b: BufferInfo, nodes: readonly Node[]): WeightEntry {
  const node = nodes.find((n): n is NodeOf<"param"> => n.op === "param" && n.attrs.name === b.name)!;
  const shape = b.shape.map(dimMax);
  return {
    name: b.name,
    dtype: b.dtype,
    parts: node.attrs.packed?.parts ?? [{ tensor: b.name, shape }],
    rows: shape[0] ?? 1,
    cols: shape.slice(1).reduce((x, y) => x * y, 1),
    panel: b.panel,
    bytes: maxBytes(b),
  };
}

function literalEntries(nodes: readonly Node[]): { literals: LiteralEntry[]; blob: Uint8Array } {
  const found = new Map<string, NodeOf<"literal">>();
  for (const n of nodes) if (n.op === "literal") found.set(n.attrs.name, n);
  const literals: LiteralEntry[] = [];
  const chunks: Uint8Array[] = [];
  let offset = 0;
  for (const [name, n] of found) {
    const { dtype, shape } = typeOf(n);
    const data = new Uint8Array(n.attrs.data.buffer, n.attrs.data.byteOffset, n.attrs.data.byteLength);
    if (data.byteLength !== shape.map(dimMax).reduce((a, b) => a * b, 1) * BYTES[dtype])
      throw new Error(`literal ${name} does not have the bytes of its type`);
    literals.push({ name, dtype, shape: shape.map(dimMax), offset, bytes: data.byteLength });
    chunks.push(data);
    offset += data.byteLength;
  }
  const blob = new Uint8Array(offset);
  chunks.forEach((c, i) => {
    blob.set(c, literals[i]!.offset);
  });
  return { literals, blob };
}
