import type { Expr } from "../../compiler/ir/expr.ts";
import { add as plus, idiv, isConst, mod, rangeOf } from "../../compiler/ir/expr.ts";
import type { Block } from "../text/block.ts";
import { line } from "../text/block.ts";
import type { Kernel } from "./kernel.ts";
import type { Place } from "./memory.ts";
import { vectorType, windowName } from "./memory.ts";

const log2 = (n: number): number => Math.log2(n);
const COMPONENTS = ["x", "y", "z", "w"] as const;

/** Where an element lies: the vector's number, the word in it and the element in that, each a number where it is known. */
interface Spot {
  readonly vector: string;
  readonly word: number | string;
  readonly part: number | string;
  /** The window that it is certainly in. */
  readonly window: number | null;
}

function spotOf(p: Place, index: Expr, b: Block, k: Kernel): Spot {
  const shift = log2(p.per * p.vector);
  const part = mod(index, p.per),
    within = mod(index, p.per * p.vector);
  // where it is known which element of a vector it is, the division is done on the terms
  if (isConst(within) && isConst(part))
    return {
      vector: k.value(idiv(index, p.per * p.vector), b),
      word: Math.floor(within.value / p.per),
      part: part.value,
      window: certainWindow(p, index, shift),
    };
  const i = shift > 0 ? k.once(index, b) : k.value(index, b);
  const word = isConst(within)
    ? Math.floor(within.value / p.per)
    : p.vector === 1
      ? 0
      : `(${p.per === 1 ? i : `(${i} >> ${log2(p.per)}u)`} & ${p.vector - 1})`;
  return {
    vector: shift > 0 ? `(${i} >> ${shift}u)` : i,
    word,
    part: isConst(part) ? part.value : `(${i} & ${p.per - 1})`,
    window: certainWindow(p, index, shift),
  };
}

function certainWindow(p: Place, index: Expr, shift: number): number | null {
  if (p.windows === 1) return 0;
  const { min, max } = rangeOf(index);
  const [first, last] = [min, max].map((x) => Math.floor(x / 2 ** shift / p.windowVectors)) as [number, number];
  return first === last && first >= 0 && first < p.windows ? first : null;
}

const inWindow = (p: Place, w: number, vector: string): string =>
  w === 0 ? `${windowName(p, w)}[${vector}]` : `${windowName(p, w)}[${vector} - ${w * p.windowVectors}]`;

/** A whole vector of a buffer. */
function readVector(p: Place, vector: string, window: number | null, k: Kernel): string {
  if (window !== null) {
    const text = inWindow(p, window, vector);
    return p.word === "atomic" ? `atomicLoad(&${text})` : text;
  }
  const name = `${p.name}_at`;
  const read = (w: number): string => {
    const text = inWindow(p, w, "i");
    return `return ${p.word === "atomic" ? `atomicLoad(&${text})` : text};`;
  };
  const cases = Array.from({ length: p.windows - 1 }, (_, w) => `    case ${w}: { ${read(w)} }`);
  k.declarations.set(
    name,
    [
      `fn ${name}(i: i32) -> ${p.word === "atomic" ? "u32" : vectorType(p)} {`,
      `  switch (i / ${p.windowVectors}) {`,
      ...cases,
      `    default: { ${read(p.windows - 1)} }`,
      "  }",
      "}",
    ].join("\n"),
  );
  return `${name}(${vector})`;
}

/** Does something to a vector of a buffer, in whichever window it lies. */
function atVector(p: Place, spot: Pick<Spot, "vector" | "window">, b: Block, k: Kernel, what: (vector: string) => string): void {
  if (spot.window !== null) return void line(b, what(inWindow(p, spot.window, spot.vector)));
  const i = k.fresh("i");
  line(b, `let ${i} = ${spot.vector};`);
  line(b, `switch (${i} / ${p.windowVectors}) {`);
  for (let w = 0; w < p.windows - 1; w++) line(b, `  case ${w}: { ${what(inWindow(p, w, i))} }`);
  line(b, `  default: { ${what(inWindow(p, p.windows - 1, i))} }`);
  line(b, "}");
}

const component = (vector: string, size: number, at: number | string): string =>
  size === 1 ? vector : typeof at === "number" ? `${vector}.${COMPONENTS[at]!}` : `${vector}[${at}]`;

