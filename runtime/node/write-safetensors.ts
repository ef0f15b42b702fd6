import { randomBytes } from "node:crypto";
import { closeSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { CheckpointError, encodeHeader, storageBytes, tensorBytes } from "../safetensors.ts";
import type { TensorSpec } from "../safetensors.ts";

/** A tensor to write: its bytes, little-endian and row-major, at once or in pieces that are made as they are written. */
export interface TensorToWrite extends TensorSpec {
  readonly data: Uint8Array | Iterable<Uint8Array>;
}

/** A name beside `path` that no other writer takes. What is written there appears under `path` when it is renamed. */
export function temporaryName(path: string): string {
  return `${path}.${randomBytes(6).toString("hex")}.tmp`;
}

/**
 * The order of tensors in a file: by the size of their elements, largest first, and otherwise as given. Every tensor then starts on a multiple of
 * its element size.
 */
export function fileOrder<T extends TensorSpec>(tensors: readonly T[]): readonly T[] {
  return tensors.toSorted((a, b) => storageBytes[b.dtype] - storageBytes[a.dtype]);
}

/**
 * Writes a safetensors file. It appears under `path` only when it is complete: it is written beside it under another name and renamed, and
 * removed when anything fails. Pieces of data are written one after the other, so a file larger than memory is no trouble.
 * Tensors are in `fileOrder`; within it each `data` is iterated once.
 *
 * @throws CheckpointError when a tensor's data have another length than its shape asks for, or a name is given twice.
 */
export function writeSafetensors(path: string, tensors: readonly TensorToWrite[], metadata: Readonly<Record<string, string>> = {}): void {
  const ordered = fileOrder(tensors);
  const temporary = temporaryName(path);
  const writer = createSafetensors(temporary, ordered, metadata, path);
  try {
    for (const tensor of ordered) {
      for (const piece of tensor.data instanceof Uint8Array ? [tensor.data] : tensor.data) writer.write(piece);
      writer.next();
    }
    writer.close();
    renameSync(temporary, path);
  } catch (error) {
    writer.close();
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** A safetensors file in the making. */
export interface SafetensorsWriter {
  /** The next bytes of the tensor at hand. @throws CheckpointError when they are more than its shape asks for. */
  write(piece: Uint8Array): void;
  /** The tensor at hand is complete. @throws CheckpointError when it is not. */
  next(): void;
  /** Closes the file; idempotent. */
  close(): void;
}

/**
 * Makes the file, which must not be there, and writes its header. The data follow, tensor by tensor in the order of `specs`.
 * @param path the file that this is going to be, for messages
 * @throws CheckpointError for a name given twice or reserved, or sizes that cannot be counted.
 */
export function createSafetensors(
  file: string,
  specs: readonly TensorSpec[],
  metadata: Readonly<Record<string, string>>,
  path: string,
): SafetensorsWriter {
  const header = encodeHeader(specs, metadata, path);
  let descriptor: number | null = openSync(file, "wx");
  let at = 0;
  let written = 0;
  const close = (): void => {
    if (descriptor !== null) closeSync(descriptor);
    descriptor = null;
  };
  const wrong = ({ name, dtype, shape }: TensorSpec): CheckpointError =>
    new CheckpointError(
      `${path}: tensor ${name}: shape [${shape.join(", ")}] of ${dtype} needs ${tensorBytes(dtype, shape) ?? "?"} bytes, its data have ${written}`,
    );
  try {
    writeAll(descriptor, header);
  } catch (error) {
    close();
    throw error;
  }
  return {
    write(piece) {
      const spec = specs[at]!;
      written += piece.length;
      // Stopped at once: a wrong generator could be endless.
      if (written > tensorBytes(spec.dtype, spec.shape)!) throw wrong(spec);
      writeAll(descriptor!, piece);
    },
    next() {
      const spec = specs[at]!;
      if (written !== tensorBytes(spec.dtype, spec.shape)) throw wrong(spec);
      at += 1;
      written = 0;
    },
    close,
  };
}

function writeAll(descriptor: number, bytes: Uint8Array): void {
  let done = 0;
  while (done < bytes.length) done += writeSync(descriptor, bytes, done, Math.min(1 << 30, bytes.length - done));
}
