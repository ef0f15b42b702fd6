import type { BambaConfig } from "./config.ts";
import { ConfigError } from "./config-error.ts";
import type { RopeConfig } from "./rope-config.ts";

const { fround } = Math;

/** Cosines and sines of the rotation: position p, pair j at [p * rotaryDim / 2 + j]. */
export interface RopeTables {
  /** [maxPositions, rotaryDim / 2] */
  readonly cos: Float32Array;
  /** [maxPositions, rotaryDim / 2] */
  readonly sin: Float32Array;
}

/**
 * Whether the frequencies depend on how long the running sequence is. Transformers then changes them in the middle of a sequence, at the original
 * context, so that no table can be made beforehand: ropeRows writes what each call needs.
 */
export function ropeDependsOnLength(rope: RopeConfig): boolean {
  return rope.type === "dynamic" || rope.type === "longrope";
}

/** What multiplies cos and sin. Source: spec bamba a.3. */
export function attentionScaling(rope: RopeConfig): number {
  return rope.type === "yarn" || rope.type === "longrope" ? rope.attentionFactor : 1;
}

/**
 * The angle per position of each rotated pair, [rotaryDim / 2], in radians, rounded to float32 after every operation as Transformers computes it.
 * @param rotaryDim R, even
 * @param sequenceLength positions in use, which decides between the two sets of longrope and stretches dynamic; no other type looks at it
 */
export function inverseFrequencies(rope: RopeConfig, rotaryDim: number, sequenceLength: number): Float32Array {
  const exponents = Float32Array.from({ length: rotaryDim / 2 }, (_, j) => (2 * j) / rotaryDim);
  const powers = (theta: number): Float32Array => exponents.map((exponent) => fround(theta) ** exponent);
  const inverse = (values: Float32Array): Float32Array => values.map((value) => 1 / value);
  switch (rope.type) {
    case "default":
      return inverse(powers(rope.theta));
    case "linear":
      return inverse(powers(rope.theta)).map((frequency) => frequency / fround(rope.factor));
    case "dynamic":
      return stretchedFrequencies(rope, rotaryDim, sequenceLength, new Float32Array(rotaryDim / 2));
    case "longrope": {
      const factors = sequenceLength > rope.originalMaxPositions ? rope.longFactor : rope.shortFactor;
      return inverse(powers(rope.theta).map((power, j) => fround(factors[j]!) * power));
    }
    case "llama3":
      return llama3(inverse(powers(rope.theta)), rope);
    case "yarn":
      return yarn(powers(rope.theta), rope, rotaryDim);
  }
}

/** Writes the frequencies of dynamic into `target`. The length is a tensor in Transformers, which makes all of this float32. */
function stretchedFrequencies(
  { factor, originalMaxPositions: original, theta }: Extract<RopeConfig, { type: "dynamic" }>,
  rotaryDim: number,
  length: number,
  target: Float32Array,
): Float32Array {
  const ratio = fround(fround(fround(factor) * Math.max(length, original)) / original);
  const stretch = fround(fround(ratio - fround(factor - 1)) ** fround(rotaryDim / (rotaryDim - 2)));
  const stretched = length > original ? fround(fround(theta) * stretch) : fround(theta);
  for (let j = 0; j < target.length; j += 1) target[j] = 1 / fround(stretched ** fround((2 * j) / rotaryDim));
  return target;
}

/** Short waves as they are, long ones slowed by the factor, those between interpolated. */
function llama3(frequencies: Float32Array, rope: Extract<RopeConfig, { type: "llama3" }>): Float32Array {
  const { factor, originalMaxPositions: original, lowFrequencyFactor: low, highFrequencyFactor: high } = rope;
  return frequencies.map((frequency) => {
    const wavelength = fround(fround(2 * Math.PI) / frequency);
    if (wavelength > fround(original / low)) return frequency / fround(factor);
    if (wavelength < fround(original / high)) return frequency;
    const smooth = fround(fround(fround(original / wavelength) - fround(low)) / fround(high - low));
    const slowed = fround(fround(fround(1 - smooth) * frequency) / fround(factor));
    return slowed + fround(smooth * frequency);
  });
}

/** Pairs that turn often in the original context keep their frequency, pairs that turn rarely are slowed, with a ramp between. */
function yarn(powers: Float32Array, rope: Extract<RopeConfig, { type: "yarn" }>, rotaryDim: number): Float32Array {
  const pairOf = (rotations: number): number =>
    (rotaryDim * Math.log(rope.originalMaxPositions / (rotations * 2 * Math.PI))) / (2 * Math.log(rope.theta));
  const fast = pairOf(rope.betaFast);
  const slow = pairOf(rope.betaSlow);
  const low = Math.max(rope.truncate ? Math.floor(fast) : fast, 0);
  const end = Math.min(rope.truncate ? Math.ceil(slow) : slow, rotaryDim - 1);
  const high = low === end ? end + 0.001 : end;
  return powers.map((power, j) => {
    const ramp = fround(fround(j - fround(low)) / fround(high - low));
    const kept = fround(1 - Math.min(1, Math.max(0, ramp)));
    const slowed = fround(1 / fround(fround(rope.factor) * power));
    return fround(slowed * fround(1 - kept)) + fround(fround(1 / power) * kept);
  });
}

