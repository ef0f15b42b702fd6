import type { Checkpoint } from "../../../runtime/node/checkpoint.ts";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";
import { UserError } from "../../../runtime/errors.ts";
import { decodeFloats, decodeIntegers, isFloatDType, tokenRange } from "../../../runtime/numeric.ts";
import type { IntegerRange } from "../../../runtime/numeric.ts";
import type { BambaConfig } from "../../bamba/config.ts";

/** Floats, or integers (tokens, masks, positions), row-major. */
export interface GoldenTensor {
  readonly shape: readonly number[];
  readonly values: Float32Array | Int32Array;
}

/** Most tokens that the generated section adds to a prompt. */
export const newTokens = 24;

/** Named tensors of a golden file: those read from one, or those that one is being made of. */
export interface Golden {
  readonly names: readonly string[];
  /** undefined when there is no such tensor. */
  get(name: string): GoldenTensor | undefined;
}

/** A golden file on disk; tensors are read when they are asked for. */
export interface GoldenFile extends Golden {
  readonly path: string;
  close(): void;
}

/** The tensors that are given and not computed, [rows, length] of integers each, and what may stand in them. */
function integerRanges(config: BambaConfig): Readonly<Record<string, IntegerRange>> {
  const tokens = tokenRange(config.vocabSize);
  return {
    "forward.input_ids": tokens,
    "forward.masked_labels": { min: -100, max: config.vocabSize - 1 },
    "padded.input_ids": tokens,
    "padded.attention_mask": { min: 0, max: 1 },
    "padded.position_ids": { min: 0, max: config.maxPositionEmbeddings - 1 },
    "sampling.history": tokens,
  };
}

/**
 * Opens a golden file (reference data of forward, padded, cached and generated outputs). Whoever made it is not trusted: inputs are held to the
 * model's ranges when they are read.
 * @throws UserError for a file that cannot be read; from `get` for a dtype or value that does not fit.
 */
export function openGoldenFile(path: string, config: BambaConfig): GoldenFile {
  const file = openCheckpoint(path);
  const ranges = integerRanges(config);
  return {
    path,
    names: [...file.tensors.keys()],
    get: (name) => readTensor(file, name, ranges[name] ?? { min: -(2 ** 31), max: 2 ** 31 - 1 }),
    close: () => file.close(),
  };
}

function readTensor(file: Checkpoint, name: string, range: IntegerRange): GoldenTensor | undefined {
  const info = file.tensors.get(name);
  if (info === undefined) return undefined;
  const { dtype, shape } = info;
  if (isFloatDType(dtype)) return { shape, values: decodeFloats(dtype, file.read(name)) };
  if (dtype === "I64" || dtype === "I32")
    return { shape, values: decodeIntegers(dtype, file.read(name), range, `${file.path}: ${name}`) };
  throw new UserError(`${file.path}: ${name} has dtype ${dtype}, expected floats, I64 or I32`);
}

/** A [rows, length] tensor of integers as its rows. @throws UserError when it is missing or of another kind. */
export function rowsOf(golden: Golden, name: string): readonly Int32Array[] {
  const { values, shape } = need(golden, name);
  const [rows, length] = shape as readonly [number, number];
  if (!(values instanceof Int32Array) || shape.length !== 2 || values.length === 0)
    throw new UserError(`${name}: expected integers [rows, length], got ${kindOf(values)} [${shape.join(", ")}]`);
  return Array.from({ length: rows }, (_, row) => values.subarray(row * length, (row + 1) * length));
}

/** A tensor of floats whose last axis has a size. @throws UserError when it is missing or of another kind. */
export function floatsOf(golden: Golden, name: string, rank: number, width: number): GoldenTensor & { readonly values: Float32Array } {
  const { values, shape } = need(golden, name);
  if (!(values instanceof Float32Array) || shape.length !== rank || shape.at(-1) !== width || values.length === 0)
    throw new UserError(`${name}: expected floats of ${rank} axes, ${width} wide, got ${kindOf(values)} [${shape.join(", ")}]`);
  return { values, shape };
}

function need(golden: Golden, name: string): GoldenTensor {
  const tensor = golden.get(name);
  if (tensor === undefined) throw new UserError(`there is no tensor ${name}`);
  return tensor;
}

const kindOf = (values: Float32Array | Int32Array): string => (values instanceof Float32Array ? "floats" : "integers");

/** What a model has to be opened for to compute a file's tensors: rows, and positions with those that a continuation adds. */
export function sizesOfGolden(path: string): { readonly rows: number; readonly length: number } {
  const file = openCheckpoint(path);
  try {
    const shape = (name: string): readonly number[] => file.tensors.get(name)?.shape ?? [];
    const texts = ["forward.input_ids", "padded.input_ids", "embeds.inputs_embeds", "sampling.history"].map(shape);
    const continues = [...file.tensors.keys()].some((name) => name.startsWith("generate."));
    const prompt = shape("padded.input_ids")[1] ?? 0;
    return {
      rows: Math.max(1, ...texts.map(([rows]) => rows ?? 1)),
      length: Math.max(1, ...texts.map(([, length]) => length ?? 1), prompt + (continues ? newTokens : 0)),
    };
  } finally {
    file.close();
  }
}
