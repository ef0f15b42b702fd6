import { closeSync, fstatSync, openSync, read as readAsync, readFileSync, readSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { shown } from "../errors.ts";
import { CheckpointError, headerLength, parseHeader } from "../safetensors.ts";
import type { StorageDType } from "../safetensors.ts";

/** A tensor of an open checkpoint: where its bytes lie. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: StorageDType;
  readonly shape: readonly number[];
  /** The file that holds it, as a path. */
  readonly file: string;
  /** Its first byte, counted from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** An open safetensors checkpoint: one file, or several with an index. Only headers are in memory; data are read by range, into place. */
export interface Checkpoint {
  /** The file, or the folder of the shards. */
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** `__metadata__` of the first file. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Bytes of tensor data read so far, so that a loader can be held to reading each byte once. */
  readonly bytesRead: number;
  /**
   * Fills `target` with the tensor's bytes from `sourceOffset` (bytes, 0 unless given) on.
   * @throws CheckpointError when there is no such tensor, the range leaves it, or the file has become shorter since it was opened.
   */
  readInto(name: string, target: Uint8Array, sourceOffset?: number): void;
  /**
   * As readInto, and much of it by several threads: one alone copies out of the system's cache at a fraction of what the memory, a fast disk or a GPU takes. The
   * target must stay as it is until the promise has settled.
   */
  load(name: string, target: Uint8Array, sourceOffset?: number): void | Promise<void>;
  /** All bytes of a tensor, in new memory that any typed array can view. @throws CheckpointError as readInto. */
  read(name: string): Uint8Array;
  /** Closes the files, once what is being loaded is read; idempotent. Reading afterwards throws. */
  close(): void;
}

const singleName = "model.safetensors";
const indexName = "model.safetensors.index.json";
/** Far above any index (a 9B model's has 40 kB) and far below what would hurt to parse. */
const maxIndexBytes = 100_000_000;
/** One read of the system; Node refuses 2 GiB and more. */
const readBlock = 1 << 30;
/** Node has four threads for such work, and waking them is worth a mebibyte at least. */
const readers = 4;
const leastParallel = 1 << 20;

/**
 * Opens a checkpoint and checks it whole: every header, that the tensors cover the files exactly, and that index and shards agree.
 * @param path a folder with `model.safetensors` or `model.safetensors.index.json` (the single file goes first, as in Transformers), or one
 *   `.safetensors` or index file
 * @throws CheckpointError naming the file and the tensor. Source: spec bamba (g), and the format's own rules in runtime/safetensors.ts.
 */
export function openCheckpoint(path: string): Checkpoint {
  const file = isFolder(path) ? findIn(path) : path;
  const open = new OpenCheckpoint(file.endsWith(".json") ? dirname(file) : file);
  try {
    if (file.endsWith(".json")) openShards(file, open);
    else open.add(file, () => true);
    return open;
  } catch (error) {
    open.close();
    throw error;
  }
}

function isFolder(path: string): boolean {
  return statOf(path).isDirectory();
}

function statOf(path: string): { isDirectory(): boolean; isFile(): boolean; readonly size: number } {
  try {
    return statSync(path);
  } catch (cause) {
    throw new CheckpointError(`${path}: cannot be opened (${reason(cause)})`, { cause, hint: "check the path of the model" });
  }
}

function reason(cause: unknown): string {
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
  if (code === "ENOENT") return "there is no such file or folder";
  if (code === "EACCES") return "permission denied";
  return cause instanceof Error ? cause.message : String(cause);
}

function findIn(folder: string): string {
  for (const name of [singleName, indexName]) {
    const file = join(folder, name);
    if (statSync(file, { throwIfNoEntry: false }) !== undefined) return file;
  }
  const other = ["pytorch_model.bin", "pytorch_model.bin.index.json"].find((name) =>
    statSync(join(folder, name), { throwIfNoEntry: false }),
  );
  throw new CheckpointError(`${folder}: neither ${singleName} nor ${indexName} is in this folder`, {
    hint:
      other === undefined
        ? "give the folder that holds the weights"
        : `${other} is a pickle, which could run code and is not read; convert it in Python: safetensors.torch.save_file(torch.load(..., weights_only=True), "model.safetensors")`,
  });
}

class OpenCheckpoint implements Checkpoint {
  readonly path: string;
  readonly tensors = new Map<string, TensorInfo>();
  metadata: ReadonlyMap<string, string> = new Map();
  bytesRead = 0;
  private readonly descriptors = new Map<string, number>();
  private readonly reading = new Set<Promise<void>>();
  private closed = false;

  constructor(path: string) {
    this.path = path;
  }

  /** Opens one file and takes those of its tensors that `wanted` keeps. */
  add(file: string, wanted: (name: string) => boolean): void {
    // Checked before the open: opening a named pipe would wait for a writer.
    if (!statOf(file).isFile()) throw new CheckpointError(`${file}: expected a safetensors file, but this is not a regular file`);
    let descriptor: number;
    try {
      descriptor = openSync(file, "r");
    } catch (cause) {
      throw new CheckpointError(`${file}: cannot be opened (${reason(cause)})`, { cause });
    }
    const first = this.descriptors.size === 0;
    this.descriptors.set(file, descriptor);
    const size = fstatSync(descriptor).size;
    const prefix = new Uint8Array(Math.min(8, size));
    readAt(descriptor, prefix, 0, file);
    const text = new Uint8Array(headerLength(prefix, size, file));
    readAt(descriptor, text, 8, file);
    const dataAt = 8 + text.length;
    const header = parseHeader(text, size - dataAt, file);
    if (first) this.metadata = header.metadata;
    for (const { name, dtype, shape, begin, bytes } of header.tensors) {
      if (!wanted(name)) continue;
      const other = this.tensors.get(name);
      if (other !== undefined) throw new CheckpointError(`${file}: tensor ${shown(name, 120)} is in ${basename(other.file)} too`);
      this.tensors.set(name, { name, dtype, shape, file, offset: dataAt + begin, bytes });
    }
  }

  readInto(name: string, target: Uint8Array, sourceOffset = 0): void {
    const { descriptor, position, file } = this.place(name, target, sourceOffset);
    readAt(descriptor, target, position, file);
    this.bytesRead += target.length;
  }

  load(name: string, target: Uint8Array, sourceOffset = 0): void | Promise<void> {
    if (target.length < leastParallel) {
      this.readInto(name, target, sourceOffset);
      return;
    }
    const { descriptor, position, file } = this.place(name, target, sourceOffset);
    const reading = readByMany(descriptor, target, position, file)
      .then(() => void (this.bytesRead += target.length))
      .finally(() => this.ended(reading));
    this.reading.add(reading);
    return reading;
  }

  /** Files stay open while they are read: their numbers may be given to other files then. */
  private ended(reading: Promise<void>): void {
    this.reading.delete(reading);
    if (this.closed) this.closeFiles();
  }

  /** @throws CheckpointError when the range is not one of the tensor's */
  private place(name: string, target: Uint8Array, sourceOffset: number): { descriptor: number; position: number; file: string } {
    const tensor = this.find(name);
    const wrongStart = !Number.isSafeInteger(sourceOffset) || sourceOffset < 0;
    if (wrongStart || sourceOffset + target.length > tensor.bytes) {
      throw new CheckpointError(
        `${tensor.file}: tensor ${shown(name, 120)} has ${tensor.bytes} bytes; bytes ${sourceOffset} to ${sourceOffset + target.length} were asked for`,
      );
    }
    const { file, offset } = tensor;
    return { descriptor: this.descriptors.get(file)!, position: offset + sourceOffset, file };
  }

  read(name: string): Uint8Array {
    const bytes = new Uint8Array(this.find(name).bytes);
    this.readInto(name, bytes);
    return bytes;
  }

  close(): void {
    this.closed = true;
    this.closeFiles();
  }

  private closeFiles(): void {
    if (this.reading.size > 0) return;
    for (const descriptor of this.descriptors.values()) closeSync(descriptor);
    this.descriptors.clear();
  }

  private find(name: string): TensorInfo {
    if (this.closed) throw new CheckpointError(`${this.path}: the checkpoint is closed`);
    const tensor = this.tensors.get(name);
    if (tensor === undefined) throw new CheckpointError(`${this.path}: there is no tensor ${shown(name, 120)}`);
    return tensor;
  }
}

function readAt(descriptor: number, target: Uint8Array, position: number, file: string): void {
  let done = 0;
  while (done < target.length) {
    const count = readSync(descriptor, target, done, Math.min(readBlock, target.length - done), position + done);
    if (count === 0) throw endedEarly(file, position + done, target.length - done);
    done += count;
  }
}

const endedEarly = (file: string, at: number, missing: number): CheckpointError =>
  new CheckpointError(`${file}: the file ended at byte ${at}, ${missing} bytes early; was it changed meanwhile?`);

/** Reads parts side by side. It ends when all of them have: memory that a thread may still write to must not be given back. */
async function readByMany(descriptor: number, target: Uint8Array, position: number, file: string): Promise<void> {
  const length = Math.ceil(target.length / readers);
  const parts = Array.from({ length: readers }, (_, i) => target.subarray(i * length, (i + 1) * length));
  const ends = await Promise.allSettled(parts.map((part, i) => readPart(descriptor, part, position + i * length, file)));
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}

async function readPart(descriptor: number, target: Uint8Array, position: number, file: string): Promise<void> {
  for (let done = 0; done < target.length;) {
    const from = done;
    const count = await new Promise<number>((resolve, reject) => {
      readAsync(descriptor, target, from, Math.min(readBlock, target.length - from), position + from, (error, read) => {
        if (error === null) resolve(read);
        else reject(new CheckpointError(`${file}: cannot be read (${reason(error)})`, { cause: error }));
      });
    });
    if (count === 0) throw endedEarly(file, position + done, target.length - done);
    done += count;
  }
}

/** Opens every shard that an index names and takes the tensors that it places there, and those it does not mention at all. */
function openShards(index: string, open: OpenCheckpoint): void {
  const places = readShardIndex(index);
  const folder = dirname(index);
  for (const shard of new Set(places.values())) {
    const file = join(folder, shard);
    if (statSync(file, { throwIfNoEntry: false }) === undefined) {
      throw new CheckpointError(`${index}: names the shard ${shown(shard)}, which is not in the folder`, {
        hint: "download the missing file",
      });
    }
    open.add(file, (name) => (places.get(name) ?? shard) === shard);
  }
  for (const [name, shard] of places) {
    if (!open.tensors.has(name))
      throw new CheckpointError(`${index}: places tensor ${shown(name, 120)} in ${shown(shard)}, which does not have it`);
  }
}

/**
 * Tensor name -> shard file name. A shard lies beside its index: a name with a path in it could make us read any file of the machine.
 * @throws CheckpointError naming the file and the tensor
 */
export function readShardIndex(index: string): ReadonlyMap<string, string> {
  const stat = statOf(index);
  if (!stat.isFile() || stat.size > maxIndexBytes)
    throw new CheckpointError(`${index}: is not an index file of at most ${maxIndexBytes} bytes`);
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(index, "utf8"));
  } catch (cause) {
    throw new CheckpointError(`${index}: is not valid JSON (${reason(cause)})`, { cause });
  }
  const map = typeof json === "object" && json !== null && "weight_map" in json ? json.weight_map : undefined;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new CheckpointError(`${index}: weight_map: expected an object from tensor names to file names, got ${shown(map)}`);
  }
  const places = new Map<string, string>();
  for (const [name, shard] of Object.entries(map) as [string, unknown][]) {
    if (typeof shard !== "string" || !/^[^/\\:\0]+\.safetensors$/u.test(shard)) {
      throw new CheckpointError(
        `${index}: weight_map of ${shown(name, 120)}: expected the name of a .safetensors file beside the index, got ${shown(shard)}`,
      );
    }
    places.set(name, shard);
  }
  if (places.size === 0) throw new CheckpointError(`${index}: weight_map is empty`);
  return places;
}