export interface RopeTableOptions {
  /**
   * What the frequencies are rounded to; f32 unless given. Transformers keeps them in f32 when it loads a bf16 checkpoint, but casting a model
   * with `.to(torch.bfloat16)` rounds them too, and they stay rounded when it is cast back: "bf16" reproduces such a model.
   */
  readonly frequencies?: "f32" | "bf16";
}

/**
 * cos and sin of position * frequency, times the attention scaling. The angle is rounded to float32, as in Transformers: at large positions
 * that rounding is larger than any error of the cosine. Rows are positions 0 to maxPositions - 1; types that depend on the length of the sequence
 * have those of the original context. Source: spec bamba a.3, c.3.
 * @throws ConfigError when maxPositions is not a positive integer or the tables would not fit in memory.
 */
export function ropeTables(config: BambaConfig, maxPositions: number, options: RopeTableOptions = {}): RopeTables {
  const pairs = config.rotaryDim / 2;
  if (!Number.isSafeInteger(maxPositions) || maxPositions < 1 || maxPositions * pairs > 2 ** 30) {
    throw new ConfigError(
      `rope tables: expected a positive number of positions, at most ${Math.floor(2 ** 30 / pairs)}, got ${maxPositions}`,
    );
  }
  const frequencies = firstFrequencies(config, options);
  const tables = { cos: new Float32Array(maxPositions * pairs), sin: new Float32Array(maxPositions * pairs) };
  const scaling = fround(attentionScaling(config.rope));
  for (let position = 0; position < maxPositions; position += 1) writeRow(tables, position, frequencies, scaling);
  return tables;
}

/** Those of the original context, or of any length where that makes no difference. */
function firstFrequencies({ rope, rotaryDim }: BambaConfig, options: RopeTableOptions): Float32Array {
  const exact = inverseFrequencies(rope, rotaryDim, 1);
  return options.frequencies === "bf16" ? roundToBf16(exact) : exact;
}

function writeRow({ cos, sin }: RopeTables, position: number, frequencies: Float32Array, scaling: number): void {
  const pairs = frequencies.length;
  for (let j = 0; j < pairs; j += 1) {
    const angle = fround(position * frequencies[j]!);
    cos[position * pairs + j] = fround(Math.cos(angle)) * scaling;
    sin[position * pairs + j] = fround(Math.sin(angle)) * scaling;
  }
}

/**
 * Writes the rows of `tables` that a call reads: those of its positions, with the frequencies that hold for a call of this length (one more than its
 * greatest position). Rows of other positions stay as they are; nobody reads them, since keys are cached after their rotation.
 * @param past positions before this call; 0 begins a new sequence
 */
export type RopeRows = (tables: RopeTables, positions: ArrayLike<number>, count: number, length: number, past: number) => void;

/**
 * The frequencies of dynamic and longrope from call to call, as Transformers' dynamic_rope_update has them. longrope: the long factors in a call that
 * reaches beyond the original context, else the short ones. dynamic: stretched to the longest call so far, beginning with the original context, and back
 * to that in a call that is shorter than it. Transformers remembers the longest call for as long as the model lives; here a new sequence begins anew,
 * so that a result does not depend on what was computed before. Rounding ("bf16") is for the frequencies that a model is made with; those that
 * Transformers computes later are f32.
 */
export function ropeRows(config: BambaConfig, options: RopeTableOptions = {}): RopeRows {
  const { rope, rotaryDim } = config;
  if (rope.type !== "dynamic" && rope.type !== "longrope") throw new Error(`rope type ${rope.type} does not depend on the length`);
  const original = rope.originalMaxPositions;
  const scaling = fround(attentionScaling(rope));
  const first = firstFrequencies(config, options);
  const long = rope.type === "longrope" ? inverseFrequencies(rope, rotaryDim, original + 1) : first.slice();
  let longest = original;
  return (tables, positions, count, length, past) => {
    if (rope.type === "longrope") longest = length;
    else {
      if (past === 0 || length < original) longest = original;
      if (length > longest) {
        longest = length;
        stretchedFrequencies(rope, rotaryDim, length, long);
      }
    }
    const frequencies = longest > original ? long : first;
    for (let i = 0; i < count; i += 1) writeRow(tables, positions[i]!, frequencies, scaling);
  };
}

/** Positive finite numbers to the nearest bf16, ties to even. */
function roundToBf16(values: Float32Array): Float32Array {
  const bits = new Uint32Array(values.slice().buffer);
  for (let i = 0; i < bits.length; i += 1) bits[i] = ((bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16) << 16;
  return new Float32Array(bits.buffer);
}
