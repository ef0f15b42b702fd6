import type { DType, Manifest, WeightEntry } from "../compiler/artifact.ts";
import { BYTES } from "../compiler/artifact.ts";
import { bf16ToF32, decodeFloats, f16ToF32, f32ToBf16, f32ToF16, isFloatDType } from "./numeric.ts";
import type { FloatDType } from "./numeric.ts";
import { packPanels } from "./pack.ts";
import { CheckpointError, storageBytes } from "./safetensors.ts";
import type { StorageDType } from "./safetensors.ts";

/** A tensor as a checkpoint stores it. */
export interface SourceTensor {
  readonly dtype: StorageDType;
  readonly shape: readonly number[];
  /** The file that holds it, for messages. */
  readonly file: string;
}

/** Where weights come from: tensors by the names that the artifact uses, read by range. An open checkpoint is one (runtime/node/checkpoint.ts). */
export interface WeightSource {
  /** The file or folder, for messages. */
  readonly path: string;
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  /** Fills `target` with the tensor's bytes from `offset` (bytes) on. */
  readInto(name: string, target: Uint8Array, offset: number): void | Promise<void>;
}

/** Where a weight goes: a window of device memory is written in place, or filled here and sent. */
export interface WeightSink {
  /** Memory for bytes `offset` to `offset + bytes` of the weight, on an address that is a multiple of 4. Valid until `commit`. */
  window(offset: number, bytes: number): Uint8Array;
  /** The window is complete. */
  commit(): void | Promise<void>;
}

/** Bytes that pass through memory at once. A weight is read, converted and packed in blocks of about this size. */
export const stagingBytes = 8 << 20;

/** Names in a checkpoint that no model reads: a buffer that older versions of Transformers stored. */
export const isIgnoredTensor = (name: string): boolean => name.endsWith("rotary_emb.inv_freq");

/**
 * Checks that a checkpoint has exactly the tensors that an artifact needs, in their shapes and in a float type, before anything is allocated.
 * @param spare tensors that may be there although nothing reads them
 * @throws CheckpointError naming the file and the tensor.
 */
export function checkWeights(manifest: Manifest, source: WeightSource, spare: (name: string) => boolean = isIgnoredTensor): void {
  const used = new Set<string>();
  const missing: string[] = [];
  for (const part of manifest.weights.flatMap((entry) => entry.parts)) {
    used.add(part.tensor);
    const tensor = source.tensors.get(part.tensor);
    if (tensor === undefined) missing.push(part.tensor);
    else checkTensor(part, tensor);
  }
  if (missing.length > 0) {
    throw new CheckpointError(`${source.path}: ${counted([...new Set(missing)])} missing, which the compiled model reads`, {
      hint: "the checkpoint and the model that was compiled must belong together",
    });
  }
  const extra = [...source.tensors.keys()].filter((name) => !used.has(name) && !spare(name));
  if (extra.length > 0) {
    throw new CheckpointError(`${source.path}: ${counted(extra)} in the checkpoint, but the compiled model does not read it`, {
      hint: "the checkpoint and the model that was compiled must belong together",
    });
  }
}

/** Sizes of 1 may come and go: a convolution's [C, 1, K] is read as [C, K]. */
function checkTensor(part: WeightEntry["parts"][number], tensor: SourceTensor): void {
  const { dtype, shape, file } = tensor;
  if (!isFloatDType(dtype)) throw new CheckpointError(`${file}: tensor ${part.tensor} has dtype ${dtype}, expected F32, F16, BF16 or F64`);
  const significant = (sizes: readonly number[]): string => sizes.filter((size) => size !== 1).join(", ");
  if (significant(shape) !== significant(part.shape))
    throw new CheckpointError(
      `${file}: tensor ${part.tensor} has shape [${shape.join(", ")}], the compiled model expects [${part.shape.join(", ")}]`,
    );
}

function counted(names: readonly string[]): string {
  const few = names.slice(0, 3).join(", ");
  return names.length === 1 ? `tensor ${few} is` : `${names.length} tensors (${few}${names.length > 3 ? ", ..." : ""}) are`;
}

/** Bytes that loading reads from the checkpoint, for progress. */
export function sourceBytes(entries: readonly WeightEntry[], source: WeightSource): number {
  const bytesOf = (part: WeightEntry["parts"][number]): number =>
    count(part.shape) * storageBytes[source.tensors.get(part.tensor)?.dtype ?? "F32"];
  return entries.reduce((sum, entry) => sum + entry.parts.reduce((bytes, part) => bytes + bytesOf(part), 0), 0);
}

