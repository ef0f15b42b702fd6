import { shown, UserError } from "./errors.ts";

/**
 * The safetensors format, without input or output: a header is read from bytes, checked whole, and written. Files are runtime/node/checkpoint.ts.
 *
 *     u64 little-endian: length of the header | header: JSON, padded with spaces | data
 *     { "name": { "dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end] }, ..., "__metadata__": { "key": "value" } }
 *
 * Offsets count from the start of the data. As in the format's reference implementation, the tensors must cover the data without a gap and
 * without an overlap. A header comes from a stranger: nothing in it is used before all of it has been checked.
 */

/** A checkpoint that cannot be used: the message names the file and, where one is at fault, the tensor. */
export class CheckpointError extends UserError {}

/** Bytes of one element of each storage type. */
export const storageBytes = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
} as const;

export type StorageDType = keyof typeof storageBytes;

/** One tensor of a header; `begin` is its first byte, counted from the start of the data. */
export interface HeaderTensor {
  readonly name: string;
  readonly dtype: StorageDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly bytes: number;
}

export interface Header {
  readonly tensors: readonly HeaderTensor[];
  readonly metadata: ReadonlyMap<string, string>;
}

/** The format's own limit on a header. */
export const maxHeaderBytes = 100_000_000;

/**
 * The length of the header of a file of `fileBytes` bytes that starts with `prefix` (its first 8 bytes).
 * @throws CheckpointError when the file is too short for it or the length is above the format's limit.
 */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (fileBytes < 8 || prefix.length < 8) {
    throw new CheckpointError(
      `${file}: the file has ${fileBytes} bytes, too short for a safetensors header (at least 10); it is truncated`,
    );
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(maxHeaderBytes)) {
    throw new CheckpointError(
      `${file}: the header claims ${length} bytes, above the limit of ${maxHeaderBytes}; this is not a safetensors file`,
    );
  }
  if (length > BigInt(fileBytes - 8)) {
    throw new CheckpointError(
      `${file}: the header claims ${length} bytes but only ${fileBytes - 8} follow; the file is truncated or not safetensors`,
    );
  }
  return Number(length);
}

/**
 * Reads and checks a header.
 * @param text the header's bytes, without the length
 * @param dataBytes bytes that follow the header in the file
 * @throws CheckpointError for anything that the format forbids.
 */
export function parseHeader(text: Uint8Array, dataBytes: number, file: string): Header {
  const json = parseObject(text, file);
  const metadata = new Map<string, string>();
  const tensors: HeaderTensor[] = [];
  for (const [name, entry] of Object.entries(json)) {
    if (name === "__metadata__") readMetadata(entry, metadata, file);
    else tensors.push(readTensor(name, entry, dataBytes, file));
  }
  checkCoverage(tensors, dataBytes, file);
  return { tensors, metadata };
}

function parseObject(bytes: Uint8Array, file: string): Readonly<Record<string, unknown>> {
  let json: unknown;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CheckpointError(`${file}: the safetensors header is not valid JSON (${shown(why, 120)})`, { cause });
  }
  if (!isObject(json)) throw new CheckpointError(`${file}: the safetensors header must be a JSON object, got ${shown(json)}`);
  const twice = duplicateKey(text);
  if (twice !== undefined) throw new CheckpointError(`${file}: ${shown(twice)} stands twice in the safetensors header`);
  return json;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The first key that one object of a valid JSON text has twice. JSON.parse keeps the last one silently, so that two readers of one file
 * could see two different tensors under a name.
 */
function duplicateKey(text: string): string | undefined {
  const scopes: Set<string>[] = [];
  for (let i = 0; i < text.length; i += 1) {
    const c = text[i];
    if (c === "{") scopes.push(new Set());
    else if (c === "}") scopes.pop();
    else if (c === '"') {
      const start = i;
      for (i += 1; text[i] !== '"'; i += 1) if (text[i] === "\\") i += 1;
      let next = i + 1;
      while (" \t\r\n".includes(text[next] ?? "x")) next += 1;
      if (text[next] !== ":") continue;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      const scope = scopes.at(-1)!;
      if (scope.has(key)) return key;
      scope.add(key);
    }
  }
  return undefined;
}

function readMetadata(entry: unknown, metadata: Map<string, string>, file: string): void {
  if (!isObject(entry)) throw new CheckpointError(`${file}: __metadata__ must be an object of strings, got ${shown(entry)}`);
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== "string") throw new CheckpointError(`${file}: __metadata__ ${shown(key)} must be a string, got ${shown(value)}`);
    metadata.set(key, value);
  }
}

