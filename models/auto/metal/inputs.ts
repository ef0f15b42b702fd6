import type { DType } from "../../../compiler/ir/dtype.ts";
import { allocate, write } from "../../../compiler/ir/dtype.ts";
import type { HostArray } from "../../../compiler/run/tile.ts";

/**
 * What a kernel is tried with. Weights of a large model do not fit into an artifact, so inputs are stored as the rule that makes them: element i of a buffer is a
 * function of its seed and of i modulo PERIOD, which every language computes alike, and a number that its type holds exactly (host/Verify.swift has the
 * same rule).
 */
export const PERIOD = 1_048_573;

/** A hash of 32 bits. */
export function hash(i: number, seed: number): number {
  let h = Math.imul((i ^ seed) >>> 0, 0x9e3779b1);
  h ^= h >>> 15;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** In [-1, 1), of as many bits as the type holds; 1 for integers, which are tokens, positions and sequences, all of them valid then. */
function element(dtype: DType, i: number, seed: number): number {
  const h = hash(i, seed);
  switch (dtype) {
    case "f32":
      return (h >>> 8) / 2 ** 23 - 1;
    case "f16":
      return (h >>> 21) / 2 ** 10 - 1;
    case "bf16":
      return (h >>> 24) / 2 ** 7 - 1;
    case "i32":
      return 1;
    case "bool":
      return h & 1;
  }
}

export function inputFor(dtype: DType, elements: number, seed: number): HostArray {
  const data = allocate(dtype, elements);
  const own = Math.min(elements, PERIOD);
  for (let i = 0; i < own; i++) write(data, dtype, i, element(dtype, i, seed));
  for (let filled = own; filled < elements;) {
    const count = Math.min(filled - (filled % PERIOD), elements - filled);
    data.copyWithin(filled, 0, count);
    filled += count;
  }
  return data;
}
