/**
 * Philox 4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw ("Parallel random numbers: as easy as 1, 2, 3", SC 2011):
 * four random words are a function of a 128-bit counter and a 64-bit key, with no state. So a draw can be repeated or skipped, and the
 * draws of one row of a batch do not depend on the other rows.
 */

import { words } from "../random.ts";

/** The high 32 bits of the product of two 32-bit words. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 65_536) + (other >>> 16)) >>> 0;
}

/** Writes the four words of a counter (4 words) under a key (2 words) to `out`. */
export function philox4x32(counter: ArrayLike<number>, key: ArrayLike<number>, out: Uint32Array): void {
  let [c0, c1, c2, c3] = [counter[0]! >>> 0, counter[1]! >>> 0, counter[2]! >>> 0, counter[3]! >>> 0];
  let [k0, k1] = [key[0]! | 0, key[1]! | 0];
  for (let round = 0; round < 10; round += 1) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0);
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1 >>> 0;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0 >>> 0;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

const counterWords = new Uint32Array(4);
const keyWords = new Uint32Array(2);
const outWords = new Uint32Array(4);

/**
 * The draw for a token: a number in [0, 1) with 24 random bits, so that it is exact in f32, which kernels take. Key: the seed's low and high word. Counter: the
 * step's low and high word, the return index, 0. So a draw belongs to (seed, step, return index) and not to a row's place in the batch: a prompt gets
 * the same tokens alone and among others, and of n sequences returned for one prompt the i-th, from 0, has draws of its own. All three are integers from
 * 0, seed and step below 2^53 and the return index below 2^32.
 */
export function uniform(seed: number, returnIndex: number, step: number): number {
  [keyWords[0], keyWords[1]] = words(seed);
  [counterWords[0], counterWords[1]] = words(step);
  counterWords[2] = returnIndex;
  philox4x32(counterWords, keyWords, outWords);
  return (outWords[0]! >>> 8) / 2 ** 24;
}
