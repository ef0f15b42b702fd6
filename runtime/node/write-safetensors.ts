import { randomBytes } from "node:crypto";
import { closeSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { CheckpointError, encodeHeader, storageBytes, tensorBytes } from "../safetensors.ts";
import type { TensorSpec } from "../safetensors.ts";

/** A tensor to write: its bytes, little-endian and row-major, at once or in pieces that are made as they are written. */
export interface TensorToWrite extends TensorSpec {
  readonly data: Uint8Array | Iterable<Uint8Array>;
}

/**
 * Writes a safetensors file. It appears under `path` only when it is complete: it is written beside it under another name and renamed, and
 * removed when anything fails. Pieces of data are written one after the other, so a file larger than memory is no trouble.
 *
 * Tensors are ordered by the size of their elements, largest first, and otherwise as given: every tensor then starts on a multiple of its
 * element size. Within that order each `data` is iterated once.
 *
 * @throws CheckpointError when a tensor's data have another length than its shape asks for, or a name is given twice.
 */
export function writeSafetensors(path: string, tensors: readonly TensorToWrite[], metadata: Readonly<Record<string, string>> = {}): void {
  const ordered = tensors.toSorted((a, b) => storageBytes[b.dtype] - storageBytes[a.dtype]);
  const header = encodeHeader(ordered, metadata, path);
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  const descriptor = openSync(temporary, "wx");
  try {
    try {
      writeAll(descriptor, header);
      for (const tensor of ordered) writeTensor(descriptor, tensor, path);
    } finally {
      closeSync(descriptor);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

function writeTensor(descriptor: number, tensor: TensorToWrite, path: string): void {
  const expected = tensorBytes(tensor.dtype, tensor.shape);
  let written = 0;
  for (const piece of tensor.data instanceof Uint8Array ? [tensor.data] : tensor.data) {
    written += piece.length;
    // Stopped at once: a wrong generator could be endless.
    if (written > expected!) break;
    writeAll(descriptor, piece);
  }
  if (written !== expected) {
    throw new CheckpointError(
      `${path}: tensor ${tensor.name}: shape [${tensor.shape.join(", ")}] of ${tensor.dtype} needs ${expected ?? "?"} bytes, its data have ${written}`,
    );
  }
}

function writeAll(descriptor: number, bytes: Uint8Array): void {
  let done = 0;
  while (done < bytes.length) done += writeSync(descriptor, bytes, done, Math.min(1 << 30, bytes.length - done));
}
