/** Integer hashes, for numbers that look random and are a function of where they stand. */

/**
 * One 32-bit number from another; a bijection in which each bit of the input moves about half of those of the output ("lowbias32" with the
 * constants of its author's better search, of bias 0.108).
 */
export function hash32(value: number): number {
  let x = value | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return (x ^ (x >>> 15)) >>> 0;
}

/** A 32-bit hash of a string's UTF-16 units (FNV-1a, then hash32). */
export function hashString(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return hash32(h);
}

/** The low and high 32 bits of a non-negative integer below 2^53. */
export function words(value: number): readonly [low: number, high: number] {
  return [value >>> 0, Math.floor(value / 2 ** 32)];
}

/**
 * The inverse of the normal distribution function for p in (0, 1): mean 0, standard deviation 1.
 * Peter Acklam's rational approximation, of relative error below 1.2e-9.
 */
export function normalQuantile(p: number): number {
  const tail = Math.min(p, 1 - p);
  if (tail < 0.02425) {
    const q = Math.sqrt(-2 * Math.log(tail));
    const top =
      ((((-7.784894002430293e-3 * q - 0.3223964580411365) * q - 2.400758277161838) * q - 2.549732539343734) * q + 4.374664141464968) * q;
    const bottom = (((7.784695709041462e-3 * q + 0.3224671290700398) * q + 2.445134137142996) * q + 3.754408661907416) * q + 1;
    const x = (top + 2.938163982698783) / bottom;
    return p < 0.5 ? x : -x;
  }
  const q = p - 0.5;
  const r = q * q;
  const top =
    ((((-39.69683028665376 * r + 220.9460984245205) * r - 275.9285104469687) * r + 138.357751867269) * r - 30.66479806614716) * r +
    2.506628277459239;
  const bottom =
    ((((-54.47609879822406 * r + 161.5858368580409) * r - 155.6989798598866) * r + 66.80131188771972) * r - 13.28068155288572) * r + 1;
  return (q * top) / bottom;
}
