/** `culm/compiler`: graphs to artifacts. */
export { compileModel, COMPILER_VERSION } from "./compile.ts";
export type { Compiled, CompileRequest } from "./compile.ts";
export type { Backend, Caps, MatrixUnit, Source, Toolchain } from "./backend.ts";
export type { Manifest } from "./artifact.ts";
export type { Graph, Node, TensorType } from "./ir/graph.ts";
export { CulmError } from "./diagnostics.ts";
export { interpretGraph, tensor } from "./run/graph.ts";
export type { Bindings, Results, Tensor } from "./run/graph.ts";
export { printGraph } from "./ir/graph-text.ts";