const count = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

/** Memory that a load reuses for every weight. */
export interface Staging {
  /** At least `bytes` bytes on an address that is a multiple of 8; what was there is lost. `slot` tells the buffers that are used together apart. */
  take(slot: "raw" | "floats" | "rows", bytes: number): Uint8Array;
}

export function createStaging(): Staging {
  const slots = new Map<string, ArrayBuffer>();
  return {
    take(slot, bytes) {
      let buffer = slots.get(slot);
      if (buffer === undefined || buffer.byteLength < bytes) {
        // The old one goes first, so that the two are never there together.
        slots.delete(slot);
        buffer = new ArrayBuffer(Math.ceil(bytes / 8) * 8);
        slots.set(slot, buffer);
      }
      return new Uint8Array(buffer, 0, bytes);
    },
  };
}

/**
 * Reads one weight of a checked checkpoint, converts it to the entry's type and lays it out as the entry says, block by block.
 * @param onBytes called with the bytes read since the last call
 */
export async function loadWeight(
  entry: WeightEntry,
  source: WeightSource,
  sink: WeightSink,
  staging: Staging,
  onBytes: (bytes: number) => void = () => undefined,
): Promise<void> {
  const { rows, cols, panel } = entry;
  const width = BYTES[entry.dtype];
  const step = Math.max(1, panel);
  // Whole panels, so that a block is one window of the result.
  const blockRows = step * Math.max(1, Math.floor(stagingBytes / (step * cols * width)));
  for (let first = 0; first < rows; first += blockRows) {
    const count = Math.min(blockRows, rows - first);
    const bytes = count * cols * width;
    const packed = Math.ceil(count / step) * step * cols * width;
    const window = sink.window(first * cols * width, panel > 0 ? packed : bytes);
    const target = panel > 0 ? staging.take("rows", bytes) : window;
    await readRows(entry, source, first, count, target, staging, onBytes);
    if (panel > 0) {
      if (width === 2) packPanels(u16(target), u16(window), count, cols, panel);
      else packPanels(u32(target), u32(window), count, cols, panel);
    }
    await sink.commit();
  }
}

const u16 = (bytes: Uint8Array): Uint16Array => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
const u32 = (bytes: Uint8Array): Uint32Array => new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const f32 = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);

/** Rows `first` to `first + count - 1` of the stacked parts, row-major, in the entry's type. */
async function readRows(
  entry: WeightEntry,
  source: WeightSource,
  first: number,
  rows: number,
  target: Uint8Array,
  staging: Staging,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { cols } = entry;
  const width = BYTES[entry.dtype];
  let start = 0;
  for (const part of entry.parts) {
    const partRows = count(part.shape) / cols;
    const from = Math.max(first, start);
    const to = Math.min(first + rows, start + partRows);
    if (from < to) {
      const dtype = source.tensors.get(part.tensor)!.dtype as FloatDType;
      const here = target.subarray((from - first) * cols * width, (to - first) * cols * width);
      const offset = (from - start) * cols * storageBytes[dtype];
      const length = (to - from) * cols * storageBytes[dtype];
      if (storageOf[entry.dtype] === dtype) await source.readInto(part.tensor, here, offset);
      else {
        const raw = staging.take("raw", length);
        await source.readInto(part.tensor, raw, offset);
        convert(dtype, raw, entry.dtype, here, staging);
      }
      onBytes(length);
    }
    start += partRows;
  }
}

const storageOf: Readonly<Record<DType, StorageDType>> = { f32: "F32", f16: "F16", bf16: "BF16", i32: "I32", bool: "BOOL" };

/** Elements of one storage type in another, through float32. */
function convert(from: FloatDType, raw: Uint8Array, to: DType, target: Uint8Array, staging: Staging): void {
  const count = raw.length / storageBytes[from];
  const floats = to === "f32" ? f32(target) : from === "F32" ? f32(raw) : f32(staging.take("floats", count * 4));
  if (from === "BF16") bf16ToF32(u16(raw), floats);
  else if (from === "F16") f16ToF32(u16(raw), floats);
  else if (from === "F64") floats.set(decodeFloats("F64", raw));
  if (to === "bf16") f32ToBf16(floats, u16(target));
  else if (to === "f16") f32ToF16(floats, u16(target));
}
