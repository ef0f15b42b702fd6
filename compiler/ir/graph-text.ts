import type { Dim, Graph, Node, TensorType } from "./graph.ts";
import { topological } from "./graph.ts";
import type { Expr } from "./expr.ts";
import { print } from "./expr-text.ts";

export const printDim = (d: Dim): string => (typeof d === "number" ? String(d) : d.name);
export const printShape = (shape: readonly Dim[]): string => `[${shape.map(printDim).join(", ")}]`;
export const printType = (t: TensorType): string => `${t.dtype}${printShape(t.shape)}`;
export const printTypes = (types: readonly TensorType[]): string =>
  types.length === 1 ? printType(types[0]!) : `(${types.map(printType).join(", ")})`;

/**
 * The graph as text, one operation a line, operands before users:
 * ```
 * graph decode(batch in 1..8, seq in 1..1) {
 *   %3: f32[batch, seq, 64] = matmul %1, %2 {transB: true}  # layers.0.mlp.up
 *   out logits = %3
 *   state kv.0 := %9
 * }
 * ```
 * The same graph always prints the same: numbers follow the order of `topological`, attributes their declaration.
 */
export function printGraph(graph: Graph): string {
  const numbers = new Map<Node, number>();
  const ref = (n: Node): string => `%${numbers.get(n)!}`;
  const lines: string[] = [];
  for (const n of topological(graph)) {
    numbers.set(n, numbers.size);
    const operands = n.inputs.length > 0 ? ` ${n.inputs.map(ref).join(", ")}` : "";
    const attrs = printAttrs(n.attrs);
    const name = n.name === "" ? "" : `  # ${n.name}`;
    lines.push(`  ${ref(n)}: ${printTypes(n.types)} = ${n.op}${operands}${attrs === "" ? "" : ` {${attrs}}`}${name}`);
  }
  for (const o of graph.outputs) lines.push(`  out ${o.name} = ${ref(o.value)}${o.when ? ` when ${o.when.name}` : ""}`);
  for (const u of graph.updates) lines.push(`  state ${u.state} := ${ref(u.value)}`);
  const symbols = graph.symbols.map((s) => `${s.name} in ${s.min}..${s.max}`).join(", ");
  return `graph ${graph.name}(${symbols}) {\n${lines.join("\n")}\n}\n`;
}

const printAttrs = (attrs: object): string =>
  Object.entries(attrs)
    .filter(([, value]) => value !== null)
    .map(([key, value]) => `${key}: ${printValue(value)}`)
    .join(", ");

function printValue(value: unknown): string {
  if (value instanceof Float32Array || value instanceof Int32Array) return `${value.length} values, hash ${hash(value)}`;
  if (Array.isArray(value)) return `[${value.map(printValue).join(", ")}]`;
  if (isExpr(value)) return print(value);
  if (typeof value === "object" && value !== null) return `{${printAttrs(value)}}`;
  return Object.is(value, -0) ? "-0" : String(value);
}

const isExpr = (x: unknown): x is Expr => typeof x === "object" && x !== null && "op" in x && "dtype" in x;

/** FNV-1a over the bytes: tables are too long to print, yet a changed one must change the text. */
function hash(data: Float32Array | Int32Array): string {
  let h = 0x811c9dc5;
  for (const byte of new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) h = Math.imul(h ^ byte, 0x01000193);
  return (h >>> 0).toString(16).padStart(8, "0");
}
