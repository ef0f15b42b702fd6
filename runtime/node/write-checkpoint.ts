import { copyFileSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { decodeFloats, encodeFloats, isFloatDType } from "../numeric.ts";
import { CheckpointError, storageBytes, tensorBytes } from "../safetensors.ts";
import type { TensorSpec } from "../safetensors.ts";
import type { WeightSource } from "../weights.ts";
import { createSafetensors, fileOrder, temporaryName } from "./write-safetensors.ts";

/** Files that appear together: each is written under a temporary name, and renamed when all are complete. */
export interface StagedFiles {
  /** The name to write the file of this name under for now. */
  path(name: string): string;
  write(name: string, text: string): void;
  copy(name: string, from: string): void;
  /** Gives all files their names. A reader sees the old files or the new ones but for the moment between two renames. */
  commit(): void;
  /** Removes what was written and not committed. */
  discard(): void;
}

/** @param folder made when it is missing */
export function stageFiles(folder: string): StagedFiles {
  mkdirSync(folder, { recursive: true });
  const names = new Map<string, string>();
  const path = (name: string): string => {
    const temporary = names.get(name) ?? temporaryName(join(folder, name));
    names.set(name, temporary);
    return temporary;
  };
  return {
    path,
    write: (name, text) => writeFileSync(path(name), text, { flag: "wx" }),
    copy: (name, from) => copyFileSync(from, path(name)),
    commit() {
      for (const [name, temporary] of names) {
        renameSync(temporary, join(folder, name));
        names.delete(name);
      }
    },
    discard() {
      for (const temporary of names.values()) rmSync(temporary, { force: true });
      names.clear();
    },
  };
}

/** What goes into one file. */
export interface Shard {
  readonly file: string;
  readonly tensors: readonly TensorSpec[];
}

/**
 * Divides tensors among files as Transformers does: in the order given, each file filled until the next tensor would not fit; a tensor above the
 * limit gets a file of its own, which comes before the one that is being filled. One file is `model.safetensors`, several are numbered.
 * @param maxShardSize bytes
 */
export function shardTensors(tensors: readonly TensorSpec[], maxShardSize: number): readonly Shard[] {
  const shards: TensorSpec[][] = [];
  let open: TensorSpec[] = [];
  let size = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor.dtype, tensor.shape)!;
    if (bytes > maxShardSize) {
      shards.push([tensor]);
      continue;
    }
    if (size + bytes > maxShardSize) {
      shards.push(open);
      open = [];
      size = 0;
    }
    open.push(tensor);
    size += bytes;
  }
  if (open.length > 0) shards.push(open);
  const number = (n: number): string => String(n).padStart(5, "0");
  return shards.map((content, i) => ({
    file: shards.length === 1 ? "model.safetensors" : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`,
    tensors: content,
  }));
}

export const indexFile = "model.safetensors.index.json";

/** The index of several shards. Source: spec bamba (g). */
export function indexText(shards: readonly Shard[]): string {
  const tensors = shards.flatMap(({ tensors }) => tensors);
  const bytes = tensors.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape)!, 0);
  const parameters = tensors.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  const places = shards.flatMap(({ file, tensors }) => tensors.map(({ name }): [string, string] => [name, file]));
  return `${JSON.stringify({ metadata: { total_parameters: parameters, total_size: bytes }, weight_map: Object.fromEntries(places.sort(byName)) }, null, 2)}\n`;
}

const byName = ([a]: readonly [string, string], [b]: readonly [string, string]): number => (a < b ? -1 : a > b ? 1 : 0);

/** Elements that are read, cast and written at a time. */
const pieceElements = 1 << 21;

/**
 * Writes the shards under their temporary names, tensor by tensor, cast to the dtype that each asks for. Memory stays at a few megabytes.
 * @param source has a float tensor of every name, in the shape of the spec
 * @param onProgress called with the bytes written so far and in all; what it throws ends the writing
 */
export async function writeShards(
  staged: StagedFiles,
  shards: readonly Shard[],
  source: WeightSource,
  onProgress: (bytes: number, total: number) => void = () => undefined,
): Promise<void> {
  const total = shards.flatMap(({ tensors }) => tensors).reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape)!, 0);
  let done = 0;
  for (const { file, tensors } of shards) {
    // Within a file as the format's own writer orders them, by name.
    const ordered = fileOrder(tensors.toSorted((a, b) => byName([a.name, ""], [b.name, ""])));
    await writeTensors(staged.path(file), file, ordered, source, (bytes) => onProgress((done += bytes), total));
  }
}

/**
 * Writes one file, which must not be there, tensor by tensor in the order given, cast to the dtype that each asks for.
 * @param path where to, and `file` what it is going to be called, for messages
 * @param source as of writeShards
 * @param onPiece called with the bytes written since the last call; what it throws ends the writing
 */
export async function writeTensors(
  path: string,
  file: string,
  tensors: readonly TensorSpec[],
  source: WeightSource,
  onPiece: (bytes: number) => void,
): Promise<void> {
  const writer = createSafetensors(path, tensors, { format: "pt" }, file);
  try {
    for (const tensor of tensors) {
      for await (const piece of castTensor(source, tensor)) {
        writer.write(piece);
        onPiece(piece.length);
        // Reading and writing never wait; Ctrl-C and the progress bar need a turn of their own.
        await setImmediate();
      }
      writer.next();
    }
  } finally {
    writer.close();
  }
}

async function* castTensor(source: WeightSource, { name, dtype, shape }: TensorSpec): AsyncGenerator<Uint8Array, void, void> {
  const from = source.tensors.get(name)!.dtype;
  if (!isFloatDType(from) || !isFloatDType(dtype))
    throw new CheckpointError(`${source.path}: tensor ${name} of ${from} cannot become ${dtype}`);
  const count = shape.reduce((product, size) => product * size, 1);
  const width = storageBytes[from];
  const raw = new Uint8Array(Math.min(count, pieceElements) * width);
  for (let start = 0; start < count; start += pieceElements) {
    const piece = raw.subarray(0, Math.min(pieceElements, count - start) * width);
    await source.readInto(name, piece, start * width);
    yield from === dtype ? piece : encodeFloats(dtype, decodeFloats(from, piece));
  }
}

/** Removes the weights that an earlier save left in the folder: a loader would take them for part of the model, or for the model. */
export function removeOtherWeights(folder: string, kept: ReadonlySet<string>): void {
  for (const name of readdirSync(folder)) {
    const weights = /^model(-\d{5}-of-\d{5})?\.safetensors$/.test(name) || name === indexFile;
    if (weights && !kept.has(name)) rmSync(join(folder, name), { force: true });
  }
}
