import type { DType } from "../../compiler/ir/dtype.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { add, idiv, isConst, some, sum, terms } from "../../compiler/ir/expr.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import { inRuns } from "../../compiler/lower/vectorise.ts";
import type { Block } from "../text/block.ts";
import { line, where } from "../text/block.ts";
import { wordOf, zeroOf } from "./dialect.ts";
import type { Kernel, Place } from "./kernel.ts";

/** Accesses to memory. Vectors are of at most 16 bytes; their elements are taken apart in registers. Indices are 32-bit integers, addresses have 64 bits. */
const COMPONENTS = ["x", "y", "z", "w"] as const;
const MOST_WORDS = 4;

const component = (vector: string, words: number, i: number): string => (words === 1 ? vector : `${vector}.${COMPONENTS[i]!}`);

/** Words that `width` elements take at a time; null where they are less than a word. */
function wordsOf(dtype: DType, width: number): 1 | 2 | 4 | null {
  const words = Math.min(MOST_WORDS, (width * BYTES[dtype]) / 4);
  return words === 1 || words === 2 || words === 4 ? words : null;
}

/**
 * An address in two parts: a pointer, and an offset of constants and counters of loops that are written out. In one sum of 32 bits the compiler would have to
 * compute every address by itself; of this it makes one register and a constant in each instruction.
 */
function addressOf(p: Place, index: Expr, b: Block, k: Kernel): readonly [pointer: string, offset: string] {
  return p.turned > 0 ? turnedAddress(p, index, b, k) : plainAddress(p, index, b, k);
}

/** Rows until one is turned as the first. */
const TURNS = 8;

/** Whole runs of eight rows stay as they are: what is no multiple of those is turned by itself, and does not change from turn to turn of a ring. */
function turnedAddress(p: Place, index: Expr, b: Block, k: Kernel): readonly [pointer: string, offset: string] {
  const { whole, rest } = inRuns(index, TURNS * p.turned);
  const [pointer, offset] = plainAddress(p, whole, b, k);
  const within = k.once(rest, b);
  const row = Number.isInteger(Math.log2(p.turned)) ? `${within} >> ${Math.log2(p.turned)}` : `${within} / ${p.turned}`;
  return [`(${pointer} + ${offset})`, `(${within} ^ (((${row}) & ${TURNS - 1}) * ${16 / BYTES[p.dtype]}))`];
}

function plainAddress(p: Place, index: Expr, b: Block, k: Kernel): readonly [pointer: string, offset: string] {
  const isOffset = (e: Expr): boolean => !some(e, (x) => (x.op === "var" && !k.unrolled.has(x)) || x.op === "load" || x.op === "reg");
  const parts = terms(index);
  const offset = parts.filter(isOffset),
    rest = parts.filter((e) => !isOffset(e));
  if (offset.length === 0 || rest.length === 0) return [p.name, k.value(index, b)];
  return [`(${p.name} + ${k.once(sum(rest), b)})`, k.value(sum(offset), b)];
}

const elementAt = (p: Place, index: Expr, b: Block, k: Kernel): string => {
  const [pointer, offset] = addressOf(p, index, b, k);
  return `${pointer}[${offset}]`;
};
/** The address of an element. */
export const pointerTo = (p: Place, index: Expr, b: Block, k: Kernel): string => addressOf(p, index, b, k).join(" + ");

export function loadElement(p: Place, index: Expr, b: Block, k: Kernel): string {
  const element = elementAt(p, index, b, k);
  if (p.dtype === "bool") return `(${element} != 0)`;
  return p.dtype === "bf16" || p.dtype === "f16" ? k.call(`${p.dtype}_value`, element) : element;
}

/** `x`, or the cast that made it: what stores it rounds all the same. */
const unrounded = (x: Expr, dtype: DType): Expr =>
  x.op === "cast" && x.dtype === dtype && (dtype === "bf16" || dtype === "f16") && x.a.dtype === "f32" ? x.a : x;

export function storeElement(p: Place, index: Expr, value: Expr, b: Block, k: Kernel): void {
  const x = k.value(unrounded(value, p.dtype), b);
  const stored = p.dtype === "bool" ? `(${x} ? 1 : 0)` : p.dtype === "bf16" || p.dtype === "f16" ? k.call(`${p.dtype}_bits`, x) : x;
  line(b, `${elementAt(p, index, b, k)} = ${stored};`);
}

/** What an assignment puts into a register. */
export const assigned = (reg: string, value: Expr, k: Kernel): Expr =>
  k.unrounded.has(reg) ? unrounded(value, k.registers.get(reg)!.dtype) : value;

