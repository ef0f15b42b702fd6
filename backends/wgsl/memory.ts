import type { Caps } from "../../compiler/backend.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import { walk } from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { eachStmt, expressionsOf } from "../../compiler/ir/thread-walk.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { Param } from "../../compiler/ir/tile.ts";
import { parseTarget, windowBytes } from "./caps.ts";

/**
 * How a buffer or shared array is declared. Storage knows 32-bit words (and halves where the target has them), so elements of 16 and 8 bits lie several
 * in a word. All accesses of a variable see one type: vectors of words where every access allows it.
 */
export interface Place {
  readonly name: string;
  readonly dtype: DType;
  readonly space: "storage" | "workgroup";
  readonly access: "read" | "readwrite";
  /** What a word holds. "atomic": a word that several threads store parts of. */
  readonly word: "f32" | "i32" | "u32" | "f16" | "bool" | "atomic";
  /** Elements of a word. */
  readonly per: number;
  /** Words of a vector: 1, 2 or 4. */
  readonly vector: number;
  /** Bindings that the buffer is cut into; each but the last holds `windowVectors` vectors. */
  readonly windows: number;
  readonly windowVectors: number;
  /** Elements of a shared array. */
  readonly count: number;
}

/** What a program does with a buffer: widths of its accesses, in elements. */
interface Usage {
  readonly loads: Set<number>;
  readonly stores: Set<number>;
}

function usages(p: ThreadProgram): ReadonlyMap<string, Usage> {
  const found = new Map([...p.params, ...p.shared].map(({ name }) => [name, { loads: new Set<number>(), stores: new Set<number>() }]));
  const of = (name: string): Usage => found.get(name)!;
  const seen = new Set<Expr>();
  eachStmt(p.body, (s) => {
    if (s.op === "store") of(s.buffer).stores.add(1);
    if (s.op === "loadVec") of(s.buffer).loads.add(s.width);
    if (s.op === "storeVec") of(s.buffer).stores.add(s.width);
    if (s.op === "asyncCopy") {
      of(s.src).loads.add(s.width);
      of(s.dst).stores.add(s.width);
    }
    if (s.op === "unit") for (const v of [s.a, s.b]) of(v.name).loads.add(4);
    for (const e of expressionsOf(s))
      walk(
        e,
        (x) => {
          if (x.op === "load") of(x.buffer).loads.add(1);
        },
        seen,
      );
  });
  return found;
}

export function placesOf(p: ThreadProgram, caps: Caps): ReadonlyMap<string, Place> {
  const usage = usages(p);
  const places = [
    ...p.params.map((q) => storagePlace(q, usage.get(q.name)!, caps)),
    ...p.shared.map((d) => sharedPlace(d, usage.get(d.name)!, caps)),
  ];
  return new Map(places.map(([name, place]) => [name, place]));
}

/** The widest vector of at most 4 words that `widths` (elements) are whole multiples of; `scalars`: single elements do no harm. */
function vectorOf(widths: Iterable<number>, per: number, scalars: boolean): number {
  const words = [...widths].filter((w) => !(scalars && w === 1)).map((w) => w / per);
  if (words.length === 0 || words.some((w) => !Number.isInteger(w))) return 1;
  return [4, 2].find((v) => (scalars ? words.some((w) => w % v === 0) : words.every((w) => w % v === 0))) ?? 1;
}

function storagePlace(q: Param, { loads, stores }: Usage, caps: Caps): readonly [string, Place] {
  const { f16 } = parseTarget(caps.name);
  const reads = q.access === "read";
  const native = f16 && q.dtype === "f16" && !reads;
  const bytes = native ? 2 : 4;
  const per = bytes / BYTES[q.dtype];
  // A component of a vector may be stored by storing the vector, which another thread's neighbouring store would not survive.
  let vector = reads ? vectorOf(loads, per, true) : vectorOf([...loads, ...stores], per, false);
  // words past the last whole vector could not be reached
  while (vector > 1 && q.elements !== undefined && q.elements % (vector * per) !== 0) vector /= 2;
  const partial = !reads && per > 1 && [...stores].some((w) => w % per !== 0);
  const window = windowBytes(caps);
  const windows = Math.max(1, Math.ceil(((q.elements ?? 0) * BYTES[q.dtype]) / window));
  const place: Place = {
    name: q.name,
    dtype: q.dtype,
    space: "storage",
    access: reads ? "read" : "readwrite",
    word: partial ? "atomic" : native ? "f16" : per > 1 ? "u32" : q.dtype === "i32" ? "i32" : "f32",
    per,
    vector: partial ? 1 : vector,
    windows,
    windowVectors: window / (bytes * (partial ? 1 : vector)),
    count: 0,
  };
  return [q.name, place];
}

function sharedPlace(d: ThreadProgram["shared"][number], { stores }: Usage, caps: Caps): readonly [string, Place] {
  const { f16 } = parseTarget(caps.name);
  // parts of a word cannot be stored, so what has no type of its own takes a whole one
  const word = d.dtype === "f16" ? (f16 ? "f16" : "f32") : d.dtype === "bf16" ? "f32" : d.dtype;
  let vector = stores.has(1) ? 1 : vectorOf(stores, 1, false);
  while (vector > 1 && d.count % vector !== 0) vector /= 2;
  const place: Place = {
    name: `s_${d.name}`,
    dtype: d.dtype,
    space: "workgroup",
    access: "readwrite",
    word,
    per: 1,
    vector: word === "bool" ? 1 : vector,
    windows: 1,
    windowVectors: Infinity,
    count: d.count,
  };
  return [d.name, place];
}

const scalarType = (p: Place): string => (p.word === "atomic" ? "atomic<u32>" : p.word);

/** The WGSL type of one element of the declared array. */
export const vectorType = (p: Place): string => (p.vector === 1 ? scalarType(p) : `vec${p.vector}<${scalarType(p)}>`);

/** Bytes that a shared array takes. */
export const sharedBytes = (p: Place): number => p.count * (p.word === "f16" ? 2 : 4);

/** The name of window `w` of a buffer. */
export const windowName = (p: Place, w: number): string => (p.windows === 1 ? p.name : `${p.name}_${w}`);

/** Declarations of all buffers and shared arrays; bindings are numbered in the order of the parameters. */
export function declarations(places: ReadonlyMap<string, Place>): { readonly text: string[]; readonly bindings: number } {
  const text: string[] = [];
  let binding = 0;
  for (const p of places.values()) {
    if (p.space === "workgroup") {
      text.push(`var<workgroup> ${p.name}: array<${vectorType(p)}, ${p.count / p.vector}>;`);
      continue;
    }
    for (let w = 0; w < p.windows; w++)
      text.push(
        `@group(0) @binding(${binding++}) var<storage, ${p.access === "read" ? "read" : "read_write"}> ${windowName(p, w)}: array<${vectorType(p)}>;`,
      );
  }
  return { text, bindings: binding };
}