function isStorageDType(value: unknown): value is StorageDType {
  return typeof value === "string" && Object.hasOwn(storageBytes, value);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && !Object.is(value, -0);
}

/** Bytes of a tensor, or undefined when they are past the exact integers of a double. */
export function tensorBytes(dtype: StorageDType, shape: readonly number[]): number | undefined {
  // A zero makes the tensor empty whatever the other sizes are; multiplying them first could overflow on the way.
  if (shape.includes(0)) return 0;
  let bytes: number = storageBytes[dtype];
  for (const size of shape) {
    bytes *= size;
    if (!Number.isSafeInteger(bytes)) return undefined;
  }
  return bytes;
}

function readTensor(name: string, entry: unknown, dataBytes: number, file: string): HeaderTensor {
  const wrong = (what: string): CheckpointError => new CheckpointError(`${file}: tensor ${shown(name, 120)}: ${what}`);
  if (!isObject(entry)) throw wrong(`expected { dtype, shape, data_offsets }, got ${shown(entry)}`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isStorageDType(dtype)) {
    throw wrong(`unknown dtype ${shown(dtype)}; known are ${Object.keys(storageBytes).join(", ")}`);
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw wrong(`shape must be a list of integers from 0 to 2^53 - 1, got ${shown(shape)}`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw wrong(`data_offsets must be two integers from 0 to 2^53 - 1, got ${shown(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw wrong(`data_offsets [${begin}, ${end}] end before they begin`);
  if (end > dataBytes) {
    throw wrong(`data_offsets [${begin}, ${end}] lie outside the ${dataBytes} bytes of data; the file is truncated or the header is wrong`);
  }
  const bytes = tensorBytes(dtype, shape);
  if (bytes === undefined) throw wrong(`shape ${shown(shape)} has too many elements to count`);
  if (bytes !== end - begin) {
    throw wrong(`shape ${shown(shape)} of ${dtype} needs ${bytes} bytes, but data_offsets [${begin}, ${end}] hold ${end - begin}`);
  }
  return { name, dtype, shape, begin, bytes };
}

/** The format's rule that every byte of the data belongs to exactly one tensor. */
function checkCoverage(tensors: readonly HeaderTensor[], dataBytes: number, file: string): void {
  const ordered = tensors.toSorted((a, b) => a.begin - b.begin || a.bytes - b.bytes);
  let at = 0;
  let before = "the start of the data";
  for (const { name, begin, bytes } of ordered) {
    if (begin < at) throw new CheckpointError(`${file}: tensors ${before} and ${shown(name, 120)} overlap at byte ${begin} of the data`);
    if (begin > at) {
      throw new CheckpointError(`${file}: ${begin - at} bytes between ${before} and tensor ${shown(name, 120)} belong to no tensor`);
    }
    at = begin + bytes;
    before = shown(name, 120);
  }
  if (at !== dataBytes) throw new CheckpointError(`${file}: the last ${dataBytes - at} bytes of the data belong to no tensor`);
}

/** What is written of a tensor before its data. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: StorageDType;
  readonly shape: readonly number[];
}

/**
 * The length and header of a file whose data are `specs` in this order, padded so that the data start on a multiple of 8 bytes.
 * @throws CheckpointError for a name given twice or reserved, or sizes that cannot be counted.
 */
export function encodeHeader(specs: readonly TensorSpec[], metadata: Readonly<Record<string, string>>, file: string): Uint8Array {
  // Not an object literal: a tensor may be called "__proto__".
  const entries: [string, unknown][] = [["__metadata__", metadata]];
  const seen = new Set<string>(["__metadata__"]);
  let at = 0;
  for (const { name, dtype, shape } of specs) {
    if (seen.has(name)) throw new CheckpointError(`${file}: tensor name ${shown(name)} is given twice or reserved`);
    seen.add(name);
    const bytes = shape.every(isCount) ? tensorBytes(dtype, shape) : undefined;
    const end = at + (bytes ?? NaN);
    if (!Number.isSafeInteger(end)) throw new CheckpointError(`${file}: tensor ${shown(name)}: shape ${shown(shape)} cannot be written`);
    entries.push([name, { dtype, shape, data_offsets: [at, end] }]);
    at = end;
  }
  const members = entries.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  const text = new TextEncoder().encode(`{${members.join(",")}}`);
  const length = Math.ceil(text.length / 8) * 8;
  if (length > maxHeaderBytes)
    throw new CheckpointError(`${file}: the header would have ${length} bytes, above the limit of ${maxHeaderBytes}`);
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(text, 8);
  return header;
}