/** Names of the words of `width` elements from `at` on, which is a multiple of as many as a vector holds. */
function loadWords(p: Place, at: Expr, width: number, b: Block, k: Kernel): readonly string[] {
  const words = wordsOf(p.dtype, width)!;
  const per = (4 * words) / BYTES[p.dtype];
  const type = k.dialect.vectors[wordOf(p.dtype)][words];
  return Array.from({ length: width / per }, (_, i) => {
    const name = k.fresh("x");
    const address = pointerTo(p, add(at, i * per), b, k);
    const streamed = p.streamed ? k.dialect.streamed[type] : undefined;
    line(
      b,
      `const ${type} ${name} = ${streamed === undefined ? k.dialect.vectorAt(type, p.space, address, "read") : `${k.help(streamed)}(${address})`};`,
    );
    return Array.from({ length: words }, (_, word) => component(name, words, word));
  }).flat();
}

function storeWords(p: Place, at: Expr, values: readonly string[], b: Block, k: Kernel): void {
  const words = wordsOf(p.dtype, (values.length * 4) / BYTES[p.dtype])!;
  const per = (4 * words) / BYTES[p.dtype];
  const type = k.dialect.vectors[wordOf(p.dtype)][words];
  for (let i = 0; i * words < values.length; i++) {
    const of = values.slice(i * words, (i + 1) * words);
    const whole = words === 1 ? of[0]! : `${k.dialect.makeVector(type)}(${of.join(", ")})`;
    line(b, `${k.dialect.vectorAt(type, p.space, pointerTo(p, add(at, i * per), b, k), "write")} = ${whole};`);
  }
}

/** The elements that a word holds, as values. */
function unpack(dtype: DType, word: string, k: Kernel): readonly string[] {
  switch (dtype) {
    case "f32":
    case "i32":
      return [word];
    case "bf16":
    case "f16":
      return [k.call(`${dtype}_low`, word), k.call(`${dtype}_high`, word)];
    case "bool":
      return [0, 1, 2, 3].map((i) => `((${word} & ${(0xff << (8 * i)) >>> 0}u) != 0u)`);
  }
}

function pack(dtype: DType, values: readonly string[], k: Kernel): string {
  switch (dtype) {
    case "f32":
    case "i32":
      return values[0]!;
    case "bf16":
    case "f16":
      return k.call(`${dtype}_pair`, values[0]!, values[1]!);
    case "bool":
      return values.map((x, i) => `(${x} ? ${(1 << (8 * i)) >>> 0}u : 0u)`).join(" | ");
  }
}

/** `width` elements from `at` on, which is a multiple of `width`; texts of their values. */
export function loadElements(p: Place, at: Expr, width: number, b: Block, k: Kernel): readonly string[] {
  if (width === 1 || wordsOf(p.dtype, width) === null) return Array.from({ length: width }, (_, i) => loadElement(p, add(at, i), b, k));
  return loadWords(p, at, width, b, k).flatMap((word) => unpack(p.dtype, word, k));
}

type Vector = Extract<Stmt, { op: "loadVec" | "storeVec" }>;

const wordRegisters = (s: Vector, b: Block, k: Kernel): string[] => {
  const per = 4 / BYTES[s.dtype];
  return Array.from({ length: s.width / per }, (_, i) => k.register(s.reg, add(idiv(s.index, per), i), b));
};
const elementRegisters = (s: Vector, b: Block, k: Kernel): string[] =>
  Array.from({ length: s.width }, (_, i) => k.register(s.reg, add(s.index, i), b));

const always = (guard: Expr | null): guard is null => guard === null || isConst(guard, 1);

/** What happens where a guard holds. */
export const guarded = (guard: Expr | null, b: Block, k: Kernel, body: (inner: Block) => void): void => {
  if (always(guard)) body(b);
  else where(b, k.value(guard, b), body);
};

export function loadVector(s: Extract<Stmt, { op: "loadVec" }>, b: Block, k: Kernel): void {
  const place = k.places.get(s.buffer)!;
  const carries = k.carriers.has(s.reg);
  const targets = carries ? wordRegisters(s, b, k) : elementRegisters(s, b, k);
  if (!always(s.guard)) for (const target of targets) line(b, `${target} = ${carries ? "0u" : zeroOf(s.dtype)};`);
  guarded(s.guard, b, k, (inner) => {
    const values = carries ? loadWords(place, s.at, s.width, inner, k) : loadElements(place, s.at, s.width, inner, k);
    for (const [i, x] of values.entries()) line(inner, `${targets[i]!} = ${x};`);
  });
}

export function storeVector(s: Extract<Stmt, { op: "storeVec" }>, b: Block, k: Kernel): void {
  const place = k.places.get(s.buffer)!;
  const per = 4 / BYTES[s.dtype];
  guarded(s.guard, b, k, (inner) => {
    if (k.carriers.has(s.reg)) return void storeWords(place, s.at, wordRegisters(s, inner, k), inner, k);
    const values = elementRegisters(s, inner, k);
    if (s.width % per !== 0) throw new Error(`${s.buffer}: a vector of ${s.width} elements is no whole word`);
    const words = Array.from({ length: s.width / per }, (_, i) => pack(s.dtype, values.slice(i * per, (i + 1) * per), k));
    storeWords(place, s.at, words, inner, k);
  });
}