/** The element that lies in a word, as a value. */
function unpack(p: Place, word: string, part: number | string): string {
  switch (p.dtype) {
    case "f32":
    case "i32":
      return word;
    case "bool":
      if (p.per === 1) return word;
      return typeof part === "number"
        ? `((${word} & ${(0xff << (8 * part)) >>> 0}u) != 0u)`
        : `(((${word} >> u32(${part} * 8)) & 0xffu) != 0u)`;
    case "bf16":
      if (p.per === 1) return word;
      if (part === 0) return `bitcast<f32>(${word} << 16u)`;
      return part === 1 ? `bitcast<f32>(${word} & 0xffff0000u)` : `bitcast<f32>((${word} >> u32(${part} * 16)) << 16u)`;
    case "f16":
      if (p.per === 1) return p.word === "f16" ? `f32(${word})` : word;
      return component(`unpack2x16float(${word})`, 2, part);
  }
}

/** A value as the bits of an element, or as what a word holds where that is one element. */
function pack(p: Place, x: string, k: Kernel): string {
  if (p.per === 1) return p.word === "f16" ? `f16(${x})` : x;
  switch (p.dtype) {
    case "bf16":
      return `${k.helpers.use("bf16_bits")}(${x})`;
    case "f16":
      return `${k.helpers.use("f16_bits")}(${x})`;
    case "bool":
      return `select(0u, 1u, ${x})`;
    default:
      throw new Error(`${p.dtype} is a whole word`);
  }
}

export function loadElement(p: Place, index: Expr, b: Block, k: Kernel): string {
  const spot = spotOf(p, index, b, k);
  return unpack(p, component(readVector(p, spot.vector, spot.window, k), p.vector, spot.word), spot.part);
}

export function storeElement(p: Place, index: Expr, x: string, b: Block, k: Kernel): void {
  const spot = spotOf(p, index, b, k);
  if (p.word !== "atomic") return void atVector(p, spot, b, k, (v) => `${component(v, p.vector, spot.word)} = ${pack(p, x, k)};`);
  // Other threads store the other elements of the word: only these bits are touched.
  const bits = 32 / p.per;
  const mask = (2 ** bits - 1) >>> 0;
  const shift = typeof spot.part === "number" ? `${spot.part * bits}u` : `u32(${spot.part} * ${bits})`;
  const [s, v] = [k.fresh("x"), k.fresh("x")];
  line(b, `let ${s} = ${shift};`);
  line(b, `let ${v} = ${pack(p, x, k)} << ${s};`);
  atVector(p, spot, b, k, (word) => `atomicAnd(&${word}, ~(${mask}u << ${s})); atomicOr(&${word}, ${v});`);
}

/** `width` elements from `at` on, which is a multiple of `width`; texts of their values. */
export function loadElements(p: Place, at: Expr, width: number, b: Block, k: Kernel): string[] {
  const chunk = p.per * p.vector;
  if (width % chunk !== 0) return Array.from({ length: width }, (_, i) => loadElement(p, plus(at, i), b, k));
  return Array.from({ length: width / chunk }, (_, c) => {
    const spot = spotOf(p, plus(at, c * chunk), b, k);
    const v = k.fresh("x");
    line(b, `let ${v} = ${readVector(p, spot.vector, spot.window, k)};`);
    return Array.from({ length: chunk }, (_, i) => unpack(p, component(v, p.vector, Math.floor(i / p.per)), i % p.per));
  }).flat();
}

export function storeElements(p: Place, at: Expr, values: readonly string[], b: Block, k: Kernel): void {
  const chunk = p.per * p.vector;
  if (p.word === "atomic" || values.length % chunk !== 0) {
    if (p.word === "atomic" && values.length % p.per === 0) return void storeWords(p, at, values, b, k);
    for (const [i, x] of values.entries()) storeElement(p, plus(at, i), x, b, k);
    return;
  }
  for (let c = 0; c < values.length; c += chunk) {
    const spot = spotOf(p, plus(at, c), b, k);
    const words = Array.from({ length: p.vector }, (_, w) => packWord(p, values.slice(c + w * p.per, c + (w + 1) * p.per), k));
    const whole = p.vector === 1 ? words[0]! : `${vectorType(p)}(${words.join(", ")})`;
    atVector(p, spot, b, k, (v) => `${v} = ${whole};`);
  }
}

/** Whole words of a buffer whose words are stored in parts elsewhere. */
function storeWords(p: Place, at: Expr, values: readonly string[], b: Block, k: Kernel): void {
  for (let c = 0; c < values.length; c += p.per) {
    const spot = spotOf(p, plus(at, c), b, k);
    const word = packWord(p, values.slice(c, c + p.per), k);
    atVector(p, spot, b, k, (v) => `atomicStore(&${v}, ${word});`);
  }
}

function packWord(p: Place, values: readonly string[], k: Kernel): string {
  const bits = 32 / p.per;
  return values.map((x, i) => (i === 0 ? pack(p, x, k) : `(${pack(p, x, k)} << ${i * bits}u)`)).join(" | ");
}
